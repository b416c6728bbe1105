"""Makes an envelope of DICOM files.

Wanted: the envelope that the pipeline would have made of these instances, by the same code (jmix/):
the same names, documents and archive, each instance byte for byte.
Guaranteed: the envelope is complete or absent. Everything that cannot be taken (no DICOM file,
unreadable, truncated, not understood, a link to a folder) is named, and then no envelope is made,
unless the caller gives `leave_out`. The same instance twice is kept once, and named; other bytes
under its SOP Instance UID are kept too.
Still wrong: heads of all files are read before the first is packed, and kept (some KB each).
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from fastjmix.config.key_files import signing_keys
from fastjmix.dicom.dataset import Description, describe_series
from fastjmix.dicom.head import Found, data_set_head
from fastjmix.errors import FastjmixError
from fastjmix.jmix.digests import new_hash
from fastjmix.jmix.write import profiles
from fastjmix.jmix.write.archive import data_offset
from fastjmix.jmix.write.encrypted import write_encrypted
from fastjmix.jmix.write.envelope import Contents, Options
from fastjmix.jmix.write.parties import Encryption
from fastjmix.spool.files import PIECE_BYTES
from fastjmix.tools.envelope.output import new_file, target_of
from fastjmix.tools.envelope.recipe import (
    AS_PIPELINE,
    BuildError,
    PathLike,
    Recipe,
    check_recipe,
    paths_of,
)
from fastjmix.tools.envelope.zipping import Appending, ZipOut

if TYPE_CHECKING:
    from fastjmix.tools.send import Skipped

NAMED_MAX: Final = 20
"""Names in the message of an exception, which a person reads; its `skipped` has all."""

Seen = Callable[[int], object]


class Built(NamedTuple):
    """An envelope that was made."""

    path: Path
    id: str
    studies: tuple[str, ...]
    instances: int
    size_bytes: int
    duplicates: tuple[str, ...] = ()
    """Files whose data set an earlier file had: they are not in the envelope a second time."""


class IncompleteError(BuildError):
    """Some files cannot be taken, so no envelope was made. `skipped` has all of them."""

    def __init__(self, skipped: Sequence[Skipped]) -> None:
        named = [f"{one.path}: {one.reason}" for one in skipped[:NAMED_MAX]]
        if len(skipped) > NAMED_MAX:
            named.append(f"and {len(skipped) - NAMED_MAX} more")
        what = f"met and not taken: {'; '.join(named)}"
        super().__init__(what, "Correct them; with leave_out=True the envelope is made without.")
        self.skipped = tuple(skipped)


class NotUnderstood(Exception):
    """An instance cannot be understood; the text says why."""


@dataclass(frozen=True, slots=True)
class Instance:
    """A Part 10 file on disk or in an envelope. `where` names it in messages; its data set begins
    at `offset`."""

    where: str
    size: int
    offset: int
    sop_class: str
    sop_instance: str
    syntax: str
    study: str
    series: str
    number: int | None
    description: Description
    fault: str
    pieces: Callable[[], Iterable[bytes]]


def build(
    paths: PathLike | Iterable[PathLike],
    out: PathLike,
    recipe: Recipe = AS_PIPELINE,
    *,
    force: bool = False,
    leave_out: bool = False,
    skipped: Callable[[Skipped], object] = lambda _: None,
    total: Seen = lambda _: None,
    seen: Seen = lambda _: None,
) -> list[Built]:
    """Makes an envelope of DICOM files, as fastjmix.build documents."""
    check_recipe(recipe)
    instances, left_out = _instances(paths_of(paths))
    for one in left_out:
        skipped(one)
    if left_out and not leave_out:
        raise IncompleteError(left_out)
    if not instances:
        raise BuildError("no DICOM file was found", "Name files, or directories with some in them.")
    total(sum(one.size for one in instances))
    with target_of(out) as target:
        return make(instances, target, recipe, force, seen)


def _instances(paths: Iterable[Path]) -> tuple[list[Instance], list[Skipped]]:
    """Returns the instances, and the files that cannot be taken. Raises UsageError."""
    from fastjmix.tools.send import Skipped, find

    found, skipped = find(paths)
    instances = []
    for one in found:
        size, pieces = one.offset + one.size, _Pieces(one.path)
        meta = (one.sop_class, one.sop_instance, one.transfer_syntax)
        try:
            found_one = instance_of(str(one.path), size, one.offset, meta, pieces, pieces.head)
            instances.append(found_one)
        except NotUnderstood as why:
            skipped.append(Skipped(one.path, str(why)))
        except OSError as problem:
            skipped.append(Skipped(one.path, f"cannot be read: {problem.strerror or problem}"))
    return instances, skipped


class _Pieces:
    """A file's bytes: each call yields them from the beginning."""

    __slots__ = ("_path",)

    def __init__(self, path: Path) -> None:
        self._path = path

    def __call__(self) -> Iterator[bytes]:
        with self._path.open("rb", buffering=0) as file:
            while piece := file.read(PIECE_BYTES):
                yield piece

    def head(self, offset: int, size: int, syntax: str) -> Found:
        """Reads the data set at `offset`, without its large values."""
        with self._path.open("rb", buffering=0) as file:

            def read_at(at: int, length: int) -> bytes:
                return os.pread(file.fileno(), length, at)

            return data_set_head(read_at, offset, size, syntax, whole=True)


