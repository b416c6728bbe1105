"""What is delivered: bytes of a JMIX envelope. Sans-I/O: nothing here opens a file or a socket."""
