"""An envelope that somebody has: a ZIP or a folder, of either profile, from any JMIX library.

Wanted: one way to look into all of them, however they are packed.
Guaranteed: of a ZIP, what unzip.py guarantees; of a folder, that only regular files below it are
read and no link is followed. A single top folder is stepped over. Members are read in pieces.
Still wrong: a folder can change while it is read: what grew or shrank meanwhile is found, what was
exchanged for something of the same size is not. The documents are held as a whole, within `Limits`.

    dialect      told by                          studies
    harmony      version is an integer, "type"    a map by Study Instance UID
    jmix-1.0     version is a text                one object
    js           "envelope_id" (jmix-js)          one object, in "study"
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from functools import cached_property
from types import TracebackType
from typing import Any, BinaryIO, Final, Protocol, Self

from fastjmix.jmix import strict_json
from fastjmix.jmix.faults import refuse
from fastjmix.jmix.limits import Bound
from fastjmix.jmix.read.member_file import member_file
from fastjmix.jmix.read.rules import kind

ENCRYPTED: Final = ("payload.encrypted", "payload.enc")
"""Where the ciphertext lies; the second is jmix-rs's."""


class Container(Protocol):
    """What a ZIP and a folder have in common. Names are paths with "/"."""

    sizes: dict[str, int]
    """Name of each file → its size in bytes."""
    folders: set[str]
    """Every folder, without its last slash."""

    def offset(self, name: str) -> int | None:
        """The byte at which a member begins, where there is such a thing."""

    def pieces(self, name: str) -> Iterator[bytes]:
        """A member's bytes. Raises EnvelopeError, OSError."""

    def read(self, name: str, bound: Bound) -> bytes:
        """A member's bytes at once. Raises EnvelopeError when absent or larger than `bound`."""


def root_of(container: Container) -> str | None:
    """ "" or the single top folder (with its slash) that holds manifest.json; else None."""
    if "manifest.json" in container.sizes:
        return ""
    tops = {name.partition("/")[0] for name in container.sizes}
    top = f"{tops.pop()}/" if len(tops) == 1 else ""
    return top if f"{top}manifest.json" in container.sizes else None


def instances(sizes: Mapping[str, int], base: str) -> list[str]:
    """Everything in the payload (`base`, with its slash) but documents, attachments, previews."""
    apart = (f"{base}files/", f"{base}preview/")
    documents = (f"{base}metadata.json", f"{base}files.json")
    return [
        name
        for name in sizes
        if name.startswith(base) and not name.startswith(apart) and name not in documents
    ]


def ciphertext_of(sizes: Mapping[str, int], root: str) -> str | None:
    """The member with the encrypted payload, if there is one."""
    return next((root + name for name in ENCRYPTED if root + name in sizes), None)


class Envelope:
    """An open envelope. Close it, or use it as a context manager; ValueError comes after that.

    `container` has its members under their names, `root` is "" or the top folder with its slash.
    Documents are read and parsed when they are asked for: EnvelopeError names the one at fault.
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
        """Lets go of the file."""
        if self._file is not None:
            self._file.close()

    @cached_property
    def manifest(self) -> Mapping[str, Any]:
        """manifest.json. Raises EnvelopeError."""
        return self.document("manifest.json", "max_manifest_bytes")

    @cached_property
    def metadata(self) -> Mapping[str, Any]:
        """The payload's metadata.json. Raises EnvelopeError: the payload is encrypted, too."""
        if self.encryption is not None:
            refuse(f"{self.payload}/metadata.json", "is encrypted", "Decrypt the envelope first.")
        return self.document(f"{self.payload}/metadata.json", "max_metadata_bytes")

    @property
    def id(self) -> str:
        """What the manifest says it is, in lower case; "" when it does not."""
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
        """The payload's folder, below `root`."""
        content = self.manifest.get("content")
        path = content.get("path") if isinstance(content, dict) else None
        good = self.dialect == "harmony" and isinstance(path, str)
        return path.strip("/") if good and isinstance(path, str) and path.strip("/") else "payload"

    @property
    def encryption(self) -> Mapping[str, Any] | None:
        """The manifest's security.encryption; None: the payload is not encrypted."""
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
        """Study Instance UIDs, as metadata.json has them. Raises EnvelopeError."""
        studies = self.metadata.get("studies", self.metadata.get("study"))
        if not isinstance(studies, dict):
            return ()
        if not studies.keys().isdisjoint(("study_uid", "series", "study_description", "uid")):
            uid = studies.get("study_uid", studies.get("uid"))
            return (uid,) if isinstance(uid, str) and uid else ()
        return tuple(studies)

    @property
    def instances(self) -> tuple[str, ...]:
        """The names (from `root`) of what is neither document, attachment nor preview."""
        base = f"{self.root}{self.payload}/"
        return tuple(n.removeprefix(self.root) for n in instances(self.container.sizes, base))

    @property
    def members(self) -> Mapping[str, int]:
        """Name from `root` → size in bytes, of every file."""
        below = len(self.root)
        sizes = self.container.sizes
        return {n[below:]: size for n, size in sizes.items() if n.startswith(self.root)}

    def pieces(self, name: str) -> Iterator[bytes]:
        """A member's bytes, in pieces; `name` from `root`. Raises EnvelopeError, OSError."""
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
        """A member's bytes at once, no more than that field of Limits. Raises EnvelopeError."""
        return self.container.read(self.root + name, bound)

    def document(self, name: str, bound: Bound = "max_metadata_bytes") -> Mapping[str, Any]:
        """A member that is a JSON object. Raises EnvelopeError."""
        return json_object(self.container, self.root + name, bound)


def described_instances(metadata: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """What fastjmix writes beyond the schemas: each series' instances, with where they stand."""
    studies = metadata.get("studies")
    if not isinstance(studies, dict):
        return
    many = [(f"studies.{uid}", study) for uid, study in studies.items() if isinstance(study, dict)]
    for at, study in many or [("studies", studies)]:
        series = study.get("series")
        for number, one in enumerate(series if isinstance(series, list) else ()):
            found = one.get("instances") if isinstance(one, dict) else None
            for place, instance in enumerate(found if isinstance(found, list) else ()):
                if isinstance(instance, dict):
                    yield f"{at}.series[{number}].instances[{place}]", instance


def json_object(container: Container, name: str, bound: Bound) -> Mapping[str, Any]:
    """A member that is a JSON object. Raises EnvelopeError."""
    found = strict_json.parse(container.read(name, bound), name, container.offset(name))
    if not isinstance(found, dict):
        told = f"must be a JSON object, not {kind(found)}"
        refuse(name, told, at=container.offset(name))
    return found


def envelope_in(container: Container, file: BinaryIO | None = None) -> Envelope:
    """Returns the envelope in a container. Raises EnvelopeError when it has no manifest."""
    root = root_of(container)
    if root is None:
        refuse("manifest.json", "is missing at the top level of the envelope")
    return Envelope(container, root, file)
