"""Disks that can be filled, taken away and cut from their power; system calls that fail.

Loop-mounted images and small file systems in memory, made with the system's own tools, and strace
attached to a running process. As root, or through `sudo -n`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import re
import shutil
import struct
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from fastjmix.jmix.write.archive import check_structure
from tests.support import strange, wire
from tests.support.gateway import Gateway, Peer, images_in, until

SHUTDOWN = 0x8004587D
"""EXT4_IOC_SHUTDOWN and XFS_IOC_GOINGDOWN: from now on every I/O fails."""

NOLOGFLUSH = 2
"""Nothing more reaches the disk, not even the log: a power cut."""

MKFS = {
    "ext4": (
        ["mkfs.ext4", "-q", "-F", "-m", "0", "-E", "lazy_itable_init=1,lazy_journal_init=1"],
        64 << 20,
    ),
    "xfs": (["mkfs.xfs", "-q", "-f"], 304 << 20),
}
"""How each is made, and the least that makes sense: mkfs.xfs refuses less than 300 MB."""


def as_root(*command: str | Path) -> str:
    """Runs a command that needs root; its output. Fails the test with what it says."""
    prefix = [] if os.geteuid() == 0 else ["sudo", "-n"]
    done = subprocess.run(
        [*prefix, *map(str, command)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{' '.join(map(str, command))}: {done.stderr or done.stdout}"
    return done.stdout


def works(*command: str | Path) -> bool:
    """The same, where trying again may help."""
    try:
        as_root(*command)
    except AssertionError:
        return False
    return True


class Mounted:
    """A file system at `at`, ours to write; unmounted at the end whoever still uses it."""

    def __init__(self, at: Path) -> None:
        self.at = at
        at.mkdir(parents=True, exist_ok=True)

    def own(self) -> None:
        as_root("chown", f"{os.geteuid()}:{os.getegid()}", self.at)

    def unmount(self) -> None:
        """Waits until nobody uses it any more."""
        if self.mounted():
            until(lambda: works("umount", self.at), f"{self.at} can be unmounted")

    def mounted(self) -> bool:
        """Asks the kernel's list: of a file system that was shut down, stat(2) says EIO."""
        points = (line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines())
        return str(self.at) in points

    def remount(self, options: str) -> None:
        as_root("mount", "-o", f"remount,{options}", self.at)

    def fill(self, leave: int) -> Path:
        """A file that takes all but so many bytes of what we may use."""
        filler = self.at / "filler"
        size = free(self.at) - leave
        with filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, size)
        return filler

    def close(self) -> None:
        try:
            self.unmount()
        except AssertionError:
            as_root("umount", "-l", self.at)
            raise


class Disk(Mounted):
    """An image with a file system of its own, loop-mounted."""

    def __init__(self, at: Path, kind: str, *options: str, size: int = 0) -> None:
        super().__init__(at)
        command, least = MKFS[kind]
        self.kind = kind
        self.image = at.parent / f"{at.name}.{kind}"
        with self.image.open("wb") as file:
            file.truncate(size or least)
        subprocess.run([*command, *options, self.image], check=True, stdout=subprocess.DEVNULL)
        self.mount()

    def mount(self) -> None:
        until(self._mounts, f"{self.image} can be mounted")

    def _mounts(self) -> bool:
        """Mounts it, unless the file system from before is still on its way out (in another's
        namespace, too): that one can be mounted again, and is as dead as it was."""
        if not works("mount", "-t", self.kind, "-o", "loop", self.image, self.at):
            return False
        if works("chown", f"{os.geteuid()}:{os.getegid()}", self.at):
            return True
        as_root("umount", self.at)
        return False

    def cut(self) -> None:
        """The power fails."""
        if os.geteuid():
            code = "import fcntl, os, sys; fcntl.ioctl(os.open(sys.argv[1], 0), int(sys.argv[2]), "
            code += f"{struct.pack('I', NOLOGFLUSH)!r})"
            as_root(sys.executable, "-c", code, self.at, str(SHUTDOWN))
            return
        descriptor = os.open(self.at, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, SHUTDOWN, struct.pack("I", NOLOGFLUSH))
        finally:
            os.close(descriptor)

    def close(self) -> None:
        try:
            super().close()
        finally:
            self.image.unlink()


