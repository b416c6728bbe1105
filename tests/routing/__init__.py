"""Tests of fastjmix.routing."""
