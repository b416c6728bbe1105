"""Helpers of the tests and of bench/: peers, gateways, stores, disks, and bytes for them."""
