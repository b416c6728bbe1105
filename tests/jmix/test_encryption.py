"""jmix/write/encryption.py and tarball.py beside the standard library and one-shot AES-GCM; bad
input.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given, settings
from hypothesis import strategies as st

from fastjmix.errors import ConfigError, EnvelopeError
from fastjmix.jmix.keys import RecipientKey, recipient_key, recipient_public
from fastjmix.jmix.write import encryption, tarball
from fastjmix.jmix.write.encryption import (
    DIALECTS,
    PLAIN_MAX,
    Plain,
    Sealed,
    decrypt,
    encrypt,
    verify,
)
from tests.support.nightly import by_form

# The three derived keys of IKM 00..1f, as each library makes them.
DERIVED = {
    "rs": "1760591bf5f4775b0c991d5b995ac29e14004d904b2c2eabdc61a41f4e3558d6",
    "js": "1268dad6dbcffd9f43812be9de84472f52bc21461c681667c52d0f96840e883d",
    "php": "e89980759314445ee298e3bb85d356e732d8074064aaaab633b815e01976e81a",
}
INFO = {
    "rs": b"JMIX-AES256-GCM",
    "js": b"JMIX-Payload-Encryption",
    "php": b"JMIX-payload-encryption",
}
KEY = recipient_key(bytes(range(32)), "the test's key")
EPHEMERAL = recipient_key(bytes(range(32, 64)), "the test's ephemeral key")
IV = bytes(range(12))
FILES = {
    "metadata.json": b"{}",
    "files.json": b"[]",
    "dicom/1.2.3.dcm": b"DICM" * 300,
    "dicom/1.2.4.dcm": b"",
    "preview/a/b.jpg": b"x" * 512,
}


def plain(files: dict[str, bytes]) -> list[Plain]:
    return [Plain(path, len(data), partial(list, [data])) for path, data in files.items()]


def sealed(dialect: str, files: dict[str, bytes] = FILES, **more: Any) -> tuple[Sealed, bytes]:
    out = bytearray()
    found = encrypt(dialect, KEY.public, plain(files), out.extend, **more)
    return found, bytes(out)


def opened(
    data: bytes, fields: Any, dialect: str | None = None, key: RecipientKey = KEY
) -> dict[str, bytes]:
    found = decrypt(dialect, key, fields, lambda: [data[at : at + 7] for at in steps(data)])
    return {path: b"".join(pieces) for path, _, pieces in found}


def steps(data: bytes) -> range:
    return range(0, len(data), 7)


def plaintext(dialect: str, data: bytes, fields: dict[str, str]) -> bytes:
    """The twin: everything at once, and every step by another function."""
    values = {name: base64.b64decode(text) for name, text in fields.items() if name != "algorithm"}
    private = X25519PrivateKey.from_private_bytes(bytes(range(32)))
    shared = private.exchange(X25519PublicKey.from_public_bytes(values["ephemeral_public_key"]))
    key = HKDF(SHA256(), 32, b"", INFO[dialect]).derive(shared)
    return AESGCM(key).decrypt(values["iv"], data + values["auth_tag"], None)


# -- what each dialect is ------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", DIALECTS)
def test_keys_are_derived_as_each_library_does(dialect: str) -> None:
    assert encryption.derive(dialect, bytes(range(32))).hex() == DERIVED[dialect]


def test_the_ciphertext_has_each_library_s_name() -> None:
    names = {dialect: encryption.encrypted_name(dialect) for dialect in DIALECTS}
    assert names == {"php": "payload.encrypted", "js": "payload.encrypted", "rs": "payload.enc"}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_another_implementation_decrypts_and_untars(dialect: str) -> None:
    found, data = sealed(dialect, modified=1_700_000_000)
    tar = plaintext(dialect, data, found.fields)
    assert len(tar) == len(data) == found.size
    assert found.sha256 == hashlib.sha256(data).hexdigest()
    assert found.tar_sha256 == (hashlib.sha256(tar).hexdigest() if dialect == "rs" else None)
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        infos = archive.getmembers()
        files = [(i.name, archive.extractfile(i)) for i in infos if i.isfile()]
        bodies = {name: file.read() for name, file in files if file is not None}
    prefix = "payload/" if dialect == "js" else ""
    assert bodies == {prefix + path: body for path, body in FILES.items()}
    assert {(i.uid, i.gid, i.uname, i.gname) for i in infos} == {(0, 0, "", "")}
    assert {i.mode for i in infos if i.isfile()} == {0o644}


@pytest.mark.parametrize(
    ("dialect", "magic", "names", "times"),
    [
        ("php", b"ustar\x0000", ["metadata.json", "d/a", "d/e/b"], [0, 0, 0]),
        (
            "js",
            b"ustar\x0000",
            ["payload/", "payload/metadata.json", "payload/d/", "payload/d/a", "payload/d/e/",
             "payload/d/e/b"],
            [0, 7, 0, 7, 0, 7],
        ),
        ("rs", b"ustar  \x00", ["./", "metadata.json", "d/", "d/a", "d/e/", "d/e/b"], [7] * 6),
    ],
)  # fmt: skip
def test_the_tar_has_each_library_s_form(
    dialect: str, magic: bytes, names: list[str], times: list[int]
) -> None:
    files = plain({"metadata.json": b"{}", "d/a": b"1", "d/e/b": b"2" * 513})
    tar = b"".join(tarball.tar(dialect, files, modified=7))
    assert len(tar) == tarball.tar_size(dialect, files)
    headers = []
    at = 0
    while any(tar[at : at + 512]):
        block = tar[at : at + 512]
        assert block[257:265] == magic
        headers.append(block)
        at += 512 + -(-int(block[124:135], 8) // 512) * 512
    assert [block[:100].rstrip(b"\0").decode() for block in headers] == names
    assert [int(block[136:147], 8) for block in headers] == times
    assert {block[156:157] for block in headers if block[:100].rstrip(b"\0").endswith(b"/")} <= {
        b"5"
    }
    assert tar[at:] == bytes(1024)


def test_an_empty_payload_has_jmix_php_s_placeholder_which_is_not_extracted() -> None:
    for dialect in DIALECTS:
        found, data = sealed(dialect, {})
        assert opened(data, found.fields) == {}
    tar = b"".join(tarball.tar("php", []))
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        assert archive.getnames() == [".jmix-empty"]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_long_and_foreign_names_and_large_sizes_fit(dialect: str) -> None:
    names = ["files/" + "n" * 90, "files/" + "n" * 200, "files/" + "é" * 100, "a/" * 200 + "b"]
    found, data = sealed(dialect, dict.fromkeys(names, b"1"))
    assert opened(data, found.fields) == dict.fromkeys(names, b"1")
    big = [Plain("dicom/1.dcm", 9 << 30, list)]
    header = next(iter(tarball.tar(dialect, [Plain("x", 0, tuple)])))
    assert tarball.tar_size(dialect, big) > (9 << 30) + len(header)
    first = next(info for info in headers_of(dialect, big) if info.name.endswith(".dcm"))
    assert first.size == 9 << 30


def headers_of(dialect: str, members: list[Plain]) -> Iterator[tarfile.TarInfo]:
    """Returns what tarfile sees in the headers alone, each followed by the end of the tar."""
    for header, _ in tarball._headers(dialect, members, 0):
        with tarfile.open(fileobj=io.BytesIO(header)) as archive:
            first = archive.next()
            assert first is not None
            yield first


# -- round trips ---------------------------------------------------------------------------------

paths = st.lists(
    st.text("abé0.-", min_size=1, max_size=12).filter(lambda part: part not in (".", "..")),
    min_size=1,
    max_size=3,
).map("/".join)


def no_clash(files: dict[str, bytes]) -> bool:
    parents = {p[:at] for p in files for at in range(len(p)) if p[at] == "/"}
    return not parents & files.keys()


@given(st.dictionaries(paths, st.binary(max_size=1500), max_size=6).filter(no_clash),
       st.sampled_from(DIALECTS), st.booleans())  # fmt: skip
def test_what_was_encrypted_is_decrypted(
    files: dict[str, bytes], dialect: str, known: bool
) -> None:
    found, data = sealed(dialect, files)
    verified = verify(dialect if known else None, KEY, found.fields, lambda: [data])
    assert verified == (dialect, found.size, found.sha256, found.tar_sha256)
    assert opened(data, found.fields, dialect if known else None) == files


def test_equal_input_gives_equal_bytes_and_fresh_keys_give_others() -> None:
    known: dict[str, Any] = {"ephemeral": EPHEMERAL, "iv": IV}
    assert sealed("php", **known) == sealed("php", **known)
    one, two = sealed("php")[0].fields, sealed("php")[0].fields
    assert all(one[name] != two[name] for name in ("ephemeral_public_key", "iv", "auth_tag"))


def test_files_that_are_not_read_are_skipped() -> None:
    found, data = sealed("js")
    walked = [path for path, _, _ in decrypt("js", KEY, found.fields, lambda: [data])]
    assert walked == list(FILES)


# -- tampering -----------------------------------------------------------------------------------

FOUND, DATA = sealed("php", {"metadata.json": b"{}"}, ephemeral=EPHEMERAL, iv=IV)


@given(st.integers(0, len(DATA) - 1), st.integers(1, 255))
def test_a_changed_byte_of_the_ciphertext_is_found(at: int, by: int) -> None:
    changed = bytearray(DATA)
    changed[at] ^= by
    with pytest.raises(EnvelopeError, match="cannot be decrypted"):
        decrypt(None, KEY, FOUND.fields, lambda: [bytes(changed)])


@pytest.mark.parametrize("name", ["algorithm", "ephemeral_public_key", "iv", "auth_tag"])
def test_each_changed_byte_of_the_fields_is_found(name: str) -> None:
    text = FOUND.fields[name]
    for at in range(len(text)):
        for other in "AB+/=z\n":
            if other != text[at]:
                fields = FOUND.fields | {name: text[:at] + other + text[at + 1 :]}
                with pytest.raises(EnvelopeError):
                    decrypt("php", KEY, fields, lambda: [DATA])


def test_each_changed_bit_of_the_ephemeral_key_is_found() -> None:
    """RFC 7748 ignores the highest bit: not here."""
    for bit in range(256):
        public = bytearray(EPHEMERAL.public)
        public[bit // 8] ^= 1 << bit % 8
        fields = FOUND.fields | {"ephemeral_public_key": base64.b64encode(public).decode()}
        with pytest.raises(EnvelopeError):
            verify("php", KEY, fields, lambda: [DATA])


def test_a_shorter_or_longer_ciphertext_and_another_key_are_found() -> None:
    other = recipient_key(bytes(range(1, 33)), "another")
    for data, key in ((DATA[:-1], KEY), (DATA + b"\0", KEY), (b"", KEY), (DATA, other)):
        with pytest.raises(EnvelopeError, match="cannot be decrypted"):
            opened(data, FOUND.fields, key=key)


def test_a_change_between_the_two_readings_is_found() -> None:
    changed = DATA[:512] + bytes([DATA[512] ^ 1]) + DATA[513:]  # the file's first byte
    reading = iter([[DATA], [changed]])
    with pytest.raises(EnvelopeError, match="while it was decrypted"):
        list(decrypt("php", KEY, FOUND.fields, lambda: next(reading)))


@pytest.mark.parametrize(
    "fields",
    [
        None,
        [],
        {},
        FOUND.fields | {"algorithm": "AES-128-GCM"},
        FOUND.fields | {"extra": ""},
        FOUND.fields | {"iv": None},
        FOUND.fields | {"iv": base64.b64encode(bytes(16)).decode()},
        FOUND.fields | {"auth_tag": "é" * 24},
        FOUND.fields | {"auth_tag": base64.b64encode(bytes(12)).decode()},
    ],
)
def test_bad_fields_are_named(fields: Any) -> None:
    with pytest.raises(EnvelopeError, match=r"security\.encryption"):
        decrypt(None, KEY, fields, lambda: [DATA])


# All of RFC 7748's points of low order, and their forms that are not canonical.
LOW = [
    "00" * 32,
    "01" + "00" * 31,
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ec" + "ff" * 30 + "7f",
    "ed" + "ff" * 30 + "7f",
    "ee" + "ff" * 30 + "7f",
    "ff" * 32,
]


@pytest.mark.parametrize("point", LOW)
def test_points_that_keep_no_secret_are_refused(point: str) -> None:
    raw = bytes.fromhex(point)
    fields = FOUND.fields | {"ephemeral_public_key": base64.b64encode(raw).decode()}
    with pytest.raises(EnvelopeError, match="public key"):
        decrypt(None, KEY, fields, lambda: [DATA])
    with pytest.raises(ConfigError, match="anything could be encrypted for"):
        recipient_public(raw, "recipient_public_key")


# -- a stranger's tar ----------------------------------------------------------------------------


def info(name: str, kind: bytes = tarfile.REGTYPE, size: int = 0, **more: Any) -> tarfile.TarInfo:
    found = tarfile.TarInfo(name)
    found.type, found.size = kind, size
    for key, value in more.items():
        setattr(found, key, value)
    return found


def tarred(*members: tarfile.TarInfo, form: Literal[0, 1, 2] = tarfile.GNU_FORMAT) -> bytes:
    made = [m.tobuf(form) + bytes(-(-m.size // 512) * 512) for m in members]
    return b"".join(made) + bytes(1024)


def walk(dialect: str, pieces: Iterable[bytes]) -> dict[str, bytes]:
    return {path: b"".join(body) for path, _, body in tarball.untar(dialect, pieces)}


def pax(key: str, value: str) -> bytes:
    record = f"{key}={value}\n".encode()
    length = len(record) + 3
    body = f"{length} ".encode() + record
    assert len(body) == length
    return info("x", tarfile.XHDTYPE, len(body)).tobuf() + body.ljust(512, b"\0")


HOSTILE = {
    "up": tarred(info("../x")),
    "up inside": tarred(info("a/../../x")),
    "absolute": tarred(info("/etc/passwd")),
    "empty part": tarred(info("a//b")),
    "dot": tarred(info("a/./b")),
    "drive": tarred(info("C:x")),
    "backslash": tarred(info("a\\b")),
    "control": tarred(info("a\x01b")),
    "not UTF-8": info("a\udcff").tobuf(tarfile.GNU_FORMAT) + bytes(1024),
    "symbolic link": tarred(info("a", tarfile.SYMTYPE, linkname="/etc/passwd")),
    "hard link": tarred(info("a", tarfile.LNKTYPE, linkname="b")),
    "device": tarred(info("a", tarfile.CHRTYPE)),
    "block device": tarred(info("a", tarfile.BLKTYPE)),
    "pipe": tarred(info("a", tarfile.FIFOTYPE)),
    "contiguous": tarred(info("a", tarfile.CONTTYPE)),
    "sparse": tarred(info("a", tarfile.GNUTYPE_SPARSE)),
    "twice": tarred(info("a"), info("a")),
    "file and folder": tarred(info("a"), info("a/b")),
    "folder and file": tarred(info("a/b"), info("a")),
    "folder with content": tarred(info("a", tarfile.DIRTYPE, 512)),
    "too long": tarred(info("a/" * 600 + "b")),
    "longer than it is": tarred(info("a", size=512))[:512] + bytes(100),
    "no end": tarred(info("a"))[:512],
    "empty": b"",
    "no header": b"x" * 1024,
    "behind the end": tarred(info("a")) + b"x",
    "padding": tarred(info("a", size=1)).replace(bytes(1025), b"\1" * 512 + bytes(513)),
    "negative": info("a").tobuf()[:124] + b"\xff" * 12,
    "pax link": pax("linkpath", "/x") + tarred(info("a")),
    "pax sparse": pax("GNU.sparse.name", "/x") + tarred(info("a")),
    "pax path": pax("path", "../../x") + tarred(info("a")),
    "pax size": pax("size", "99999") + tarred(info("a")),
    "pax no number": pax("size", "-1aaa") + tarred(info("a")),
    "pax alone": pax("path", "12345") + bytes(1024),
    "pax broken": info("x", tarfile.XHDTYPE, 9).tobuf() + b"99 a=b\n".ljust(512, b"\0"),
    "pax global": info("x", tarfile.XGLTYPE, 0).tobuf() + tarred(info("a")),
    "huge extended header": info("x", tarfile.XHDTYPE, 1 << 40).tobuf(),
    "huge long name": info("x", tarfile.GNUTYPE_LONGNAME, 1 << 40).tobuf(),
    "long link": info("x", tarfile.GNUTYPE_LONGLINK, 512).tobuf() + bytes(512),
}  # fmt: skip


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_tar_is_refused_with_its_offset(what: str) -> None:
    with pytest.raises(EnvelopeError, match="tar offset"):
        walk("php", [HOSTILE[what]])


def test_a_tar_in_js_form_lies_in_payload() -> None:
    with pytest.raises(EnvelopeError, match="does not lie in payload/"):
        walk("js", [tarred(info("metadata.json"))])


def test_a_tar_as_jmix_rs_or_tar_itself_makes_it_is_read() -> None:
    members = (info("./", tarfile.DIRTYPE), info("./dicom", tarfile.DIRTYPE), info("./dicom/a"))
    assert walk("rs", [tarred(*members) + bytes(10240)]) == {"dicom/a": b""}


@given(st.binary(max_size=2000), st.sampled_from(DIALECTS))
@settings(max_examples=50)
def test_any_bytes_are_a_tar_or_an_envelope_error(data: bytes, dialect: str) -> None:
    with pytest.raises(EnvelopeError):
        walk(dialect, [data])


@given(st.integers(0, 1535), st.integers(0, 255))
def test_any_byte_of_a_header_may_change(at: int, to: int) -> None:
    data = bytearray(tarred(info("dicom/a", size=3), info("b")))
    data[at] = to
    try:
        found = walk("php", [bytes(data)])
    except EnvelopeError:
        return
    assert all(".." not in path.split("/") and not path.startswith("/") for path in found)


def test_members_have_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tarball, "MEMBERS_MAX", 3)
    with pytest.raises(EnvelopeError, match="MEMBERS_MAX, 3"):
        walk("php", [tarred(*(info(str(n)) for n in range(5)))])


# -- sizes ---------------------------------------------------------------------------------------


def test_more_than_one_key_may_encrypt_is_refused_before_it_begins() -> None:
    written: list[bytes] = []
    members = [Plain("a", PLAIN_MAX - 1024, lambda: pytest.fail("it was read"))]
    with pytest.raises(EnvelopeError, match=str(PLAIN_MAX)):
        encrypt("php", KEY.public, members, written.append)
    assert not written
    assert tarball.tar_size("php", [Plain("a", PLAIN_MAX - 4096, tuple)]) <= PLAIN_MAX


@pytest.mark.parametrize("held", [b"", b"12", b"1234"])
def test_a_member_of_another_size_than_it_said_is_an_error(held: bytes) -> None:
    with pytest.raises(EnvelopeError, match="has not the 3 bytes"):
        encrypt("php", KEY.public, [Plain("a", 3, lambda: [held])], lambda piece: None)


CONSTANT = """
import os, resource, sys
from fastjmix.jmix.write.encryption import Plain, decrypt, encrypt
from fastjmix.jmix.keys import new_recipient_key

