"""Decrypts an envelope for its recipient.

Wanted: the same envelope, with its payload decrypted.
Guaranteed: nothing is left at the target unless the tag over all of the payload, and the payload's
hash, are right. The id, the audit trail and every file are the sender's.
Still wrong: signatures of the encrypted envelope do not fit this one: they are left out and named.
Verify them on the encrypted one, and keep it.

In the manifest `security.encryption` goes, and `security.payload_hash` becomes the tree over the
files, as for any payload that is not encrypted.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import orjson

from fastjmix.errors import EnvelopeError
from fastjmix.jmix.digests import File, stream_hash
from fastjmix.jmix.faults import raise_fault
from fastjmix.jmix.keys import RecipientKey
from fastjmix.jmix.limits import DEFAULT_LIMITS, Limits
from fastjmix.jmix.read.container import Envelope
from fastjmix.jmix.read.listings import payload_hash_of
from fastjmix.jmix.write import encryption
from fastjmix.jmix.write.envelope import Document
from fastjmix.jmix.write.payload_hash import tree
from fastjmix.tools.envelope.opening import open_envelope
from fastjmix.tools.envelope.output import OutputError, new_file
from fastjmix.tools.envelope.zipping import ZipOut

AUDIT: Final = "audit.json"


class Opened(NamedTuple):
    """A decrypted envelope; `without` names the signatures that were left out."""

    id: str
    dialect: str
    files: int
    size_bytes: int
    without: tuple[str, ...]


def decrypt(
    source: Path | str,
    out: Path | str,
    key: RecipientKey,
    *,
    force: bool = False,
    limits: Limits = DEFAULT_LIMITS,
    seen: Callable[[int], object] = lambda _: None,
) -> Opened:
    """Writes the envelope, decrypted, as a ZIP. Raises EnvelopeError, OutputError, OSError."""
    with open_envelope(source, limits) as envelope:
        name = envelope.ciphertext
        if envelope.encryption is None:
            raise EnvelopeError(f"{source}: is not encrypted")
        if name is None:
            raise EnvelopeError("payload.encrypted: is missing")
        if Path(out).is_dir():
            raise OutputError(f"{out}: is a directory", "Name the file to write.")
        return _written(envelope, name, Path(out), key, force, seen)


def _written(
    envelope: Envelope,
    name: str,
    out: Path,
    key: RecipientKey,
    force: bool,
    seen: Callable[[int], object],
) -> Opened:
    def secret() -> Iterator[bytes]:
        return envelope.pieces(name)

    fields = envelope.encryption
    verified = encryption.verify(None, key, fields, secret)
    promised = payload_hash_of(envelope.manifest, raise_fault)
    known = {f"sha256:{verified.sha256}", f"sha256:{verified.tar_sha256}"}
    if promised is not None and promised not in known and verified.dialect != "js":
        _wrong()
    manifest, without = opened_manifest(envelope)
    with new_file(out, force=force) as descriptor:
        archive = ZipOut(descriptor)
        files: list[File] = []
        for path, size, pieces in encryption.decrypt(verified, key, fields, secret):
            hasher = hashlib.sha256()
            archive.put(f"payload/{path}".encode(), size, pieces, path, seen, hasher)
            files.append(File(path, size, hasher.hexdigest()))
        if promised is not None and promised not in known:
            read = archive.reader()
            paths = [one.path for one in files]
            if promised != stream_hash("sha256", paths, lambda p: read(f"payload/{p}".encode())):
                _wrong()
        manifest.setdefault("security", {})["payload_hash"] = tree(files, "sha256")
        documents = [Document(b"manifest.json", orjson.dumps(manifest))]
        if AUDIT in envelope.members:
            documents.append(Document(AUDIT.encode(), envelope.read(AUDIT)))
        written = archive.finish(documents)
    return Opened(envelope.id, verified.dialect, len(files), written, without)


def opened_manifest(envelope: Envelope) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Returns the manifest without encryption and signatures, and the names of those signatures."""
    manifest: dict[str, Any] = copy.deepcopy(dict(envelope.manifest))
    without = []
    security = manifest.get("security")
    if isinstance(security, dict):
        for gone in ("encryption", "payload_hash"):
            security.pop(gone, None)
        for signed in ("jws", "signature"):
            if security.pop(signed, None) is not None:
                without.append(f"security.{signed}")
    if "manifest.jws" in envelope.members and "security.jws" not in without:
        without.append("manifest.jws")
    receivers = manifest.get("receiver")
    listed = receivers if isinstance(receivers, list) else []
    entities = [(role, manifest.get(role)) for role in ("sender", "requester")]
    entities += [(f"receiver[{n}]", one) for n, one in enumerate(listed)]
    for role, entity in entities:
        if isinstance(entity, dict) and entity.pop("assertion", None) is not None:
            without.append(f"{role}.assertion")
    return manifest, tuple(without)


def _wrong() -> None:
    raise EnvelopeError('manifest.json: "security.payload_hash" does not match the payload')
