"""Tests of fastjmix.config."""
