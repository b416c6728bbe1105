"""The end of an envelope: its documents, and its way to outbox/.

Wanted: whoever seals an envelope, its packer or a later process, writes the same from draft.json.
Guaranteed: an encrypted envelope is written beside the draft's plain archive, which stays complete
until it is durable; the plaintext never leaves the draft's directory, and is gone before the
envelope is in outbox/. Each attempt has its own ephemeral key and iv. Members are compared with
their CRC-32 while they are read again: damage is not encrypted, but found.
Still wrong: with `payload_hash` = "stream" the seal reads everything once more (jmix/hashes.py),
and other studies wait for it, unless the envelope is encrypted. Deleted plaintext may be read from
the disk's blocks until they are used again: what must not be, needs a disk that encrypts.
"""

from __future__ import annotations

import errno
import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from isal.isal_zlib import crc32

from fastjmix import log
from fastjmix.config import Builder
from fastjmix.errors import ConfigError, EnvelopeError
from fastjmix.failpoints import reach
from fastjmix.jmix import parties, profiles, published
from fastjmix.jmix.archive import Member, central_directory, data_offset, local_header
from fastjmix.jmix.envelope import BELOW, Contents, Document, Options
from fastjmix.jmix.parties import Encryption, Published
from fastjmix.spool import Draft, Ticket
from fastjmix.spool.files import read_pieces

if TYPE_CHECKING:
    from fastjmix.jmix.encryption import Plain
    from fastjmix.jmix.keys import SigningKey


def seal(
    draft: Draft,
    contents: Contents,
    members: list[Member],
    origin: str,
    sealed_at: float | None = None,
) -> Ticket:
    """Writes the documents, encrypts the payload if so configured, and moves it to outbox/.

    Raises OSError; with ENOKEY when the envelope cannot be signed as its recipe says.
    `sealed_at` is the time of an earlier attempt, whose bytes these will be (a ciphertext excepted:
    nobody has seen that one).
    """
    if sealed_at is None:
        sealed_at = time.time()
    ticket = _ticket(draft, contents, members, origin, sealed_at)
    try:
        options = _options(draft, members, sealed_at)
        if options.published is not None and options.published.encryption is not None:
            return _encrypted(draft, contents, options, options.published.encryption, ticket)
        documents = profiles.get(draft.recipe["profile"]).documents(contents, options)
    except ConfigError as problem:
        raise OSError(errno.ENOKEY, problem.message) from problem
    return draft.seal(write_documents(documents, members, draft.end), ticket)


def _ticket(
    draft: Draft, contents: Contents, members: list[Member], origin: str, sealed_at: float
) -> Ticket:
    """What is known of the envelope but for its final size."""
    recipe = draft.recipe
    return Ticket(
        id=draft.id,
        pipeline=recipe["pipeline"],
        upstream=recipe["upstream"],
        ack=recipe["ack"],
        studies=tuple(contents.studies),
        calling_ae=recipe["calling_ae"],
        instances=len(members),
        size_bytes=draft.end,
        sealed_at=sealed_at,
        origin=origin,
    )


def _options(draft: Draft, members: list[Member], sealed_at: float) -> Options:
    """What the recipe says of the documents, for an envelope of these members."""
    recipe = draft.recipe
    told = recipe.get("published")
    published = parties.load(told) if told else None
    return Options(
        draft.id,
        sealed_at,
        recipe["digest"],
        recipe["skip_hashing"],
        recipe["skip_listing"],
        payload_hash=recipe.get("payload_hash", "tree"),
        published=published,
        keys=signing_keys(published),
        read=_Again(draft, members),
    )


class _Again:
    """Members' data once more, by name; from the page cache as a rule. Raises OSError."""

    def __init__(self, draft: Draft, members: list[Member]) -> None:
        self._draft = draft
        self._members = members
        self._by_name: dict[bytes, Member] = {}

    def __call__(self, name: bytes) -> Iterator[bytes]:
        if not self._by_name:  # for whoever asks: most envelopes are never read again
            self._by_name = {member.name: member for member in self._members}
        member = self._by_name[name]
        checksum = 0
        for piece in read_pieces(self._draft.descriptor, data_offset(member), member.size):
            checksum = crc32(piece, checksum)
            yield piece
        if checksum != member.crc:
            self._draft.suspect = True  # recovery looks where the damage is
            raise OSError(errno.EIO, "a member of the envelope is not what was written")


