"""jmix/write/payload_hash.py: known hashes, and those of the slow twin."""

from __future__ import annotations

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fastjmix.jmix import digests
from fastjmix.jmix.write import payload_hash
from tests import reference
from tests.jmix.test_envelope import parts

VECTOR = {
    "files.json": b"[]",
    "metadata.json": b"{}",
    "series_1/image_001.dcm": b"DICM",
    "series_10/image_001.dcm": b"A",
}


def hashed(files: dict[str, bytes], algorithm: str) -> str:
    found = [
        digests.File(path, len(data), reference.digest(algorithm, data).hex())
        for path, data in files.items()
    ]
    return payload_hash.tree(found, algorithm)  # type: ignore[arg-type]


def test_payload_hash_is_the_known_one() -> None:
    known = "sha256:1a140015a5153e41a1042dcd41481cd52cb83c40609712887787a1ef2f2c698f"
    assert hashed(VECTOR, "sha256") == known == reference.payload_hash(VECTOR, "sha256")


@settings(deadline=None)
@given(
    st.dictionaries(st.lists(parts, min_size=1, max_size=4).map("/".join), st.binary()),
    st.sampled_from(["sha256", "blake3"]),
)
def test_payload_hash_is_that_of_the_slow_twin(files: dict[str, bytes], algorithm: str) -> None:
    directories = {path[: at + 1] for path in files for at in range(len(path)) if path[at] == "/"}
    assume(not any(f"{path}/" in directories for path in files))  # both file and directory
    assert hashed(files, algorithm) == reference.payload_hash(files, algorithm)


VECTOR = {
    "files.json": b"[]",
    "metadata.json": b"{}",
    "series_1/image_001.dcm": b"DICM",
    "series_10/image_001.dcm": b"A",
}


STREAM = "sha256:eac9f801b7fb7c2c191fc8936faa35ed1c2442843da1cd053adb2d6231ec0b1f"


def test_stream_hash_is_the_known_one() -> None:
    whole = digests.stream_hash("sha256", VECTOR, lambda path: [VECTOR[path]])
    split = digests.stream_hash(
        "sha256", list(VECTOR)[::-1], lambda path: [bytes([b]) for b in VECTOR[path]]
    )
    assert whole == split == STREAM == reference.stream_hash(VECTOR, "sha256")
