"""Bytes of a TCP connection before the protocol that it is for. Sans-I/O: no socket, no clock.

proxy_header.py  the PROXY protocol, by which a proxy names the client that it forwards
"""
