"""Loads a configuration: files → tables → tree, with nothing left to look up.

Guaranteed: `load` gives a whole tree or every fault, and decides nothing without a warning. No
listener lacks an upstream, a builder or an address of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fastjmix.config import node, secret_files, tree
from fastjmix.config.addresses import Addresses
from fastjmix.config.builders import Builders
from fastjmix.config.dicom_listeners import DicomListeners
from fastjmix.config.faults import ConfigError, Findings
from fastjmix.config.hooks import hooks
from fastjmix.config.http_listeners import HttpListeners
from fastjmix.config.ignored import ignored
from fastjmix.config.pipelines import check_networks, pipelines
from fastjmix.config.reading import Sources, read
from fastjmix.config.references import References
from fastjmix.config.render import render
from fastjmix.config.routes import Routes
from fastjmix.config.table_checks import Tables, check


def load(path: Path, environment: Mapping[str, str]) -> tree.Config:
    """See fastjmix.config.load."""
    return _resolved(path, environment)[0]


def effective(path: Path, environment: Mapping[str, str]) -> tuple[tree.Config, str]:
    """See fastjmix.config.effective."""
    config, sources, found = _resolved(path, environment)
    return config, render(found, sources, config)


def _resolved(path: Path, environment: Mapping[str, str]) -> tuple[tree.Config, Sources, Tables]:
    findings = Findings()
    sources = read(path, findings, environment)
    config, found = None, None
    if sources.files:
        found = check(sources, findings)
        if sources.complete:  # else what is not found may stand in the file we could not read
            config = _tree(path, References(secret_files.fill(found, findings), findings))
    if findings.faults or config is None or found is None:
        raise ConfigError(findings.faults.values())
    return config, sources, found


def _tree(source: Path, references: References) -> tree.Config:
    """Returns the tree. It is of use only where no fault was noted on the way."""
    found = pipelines(references)
    for pipeline in found:
        pipeline.upstreams(references)  # its faults count, whatever is wrong with the endpoints
    builders, addresses = Builders(references), Addresses(references)
    runtime = node.runtime(references)
    routes = Routes(references)
    listeners = DicomListeners(references, builders, addresses, routes, runtime.lane_bytes)
    dicom = tuple(listener for pipeline in found for listener in listeners.of(pipeline))
    listeners.check_associations()
    builders.check_parties()
    first = dicom[0].upstreams if dicom else ()
    http_of = HttpListeners(references, addresses, first).of
    http = tuple(listener for pipeline in found for listener in http_of(pipeline))
    storage = node.storage(references)
    check_networks(references)
    found_hooks = hooks(references, found)
    references.warn_of_unused()
    return tree.Config(
        name=node.name(references),
        source=source,
        storage_dir=Path(storage.path).absolute(),
        log=node.log_settings(references),
        runtime=runtime,
        ledger=node.ledger(references),
        alerts=node.alerts(references),
        dicom=dicom,
        http=http,
        ignored=tuple(ignored(references.tables)),
        warnings=tuple(references.findings.warnings),
        soft_reserve_bytes=storage.soft_reserve_bytes,
        hard_reserve_bytes=storage.hard_reserve_bytes,
        create_storage=node.creates_storage(storage),
        require_mount=storage.require_mount,
        hooks=found_hooks,
    )
