"""The actions and priorities of rules: apart, so that a configuration without rules loads no more
of them."""

from __future__ import annotations

from typing import Literal

Action = Literal["accept", "reject", "discard"]
Priority = Literal["stat", "normal", "bulk"]
