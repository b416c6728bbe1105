"""fastjmix envelope: build → verify → extract, convert, decrypt; nothing half-written, nothing
outside."""

from __future__ import annotations

import base64
import http.server
import json
import os
import re
import shutil
import signal
import subprocess
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import CliRunner
from pydicom.uid import generate_uid

from fastjmix.cli.envelope import command as app
from fastjmix.cli.envelope.errors import named_errors
from fastjmix.errors import EnvelopeError
from fastjmix.jmix import build, keys, open_envelope, verify
from fastjmix.jmix.limits import Limits
from fastjmix.jmix.write.parties import Dialect, Encryption, Entity, Published
from fastjmix.jmix.write.tarball import DIALECTS
from fastjmix.tools.envelope.converting import convert
from fastjmix.tools.envelope.decrypting import decrypt
from fastjmix.tools.envelope.extracting import extract
from fastjmix.tools.envelope.output import OutputError, new_file, new_folder
from fastjmix.tools.envelope.recipe import BuildError, Recipe
from fastjmix.tools.envelope.summary import summarise
from tests.support import configs
from tests.support.acceptors import write_instance
from tests.support.envelopes import ID, members, zipped
from tests.support.gateway import run_command
from tests.support.sealed import sealed

PARTIES = Published(Entity("org:a", "A"), (Entity("org:b"),))
JMIX = Recipe("jmix-1.0", published=PARTIES)
RECIPIENT = keys.recipient_key(bytes(range(1, 33)), "test")
fastjmix = partial(run_command, "envelope")


def tree(path: Path) -> dict[str, bytes]:
    return {
        str(inner.relative_to(path)): inner.read_bytes()
        for inner in path.rglob("*")
        if inner.is_file()
    }


def study(directory: Path, count: int = 3, name: str = "DOE^JANE", uid: str = "") -> list[Path]:
    uid = uid or generate_uid()
    series = [generate_uid(), generate_uid()]
    return [
        write_instance(
            directory / f"{number}.dcm",
            StudyInstanceUID=uid,
            SeriesInstanceUID=series[number % 2],
            InstanceNumber=str(number),
            Modality="CT",
            PatientName=name,
            PatientID="4711",
        )
        for number in range(count)
    ]


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    study(tmp_path / "scans")
    return tmp_path / "scans"


# -- build, verify, extract, convert -------------------------------------------------------------


@pytest.mark.parametrize("recipe", [Recipe(), Recipe(digest="blake3"), JMIX])
def test_build_verify_extract_gives_the_same_bytes(
    tmp_path: Path, scans: Path, recipe: Recipe
) -> None:
    (scans / "notes.txt").write_text("not DICOM")
    left_out: list[Any] = []
    (one,) = build([scans], tmp_path / "e.zip", recipe, leave_out=True, skipped=left_out.append)
    assert [skipped.path.name for skipped in left_out] == ["notes.txt"]
    report = verify(one.path)
    assert report.ok
    assert (report.id, report.instances, report.studies) == (one.id, 3, one.studies)
    extract(one.path, tmp_path / "out")
    found = {data for name, data in tree(tmp_path / "out").items() if name.endswith(".dcm")}
    assert found == {path.read_bytes() for path in scans.glob("*.dcm")}
    assert verify(tmp_path / "out").ok
    with zipfile.ZipFile(one.path) as archive:
        assert archive.testzip() is None
        assert archive.namelist()[0] == "manifest.json"


def test_others_read_what_was_built(tmp_path: Path, scans: Path) -> None:
    build([scans], tmp_path / "e.zip", JMIX)
    for program, *arguments in (["unzip", "-tq"], ["7z", "t"], ["bsdtar", "-tf"]):
        if found := shutil.which(program):
            subprocess.run([found, *arguments, tmp_path / "e.zip"], check=True, stdout=-3)


def test_convert_both_ways_keeps_every_instance(tmp_path: Path, scans: Path) -> None:
    (first,) = build([scans], tmp_path / "h.zip")
    (second,) = convert(first.path, tmp_path / "p.zip", JMIX)
    (third,) = convert(second.path, tmp_path / "h2.zip", Recipe())
    (fourth,) = convert(second.path, tmp_path / "p2.zip", Recipe("jmix-1.0"))
    assert len({one.id for one in (first, second, third, fourth)}) == 4
    held = []
    for one in (first, second, third, fourth):
        assert verify(one.path).ok
        with open_envelope(one.path) as envelope:
            held.append({b"".join(envelope.pieces(name)) for name in envelope.instances})
    assert held[0] == held[1] == held[2] == held[3]
    with open_envelope(first.path) as old, open_envelope(third.path) as new:
        assert old.metadata["studies"] == new.metadata["studies"]
    with open_envelope(fourth.path) as envelope:
        assert envelope.manifest["sender"] == {"id": "org:a", "name": "A"}  # from p.zip


