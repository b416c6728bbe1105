"""Reads secrets out of files: `token_file` beside `token`, and so on.

systemd's credentials, Docker's and Kubernetes' secrets are files. A key `<name>_file` beside a
secret key `<name>` says which one; its content is checked as the value of `<name>` is.

Guaranteed: a file that cannot be used is a fault, whether something refers to its table or not.
Neither the content nor the name of the file is in a fault or a warning: somebody may have written
the secret itself there. A file is read again whenever the configuration is.
"""

from __future__ import annotations

import dataclasses
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from fastjmix.config.declare import Table, option
from fastjmix.config.faults import Findings, dotted, quoted
from fastjmix.config.in_words import allowed
from fastjmix.config.table_checks import Entry, Tables

SUFFIX: Final = "_file"

SECRET_FILE_BYTES_MAX: Final = 16 * 1024
"""Bytes of a file with a secret: no header field that servers take is longer."""

_READABLE: Final = f"a file of {SECRET_FILE_BYTES_MAX} bytes or fewer, in UTF-8, that we can read"


def fill(tables: Tables, findings: Findings) -> Tables:
    """Returns the same tables, with the secrets that the files hold. Notes a fault for each file
    that cannot be used; its table then counts as one with faults."""
    filled = Tables(tables.main)
    for family, entries in tables.entries.items():
        filled.entries[family] = {name: _filled(entry, findings) for name, entry in entries.items()}
    return filled


def names_secret_file(table: type[Table], key: str) -> bool:
    """Returns whether a key names the file of a secret."""
    secret = table.model_fields.get(key.removesuffix(SUFFIX))
    return key.endswith(SUFFIX) and secret is not None and bool(option(secret, "secret"))


def _filled(entry: Entry, findings: Findings) -> Entry:
    if entry.value is None:
        return entry
    names = (entry.family, entry.name) if entry.name else (entry.family,)
    reader = _Reader(entry.file, findings)
    table = reader.filled(entry.value, names)
    return dataclasses.replace(entry, value=None if reader.failed else table)


@dataclass(slots=True)
class _Reader:
    """Fills one table of `file`, and those in it. `failed`: there was a fault."""

    file: str
    findings: Findings
    failed: bool = False

    def filled(self, table: Table, path: tuple[str, ...]) -> Table:
        """Returns the table at this path with its secrets."""
        changed: dict[str, Any] = {}
        for key in type(table).model_fields:
            value = getattr(table, key)
            if isinstance(value, Table):
                inner = self.filled(value, (*path, key))
                changed |= {key: inner} if inner is not value else {}
            elif value is not None and names_secret_file(type(table), key):
                changed[key.removesuffix(SUFFIX)] = self._secret(table, path, key, value)
        return table.model_copy(update=changed) if changed else table

    def _secret(self, table: Table, path: tuple[str, ...], key: str, file: str) -> str | None:
        """Returns the secret whose file `key` names. None: there was a fault."""
        secret = key.removesuffix(SUFFIX)
        if getattr(table, secret) is not None:
            found = f"a file, and {secret} has a value"
            self._fault(path, key, found, f"one of {secret} and {key}")
            return None
        text = self._content(path, key, Path(self.file).parent / file)
        if text is None:
            return None
        self.findings.secrets.add(text, quoted(text)[1:-1])
        try:
            type(table).model_validate({**table.model_dump(), secret: text})
        except ValidationError:
            found = "a file with content that cannot be used (not shown)" if text else "no content"
            right = f"a file with {allowed(type(table).model_fields[secret])}"
            self._fault(path, key, found, right)
            return None
        return text

    def _content(self, path: tuple[str, ...], key: str, file: Path) -> str | None:
        """Returns what a file holds, without the newline at its end. None: there was a fault."""
        try:
            data, mode = _bytes(file)
            text = data.decode()
        except OSError as problem:
            self._fault(path, key, f"a file (not shown): {problem.strerror}", _READABLE)
            return None
        except ValueError as problem:
            decoding = isinstance(problem, UnicodeDecodeError)
            said = "a file that is not in UTF-8" if decoding else str(problem)
            self._fault(path, key, said, _READABLE)
            return None
        if mode & stat.S_IROTH:
            place = dotted(*path, key)
            self.findings.warn(f"{place}: every user of this machine can read that file: chmod o-r")
        return text.removesuffix("\n").removesuffix("\r")

    def _fault(self, path: tuple[str, ...], key: str, found: str, right: str) -> None:
        self.failed = True
        self.findings.fault(self.file, dotted(*path), key, found, right)


def _bytes(path: Path) -> tuple[bytes, int]:
    """Returns a file's bytes and its mode. Raises OSError; ValueError for what is no regular file,
    and for too many bytes."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a FIFO waits for none
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise ValueError("no regular file")
        data = os.read(descriptor, SECRET_FILE_BYTES_MAX + 1)
    finally:
        os.close(descriptor)
    if len(data) > SECRET_FILE_BYTES_MAX:
        raise ValueError(f"a file of more than {SECRET_FILE_BYTES_MAX} bytes")
    return data, mode
