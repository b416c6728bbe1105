"""jmix/strict_json.py: what is refused before a document is parsed, and as it is."""

from __future__ import annotations

import json
import time

import pytest

from fastjmix.errors import EnvelopeError
from fastjmix.jmix import strict_json
from tests.support.envelopes import ID


@pytest.mark.fault("S31")
@pytest.mark.parametrize("off", [-1, 0, 1])
@pytest.mark.parametrize("value", [b"0", b'""', b"null", b'{"":0,"a":0,"b":0}', b'["a","b","c"]'])
def test_values_of_a_document(off: int, value: bytes) -> None:
    weight = value.count(b"{") + value.count(b"[") + value.count(b",") + 1
    count = (strict_json.VALUES_MAX - 1) // weight + off
    text = b"[" + b",".join([value] * count) + b"]"
    values = weight * count + 1  # one for the array itself
    text = text[:-1] + b",0" * (strict_json.VALUES_MAX + off - values) + b"]"
    if off > 0:
        with pytest.raises(EnvelopeError, match="VALUES_MAX"):
            strict_json.parse(text, "x")
    else:
        found = strict_json.parse(text, "x")
        assert isinstance(found, list)
        assert len(found) >= count


@pytest.mark.fault("S31")
@pytest.mark.parametrize("off", [-1, 0, 1])
@pytest.mark.parametrize("value", [b"{}", b"[]", b'{"":0}', b"[[{}]]"])
def test_objects_and_arrays_of_a_document(off: int, value: bytes) -> None:
    weight = value.count(b"{") + value.count(b"[")
    count = (strict_json.CONTAINERS_MAX - 1) // weight
    more = [b"[]"] * (strict_json.CONTAINERS_MAX - 1 - count * weight + off)
    values = [value] * count + more if off >= 0 else [value] * (count - 1)
    text = b"[" + b",".join(values) + b"]"
    if off > 0:
        with pytest.raises(EnvelopeError, match="CONTAINERS_MAX, 300000"):
            strict_json.parse(text, "x")
    else:
        found = strict_json.parse(text, "x")
        assert isinstance(found, list)
        assert len(found) == len(values)


@pytest.mark.fault("S31")
@pytest.mark.parametrize("shape", ["[{}]", '{{"a":{}}}', '[{{"b":{}}}]'])
@pytest.mark.parametrize("off", [-1, 0, 1])
def test_depth_of_a_document(shape: str, off: int) -> None:
    each = shape.count("[") + shape.count("{{")
    text = "0"
    for _ in range((strict_json.DEPTH_MAX + off) // each):
        text = shape.format(text)
    text = "[" * ((strict_json.DEPTH_MAX + off) % each) + text
    text += "]" * ((strict_json.DEPTH_MAX + off) % each)
    if off > 0:
        with pytest.raises(EnvelopeError, match="DEPTH_MAX, 128"):
            strict_json.parse(text.encode(), "x")
    else:
        assert strict_json.parse(text.encode(), "x")


@pytest.mark.fault("S31")
def test_a_document_of_brackets_is_refused() -> None:
    for text in (b"[" * 1_000_000, b"[" * 500_000 + b"]" * 500_000, b'{"a":' * 300_000):
        with pytest.raises(EnvelopeError):
            strict_json.parse(text, "x")


TWICE = [
    ('{"id": "a", "id": "b"}', 'the key "id" twice at its top level'),
    ('{"id": "a", "\\u0069d": "b"}', 'the key "id" twice at its top level'),
    ('{"a": {"b": [1, {"c": 1, "d": 2, "\\u0063": 1}]}}', 'the key "c" twice in "a.b[1]"'),
    ('{"a": 1, "b": ":\\u003a", "a": 1}', 'the key "a" twice'),
    ('{"\\ud83d\\ude00": 1, "😀": 2}', "twice"),
    ('{"": 1, "": 2}', 'the key "" twice'),
    ('[[{"x": {}, "x": {}}]]', 'the key "x" twice in "[0][0]"'),
]


NOT_JSON = [
    b"NaN", b"Infinity", b"-Infinity", b"1e400", b'"\\ud800"', b'"\\udc00\\ud800"', b'"\xff"',
    b'"\xed\xa0\x80"', b"\xef\xbb\xbf{}", b"{'a': 1}", b"{a: 1}", b"[1,]", b"01", b"+1", b".5",
    b"1.", b'"\t"', b'"\\x41"', b"// c\n{}", b"{} {}", b"", b" ", b"\0{}",
    "{}".encode("utf-16"), b"nul",
]  # fmt: skip


@pytest.mark.fault("S32")
@pytest.mark.parametrize(("text", "words"), TWICE)
def test_a_key_comes_once_in_an_object(text: str, words: str) -> None:
    with pytest.raises(EnvelopeError) as caught:
        strict_json.parse(text.encode(), "manifest.json")
    assert words in caught.value.message
    assert "manifest.json" in caught.value.message


@pytest.mark.fault("S32")
@pytest.mark.parametrize("text", NOT_JSON)
def test_what_some_readers_take_for_json_is_refused(text: bytes) -> None:
    for wrapped in (text, b'{"a": ' + text + b"}" if text.strip() else b'{"a": }'):
        if wrapped.endswith(b"} {}}"):
            continue
        with pytest.raises(EnvelopeError):
            strict_json.parse(wrapped, "manifest.json")


@pytest.mark.fault("S32")
@pytest.mark.parametrize("sign", ["", "-"])
@pytest.mark.parametrize("place", ["[{}]", '{{"a": {}}}', "[1, {}]", '{{"a"\t:\r\n{}}}'])
@pytest.mark.parametrize("off", [-1, 0, 1])
def test_digits_of_a_whole_number(sign: str, place: str, off: int) -> None:
    digits = "9" * (strict_json.DIGITS_MAX + off)
    text = place.format(sign + digits).encode()
    if off > 0:
        with pytest.raises(EnvelopeError, match="DIGITS_MAX, 18"):
            strict_json.parse(text, "x")
    else:
        assert strict_json.parse(text, "x") == json.loads(text)


@pytest.mark.fault("S32")
@pytest.mark.parametrize(
    "text", ['{"a": "1234567890123456789012"}', '["2.25.98765432109876543210987"]', "[0.1, 1e300]"]
)
def test_what_every_reader_reads_alike_is_read(text: str) -> None:
    assert strict_json.parse(text.encode(), "x") == json.loads(text)


@pytest.mark.fault("S32")
def test_a_large_manifest_is_read_in_reasonable_time() -> None:
    listed = [
        {"path": f"payload/s/{n:06}.dcm", "size_bytes": n, "hash": f"sha256:{n:064x}"}
        for n in range(100_000)
    ]
    text = json.dumps({"id": ID, "files": listed}).encode()
    started = time.process_time()
    found = strict_json.parse(text, "manifest.json")
    assert time.process_time() - started < 3
    assert isinstance(found, dict)
    assert len(found["files"]) == 100_000
