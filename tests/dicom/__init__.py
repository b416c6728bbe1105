"""Tests of fastjmix.dicom."""
