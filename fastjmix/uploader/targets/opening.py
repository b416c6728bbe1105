"""Makes the client of a target: the one place that knows every kind."""

from __future__ import annotations

from fastjmix.config import Upstream
from fastjmix.uploader.pace import Pace
from fastjmix.uploader.targets.contract import Client
from fastjmix.uploader.targets.jmix import JmixClient
from fastjmix.uploader.upstream_facts import UpstreamFacts


def client_of(upstream: Upstream, facts: UpstreamFacts, pace: Pace) -> Client:
    """Returns a client; it opens nothing before its first attempt."""
    return JmixClient(upstream, facts, pace)
