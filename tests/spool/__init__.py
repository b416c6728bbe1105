"""Tests of fastjmix.spool."""
