"""dicom/associate_rq.py: how long a request may be."""

from __future__ import annotations
