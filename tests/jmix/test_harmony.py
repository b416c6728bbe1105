"""jmix/write/harmony.py: the names of images."""

from __future__ import annotations

from fastjmix.jmix.write import harmony


def test_images_grow_past_999() -> None:
    assert harmony.member_name(1, 999) == b"payload/series_1/image_999.dcm"
    assert harmony.member_name(12, 1000) == b"payload/series_12/image_1000.dcm"
