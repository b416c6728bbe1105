"""Tests of fastjmix.uploader."""
