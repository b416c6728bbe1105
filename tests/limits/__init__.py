"""Tests of every bound at limit - 1, limit and limit + 1: docs/limits.md."""
