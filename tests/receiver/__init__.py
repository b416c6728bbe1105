"""Tests of fastjmix.receiver."""
