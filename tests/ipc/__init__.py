"""Tests of fastjmix.ipc."""
