"""Writes an encrypted envelope: the ciphertext of its payload, and the documents beside it.

Guaranteed: no plaintext is written; each call has its own ephemeral key and iv.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Protocol

from isal.isal_zlib import crc32

from fastjmix.errors import EnvelopeError
from fastjmix.failpoints import reach
from fastjmix.jmix.digests import StreamHash
from fastjmix.jmix.write import published
from fastjmix.jmix.write.archive import Member, local_header
from fastjmix.jmix.write.documents import write_documents
from fastjmix.jmix.write.envelope import BELOW, Contents, Options
from fastjmix.jmix.write.parties import Encryption

if TYPE_CHECKING:
    from fastjmix.jmix.write.encryption import Plain


class Appended(Protocol):
    """An archive that is being written: a Remade, or a file of the caller."""

    size: int

    def append(self, buffers: Sequence[bytes]) -> object: ...
    def overwrite(self, data: bytes, offset: int) -> object: ...


def write_encrypted(
    remade: Appended, contents: Contents, options: Options, encryption: Encryption
) -> None:
    """Writes the ciphertext as the first member, its header after its data, then the documents.

    `options.read` gives the instances. Raises OSError, and EnvelopeError when the payload is too
    large for one key.
    """
    from fastjmix.jmix import keys
    from fastjmix.jmix.write import encryption as ciphers  # some 60 ms: only for encryption

    dialect = encryption.dialect
    payload = _Payload(contents, options, dialect)
    name = ciphers.encrypted_name(dialect).encode()
    size = ciphers.check_size(dialect, payload.members)
    remade.append([local_header(name, 0, size)])
    checksum = 0

    def write(piece: bytes) -> None:
        nonlocal checksum
        checksum = crc32(piece, checksum)
        remade.append([piece])
        reach("encrypt.midway")

    recipient = keys.recipient_public(encryption.recipient_public_key.encode(), "the recipient")
    sealed = ciphers.encrypt(
        dialect, recipient, payload.members, write, modified=int(options.sealed_at)
    )
    remade.overwrite(local_header(name, checksum, size), 0)
    found = payload.hash or (sealed.tar_sha256 if dialect == "rs" else sealed.sha256)
    payload_hash = None if options.skip_hashing else f"sha256:{found}"
    documents = published.root_documents(options, payload_hash, sealed.fields)
    remade.append(write_documents(documents, [Member(name, checksum, size, 0)], remade.size))


class _Payload:
    """The files to be encrypted, ordered by path. For jmix-js they are hashed while they are
    read."""

    def __init__(self, contents: Contents, options: Options, dialect: str) -> None:
        from fastjmix.jmix.write.encryption import Plain

        hashed = dialect == "js" and not options.skip_hashing
        self._stream = StreamHash("sha256") if hashed else None
        read = options.read
        if read is None:
            raise EnvelopeError("the payload cannot be read", "This is a fault of fastjmix.")
        found: list[tuple[bytes, int, Callable[[], Iterable[bytes]]]] = [
            (document.name, len(document.data), partial(iter, (document.data,)))
            for document in published.payload_documents(contents, options)
        ]
        found += [(one.name, one.size, partial(read, one.name)) for one in contents.instances()]
        self.members: list[Plain] = [
            Plain(path, size, partial(self._pieces, path, pieces))
            for path, size, pieces in sorted((n[BELOW:].decode(), s, p) for n, s, p in found)
        ]

    @property
    def hash(self) -> str | None:
        """The STREAM form's digest after all members were read; None for other dialects."""
        return self._stream.hexdigest() if self._stream is not None else None

    def _pieces(self, path: str, pieces: Callable[[], Iterable[bytes]]) -> Iterable[bytes]:
        if self._stream is None:
            return pieces()
        return self._stream.hash_file(path, pieces())
