"""Makes the client of a target: the one place that knows every kind."""

from __future__ import annotations

from fastjmix.config import Upstream
from fastjmix.config.tree import DirectoryPlace
from fastjmix.uploader.pace import Pace
from fastjmix.uploader.targets.contract import Client
from fastjmix.uploader.targets.directory import DirectoryClient
from fastjmix.uploader.targets.jmix import JmixClient
from fastjmix.uploader.throttle import Throttle
from fastjmix.uploader.upstream_facts import UpstreamFacts


def client_of(upstream: Upstream, facts: UpstreamFacts, pace: Pace) -> Client:
    """Returns a client; it opens nothing before its first attempt."""
    throttle = Throttle(upstream.allowance.max_bytes_per_sec)
    place = upstream.place
    if isinstance(place, DirectoryPlace):
        return DirectoryClient(upstream, place, pace, throttle)
    if place is not None:
        from fastjmix.uploader.targets.s3 import S3Client  # an optional library

        return S3Client(upstream, place, pace, throttle)
    return JmixClient(upstream, facts, pace, throttle)