class Memory(Mounted):
    """A tmpfs of a few bytes."""

    def __init__(self, at: Path, size: int) -> None:
        super().__init__(at)
        as_root("mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "tmpfs", at)
        self.own()


def free(path: Path) -> int:
    """Bytes that we may still use there."""
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize


# -- system calls ----------------------------------------------------------------------------------


class Strace:
    """strace, attached to running processes: a witness, and with `inject` the culprit."""

    def __init__(self, log: Path, *options: str, pids: list[int], apart: bool = False) -> None:
        tracer = shutil.which("strace")
        assert tracer, "the tests need strace: apt-get install strace"
        self.log = log
        command = [tracer, *(["-ff"] if apart else ["-f"]), "-y", "-ttt", "-T", "-o", str(log)]
        command += [*options, *(f"--attach={pid}" for pid in pids)]
        prefix = [] if os.geteuid() == 0 else ["sudo", "-n"]
        self._child = subprocess.Popen(
            [*prefix, *command], stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
        )
        assert self._child.stderr is not None
        attached = 0
        reported = []
        while attached < len(pids):
            line = self._child.stderr.readline()
            reported.append(line)
            assert line, f"strace ended: {reported}"
            attached += "attached" in line
        self._reader = threading.Thread(target=self._child.stderr.read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Strace:
        return self

    def __exit__(self, *_: object) -> None:
        if self._child.poll() is None:
            self._child.send_signal(2)  # it detaches, and the processes go on
        self._child.wait(30)
        self._reader.join(30)
        assert self._child.stderr is not None
        self._child.stderr.close()

    def lines(self) -> list[str]:
        return self.log.read_text(errors="replace").splitlines()


def child(own: Gateway, name: str) -> int:
    """The process id of a child, once it has its name."""
    until(lambda: name in own.children(), f"{name} has its name")
    return own.children()[name]


def injecting(
    own: Gateway, log: Path, call: str, what: str, when: str = "1", name: str = "packer-0"
) -> Strace:
    """A child's `when`-th `call` from now on fails with an errno, or kills it (`what`)."""
    fault = f"signal={what}" if what.startswith("SIG") else f"error={what}"
    calls = "fdatasync,fsync,pwritev2,renameat2"
    calls = calls if call in calls.split(",") else f"{calls},{call}"
    return Strace(
        log,
        "-e", f"trace={calls}", "-e", f"inject={call}:{fault}:when={when}",
        pids=[child(own, name)],
    )  # fmt: skip


# -- what was sent, what was promised, what is there -----------------------------------------------


@dataclass
class Ledger:
    """By SOP Instance UID: the data sets that were sent, and those that were acknowledged.

    `dark`: the power is off, and no sender hears anything any more. (A sync that runs while the
    kernel takes the power away may still return, which no real machine does.)
    """

    sent: dict[str, bytes] = field(default_factory=dict)
    promised: dict[str, bytes] = field(default_factory=dict)
    changed: threading.Condition = field(default_factory=threading.Condition)
    dark: bool = False
    _count: int = 0

    def make(self, study: str, pixels: int) -> tuple[str, bytes]:
        """A new instance of a study, of random bytes."""
        with self.changed:
            self._count += 1
            uid = f"1.2.826.{self._count}"
            data = wire.data_set(
                uid, study=study, series=f"{study}.1", pixels=random.randbytes(pixels // 2 * 2)
            )
            self.sent[uid] = data
            return uid, data

    def make_strange(self, study: str) -> tuple[str, bytes]:
        """Makes the same, one that is hard to read."""
        with self.changed:
            self._count += 1
            uid = f"1.2.826.{self._count}"
            rng = random.Random(random.getrandbits(32))
            data = rng.choice(strange.FORMS)(rng, uid, study, f"{study}.1", self._count)
            self.sent[uid] = data
            return uid, data

    def store(
        self, peer: Peer, study: str = "1.2.3.1", pixels: int = 1000, *, odd: bool = False
    ) -> int:
        """Sends a C-STORE of a new instance; returns its status. `odd`: of a form in strange.py,
        for which the association has contexts."""
        uid, data = self.make_strange(study) if odd else self.make(study, pixels)
        status = peer.store(data, uid, strange.context_of(data))
        with self.changed:
            if status == 0 and not self.dark:
                self.promised[uid] = data
                self.changed.notify_all()
        return status

    def wait_promised(self, count: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.promised) >= count, 30)

    def check(self, archives: list[Path], seen: dict[Path, dict[str, bytes]] | None = None) -> None:
        """I1 to I4: promised ⊆ there, there ⊆ sent, bytes equal, archives whole."""
        seen = {} if seen is None else seen
        there: dict[str, bytes] = {}
        for archive in archives:
            if archive not in seen:
                seen[archive] = contents(archive)
            there |= seen[archive]
        for uid, data in there.items():
            assert self.sent.get(uid) == data, f"{uid} was never sent so"
        missing = [uid for uid in self.promised if uid not in there]
        assert not missing, f"acknowledged and lost: {missing}"


def contents(archive: Path) -> dict[str, bytes]:
    """SOP Instance UID → data set, of an envelope whose structure and CRCs are right."""
    data = archive.read_bytes()
    check_structure(lambda offset, length: data[offset : offset + length], len(data))
    with zipfile.ZipFile(archive) as opened:
        found = {name: opened.read(name) for name in opened.namelist()}  # checks each CRC-32
    assert {"manifest.json", "payload/metadata.json"} <= set(found)
    held = images_in(found)
    assert len(held) == sum(name.endswith(".dcm") for name in found)
    return held


def where(archives: list[Path]) -> dict[str, list[str]]:
    """SOP Instance UID → the envelopes that hold it."""
    found: dict[str, list[str]] = {}
    for archive in archives:
        for uid in contents(archive):
            found.setdefault(uid, []).append(archive.stem)
    return found


def settled(own: Gateway) -> list[Path]:
    """Waits until nothing is being built; the envelopes. A `.draft` waits for the next packer."""
    building = own.spool / "building"
    until(lambda: not [p for p in building.iterdir() if not p.suffix], "building/ is empty")
    return own.envelopes("outbox") + own.envelopes("sent")


@contextlib.contextmanager
def opened(own: Gateway) -> Iterator[Peer]:
    """An association that was accepted, released at the end."""
    with Peer(own.dicom_port) as peer:
        answer = peer.associate()
        assert answer[0] == 2, answer
        yield peer
        peer.release()


def rejection(own: Gateway) -> tuple[int, int, int] | None:
    """Result, source and reason of an A-ASSOCIATE-RJ; None when it was accepted."""
    with Peer(own.dicom_port) as peer:
        kind, body = peer.associate()
        if kind == 2:
            peer.release()
            return None
        assert kind == 3
        return body[1], body[2], body[3]


def sending(own: Gateway, ledger: Ledger, stop: threading.Event, number: int) -> threading.Thread:
    """A sender that goes on until it is told to stop or something goes wrong."""

    def send() -> None:
        with contextlib.suppress(OSError, EOFError, AssertionError, TimeoutError):
            while not stop.is_set():
                study = f"1.2.3.{number}.{random.randrange(1 << 30)}"
                with Peer(own.dicom_port) as peer:
                    if peer.associate(*strange.contexts())[0] != 2:
                        return
                    for _ in range(random.randrange(1, 9)):
                        size = random.choice([0, 700, 5000, 60000, 600000])
                        odd = random.random() < 0.2
                        if stop.is_set() or ledger.store(peer, study, size, odd=odd) != 0:
                            return
                    if random.random() < 0.7:
                        peer.release()

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    return thread


def together(send: Callable[[int], None], count: int) -> None:
    """Runs `send(number)` in so many threads; the first failure of any."""
    failures: list[BaseException] = []

    def one(number: int) -> None:
        try:
            send(number)
        except BaseException as problem:
            failures.append(problem)

    threads = [threading.Thread(target=one, args=(n,)) for n in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


SYNC = re.compile(r"fdatasync\(\d+<([^>]*)>\)\s+= (-1 \w+|0)")
