"""dicom/uid_names.py: names beside UIDs in the log."""

from __future__ import annotations

from fastjmix.dicom.uid_names import UNNAMED, name_of, names_of

CT, ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2.1"


def test_names_of_sop_classes() -> None:
    assert name_of(CT) == "CT Image Storage"
    assert name_of("1.2.3") is None
    assert name_of("") is None
    assert name_of("1.2\udc80") is None
    assert names_of([CT, "1.2.3", ENHANCED_CT]) == (
        f"CT Image Storage, {UNNAMED}, Enhanced CT Image Storage"
    )
