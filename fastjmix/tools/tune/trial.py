"""One gateway under trial: a real `fastjmix run` with a derived configuration, and its envelopes.

Guaranteed: its storage is a directory of its own below the configured storage path; its ports are
the system's choice, on the loopback interface; it has no HTTP listener and no secret. Its upstream
refuses every connection (a bound port at which nobody listens): nothing is delivered, so delivery
disturbs no figure; envelopes are compared with what was sent and then removed from its outbox/.
The first round compares every byte, digests and listing too; the later ones number and lengths.
It is killed in the end: nothing of it is kept.
Still wrong: killed with SIGKILL, `tune` leaves its gateways running: end them by hand. Overrides
in an aet_table and ack = "uploaded" are not measured.
"""

from __future__ import annotations

import json
import os
import re
import struct
import zipfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import xxhash

from fastjmix.config import Config
from fastjmix.errors import EnvelopeError, FastjmixError
from fastjmix.jmix.read.admission import check_envelope
from fastjmix.spool import Spool
from fastjmix.tools.launch import LaunchError, Program
from fastjmix.tools.tune.clock import Clock
from fastjmix.tools.tune.material import Item
from fastjmix.tools.tune.plan import Setting
from fastjmix.tools.tune.sender import Address

START_SECS: Final = 30.0
SEAL_SECS: Final = 60.0
POLL_SECS: Final = 0.003
COMPLAINT: Final = re.compile(r"^\S+ (warn\w*|error|critical) ")
"""Matches a line of a log that may explain why a trial failed."""

LINES_SHOWN: Final = 5
"""Such lines that are shown."""

TICKS: Final = os.sysconf("SC_CLK_TCK")

CONFIG: Final = """\
[proxy]
name = "tune"
pipelines_path = "."

[logging]
log_level = "info"

[storage.options]
path = {storage}

[network.dicom_net.tcp_config]
bind_address = "127.0.0.1"
bind_port = 0

[targets.nobody.connection]
host = "127.0.0.1"
port = {upstream}
protocol = "http"

[fastjmix]
receivers = {receivers}
packers = {packers}
lane_bytes = {lane_bytes}

[pipelines.tune]
networks = ["dicom_net"]
endpoints = ["dicom_receiver"]
middleware = ["jmix_builder"]
backends = ["jmix_upstream"]

[endpoints.dicom_receiver]
service = "dicom_scp"

[endpoints.dicom_receiver.options]
local_aet = {ae_title}
max_pdu = {max_pdu}
max_associations = {associations}

[middleware.jmix_builder]
type = "jmix_builder"

[middleware.jmix_builder.options]
skip_hashing = {skip_hashing}
skip_listing = {skip_listing}
profile = {profile}
{parties}
payload_hash = {payload_hash}
digest = {digest}
durability = {durability}
release_grace_secs = 0
quiet_secs = 2
max_envelope_bytes = {max_envelope_bytes}
max_envelope_instances = {max_envelope_instances}

[backends.jmix_upstream]
service = "jmix_backend"
target_ref = "nobody"
"""
"""All that a gateway needs. An envelope is sealed at once, so that no round waits for the next; two
seconds later where a title is taken for one that comes back for each image (packer/senders.py)."""


PARTIES = """\
sender = { id = "org:fastjmix.tools.tune" }
receivers = [{ id = "org:fastjmix.tools.tune" }]"""
"""A published envelope names parties. Their names cost next to nothing, and so does a signature."""


class TrialError(FastjmixError):
    """A gateway under trial failed."""


def derived(
    config: Config, setting: Setting, storage: Path, upstream: int, associations: int
) -> str:
    """Returns the configuration of one trial, as TOML."""
    listener, builder = config.dicom[0], config.dicom[0].builder
    return CONFIG.format(
        storage=_text(str(storage)),
        upstream=upstream,
        receivers=config.runtime.receivers,
        packers=setting.packers,
        lane_bytes=config.runtime.lane_bytes,
        ae_title=_text(listener.ae_title),
        max_pdu=setting.max_pdu,
        associations=associations,
        skip_hashing=_word(setting.skip_hashing),
        skip_listing=_word(builder.skip_listing),
        profile=_text(builder.profile),
        payload_hash=_text(builder.payload_hash),
        parties=PARTIES if builder.published is not None else "",
        digest=_text(setting.digest),
        durability=_text(setting.durability),
        max_envelope_bytes=builder.max_envelope_bytes,
        max_envelope_instances=builder.max_envelope_instances,
    )


def _text(value: str) -> str:
    """Returns a TOML basic string, with ${ escaped: it would begin a variable."""
    return json.dumps(value, ensure_ascii=False).replace("${", "$${")


def _word(value: bool) -> str:
    return str(value).lower()


