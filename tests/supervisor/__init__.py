"""Tests of fastjmix.supervisor."""
