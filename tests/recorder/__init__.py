"""Tests of fastjmix.recorder."""
