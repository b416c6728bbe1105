"""The parent process: reads the configuration, forks the children, and ends them in order.

loop.py           starts, watches, restarts, drains; own_process.py prepares it
shared.py         what the children share: listening sockets, lanes, descriptors
children.py       the children: forked, collected, started again
signals.py        SIGTERM, SIGINT, SIGHUP, SIGUSR1
drain.py          no new association, seal, deliver, then the end
systemd.py        readiness, watchdog and inherited sockets of a service manager
sockets.py        opens the listening sockets
configuration.py  reads the configuration at the start; secrets go to two processes only
reading.py        reads it in a process of its own; memory_files.py holds what it found
reload.py         replaces it while the node runs; held_back.py: what only a start can change
generations.py    which configuration a process begins with
announcements.py  sends it to the processes, packers first
asked.py          what a person asks of the node; board_row.py: what the others show of it
memory.py         how much memory there is, and how many associations fit in it
"""
