"""jmix/read/portable_names.py: names that would be one file somewhere."""

from __future__ import annotations

import time

import pytest

from fastjmix.jmix.read.portable_names import clashes


@pytest.mark.fault("S31")
def test_names_are_compared_component_by_component() -> None:
    names = ["/".join(f"{n}" for n in range(k, k + 200)) for k in range(500)]
    started = time.process_time()
    assert list(clashes(names)) == []
    assert time.process_time() - started < 3
    both = ["a/b/1", "A/c/2", "x/É", "x/E\u0301", "y/z", "y/z/.."]
    assert [name for name, why in clashes(both) if "letters" in why] == ["A/c/2", "x/E\u0301"]
