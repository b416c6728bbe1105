"""Tests of fastjmix.ledger."""
