"""Tests of fastjmix.packer."""