def signing_keys(published: Published | None) -> dict[str, SigningKey]:
    """The keys that the parties name, by file. Raises ConfigError."""
    return {file: _key(file) for file in published.key_files()} if published else {}


def try_keys(builders: Iterable[Builder]) -> None:
    """Reads the keys before the first seal: an operator is looking."""
    for builder in builders:
        try:
            signing_keys(builder.published)
        except ConfigError as problem:
            log.get().error("key_unreadable", why=problem.message)


@lru_cache
def _key(file: str) -> SigningKey:
    """Read once: a key file that goes away while we run is missed at the next start."""
    from fastjmix.jmix import keys  # cryptography costs some 60 ms: only who signs pays

    return keys.load(keys.signing_key, Path(file))


def write_documents(documents: Sequence[Document], members: list[Member], end: int) -> list[bytes]:
    """The tail of an archive: documents, then the central directory with the documents first.

    Returns the buffers to append at offset `end`.
    """
    tail: list[bytes] = []
    first: list[Member] = []
    offset = end
    for document in documents:
        checksum = crc32(document.data)
        header = local_header(document.name, checksum, len(document.data))
        first.append(Member(document.name, checksum, len(document.data), offset))
        tail += [header, document.data]
        offset += len(header) + len(document.data)
    tail.append(central_directory([*first, *members], offset))
    return tail


# -- encryption ----------------------------------------------------------------------------------


def encrypted(recipe: Mapping[str, Any]) -> bool:
    """Tells whether a draft's recipe wants its payload encrypted. False for one that is none of
    ours."""
    told = recipe.get("published")
    return isinstance(told, Mapping) and bool(told.get("encryption"))


def _encrypted(
    draft: Draft, contents: Contents, options: Options, encryption: Encryption, ticket: Ticket
) -> Ticket:
    """Writes the encrypted form beside the draft's archive, and seals that. Raises OSError."""
    remade = draft.remake()
    try:
        write_encrypted(remade, contents, options, encryption)
        return draft.seal_remade(remade, ticket)
    finally:
        remade.drop()


class Appended(Protocol):
    """An archive that is being written: a Remade, or a file of the caller's."""

    size: int

    def append(self, buffers: Sequence[bytes]) -> object: ...
    def overwrite(self, data: bytes, offset: int) -> object: ...


def write_encrypted(
    remade: Appended, contents: Contents, options: Options, encryption: Encryption
) -> None:
    """The ciphertext as the first member, its header last; then what stands beside it.

    `options.read` gives the instances. Raises OSError, EnvelopeError: too large for one key.
    """
    from fastjmix.jmix import encryption as ciphers  # some 60 ms: only who encrypts pays
    from fastjmix.jmix import keys

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
    """What is to be encrypted, ordered by path; for jmix-js it is hashed as it goes by."""

    def __init__(self, contents: Contents, options: Options, dialect: str) -> None:
        from fastjmix.jmix.encryption import Plain

        hashed = dialect == "js" and not options.skip_hashing
        self._hash = hashlib.sha256() if hashed else None
        read = options.read
        if read is None:
            raise EnvelopeError("the payload cannot be read", "This is a fault of fastjmix.")
        found: list[tuple[bytes, int, Callable[[], Iterable[bytes]]]] = [
            (document.name, len(document.data), partial(iter, (document.data,)))
            for document in published.payload_documents(contents, options)
        ]
        found += [(one.name, one.size, partial(read, one.name)) for one in contents.instances()]
        self.members: list[Plain] = [
            Plain(path, size, partial(self._seen, path, pieces))
            for path, size, pieces in sorted((n[BELOW:].decode(), s, p) for n, s, p in found)
        ]

    @property
    def hash(self) -> str | None:
        """The digest of paths and contents in their order (hashes.stream); None: not made."""
        return self._hash.hexdigest() if self._hash is not None else None

    def _seen(self, path: str, pieces: Callable[[], Iterable[bytes]]) -> Iterator[bytes]:
        if self._hash is not None:
            self._hash.update(path.encode() + b"\n")
        for piece in pieces():
            if self._hash is not None:
                self._hash.update(piece)
            yield piece