def instance_of(
    where: str,
    size: int,
    offset: int,
    meta: tuple[str, str, str],
    pieces: Callable[[], Iterable[bytes]],
    read: Callable[[int, int, str], Found],
) -> Instance:
    """Returns the description of a Part 10 file, whose bytes `pieces` yields.

    `meta`: SOP Class, SOP Instance and Transfer Syntax UID of its File Meta Information. Raises
    NotUnderstood, OSError.
    """
    syntax = meta[2]
    try:
        head, fault = read(offset, size - offset, syntax)
        found = (head.study_instance_uid, head.series_instance_uid, head.sop_instance_uid)
        study, series, instance = (uid.decode("ascii") for uid in found)
    except (ValueError, FastjmixError) as problem:
        raise NotUnderstood(f"its data set cannot be understood: {problem}") from None
    if not (study and series and instance):
        raise NotUnderstood("its data set lacks a Study, Series or SOP Instance UID")
    if not all(map(str.isprintable, (study, series, *meta))):
        raise NotUnderstood("one of its UIDs holds a control character")
    if instance != meta[1]:
        says = "is another in its File Meta Information than in its data set"
        raise NotUnderstood(f"the SOP Instance UID {says}")
    described = describe_series(head.elements)
    return Instance(
        where, size, offset, *meta, study, series, head.instance_number, described, fault, pieces
    )


def make(
    instances: Sequence[Instance],
    out: Path,
    recipe: Recipe,
    force: bool,
    seen: Seen,
    *,
    envelope_id: str | None = None,
) -> list[Built]:
    """Writes these instances as an envelope, or in a directory as one a study. `envelope_id` is for
    one envelope; None: a new id.

    Raises BuildError, EnvelopeError, OutputError, OSError; nothing is there then.
    """
    studies: dict[str, list[Instance]] = {}
    for one in instances:
        studies.setdefault(one.study, []).append(one)
    if out.is_dir():
        return _write_each(studies.values(), out, recipe, seen)
    if recipe.profile != "harmony" and len(studies) > 1:
        raise BuildError(
            f"an envelope of profile {recipe.profile} holds one study; there are {len(studies)}",
            "Give a directory as out=: each study gets an envelope of its own there.",
        )
    return [_write(instances, out, recipe, force, seen, envelope_id)]


def _write_each(
    studies: Iterable[Sequence[Instance]], directory: Path, recipe: Recipe, seen: Seen
) -> list[Built]:
    """Writes an envelope of each study: all of them, or none."""
    made: list[Built] = []
    try:
        for instances in studies:
            made.append(_write(instances, directory, recipe, False, seen))
    except BaseException:
        for one in made:
            one.path.unlink()
        raise
    return made


