"""Tries out what a configuration needs from this machine and from its upstreams.

    finding.py      one thing that was tried: ok, warning or fault, and what to do
    limited.py      calls that a dead disk or a dead resolver may never end
    storage.py      the storage directory: mounted, ours, durable, with free space
    listeners.py    the addresses of the listeners: free and permitted
    holders.py      which process listens on a port
    keys.py         certificates, authorities, keys of signing and decryption
    upstream.py     an upstream: name, connection, TLS, credentials
    certificate.py  the certificate that a server shows
    answers.py      the meaning of an upstream's answer to a harmless request
    chunked.py      whether an upstream reads chunked bodies
    run.py          all of it, side by side

Guaranteed: nothing is left on the disk, on the ports or in an upstream (but see chunked.py), and a
running fastjmix is not disturbed. Each step ends within a limit of its own. A finding has no
secret in it.
Nothing here prints: findings are returned.
"""

from fastjmix.tools.check.finding import Finding, State, exit_code
from fastjmix.tools.check.run import run

__all__ = ["Finding", "State", "exit_code", "run"]
