"""An open envelope: a ZIP or a folder, of either profile, from any JMIX library.

Wanted: one interface to all of them, however they are packed.
Guaranteed: of a ZIP, what unzip.py guarantees; of a folder, what tools/envelope/opening.py does. A
single top folder is left out of names. Members are read in pieces.
Still wrong: each document is held as a whole, within `Limits`.

    dialect      recognised by                    studies
    harmony      version is an integer, "type"    a map by Study Instance UID
    jmix-1.0     version is a text                one object
    js           "envelope_id" (jmix-js)          one object, in "study"
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from functools import cached_property
from types import TracebackType
from typing import BinaryIO, Final, Protocol, Self

from fastjmix.jmix import strict_json
from fastjmix.jmix.faults import refuse
from fastjmix.jmix.limits import Bound
from fastjmix.jmix.read.member_file import member_file
from fastjmix.jmix.read.rules import type_name
from fastjmix.jmix.strict_json import JsonObject

ENCRYPTED: Final = ("payload.encrypted", "payload.enc")
"""The member with the ciphertext; the second name is jmix-rs's."""


class Container(Protocol):
    """The attributes that a ZIP and a folder have in common. Names are paths with "/"."""

    sizes: dict[str, int]
    """Name of each file → its size in bytes."""
    folders: set[str]
    """Every folder, without its last slash."""

    def offset(self, name: str) -> int | None:
        """Returns the byte at which a member begins; None in a folder."""

    def pieces(self, name: str) -> Iterator[bytes]:
        """Yields a member's bytes. Raises EnvelopeError, OSError."""

    def read(self, name: str, bound: Bound) -> bytes:
        """Returns a member's bytes. Raises EnvelopeError when absent or larger than `bound`."""


def root_of(container: Container) -> str | None:
    """Returns "" or the single top folder (with its slash) with manifest.json in it; else None."""
    if "manifest.json" in container.sizes:
        return ""
    tops = {name.partition("/")[0] for name in container.sizes}
    top = f"{tops.pop()}/" if len(tops) == 1 else ""
    return top if f"{top}manifest.json" in container.sizes else None


def instances(sizes: Mapping[str, int], base: str) -> list[str]:
    """Returns the payload's files (below `base`, which ends with a slash) without documents,
    attachments and previews."""
    others = (f"{base}files/", f"{base}preview/")
    documents = (f"{base}metadata.json", f"{base}files.json")
    return [
        name
        for name in sizes
        if name.startswith(base) and not name.startswith(others) and name not in documents
    ]


def ciphertext_of(sizes: Mapping[str, int], root: str) -> str | None:
    """Returns the member with the encrypted payload, if there is one."""
    return next((root + name for name in ENCRYPTED if root + name in sizes), None)


