"""Tests of fastjmix._core."""
