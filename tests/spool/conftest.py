"""The spool of these tests is synced, as that of a gateway is."""

from __future__ import annotations

import pytest


@pytest.fixture
def durable() -> bool:
    return True
