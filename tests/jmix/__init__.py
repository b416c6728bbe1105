"""Tests of fastjmix.jmix."""
