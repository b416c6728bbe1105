"""Tests of a whole gateway, from a modality to an upstream."""
