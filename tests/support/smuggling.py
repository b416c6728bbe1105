"""Bytes that two HTTP servers could read as one request or as two, or as different ones.

Each ends in, or hides, a second request. A server must refuse the first, or answer it and nothing
else: never two answers. The requests are to the store and to the API alike: {base} is where they
keep envelopes.
"""

from __future__ import annotations

HIDDEN = b"GET {base}/hidden HTTP/1.1\r\nHost: localhost\r\n\r\n"
HEAD = b"POST {base} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/zip\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
NO_CHUNKS = b"0\r\n\r\n"


def _lengths(*headers: bytes, body: bytes = b"abcde") -> bytes:
    return HEAD + b"".join(one + b"\r\n" for one in headers) + b"\r\n" + body + HIDDEN


TEMPLATES: dict[str, bytes] = {
    # two ways to tell the length
    "length and chunks": _lengths(b"Content-Length: 5", b"Transfer-Encoding: chunked"),
    "chunks and length": _lengths(
        b"Transfer-Encoding: chunked", b"Content-Length: 5", body=NO_CHUNKS
    ),
    "length and another coding": _lengths(b"Content-Length: 5", b"Transfer-Encoding: identity"),
    "length and an unknown coding": _lengths(b"Content-Length: 5", b"Transfer-Encoding: xchunked"),
    "two lengths": _lengths(b"Content-Length: 5", b"Content-Length: 6"),
    "one length twice": _lengths(b"Content-Length: 5", b"Content-Length: 5"),
    "two lengths in one": _lengths(b"Content-Length: 5, 6"),
    "one length twice in one": _lengths(b"Content-Length: 5, 5"),
    # lengths that are none
    "a length with a sign": _lengths(b"Content-Length: +5"),
    "a negative length": _lengths(b"Content-Length: -5"),
    "a hexadecimal length": _lengths(b"Content-Length: 0x5"),
    "a length in other digits": _lengths("Content-Length: \uff15".encode()),
    "a length in a power": _lengths(b"Content-Length: 5e0"),
    "a length with an underscore": _lengths(b"Content-Length: 0_5"),
    "a length in two words": _lengths(b"Content-Length: 5 5"),
    "an empty length": _lengths(b"Content-Length: "),
    "a length beyond all numbers": _lengths(b"Content-Length: " + b"9" * 40),
    # codings
    "two codings": _lengths(
        b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity", body=NO_CHUNKS
    ),
    "chunked is not the last coding": _lengths(
        b"Transfer-Encoding: chunked, identity", body=NO_CHUNKS
    ),
    "chunked twice": _lengths(b"Transfer-Encoding: chunked, chunked", body=NO_CHUNKS),
    "a coding behind a vertical tab": _lengths(b"Transfer-Encoding: \x0bchunked", body=NO_CHUNKS),
    "an unknown coding": _lengths(b"Transfer-Encoding: cow", body=NO_CHUNKS),
    # header lines
    "a space before the colon": _lengths(b"Content-Length : 5"),
    "a space before the name": HEAD[:-2] + b"\r\n Content-Length: 5\r\n\r\nabcde" + HIDDEN,
    "a folded line": _lengths(b"X: a\r\n b", b"Content-Length: 5"),
    "a bare CR": _lengths(b"X: a\rContent-Length: 5", b"Content-Length: 5"),
    "a NUL in a value": _lengths(b"X: a\0b", b"Content-Length: 5"),
    "a NUL in a name": _lengths(b"Content-Length\0: 5"),
    "a name of nothing": _lengths(b": 5", b"Content-Length: 5"),
    "a line without a colon": _lengths(b"Content-Length", b"Content-Length: 5"),
    "bare LF in the head": HEAD.replace(b"\r\n", b"\n") + b"Content-Length: 5\n\nabcde" + HIDDEN,
    "two hosts": _lengths(b"Host: y", b"Content-Length: 5"),
    # chunks
    "a chunk with a sign": CHUNKED + b"+5\r\nabcde\r\n" + NO_CHUNKS + HIDDEN,
    "a negative chunk": CHUNKED + b"-5\r\nabcde\r\n" + NO_CHUNKS + HIDDEN,
    "a chunk in 0x": CHUNKED + b"0x5\r\nabcde\r\n" + NO_CHUNKS + HIDDEN,
    "a chunk without a size": CHUNKED + b"\r\nabcde\r\n" + NO_CHUNKS + HIDDEN,
    "a chunk longer than its size": CHUNKED + b"5\r\nabcdefg\r\n" + NO_CHUNKS + HIDDEN,
    "chunks with bare LF": CHUNKED + b"5\nabcde\n0\n\n" + HIDDEN,
    "an extension with a bare LF": CHUNKED + b"5;a\nb\r\nabcde\r\n" + NO_CHUNKS + HIDDEN,
    "a chunk beyond all numbers": CHUNKED + b"F" * 17 + b"\r\nabcde\r\n" + NO_CHUNKS + HIDDEN,
    "a NUL behind a chunk's size": CHUNKED + b"5\0\r\nabcde\r\n" + NO_CHUNKS + HIDDEN,
    # request lines
    "no version": b"GET {base}\r\n\r\n" + HIDDEN,
    "an unknown version": b"GET {base} HTTP/9.9\r\nHost: localhost\r\n\r\n" + HIDDEN,
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + HIDDEN,
    "a version in small letters": b"GET {base} http/1.1\r\nHost: localhost\r\n\r\n" + HIDDEN,
    "a method in two lines": b"G\r\nT {base} HTTP/1.1\r\nHost: localhost\r\n\r\n" + HIDDEN,
    "a method that is no token": b"GE(T {base} HTTP/1.1\r\nHost: localhost\r\n\r\n" + HIDDEN,
    "a space in the target": b"GET {base}/a b HTTP/1.1\r\nHost: localhost\r\n\r\n" + HIDDEN,
    "a control character in the target": b"GET {base}/\x01 HTTP/1.1\r\nHost: localhost\r\n\r\n"
    + HIDDEN,
    "a TLS hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(40) + b"\r\n\r\n",
    "a DICOM association": b"\x01\0\0\0\0\xcd\0\x01\0\0JMIX_RECEIVER   \r\n\r\n" + HIDDEN,
    # beyond the bounds
    "a long target": b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n" + HIDDEN,
    "many headers": b"GET {base} HTTP/1.1\r\nHost: localhost\r\n"
    + b"A: b\r\n" * 100
    + b"\r\n"
    + HIDDEN,
    "a long value": _lengths(b"A: " + b"b" * 9000, b"Content-Length: 5"),
    "a hundred thousand trailers": CHUNKED + b"0\r\n" + b"A: b\r\n" * 100_000 + b"\r\n" + HIDDEN,
    # well-formed: what looks like a second request is the body of the first
    "a request in a body": HEAD + b"Content-Length: 42\r\nConnection: close\r\n\r\n" + HIDDEN,
    "a GET with a body": (
        b"GET {base} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 42\r\nConnection: close\r\n\r\n"
        + HIDDEN
    ),
}


def requests(base: str) -> dict[str, bytes]:
    """The table for a server that keeps its envelopes at `base`; HIDDEN has then 42 bytes or so."""
    hidden = HIDDEN.replace(b"{base}", base.encode())
    length = b"Content-Length: %d\r\n" % len(hidden)
    return {
        name: template.replace(b"Content-Length: 42\r\n", length).replace(b"{base}", base.encode())
        for name, template in TEMPLATES.items()
    }
