"""The local socket of a running node, <storage>/control.sock: HTTP over AF_UNIX, without passwords.

Guaranteed: only the user whose node it is, and root, can connect: the file has mode 0600, and each
request is answered for these two only (SO_PEERCRED). The api process serves it; a tool asks there.

place.py      the address of the socket
listening.py  the socket of the node: made, found to be there, removed
peer.py       who is at the other end
client.py     requests of a tool
node_status.py  types of the status of a node
"""