size, path = int(sys.argv[1]), sys.argv[2]

def pieces():
    with open(path, "rb", buffering=0) as file:
        while piece := file.read(1 << 20):
            yield piece

class Sink:
    size = 0
    def __call__(self, piece):
        self.size += len(piece)
        if size <= KEPT:
            out.write(piece)

def secrets():
    with open(path + ".out", "rb", buffering=0) as file:
        while piece := file.read(1 << 20):
            yield piece

key, sink, KEPT = new_recipient_key(), Sink(), 1 << 28
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with open(path + ".out", "wb") as out:
    sealed = encrypt("php", key.public, [Plain("dicom/1.dcm", size, pieces)], sink)
assert sink.size == sealed.size > size
if size <= KEPT:
    (found,) = [sum(map(len, body)) for _, _, body in decrypt(None, key, sealed.fields, secrets)]
    assert found == size
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize("size", [1 << 26, by_form(1 << 29, 5 << 30)])
def test_memory_is_constant_whatever_the_size(tmp_path: Path, size: int) -> None:
    """A sparse file, decrypted again where it is small; of the large one the ciphertext counts."""
    source = tmp_path / "sparse"
    source.touch()
    os.truncate(source, size)
    run = [sys.executable, "-c", CONSTANT, str(size), str(source)]
    grown = int(subprocess.run(run, check=True, capture_output=True, text=True).stdout)
    assert grown < 24 << 10, f"{grown} KB more for {size} bytes"