def test_a_damaged_envelope_is_not_given_new_hashes(tmp_path: Path, scans: Path) -> None:
    (one,) = build([scans], tmp_path / "e.zip")
    extract(one.path, tmp_path / "out")
    image = next((tmp_path / "out").rglob("*.dcm"))
    image.write_bytes(image.read_bytes()[:-1] + b"!")
    with pytest.raises(EnvelopeError, match=r"image_001\.dcm: does not match its hash"):
        convert(tmp_path / "out", tmp_path / "new.zip", JMIX)
    assert not (tmp_path / "new.zip").exists()


def test_several_studies(tmp_path: Path, scans: Path) -> None:
    study(tmp_path / "scans" / "more", 2)
    with pytest.raises(BuildError, match="holds one study; there are 2"):
        build([scans], tmp_path / "e.zip", JMIX)
    (both,) = build([scans], tmp_path / "both.zip")
    assert len(both.studies) == 2
    (tmp_path / "each").mkdir()
    made = build([scans], tmp_path / "each", JMIX)
    assert {one.path.name for one in made} == {f"{one.id}.zip" for one in made}
    assert [one.instances for one in made] == [3, 2]
    assert all(verify(one.path).ok for one in made)


def test_the_same_instance_twice_is_kept_once_and_other_bytes_beside_it(tmp_path: Path) -> None:
    first, second = study(tmp_path / "in", 2)
    again = shutil.copy(first, tmp_path / "in" / "again.dcm")
    changed = first.read_bytes().replace(b"DOE^JANE", b"ROE^JANE")
    (tmp_path / "in" / "other.dcm").write_bytes(changed)
    for recipe in (Recipe(), JMIX):
        (one,) = build([tmp_path / "in"], tmp_path / f"{recipe.profile}.zip", recipe)
        assert one.instances == 3
        assert one.duplicates == (str(again),)
        assert verify(one.path).ok
        with open_envelope(one.path) as envelope:
            held = {b"".join(envelope.pieces(name)) for name in envelope.instances}
        assert held == {first.read_bytes(), second.read_bytes(), changed}


def test_what_makes_no_envelope_leaves_nothing(tmp_path: Path, scans: Path) -> None:
    target = tmp_path / "out" / "e.zip"
    target.parent.mkdir()
    damaged = scans / "0.dcm"
    damaged.write_bytes(damaged.read_bytes()[:-20])
    (scans / "notes.txt").write_text("not DICOM")
    for paths, recipe, why in (
        ([scans / "notes.txt"], Recipe(), r"notes\.txt: not a DICOM Part 10 file"),
        ([scans], Recipe("jmix-1.0"), "needs a sender and a receiver"),
        ([scans], replace(JMIX, digest="blake3"), "no digest blake3"),
        ([scans], Recipe(), r"0\.dcm: is truncated: it ends inside \(0020,000E\)"),
    ):
        with pytest.raises((BuildError, EnvelopeError), match=why):
            build(paths, target, recipe)
        assert list(target.parent.iterdir()) == []


def test_attachments_are_not_lost_in_silence(tmp_path: Path, scans: Path) -> None:
    (one,) = build([scans], tmp_path / "e.zip", Recipe(skip_hashing=True, skip_listing=True))
    extract(one.path, tmp_path / "out")
    (tmp_path / "out" / "payload" / "files").mkdir()
    (tmp_path / "out" / "payload" / "files" / "report.pdf").write_bytes(b"%PDF")
    (tmp_path / "out" / "payload" / "files.json").write_bytes(b'[{"file": "files/report.pdf"}]')
    with pytest.raises(BuildError, match=r"report\.pdf: only DICOM instances"):
        convert(tmp_path / "out", tmp_path / "p.zip", JMIX)
    (made,) = convert(tmp_path / "out", tmp_path / "p.zip", JMIX, leave_out=True)
    assert verify(made.path).ok


# -- encrypted -----------------------------------------------------------------------------------


def sealed_for(dialect: Dialect) -> Recipe:
    public = base64.b64encode(RECIPIENT.public).decode()
    return replace(JMIX, published=replace(PARTIES, encryption=Encryption(public, dialect)))


