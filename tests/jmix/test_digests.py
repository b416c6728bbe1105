"""jmix/digests.py: hashes of known trees."""

from __future__ import annotations

import hashlib

from fastjmix.jmix.digests import File, stream_hash, tree_hash
from tests.jmix.test_admission import STREAM, TREE, VECTOR


def test_known_values() -> None:
    found = [File(p, len(d), hashlib.sha256(d).hexdigest()) for p, d in VECTOR.items()]
    assert tree_hash("sha256", found[::-1], ["series_10", "series_1"]) == TREE
    assert stream_hash("sha256", list(VECTOR)[::-1], lambda path: [VECTOR[path]]) == STREAM
