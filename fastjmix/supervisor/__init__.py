"""The parent process: reads the configuration, forks the children, and ends them in order.

loop.py           starts, watches, restarts, drains
shared.py         what the children share: listening sockets, lanes, descriptors
children.py       the children: forked, collected, started again
signals.py        SIGTERM, SIGINT, SIGHUP, SIGUSR1
drain.py          no new association, seal, deliver, then the end
systemd.py        readiness, watchdog and inherited sockets of a service manager
sockets.py        opens the listening sockets
configuration.py  reads the configuration in a child; secrets go to two processes only
memory.py         how much memory there is, and how many associations fit in it
"""