@pytest.mark.parametrize("dialect", DIALECTS)
def test_decrypt_gives_back_what_was_encrypted(
    tmp_path: Path, scans: Path, dialect: Dialect
) -> None:
    (one,) = build([scans], tmp_path / "secret.zip", sealed_for(dialect))
    plain = next(scans.glob("*.dcm")).read_bytes()[-100:]
    assert plain not in one.path.read_bytes()
    report = verify(one.path, key=RECIPIENT)
    assert report.ok
    assert (report.payload_hash, report.instances, report.decrypted) == ("right", 3, True)
    done = decrypt(one.path, tmp_path / "again.zip", RECIPIENT)
    assert (done.id, done.dialect, done.files) == (one.id, dialect, 5)
    assert verify(tmp_path / "again.zip").ok
    extract(tmp_path / "again.zip", tmp_path / "out")
    found = {data for name, data in tree(tmp_path / "out").items() if name.endswith(".dcm")}
    assert found == {path.read_bytes() for path in scans.glob("*.dcm")}
    with open_envelope(tmp_path / "again.zip") as envelope:
        assert list(envelope.manifest["security"]) == ["payload_hash"]
        assert "audit.json" in envelope.members
    assert {path.name for path in tmp_path.iterdir()} == {"scans", "secret.zip", "again.zip", "out"}


def test_nothing_is_decrypted_that_was_changed(tmp_path: Path, scans: Path) -> None:
    build([scans], tmp_path / "secret.zip", sealed_for("php"))
    extract(tmp_path / "secret.zip", tmp_path / "secret")
    cipher = tmp_path / "secret" / "payload.encrypted"
    cipher.write_bytes(cipher.read_bytes()[:-1] + b"?")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(EnvelopeError, match="cannot be decrypted"):
        decrypt(tmp_path / "secret", tmp_path / "again.zip", RECIPIENT)
    assert sorted(tmp_path.iterdir()) == before


# -- writing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", ["payload", "payload/series_1"])
def test_links_in_the_target_are_not_followed(tmp_path: Path, at: str) -> None:
    (tmp_path / "e.zip").write_bytes(zipped(members()))
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "out" / at
    link.parent.mkdir(parents=True)
    link.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OutputError, match="a link or a file where a folder should be"):
        extract(tmp_path / "e.zip", tmp_path / "out", force=True)
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert tree(tmp_path / "out") == {}


def test_a_linked_file_in_the_target_is_replaced_not_followed(tmp_path: Path) -> None:
    (tmp_path / "e.zip").write_bytes(zipped(members()))
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "manifest.json").symlink_to(tmp_path / "victim")
    (tmp_path / "out" / "other").write_text("stays")
    with pytest.raises(OutputError, match="exists already"):
        extract(tmp_path / "e.zip", tmp_path / "out")
    extract(tmp_path / "e.zip", tmp_path / "out", force=True)
    assert (tmp_path / "victim").read_text() == "mine"
    assert not (tmp_path / "out" / "manifest.json").is_symlink()
    assert tree(tmp_path / "out") == members() | {"other": b"stays"}


def test_a_bomb_is_refused_by_a_named_limit(tmp_path: Path) -> None:
    (tmp_path / "e.zip").write_bytes(zipped(members()))
    with pytest.raises(EnvelopeError, match="max_unpacked_bytes is 10"):
        extract(tmp_path / "e.zip", tmp_path / "out", limits=Limits(max_unpacked_bytes=10))
    assert not (tmp_path / "out").exists()


def half_a_file(target: Path) -> None:
    with new_file(target) as descriptor:
        os.write(descriptor, b"half")
        raise ZeroDivisionError


def half_a_folder(target: Path) -> None:
    with new_folder(target) as folder:
        folder.write("a/b", [b"half"])
        raise ZeroDivisionError


def test_what_fails_halfway_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "e.zip").write_bytes(zipped(members()).replace(b"DICMDICM", b"DICMdICM"))
    with pytest.raises(EnvelopeError, match="CRC-32"):
        extract(tmp_path / "e.zip", tmp_path / "out")
    with pytest.raises(ZeroDivisionError):
        half_a_file(tmp_path / "f")
    with pytest.raises(ZeroDivisionError):
        half_a_folder(tmp_path / "d")
    assert [path.name for path in tmp_path.iterdir()] == ["e.zip"]


# -- the commands --------------------------------------------------------------------------------


def test_the_verbs_from_a_shell(tmp_path: Path, scans: Path) -> None:
    (scans / "notes.txt").write_text("not DICOM")
    done = fastjmix("build", "scans", "-o", "e.zip", "--leave-out", cwd=tmp_path)
    assert done.returncode == 0
    assert "left out: scans/notes.txt: not a DICOM Part 10 file" in done.stderr
    assert "1 study, 3 instances" in done.stdout
    runner = CliRunner()
    path = str(tmp_path / "e.zip")
    assert "DOE^JANE" in runner.invoke(app, ["inspect", path]).stdout
    result = json.loads(runner.invoke(app, ["inspect", path, "--json"]).stdout)
    assert result["studies"][0]["series"][0]["instances"] == 2
    assert result == json.loads(orjson.dumps(summarise(tmp_path / "e.zip")))
    good = fastjmix("verify", "e.zip", cwd=tmp_path)
    assert (good.returncode, good.stderr) == (0, "")
    assert "e.zip: valid: harmony" in good.stdout
    again = fastjmix("build", "scans", "-o", "e.zip", "--leave-out", cwd=tmp_path)
    assert again.returncode == 1
    assert "e.zip: exists already" in again.stderr