class Gateway:
    """A running fastjmix. `directory` becomes its working directory; the caller removes it."""

    def __init__(
        self, config: Config, setting: Setting, directory: Path, upstream: int, associations: int
    ) -> None:
        directory.mkdir(mode=0o700)
        self._setting = setting
        self._called = config.dicom[0].ae_title
        self._spool = Spool(directory / "spool")
        self._port = 0
        text = derived(config, setting, directory / "spool", upstream, associations)
        (directory / "config.toml").write_text(text, encoding="utf-8")
        log = directory / "gateway.log"
        # A process group of its own: Ctrl-C reaches tune alone, which then kills the gateway.
        self._program = Program(
            "run", "-c", "config.toml", log=log, directory=directory, own_group=True
        )

    def ready(self, clock: Clock) -> None:
        """Waits until it listens. Raises TrialError, OutOfTime."""
        what = "a gateway was still starting"
        try:
            port = clock.wait(lambda: self._program.port("dicom"), START_SECS, POLL_SECS, what)
        except LaunchError as problem:
            raise TrialError(f"a gateway did not start:\n{problem.log_end}") from None
        if port is None:
            raise TrialError(f"a gateway was not ready within {START_SECS:g} s")
        self._port = port

    def explain(self, problem: FastjmixError) -> FastjmixError:
        """Returns the problem, with the end of the log if the gateway has a part in it."""
        text = self._program.text()
        if " stopping " in text:
            hint = "Does something on this machine end every fastjmix (pkill)? Then run it again."
            return TrialError(f"{problem.message}: its gateway was told to stop", hint)
        lines = [line for line in text.splitlines() if COMPLAINT.search(line)][-LINES_SHOWN:]
        status = self._program.status
        if status is not None:
            lines = [f"the gateway ended with status {status}", *lines]
        return TrialError("\n".join([problem.message, *lines]))

    @property
    def address(self) -> Address:
        """Returns where the gateway listens."""
        return Address((self._port,), self._called)

    def kill(self) -> None:
        """Ends it at once, and does not wait: what it holds is removed, so nothing is drained."""
        self._program.kill()

    def wait(self) -> None:
        """Waits until it has ended."""
        self._program.wait()

    def cpu(self) -> float:
        """Returns CPU seconds so far, user and system, of all its processes. Raises TrialError."""
        pid = self._program.pid
        try:
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            return sum(_cpu(Path(f"/proc/{one}/stat").read_text()) for one in [pid, *children])
        except OSError as problem:
            raise TrialError(f"a gateway's process ended: {problem.strerror}") from None

    # -- envelopes -----------------------------------------------------------------------------

    def sealed(self, instances: int, clock: Clock) -> list[Path]:
        """Waits until so many instances are in outbox/. Raises TrialError, OutOfTime."""

        def held() -> list[Path] | None:
            ids = self._spool.outbox_listing.ids()
            count = sum(self._spool.ticket("outbox", one).instances for one in ids)
            return [self._spool.path("outbox", one) for one in ids] if count >= instances else None

        found = clock.wait(held, SEAL_SECS, POLL_SECS, "envelopes were still being sealed")
        if found is None:
            raise TrialError(f"{instances} instances were not sealed within {SEAL_SECS:g} s")
        return found

    def check(self, envelopes: Sequence[Path], items: Sequence[Item], *, every_byte: bool) -> None:
        """Compares envelopes with what was sent. Raises TrialError."""
        hashed = not self._setting.skip_hashing
        compare(envelopes, items, every_byte=every_byte, hashed=hashed)

    def clear(self) -> None:
        """Removes what is in outbox/."""
        for path in [*self._spool.outbox.glob("*.zip"), *self._spool.outbox.glob("*.json")]:
            path.unlink(missing_ok=True)


def compare(
    envelopes: Sequence[Path], items: Sequence[Item], *, every_byte: bool, hashed: bool
) -> None:
    """Raises TrialError unless the envelopes hold exactly these data sets.

    Compares number and lengths; with `every_byte` contents too, and checks the JMIX envelopes, with
    their digests if `hashed`.
    """
    wanted = Counter(_trace(item.data, every_byte) for item in items)
    found: Counter[tuple[int, int]] = Counter()
    for envelope in envelopes:
        try:
            found.update(_contents(envelope, every_byte))
            if every_byte:
                with envelope.open("rb") as file:
                    check_envelope(file, verify_hashes=hashed)
        except (EnvelopeError, zipfile.BadZipFile, OSError, ValueError) as problem:
            raise TrialError(f"an envelope is wrong: {problem}") from None
    if found != wanted:
        missing, odd = (wanted - found).total(), (found - wanted).total()
        difference = (
            f"{missing} instances that were sent are missing or differ, {odd} were not sent"
        )
        raise TrialError(f"the envelopes are wrong: {difference}")


def _cpu(stat: str) -> float:
    """Returns utime + stime of /proc/<pid>/stat, in seconds; the name before them may hold any
    character."""
    fields = stat.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def _trace(data: bytes | memoryview, every_byte: bool) -> tuple[int, int]:
    return len(data), xxhash.xxh3_64_intdigest(data) if every_byte else 0


def _contents(envelope: Path, every_byte: bool) -> list[tuple[int, int]]:
    """Returns length and hash of each data set in an archive; the hash is 0 unless every byte
    counts."""
    found = []
    with zipfile.ZipFile(envelope) as archive, envelope.open("rb", buffering=0) as file:
        for member in archive.infolist():
            if not member.filename.endswith(".dcm"):
                continue
            header = os.pread(file.fileno(), 30, member.header_offset)
            name, extra = struct.unpack("<HH", header[26:30])
            start = member.header_offset + 30 + name + extra
            meta = os.pread(file.fileno(), 144, start)
            if meta[128:132] != b"DICM" or member.compress_size != member.file_size:
                raise ValueError(f"{member.filename} is no stored DICOM file")
            offset = 144 + int.from_bytes(meta[140:144], "little")
            size = member.file_size - offset
            found.append((size, 0))
            if every_byte:
                data = os.pread(file.fileno(), size, start + offset)
                found[-1] = _trace(data, True)
    return found
