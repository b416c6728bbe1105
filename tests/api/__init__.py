"""Tests of fastjmix.api."""
