"""Tests of fastjmix.log."""
