"""Configuration: TOML tables in, one frozen and validated tree out. Read once, never mutated.

    reading.py    files → raw tables: TOML, ${VAR}, who may stand in which file, duplicates
    bounds.py     how much a file may ask of its reader
    secrets.py    which values are in no text, and how they are taken out
    tables.py     which tables there are; tables_node.py, tables_net.py, tables_pipeline.py: what
                  each may hold: pydantic models, one line of meaning a key
    kinds.py      how such a key is declared and checked, and how it is described in words
    checking.py   raw tables → models; pydantic's errors → faults
    faults.py     a fault as a value; ConfigError, which names all of them at once
    resolve.py    models → tree: pipelines become listeners
    binding.py    which address and port a listener gets
    certificates.py  certificates and keys, read as TLS will use them
    upstreams.py  which URL, time limits and credentials an upstream gets
    tree.py       the tree itself: what every other room reads
    render.py     the tables as one file with every default, without secrets
    document.py   docs/configuration.md from the models

Wanted: a file of the reference pipeline runs unmodified; a wrong one starts nothing.
Guaranteed: every fault of every file in one ConfigError; no secret in any text made here.
Still wrong: a fault of meaning names its table and key, not its line: tomllib keeps no positions.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from fastjmix.config.faults import ConfigError, Fault
from fastjmix.config.tree import (
    Builder,
    CallingAe,
    Config,
    Credentials,
    DicomListener,
    HttpListener,
    LogSettings,
    PeerLimits,
    Runtime,
    Secret,
    Upstream,
)

__all__ = [
    "Builder",
    "CallingAe",
    "Config",
    "ConfigError",
    "Credentials",
    "DicomListener",
    "Fault",
    "HttpListener",
    "LogSettings",
    "PeerLimits",
    "Runtime",
    "Secret",
    "Upstream",
    "effective",
    "load",
]


def load(path: Path, environment: Mapping[str, str] = os.environ) -> Config:
    """The effective configuration of the main file `path` and of the files in its pipelines_path.

    Reads those files, `${VAR}` from `environment`, and the PEM files that they name;
    starts nothing. Raises ConfigError with every fault found.
    """
    # pydantic costs some 60 ms: only who loads a file pays, not who merely names these types.
    from fastjmix.config.resolve import load as resolved

    return resolved(path, environment)


def effective(path: Path, environment: Mapping[str, str] = os.environ) -> tuple[Config, str]:
    """The same, and the text of one configuration file that says it, every default included.

    A secret in it is a variable. Raises ConfigError with every fault found.
    """
    from fastjmix.config.resolve import effective as resolved

    return resolved(path, environment)
