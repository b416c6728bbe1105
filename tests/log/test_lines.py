"""Lines of the log: what they say, in both formats, of whatever is logged."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fastjmix import config, errors, log
from fastjmix.log.json_lines import as_json
from fastjmix.log.lines import LINE_BYTES_MAX, Line, as_text
from tests.support.gateway import Peer, Process, running, write_config
from tests.support.odd_values import LOGS_ODD_VALUES

TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"


class Unprintable:
    def __str__(self) -> str:
        raise OSError("no")

    __repr__ = __str__


CASES: list[tuple[object, str, object]] = [
    ("plain", "plain", "plain"),
    ("", '""', ""),
    ("two words", '"two words"', "two words"),
    ('a "quote"', '"a \\"quote\\""', 'a "quote"'),
    ("a=b", '"a=b"', "a=b"),
    ("back\\slash", "back\\slash", "back\\slash"),
    ("a back\\slash", '"a back\\\\slash"', "a back\\slash"),
    ("\0\n\r\t\x1b[2J\x7f\x9b", r'"\x00\n\r\t\x1b[2J\x7f\x9b"', "\0\n\r\t\x1b[2J\x7f\x9b"),
    ("line\u2028separator", r'"line\u2028separator"', "line\u2028separator"),
    ("Ünïcödé 学", '"Ünïcödé 学"', "Ünïcödé 学"),
    ("😀", "😀", "😀"),
    ("\udc80", r'"\udc80"', "\\udc80"),
    (os.fsdecode(b"/tmp/\xff"), r'"/tmp/\udcff"', "/tmp/\\udcff"),
    (b"\xff\0", "b'\\xff\\x00'", "b'\\xff\\x00'"),
    (Path("/a/b"), "/a/b", "/a/b"),
    (True, "True", True),
    (7, "7", 7),
    (-(2**63) + 1, str(-(2**63) + 1), -(2**63) + 1),
    (2**63, str(2**63), str(2**63)),
    (10**5000, "(int)", "(int)"),
    (1.5, "1.5", 1.5),
    (float("nan"), "nan", "nan"),
    (float("inf"), "inf", "inf"),
    (signal.SIGTERM, "15", "15"),
    (config.Secret("token"), "(redacted)", "(redacted)"),
    ([1, "a b"], "\"[1, 'a b']\"", "[1, 'a b']"),
    (Unprintable(), "(Unprintable)", "(Unprintable)"),
    ([Unprintable()], "(list)", "(list)"),
]


def line(**pairs: object) -> Line:
    return Line("2026-01-31T12:00:00.123Z", "warning", "receiver-0", "an_event", pairs)


def parsed(data: bytes) -> dict[str, Any]:
    """Reads a line as strict readers do: one line of printable ASCII, no key twice."""
    assert data.endswith(b"\n")
    assert len(data) <= LINE_BYTES_MAX
    assert all(0x20 <= byte < 0x7F for byte in data[:-1])

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len({key for key, _ in pairs}) == len(pairs)
        return dict(pairs)

    def no_constant(name: str) -> None:
        raise ValueError(name)

    read: dict[str, Any] = json.loads(data, object_pairs_hook=unique, parse_constant=no_constant)
    json.dumps(read, ensure_ascii=False).encode()  # no surrogate without its other half
    return read


@pytest.mark.parametrize(("value", "text", "_"), CASES, ids=[repr(case[1])[:20] for case in CASES])
def test_values_in_text(value: object, text: str, _: object) -> None:
    found = as_text(line(key=value, last=1)).decode()
    assert found == f"2026-01-31T12:00:00.123Z warning receiver-0 an_event key={text} last=1\n"


@pytest.mark.parametrize(("value", "_", "wanted"), CASES, ids=[repr(c[1])[:20] for c in CASES])
def test_values_in_json(value: object, _: str, wanted: object) -> None:
    found = parsed(as_json(line(key=value, last=1)))
    assert found == {
        "time": "2026-01-31T12:00:00.123Z",
        "level": "warning",
        "process": "receiver-0",
        "event": "an_event",
        "key": wanted,
        "last": 1,
    }
    assert type(found["key"]) is type(wanted)
    assert list(found)[:4] == ["time", "level", "process", "event"]


def test_what_is_none_is_left_out() -> None:
    assert as_text(line(a=None, b=1)).endswith(b" an_event b=1\n")
    assert "a" not in parsed(as_json(line(a=None, b=1)))


def test_keys_are_escaped() -> None:
    odd = line(**{"a\nb\x7f\udc80": 1})
    assert as_text(odd).endswith(rb" an_event a\nb\x7f\udc80=1" + b"\n")
    assert parsed(as_json(odd))["a\nb\x7f\\udc80"] == 1


def test_exceptions() -> None:
    problem = ValueError('a "word"\n')
    try:
        raise problem
    except ValueError:
        for given in (True, problem):
            text = as_text(line(exc_info=given, a=1)).decode()
            assert text.endswith(""" a=1 exception="ValueError('a \\"word\\"\\\\n')"\n""")
            assert parsed(as_json(line(exc_info=given, a=1)))["exception"] == repr(problem)
    assert b"exception" not in as_text(line(exc_info=None))
    assert "exception" not in parsed(as_json(line(exc_info=None)))


@pytest.mark.parametrize(
    "character", ["x", '"', "\\", "\0", "\x7f", "ü", "学", "😀", "\udc80", "x😀\n"]
)
@pytest.mark.parametrize("off", range(-12, 13))
def test_long_lines_are_cut(character: str, off: int) -> None:
    """Whatever a limit cuts, a text line has as many bytes, and JSON is still an object."""
    value = character * LINE_BYTES_MAX
    assert len(as_text(line(key=value, after=1))) == LINE_BYTES_MAX
    found = parsed(as_json(line(before="-" * (20 + off), key=value, after=1)))
    assert found["cut"] is True
    assert "after" not in found
    wanted = value.encode("utf-8", "backslashreplace").decode()
    assert wanted.startswith(found["key"])
    assert len(as_json(line(before="-" * (20 + off), key=value))) > LINE_BYTES_MAX - 24


@pytest.mark.parametrize("off", [-1, 0, 1])
def test_the_longest_line_that_is_whole(off: int) -> None:
    empty = as_json(line(key=""))
    value = "x" * (LINE_BYTES_MAX - len(empty) + off)
    found = parsed(as_json(line(key=value)))
    assert ("cut" in found) == (off > 0)
    assert (found["key"] == value) == (off <= 0)


def test_many_pairs_and_long_names_fit() -> None:
    many = parsed(as_json(line(**{f"key_{n}": "x" * 50 for n in range(200)})))
    assert many["cut"] is True
    assert many["key_0"] == "x" * 50
    assert parsed(as_json(line(**{"k" * 10_000: 1, "after": 1})))["cut"] is True
    named = Line("-", "info", "-", "e" * 10_000, {})
    assert parsed(as_json(named))["event"].startswith("eeee")


# -- the process's logger --------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["text", "json"])
def test_levels(tmp_path: Path, form: log.Format) -> None:
    for level, least in log.LEVELS.items():
        file = tmp_path / level
        log.setup(level, file, "tested", form)
        log.get().debug("one", a=1)
        log.get().info("two", a=1)
        log.get().warning("three", a=1)
        log.get().error("four", a=1)
        try:
            raise KeyError("x")
        except KeyError:
            log.get().exception("five", a=1)
        names = ["debug one", "info two", "warning three", "error four", "error five"][least:]
        lines = file.read_text().splitlines()
        assert len(lines) == len(names)
        for found, name in zip(lines, names, strict=True):
            expected, event = name.split()
            last = " exception=KeyError('x')" if event == "five" else ""
            if form == "text":
                assert re.fullmatch(
                    f"{TIME} {expected:<7} tested {event} a=1", found[: -len(last) or None]
                )
                assert found.endswith(last)
                continue
            read = json.loads(found)
            assert re.fullmatch(TIME, read.pop("time"))
            assert read.pop("exception", None) == ("KeyError('x')" if last else None)
            assert read == {"level": expected, "process": "tested", "event": event, "a": 1}


def test_whatever_is_logged_as_json_raises_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-c", LOGS_ODD_VALUES, str(tmp_path / "log"), "json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "logged\n"), done.stderr[-2000:]
    lines = (tmp_path / "log").read_bytes().splitlines(keepends=True)
    assert len(lines) == 14 * 4 + 1
    assert [parsed(one)["process"] for one in lines] == ["x"] * len(lines)


def test_dropped_lines_are_counted_in_json(tmp_path: Path) -> None:
    """A pipe that nobody reads takes some lines; then the count is the first."""
    program = (
        "import os\n"
        "from fastjmix import log\n"
        "reading, writing = os.pipe()\n"
        "os.dup2(writing, 2)\n"
        "log.setup('info', None, 'x', 'json')\n"
        "for number in range(100): log.get().info('event', number=number, filler='x' * 2000)\n"
        "data = os.read(reading, 1 << 20)\n"
        "log.get().info('last')\n"
        "print((data + os.read(reading, 1 << 20)).decode())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    lines = [json.loads(one) for one in done.stdout.splitlines() if one]
    assert lines[-1]["event"] == "last"
    counts = [one for one in lines if one["event"] == "log_lines_dropped"]
    events = [one for one in lines if one["event"] == "event"]
    assert sum(one["count"] for one in counts) == 100 - len(events) > 0
    assert {one["level"] for one in counts} == {"warning"}
    assert all(isinstance(one["process"], int) for one in counts)


def test_lines_left_out_are_counted_in_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastjmix.log.rates.LINES_AT_ONCE", 3)
    log.setup("info", tmp_path / "log", "tested", "json")
    for _ in range(4):
        log.get().warning("a_mistake")
    *_, counted = [json.loads(one) for one in (tmp_path / "log").read_text().splitlines()]
    assert {key: counted[key] for key in ("event", "of", "count", "process")} == {
        "event": "log_lines_left_out",
        "of": "a_mistake",
        "count": 1,
        "process": "tested",
    }


def test_before_setup_lines_go_to_stderr() -> None:
    program = "from fastjmix import log; log.get().info('event', a=1); log.get().debug('other')"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == ""
    assert re.fullmatch(f"{TIME} info    - event a=1\n", done.stderr)


# -- [logging] format ------------------------------------------------------------------------------


def test_a_gateway_that_logs_json(tmp_path: Path) -> None:
    """Every process writes one object a line; the events and their keys are those of the text."""
    log_file = tmp_path / "log"
    table = f'\n[logging]\nformat = "json"\nlog_to_file = true\nlog_file_path = "{log_file}"\n'
    write_config(tmp_path, 9, fastjmix=table)
    with running(Process("run", "-c", "config.toml", cwd=tmp_path)) as own:
        own.wait_for('"event": "http_listening"')
        found = own.wait_for(r'"event": "listening", "what": "dicom".*:(\d+)"}$')
        with Peer(int(found[1])) as peer:
            peer.associate()
            peer.release()
        own.wait_for('"event": "association_ended"')
        assert own.stop() == 0
        lines = [json.loads(one) for one in log_file.read_text().splitlines()]
        in_order = sorted(own.lines)  # processes write to file and stderr each in its own order
        assert sorted(log_file.read_text().splitlines()) == in_order
    by_event = {one["event"]: one for one in lines}
    for event, process in (
        ("started", "supervisor"),
        ("association_ended", "receiver-0"),
        ("http_listening", "api"),
        ("stopped", "supervisor"),
    ):
        assert (by_event[event]["process"], by_event[event]["level"]) == (process, "info")


def test_another_format_is_a_fault(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text('[logging]\nformat = "jsn"\n')
    with pytest.raises(errors.ConfigError, match=r'(?s)"jsn".*"text" or "json".*"json"'):
        config.load(file)
