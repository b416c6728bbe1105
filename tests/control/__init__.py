"""The local socket of a node."""
