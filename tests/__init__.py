"""Tests of fastjmix: a folder a package, and faults/, limits/, e2e/ across them all."""
