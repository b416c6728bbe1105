"""dicom/syntaxes.py: every transfer syntax that is accepted can be read."""

from __future__ import annotations
