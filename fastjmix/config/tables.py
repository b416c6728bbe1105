"""Which tables there are, where they may stand, and which model each has.

Wanted: the tables and keys of the reference pipeline, so that a Harmony instance's files load
unchanged; and the keys that Harmony does not have, each with a default that needs no tuning.
Guaranteed: a table or key that is not declared is a fault. Rules that span several tables
(references, precedence) are in resolve.py and its modules.
"""

from __future__ import annotations

from typing import Final, get_args

from fastjmix.config import tables_backend, tables_net, tables_node, tables_pipeline
from fastjmix.config.declare import Table

SINGLE: Final[dict[str, type[Table]]] = {
    "proxy": tables_node.Proxy,
    "logging": tables_node.Logging,
    "storage": tables_node.Storage,
    "fastjmix": tables_node.Fastjmix,
    "alerts": tables_node.Alerts,
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
}
"""[family.<name>] with one model; they may stand in any file, each name once."""

CHOSEN: Final[dict[str, tuple[str, dict[str, type[Table]]]]] = {
    "authentications": (
        "method",
        {
            "bearer": tables_net.Authentication,
            "basic": tables_net.Authentication,
            "api_key": tables_net.Authentication,
            "s3": tables_net.Authentication,
            "none": tables_net.Authentication,
            "jwt": tables_net.ForeignAuthentication,
            "mutual_tls": tables_net.ForeignAuthentication,
            "custom": tables_net.ForeignAuthentication,
        },
    ),
    "targets": (
        "type",
        {
            "": tables_net.Target,
            "directory": tables_net.DirectoryTarget,
            "s3": tables_net.S3Target,
            **dict.fromkeys(get_args(tables_net.Protocol), tables_net.Target),
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
            "route": tables_pipeline.RouteMiddleware,
            "command": tables_pipeline.CommandMiddleware,
        },
    ),
    "backends": ("service", {"jmix_backend": tables_backend.Backend}),
}
"""[family.<name>] whose model is chosen by the value of one of its keys; "": without that key."""

IGNORED: Final = ("provider", "runbeam", "management", "services", "middleware_types")
"""Tables that are checked for unknown keys, and mean nothing here."""

REFUSED: Final = {
    "policies": "access policies",
    "rules": "access rules",
    "mesh": "a mesh of gateways",
    "transforms": "transforms",
}
"""Tables that would change which data passes: to leave them out silently would be unsafe."""