def test_decrypt_from_a_shell_never_shows_the_key(tmp_path: Path, scans: Path) -> None:
    signer = keys.new_signing_key()
    (tmp_path / "key").write_bytes(RECIPIENT.pem())
    (tmp_path / "key.pub").write_bytes(RECIPIENT.public)
    (tmp_path / "signer").write_bytes(signer.pem())
    given = {"--sender": "a", "--receiver": "b", "--profile": "jmix-1.0", "--dialect": "rs"}
    given |= {"--sign-with": str(tmp_path / "signer"), "--encrypt-for": str(tmp_path / "key.pub")}
    given |= {"-o": str(tmp_path / "secret.zip")}
    options = [word for pair in given.items() for word in pair]
    made = CliRunner().invoke(app, ["build", str(scans), *options])
    assert made.exit_code == 0, made.output
    assert verify(tmp_path / "secret.zip", public_key=signer.public, key=RECIPIENT).ok
    for arguments in (
        ["verify", "secret.zip", "--key", "key"],
        ["decrypt", "secret.zip", "--key", "key", "-o", "again.zip"],
    ):
        done = fastjmix(*arguments, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert "PRIVATE" not in done.stdout + done.stderr
    (tmp_path / "key").write_text("s3cret")
    done = fastjmix("verify", "secret.zip", "--key", "key", cwd=tmp_path)
    assert done.returncode == 2
    assert "s3cret" not in done.stderr


def test_the_example_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[2] / "docs" / "envelopes.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "docs/envelopes.md", "exec"), {})
    assert verify(tmp_path / "made.zip").instances == 1


def test_sigterm_leaves_nothing(tmp_path: Path, scans: Path) -> None:
    def terminated(_: int) -> None:
        assert [path.name for path in tmp_path.glob(".e.zip.*.part")]
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), named_errors("scans"):
        build([scans], tmp_path / "e.zip", seen=terminated)
    assert signal.getsignal(signal.SIGTERM) is before
    assert [path.name for path in tmp_path.iterdir()] == ["scans"]


# -- from a server -------------------------------------------------------------------------------


@contextmanager
def served(answer: Any) -> Iterator[tuple[str, list[tuple[str, str | None]]]]:
    asked: list[tuple[str, str | None]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append((self.path, self.headers.get("Authorization")))
            answer(self)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def give(data: bytes, length: int | None = None) -> Any:
    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(data) if length is None else length))
        handler.end_headers()
        handler.wfile.write(data)

    return answer


def test_an_envelope_is_verified_from_a_server(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("s3cret\n")
    with served(give(sealed(members()))) as (url, asked):
        done = fastjmix("verify", f"{url}/{ID}?sig=hidden", "--token-file", "token", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert asked == [(f"/{ID}?sig=hidden", "Bearer s3cret")]
    assert "s3cret" not in done.stdout + done.stderr
    assert "hidden" not in done.stdout + done.stderr


# -- a configuration -----------------------------------------------------------------------------


CONFIGURED = """
[middleware.jmix_builder.options]
profile = "jmix-1.0"
skip_hashing = false
sender = { id = "org:here" }
receivers = [{ id = "org:there" }]
encryption = { recipient_key_file = "recipient.pub" }
signing = { key_file = "signing.pem" }
"""


def test_a_configuration_says_how_to_build(tmp_path: Path, scans: Path) -> None:
    """-c with a pipeline that encrypts and signs; nothing beside it is passed over in silence."""
    config = configs.written(tmp_path, CONFIGURED)
    folder = config.parent / "pipelines"
    signing, encryption = folder / "signing.pem", folder / "recipient.pem"
    assert fastjmix("keygen", "--signing", "-o", signing).returncode == 0
    made = fastjmix("keygen", "--encryption", "-o", encryption)
    (folder / "recipient.pub").write_text(made.stdout)
    given = fastjmix("build", scans, "-c", config, "-o", tmp_path / "e.zip")
    assert given.returncode == 0, given.stderr
    with zipfile.ZipFile(tmp_path / "e.zip") as archive:
        assert {"manifest.json", "manifest.jws", "payload.encrypted"} <= set(archive.namelist())
    verified = fastjmix("verify", tmp_path / "e.zip", "--key", encryption)
    assert verified.returncode == 0, verified.stdout + verified.stderr
    for words in (("--sender", "a"), ("--skip-hashing",), ("--profile", "harmony")):
        where = tmp_path / "f.zip"
        refused = fastjmix("build", scans, "-c", config, "-o", where, *words)
        assert refused.returncode == 2
        assert words[0] in refused.stderr
        assert not where.exists()
