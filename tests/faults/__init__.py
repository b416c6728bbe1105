"""Tests of the fault rows that are of no one package, and their table (table.py, rows.toml)."""