def _write(
    instances: Iterable[Instance],
    out: Path,
    recipe: Recipe,
    force: bool,
    seen: Seen,
    envelope_id: str | None = None,
) -> Built:
    envelope_id = envelope_id or str(uuid.uuid4())
    target = out / f"{envelope_id}.zip" if out.is_dir() else out
    with new_file(target, force=force) as descriptor:
        if recipe.published is not None and recipe.published.encryption is not None:
            # the plain archive has no name, so a crash cannot leave it behind
            with tempfile.TemporaryFile(dir=target.parent) as plain:
                writing = _Writing(plain.fileno(), recipe, envelope_id)
                writing.take(instances, seen)
                size = writing.encrypt(descriptor, recipe.published.encryption)
        else:
            writing = _Writing(descriptor, recipe, envelope_id)
            writing.take(instances, seen)
            size = writing.finish()
    contents, duplicates = writing.contents, tuple(writing.duplicates)
    return Built(target, envelope_id, tuple(contents.studies), len(contents), size, duplicates)


class _Writing:
    """The instances of an envelope that is being written."""

    def __init__(self, descriptor: int, recipe: Recipe, envelope_id: str) -> None:
        self._zip = ZipOut(descriptor)
        self._recipe = recipe
        self._id = envelope_id
        self.contents = Contents(profiles.get(recipe.profile).member_name)
        self.duplicates: list[str] = []

    def take(self, instances: Iterable[Instance], seen: Seen) -> None:
        """Adds the instances, each unless it is there already. Raises EnvelopeError, OSError."""
        for one in instances:
            self._add(one, seen)

    def _add(self, one: Instance, seen: Seen) -> None:
        if self._holds(one):
            self.duplicates.append(one.where)
            seen(one.size)
            return
        name = self.contents.next_name(one.study, one.series, one.sop_instance)
        hasher = None if self._recipe.skip_hashing else new_hash(self._recipe.digest)
        member = self._zip.put(name, one.size, one.pieces(), one.where, seen, hasher)
        self.contents.add(
            one.study,
            one.series,
            one.sop_class,
            one.sop_instance,
            one.syntax,
            one.number,
            one.size,
            None if hasher is None else hasher.digest(),
            one.description,
            (data_offset(member) + one.offset, one.size - one.offset),
            fault=one.fault,
        )

    def finish(self) -> int:
        """Writes the documents and the central directory; returns the archive's size."""
        profile = profiles.get(self._recipe.profile)
        return self._zip.finish(profile.documents(self.contents, self._options()))

    def encrypt(self, descriptor: int, encryption: Encryption) -> int:
        """Writes another archive with the payload encrypted; returns its size."""
        out = Appending(descriptor)
        write_encrypted(out, self.contents, self._options(), encryption)
        return out.size

    def _options(self) -> Options:
        recipe = self._recipe
        return Options(
            self._id,
            time.time(),
            recipe.digest,
            recipe.skip_hashing,
            recipe.skip_listing,
            payload_hash=recipe.payload_hash,
            published=recipe.published,
            keys=signing_keys(recipe.published),
            read=self._zip.reader(),
        )

    def _holds(self, one: Instance) -> bool:
        """Returns whether the same data set is there already, also with another File Meta
        Information."""
        for twin in self.contents.twins(one.sop_instance):
            start, length = twin.data
            if length == one.size - one.offset and _same(
                self._zip.range(start, length), _behind(one.pieces(), one.offset)
            ):
                return True
        return False


def _same(first: Iterable[bytes], second: Iterable[bytes]) -> bool:
    """Returns whether two streams have the same bytes, however they are cut."""
    digests = []
    for pieces in (first, second):
        hasher = hashlib.sha256()
        for piece in pieces:
            hasher.update(piece)
        digests.append(hasher.digest())
    return digests[0] == digests[1]


def _behind(pieces: Iterable[bytes], offset: int) -> Iterator[bytes]:
    for piece in pieces:
        yield piece[offset:]
        offset = max(0, offset - len(piece))
