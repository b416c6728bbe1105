"""Tests of fastjmix.tools."""
