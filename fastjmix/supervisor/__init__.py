"""The parent process: reads the configuration, forks the children, and ends them in order.

loop.py           owns shared memory and listening sockets; starts, watches, restarts, drains
children.py       the children: forked, collected, started again
configuration.py  reads the configuration in a child; secrets go to two processes only
memory.py         how much memory there is, and how many associations fit in it
"""
