"""Structured logs: one line an event, to stderr and to the configured file.

    lines.py       an event's line as text; the time, and any value as words
    json_lines.py  the same line as a JSON object
    outlets.py     stderr and the log file; lines that they do not take are dropped and counted
    rates.py       limits of the lines of one event
    studies.py     how a line names a study

Wanted: an administrator can follow one association or one envelope with grep.
Guaranteed: no call of a logger raises or waits, whatever it is given. Callers pass identifiers
only, so that no line names a patient (at `debug` a library's words may, and an upstream's in
`answer`).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Literal

from fastjmix.log import studies
from fastjmix.log.lines import Form, Line, as_text, now
from fastjmix.log.outlets import LogFile, Outlet, stderr
from fastjmix.log.rates import Rates
from fastjmix.log.studies import StudyUids

Format = Literal["text", "json"]

_DEBUG, _INFO, _WARNING, _ERROR = range(4)

LEVELS: Final[Mapping[str, int]] = {
    "trace": _DEBUG,  # Harmony's finest level; nothing is logged below debug
    "debug": _DEBUG,
    "info": _INFO,
    "warn": _WARNING,
    "error": _ERROR,
}


class Logger:
    """A process's logger. An event has a name and any number of pairs.

    A pair that is None is left out. `exc_info` is an exception, or true for the one that is being
    handled; the line shows it as `exception`.
    """

    def __init__(self) -> None:
        self._least = _INFO
        self._process = "-"
        self._form: Form = as_text
        self._rates = Rates(self._left_out)
        self._outlets: list[Outlet] | None = None
        self._study_uids: StudyUids = "plain"
        self._report: Callable[[Line], None] | None = None

    def direct(
        self,
        least: int,
        process: str,
        form: Form,
        outlets: list[Outlet],
        study_uids: StudyUids = "plain",
    ) -> None:
        """Logs to these outlets from now on, and closes those before."""
        before, self._outlets = self._outlets, outlets
        for outlet in before or ():
            outlet.close()
        self._process = process
        self._rates = Rates(self._left_out)
        self.choose(least, form, study_uids)

    def choose(self, least: int, form: Form, study_uids: StudyUids) -> None:
        """Logs events of this level and above, in this form, from now on."""
        self._least, self._form, self._study_uids = least, form, study_uids

    @property
    def process(self) -> str:
        """The name of this process in its lines."""
        return self._process

    def reopen(self) -> bool:
        """Opens the log file by its name again, at once or before the next line. Returns False
        where it could not be opened: the renamed file takes the lines until it can.

        It may be called in a signal handler, which may have interrupted a line.
        """
        reopened = [outlet.reopen() for outlet in self._outlets or ()]
        return all(reopened)

    def study(self, *uids: str) -> str | None:
        """Returns a Study Instance UID, or those of one envelope, as this process's lines show
        them; None: they show none."""
        return studies.all_shown(uids, self._study_uids)

    def with_studies(self, text: str) -> str | None:
        """Returns a text that may hold UIDs in the same way; None: lines show no study."""
        return studies.replaced(text, self._study_uids)

    def debug(self, event: object, **pairs: object) -> None:
        """Logs an event that only a developer needs."""
        if self._least <= _DEBUG:
            self._log("debug", event, pairs)

    def info(self, event: object, **pairs: object) -> None:
        """Logs an event of normal work."""
        if self._least <= _INFO:
            self._log("info", event, pairs)

    def warning(self, event: object, **pairs: object) -> None:
        """Logs an event that works, and may not be meant."""
        if self._least <= _WARNING:
            self._log("warning", event, pairs)

    def error(self, event: object, **pairs: object) -> None:
        """Logs a failure."""
        self._log("error", event, pairs)

    def exception(self, event: object, **pairs: object) -> None:
        """Logs a failure, with the exception that is being handled."""
        self._log("error", event, {"exc_info": True, **pairs})

    def report_errors(self, to: Callable[[Line], None]) -> None:
        """Hands each error of this process to `to` from now on, which must not wait, nor log."""
        self._report = to

    def _log(self, level: str, event: object, pairs: Mapping[str, object]) -> None:
        if self._rates.takes(level, event):
            line = Line(now(), level, self._process, event, pairs)
            self._write(line)
            if level == "error" and self._report is not None:
                with contextlib.suppress(Exception):  # a line must not stop its caller
                    self._report(line)

    def _left_out(self, event: str, count: int) -> None:
        pairs = {"of": event, "count": count}
        self._write(Line(now(), "warning", self._process, "log_lines_left_out", pairs))

    def _dropped(self, count: int) -> bytes:
        pairs = {"process": os.getpid(), "count": count}
        return self._form(Line(now(), "warning", "-", "log_lines_dropped", pairs))

    def _write(self, line: Line) -> None:
        try:
            data = self._form(line)
        except Exception as problem:  # a line must not stop its caller
            why = {"why": type(problem).__name__}
            data = self._form(Line("-", line.level, "-", "log_line_failed", why))
        if self._outlets is None:  # before `setup`
            self._outlets = [stderr()]
        for outlet in self._outlets:
            outlet.put(data, self._dropped)


_logger: Final = Logger()

_file: Path | None = None
"""The log file that is configured."""


def setup(
    level: str,
    file: Path | None,
    process: str,
    format: Format = "text",
    study_uids: StudyUids = "plain",
) -> None:
    """Sends this process's events to stderr and, when given, to `file` (created with mode 0600).

    `level` is a key of LEVELS, `process` this process's name. Both outlets have the same format.
    Raises OSError when the file cannot be opened. Events can be logged even then: stderr has them,
    and the file is tried again after outlets.REOPEN_SECS.
    """
    global _file
    _file = file
    held = None if file is None else LogFile(file)
    outlets = _outlets(held)
    _logger.direct(LEVELS[level], process, _form(format), outlets, study_uids)
    if held is not None:
        held.open()


def change(
    level: str, file: Path | None, format: Format = "text", study_uids: StudyUids = "plain"
) -> None:
    """Changes how this process logs. Every event is in the file before, or in the one after.

    Raises OSError when another file cannot be opened: then nothing has changed.
    """
    global _file
    if file == _file:
        _logger.choose(LEVELS[level], _form(format), study_uids)
        return
    held = None if file is None else LogFile(file)
    if held is not None:
        held.open()
    _file = file
    outlets = _outlets(held)
    _logger.direct(LEVELS[level], _logger.process, _form(format), outlets, study_uids)


def _outlets(file: LogFile | None) -> list[Outlet]:
    found = [stderr()]
    if file is not None:
        found.append(Outlet(file.write, file.close, file.reopen))
    return found


def _form(format: Format) -> Form:
    if format == "text":
        return as_text
    from fastjmix.log.json_lines import as_json  # json: few nodes need it

    return as_json


def get() -> Logger:
    """Returns the process's logger: log.get().info("envelope_sealed", envelope=id)."""
    return _logger
