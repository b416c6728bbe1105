"""receiver/messages.py: how much of a refused UID is logged."""

from __future__ import annotations
