"""Tests of fastjmix.transport."""
