"""Which tables there are, where they may stand, and which model each has.

Wanted: the tables and keys of the reference pipeline, so that a Harmony instance's files load as
they are; and fastjmix's own keys, each with a default that suits a node nobody tuned.
Guaranteed: nothing undeclared is let in; a key that is accepted and means nothing says so.
Still wrong: what spans several tables (references, precedence) cannot be said here: resolve.py.
"""

from __future__ import annotations

from typing import Final

from fastjmix.config import tables_net, tables_node, tables_pipeline
from fastjmix.config.kinds import Table

SINGLE: Final[dict[str, type[Table]]] = {
    "proxy": tables_node.Proxy,
    "logging": tables_node.Logging,
    "storage": tables_node.Storage,
    "fastjmix": tables_node.Fastjmix,
    "management": tables_node.Management,
    "runbeam": tables_node.Runbeam,
}
"""Tables that stand in the main file only, once."""

NAMED: Final[dict[str, type[Table]]] = {
    "network": tables_net.Network,
    "provider": tables_node.Provider,
    "services": tables_node.Registration,
    "middleware_types": tables_node.Registration,
    "peers": tables_net.Peer,
    "targets": tables_net.Target,
}
"""[family.<name>] with one model; they may stand in any file, each name once."""

CHOSEN: Final[dict[str, tuple[str, dict[str, type[Table]]]]] = {
    "authentications": (
        "method",
        {
            "bearer": tables_net.Authentication,
            "basic": tables_net.Authentication,
            "api_key": tables_net.Authentication,
            "none": tables_net.Authentication,
            "jwt": tables_net.ForeignAuthentication,
            "mutual_tls": tables_net.ForeignAuthentication,
            "custom": tables_net.ForeignAuthentication,
        },
    ),
    "pipelines": ("", {"": tables_pipeline.Pipeline}),
    "endpoints": (
        "service",
        {"dicom_scp": tables_pipeline.DicomEndpoint, "jmix": tables_pipeline.JmixEndpoint},
    ),
    "middleware": (
        "type",
        {
            "jmix_builder": tables_pipeline.BuilderMiddleware,
            "passthru": tables_pipeline.PassthruMiddleware,
        },
    ),
    "backends": ("service", {"jmix_backend": tables_pipeline.Backend}),
}
"""[family.<name>] whose model is chosen by the value of one of its keys."""

MEANINGLESS: Final = ("provider", "runbeam", "management", "services", "middleware_types")
"""Tables that are checked, and mean nothing here."""

REFUSED: Final = {
    "policies": "access policies",
    "rules": "access rules",
    "mesh": "a mesh of gateways",
    "transforms": "transforms",
}
"""Tables that would change what is let through: silently leaving them out would be unsafe."""