class Envelope:
    """An open envelope. Close it, or use it as a context manager; a closed one raises ValueError.

    `container` has its members under their full names, `root` is "" or the top folder with its
    slash. A document is read and parsed at its first use; EnvelopeError names the one at fault.

    It is the one object of the Python API, so it has more methods than a class of this code base
    should. Each is a few lines over `container` and the documents.
    """

    def __init__(self, container: Container, root: str, file: BinaryIO | None = None) -> None:
        self.container = container
        self.root = root
        self._file = file

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()

    @cached_property
    def manifest(self) -> JsonObject:
        """The object in manifest.json. Raises EnvelopeError."""
        return self.document("manifest.json", "max_manifest_bytes")

    @cached_property
    def metadata(self) -> JsonObject:
        """The object in the payload's metadata.json. Raises EnvelopeError, also when the payload is
        encrypted."""
        if self.encryption is not None:
            refuse(f"{self.payload}/metadata.json", "is encrypted", "Decrypt the envelope first.")
        return self.document(f"{self.payload}/metadata.json", "max_metadata_bytes")

    @property
    def id(self) -> str:
        """The id in the manifest, in lower case; "" when it has none."""
        found = self.manifest.get("id", self.manifest.get("envelope_id"))
        return found.lower() if isinstance(found, str) else ""

    @property
    def dialect(self) -> str:
        """ "harmony", "jmix-1.0" or "js"."""
        if "envelope_id" in self.manifest and "id" not in self.manifest:
            return "js"
        return "jmix-1.0" if isinstance(self.manifest.get("version"), str) else "harmony"

    @property
    def payload(self) -> str:
        """The payload's folder below `root`, without slashes around it."""
        content = self.manifest.get("content")
        path = content.get("path") if isinstance(content, dict) else None
        good = self.dialect == "harmony" and isinstance(path, str)
        return path.strip("/") if good and isinstance(path, str) and path.strip("/") else "payload"

    @property
    def encryption(self) -> JsonObject | None:
        """The manifest's security.encryption; None when the payload is not encrypted."""
        security = self.manifest.get("security")
        found = security.get("encryption") if isinstance(security, dict) else None
        return found if isinstance(found, dict) else None

    @property
    def ciphertext(self) -> str | None:
        """The member (from `root`) with the encrypted payload, if there is one."""
        found = ciphertext_of(self.container.sizes, self.root)
        return None if found is None else found.removeprefix(self.root)

    @property
    def studies(self) -> tuple[str, ...]:
        """The Study Instance UIDs in metadata.json. Raises EnvelopeError."""
        studies = self.metadata.get("studies", self.metadata.get("study"))
        if not isinstance(studies, dict):
            return ()
        if not studies.keys().isdisjoint(("study_uid", "series", "study_description", "uid")):
            uid = studies.get("study_uid", studies.get("uid"))
            return (uid,) if isinstance(uid, str) and uid else ()
        return tuple(studies)

    @property
    def instances(self) -> tuple[str, ...]:
        """The names (from `root`) of the payload's files without documents, attachments and
        previews."""
        base = f"{self.root}{self.payload}/"
        return tuple(n.removeprefix(self.root) for n in instances(self.container.sizes, base))

    @property
    def members(self) -> Mapping[str, int]:
        """Name from `root` → size in bytes, of every file."""
        below = len(self.root)
        sizes = self.container.sizes
        return {n[below:]: size for n, size in sizes.items() if n.startswith(self.root)}

    def pieces(self, name: str) -> Iterator[bytes]:
        """Yields a member's bytes; `name` from `root`. Raises EnvelopeError, OSError."""
        if self.root + name not in self.container.sizes:
            refuse(name, "is missing")
        return self.container.pieces(self.root + name)

    def open(self, name: str) -> io.BufferedReader:
        """Returns a member as a file object, read-only and seekable; `name` from `root`.

        pydicom.dcmread takes it. Raises EnvelopeError when there is no such member. Its reads raise
        EnvelopeError, at the last byte at the latest, when the member is damaged; OSError.
        """
        full = self.root + name
        if full not in self.container.sizes:
            refuse(name, "is missing")
        return member_file(name, self.container.sizes[full], lambda: self.container.pieces(full))

    def read(self, name: str, bound: Bound = "max_metadata_bytes") -> bytes:
        """Returns a member's bytes. Raises EnvelopeError when absent or larger than `bound`."""
        return self.container.read(self.root + name, bound)

    def document(self, name: str, bound: Bound = "max_metadata_bytes") -> JsonObject:
        """Returns the JSON object in a member. Raises EnvelopeError when there is none."""
        return json_object(self.container, self.root + name, bound)


def json_object(container: Container, name: str, bound: Bound) -> JsonObject:
    """Returns the JSON object in a member. Raises EnvelopeError when there is none."""
    found = strict_json.parse(container.read(name, bound), name, container.offset(name))
    if not isinstance(found, dict):
        what = f"must be a JSON object, not {type_name(found)}"
        refuse(name, what, at=container.offset(name))
    return found


def envelope_in(container: Container, file: BinaryIO | None = None) -> Envelope:
    """Returns the envelope in a container. Raises EnvelopeError when it has no manifest."""
    root = root_of(container)
    if root is None:
        refuse("manifest.json", "is missing at the top level of the envelope")
    return Envelope(container, root, file)
