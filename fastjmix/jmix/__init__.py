"""What is delivered: bytes of a JMIX envelope.

Sans-I/O: nothing here opens a socket, nor a file, but keys.py one with a key.
"""
