"""Tests of fastjmix.hooks."""
