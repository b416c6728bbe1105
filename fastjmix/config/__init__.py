"""Configuration: TOML tables in, one frozen and validated tree out. Read once, never mutated.

    tree.py         the tree: the only module of these that other packages read; parts of it are
                    in destinations.py (upstreams) and secret.py (a secret as a value)

    reading.py      files → raw tables: TOML, ${VAR}, several files as one configuration
    bounds.py       limits of a file's size and nesting, checked before it is parsed
    secrets.py      which values no text may show, and their removal
    secret_files.py secrets that stand in files: `token_file` beside `token`
    table_checks.py raw tables → models; pydantic's errors → faults
    declare.py      how a table and its keys are declared
    strings.py      strings with rules of their own: AE titles, hosts, URLs
    in_words.py     the values that a key allows, in words
    tables.py       which tables there are. Their models, one line of meaning a key, are in
                    tables_node.py, tables_net.py, tables_backend.py, tables_pipeline.py,
                    tables_jmix.py and tables_route.py
    faults.py       a fault as a value; ConfigError, which names all of them at once

    resolve.py      models → tree, by the modules below
    node.py         the settings of the whole node
    references.py   names that refer to tables
    pipelines.py    pipelines, with the names in them looked up
    dicom_listeners.py, http_listeners.py  endpoints → listeners
    calling.py      a DICOM listener's aet_table
    routes.py       a pipeline's route (routing/): route_rules.py reads a rule of it,
                    route_checks.py looks at all of them together
    builders.py     jmix_builders: the settings of envelopes
    published.py    the parties of published envelopes
    addresses.py, binding.py  the address and port of a listener
    upstreams.py    the URL and time limits of a target that is a JMIX server
    places.py       targets that are directories or buckets
    credentials.py, transports.py, allowances.py  what targets present, how they are reached, and
                    how much they get
    certificates.py, key_files.py  certificates and keys, read as they will be used
    storage_path.py may a missing storage directory be made? file_system.py: a disk, or memory?
    ignored.py      keys that mean nothing here

    render.py       the tables as one file with every default, without secrets
    document.py     docs/configuration.md, from the models

Guaranteed: a file of the reference pipeline is accepted unmodified; a wrong one starts nothing.
Every fault of every file is in one ConfigError. No text made here has a secret in it.
Still wrong: a fault of meaning names its table and key, not its line: tomllib keeps no positions.
"""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from fastjmix.config.faults import ConfigError, Fault
from fastjmix.config.tree import (
    AlertSettings,
    Builder,
    CallingAe,
    Config,
    Credentials,
    DicomListener,
    HttpListener,
    LedgerSettings,
    LogSettings,
    PeerLimits,
    Runtime,
    Secret,
    Upstream,
)

__all__ = [
    "AlertSettings",
    "Builder",
    "CallingAe",
    "Config",
    "ConfigError",
    "Credentials",
    "DicomListener",
    "Fault",
    "HttpListener",
    "LedgerSettings",
    "LogSettings",
    "PeerLimits",
    "Runtime",
    "Secret",
    "Upstream",
    "effective",
    "load",
]


def load(path: Path, environment: Mapping[str, str] = os.environ) -> Config:
    """Returns the effective configuration of the main file `path` and its pipeline files.

    Reads those files, `${VAR}` from `environment`, and the PEM files that they name;
    starts nothing. Raises ConfigError with every fault found.
    """
    with _without_collections():
        # pydantic takes some 60 ms: only where a file is loaded, not where these types are named.
        from fastjmix.config.resolve import load as resolved

        return resolved(path, environment)


def effective(path: Path, environment: Mapping[str, str] = os.environ) -> tuple[Config, str]:
    """Returns the same, and the text of one file with the same effect and every default in it.

    A secret in it is a variable. Raises ConfigError with every fault found.
    """
    with _without_collections():
        from fastjmix.config.resolve import effective as resolved

        return resolved(path, environment)


@contextlib.contextmanager
def _without_collections() -> Iterator[None]:
    """Stops the garbage collector meanwhile. Imports and models make many objects that stay: to
    look through them again and again takes a tenth of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
