"""Tables → tree: each pipeline becomes the listeners it describes, with nothing left to look up.

Wanted: `load` gives the effective configuration or every fault, and decides nothing silently.
Guaranteed: no listener without an upstream, a builder and an address of its own; no query API
beyond loopback without credentials, unless somebody wrote that it shall be so.
Still wrong: several backends of one pipeline are not a choice or a copy: the first is used.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, TypeVar

from fastjmix.config import binding, tables, tables_net, tables_node, tables_pipeline, tree
from fastjmix.config.binding import Address
from fastjmix.config.checking import Entry, Tables, check
from fastjmix.config.faults import ConfigError, Findings, dotted, shown
from fastjmix.config.kinds import AE_TITLE_ALLOWED, Table, ae_title, is_named, table_of
from fastjmix.config.published import Parties, recipient_key
from fastjmix.config.reading import Sources, read
from fastjmix.config.references import References
from fastjmix.config.render import render
from fastjmix.config.upstreams import credentials, upstream

_T = TypeVar("_T", bound=Table)

_SECS_A_DAY: Final = 86_400

TLS_PAIR: Final = (
    "a certificate chain in PEM, the server's first, and that one's private key without a password"
)


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
            config = _Resolver(path, References(found, findings)).config()
    if findings.faults or config is None or found is None:
        raise ConfigError(findings.faults.values())
    return config, sources, found


class _Resolver:
    """Resolves one set of tables, once."""

    def __init__(self, source: Path, references: References) -> None:
        self._source = source
        self._references = references
        self._tables = references.tables
        self._findings = references.findings
        self._taken: list[tuple[Address, str]] = []
        self._parties: dict[str, Parties] = {}

    def config(self) -> tree.Config:
        """The tree; worth something only if no fault was noted on the way."""
        pipelines = list(self._tables.family("pipelines").values())
        if not pipelines:
            self._findings.fault(
                self._tables.main, "", "pipelines", "none", "one or more [pipelines.*]"
            )
        parts = [part for entry in pipelines if (part := self._parts(entry)) is not None]
        for part in parts:
            self._upstream(part)  # whatever is wrong with its endpoints: all faults at once
        dicom = tuple(listener for part in parts for listener in self._dicom(part))
        for one in self._parties.values():
            one.finish()
        first = dicom[0].upstream if dicom else None
        http = tuple(listener for part in parts for listener in self._http(part, first))
        storage = self._storage()
        self._warn_of_networks()
        self._references.warn_of_unused()
        return tree.Config(
            name=self._name(),
            source=self._source,
            storage_dir=Path(storage.path).absolute(),
            log=self._log(),
            runtime=self._runtime(),
            dicom=dicom,
            http=http,
            ignored=tuple(ignored(self._tables)),
            warnings=tuple(self._findings.warnings),
            soft_reserve_bytes=storage.soft_reserve_bytes,
            hard_reserve_bytes=storage.hard_reserve_bytes,
            create_storage=_create(storage),
        )

    # -- the node ----------------------------------------------------------------------------------

    def _single(self, family: str, model: type[_T]) -> _T:
        entry = self._tables.family(family).get("")
        value = entry.value if entry is not None else None
        return value if isinstance(value, model) else model()

    def _name(self) -> str:
        proxy = self._single("proxy", tables_node.Proxy)
        name = proxy.name or proxy.id
        entry = self._tables.family("proxy").get("")
        if not name and (entry is None or entry.value is not None):
            told = "the name of this instance: name, or id"
            self._findings.fault(self._tables.main, "proxy", "name", "nothing", told)
        return name or ""

    def _log(self) -> tree.LogSettings:
        logging = self._single("logging", tables_node.Logging)
        level = logging.log_level or self._single("proxy", tables_node.Proxy).log_level or "info"
        if logging.log_to_file and logging.log_file_path is None:
            told = "a path, because log_to_file is true"
            self._findings.fault(self._tables.main, "logging", "log_file_path", "nothing", told)
        path = logging.log_file_path if logging.log_to_file else None
        return tree.LogSettings(level, Path(path).absolute() if path is not None else None)

    def _storage(self) -> tables_node.StorageOptions:
        options = self._single("storage", tables_node.Storage).options
        soft, hard = options.soft_reserve_bytes, options.hard_reserve_bytes
        if soft is not None and hard is not None and hard > soft:
            told = f"at most soft_reserve_bytes, {soft}"
            main = self._tables.main
            self._findings.fault(main, "storage.options", "hard_reserve_bytes", str(hard), told)
        return options

    def _runtime(self) -> tree.Runtime:
        given = self._single("fastjmix", tables_node.Fastjmix)
        age, size = given.retention.max_age_days, given.retention.max_bytes
        return tree.Runtime(
            receivers=given.receivers,
            packers=given.packers or max(1, _processors() // 2),
            lane_bytes=given.lane_bytes,
            grace_secs=float(given.grace_secs),
            retention_secs=None if math.isinf(age) else float(age * _SECS_A_DAY),
            retention_bytes=None if math.isinf(size) else int(size),
            queue_alarm_secs=given.queue_alarm_secs,
        )

    def _warn_of_networks(self) -> None:
        for entry in self._tables.family("network").values():
            if not isinstance(entry.value, tables_net.Network):
                continue
            if entry.value.enable_wireguard:
                told = "WireGuard is not offered here: the address is bound as it is"
                self._findings.warn(f"{entry.path}.enable_wireguard: {told}")
            if entry.value.http is not None and entry.value.tcp_config is not None:
                told = "one of http and tcp_config: they are two names of one table"
                self._references.fault(entry, "http", "a table beside tcp_config", told)

    # -- pipelines ---------------------------------------------------------------------------------

    def _parts(self, entry: Entry) -> _Parts | None:
        pipeline = entry.value
        if not isinstance(pipeline, tables_pipeline.Pipeline):
            return None
        chain = pipeline.middleware
        left = "middleware.left" if "right" in chain.model_fields_set else "middleware"
        return _Parts(
            entry,
            networks=self._all(entry, "networks", "network", pipeline.networks),
            endpoints=self._all(entry, "endpoints", "endpoints", pipeline.endpoints),
            middleware=[
                *self._all(entry, left, "middleware", chain.left),
                *self._all(entry, "middleware.right", "middleware", chain.right),
            ],
            backends=self._all(entry, "backends", "backends", pipeline.backends),
        )

    def _all(self, entry: Entry, key: str, family: str, names: list[str]) -> list[Entry | None]:
        return [
            self._references.find(entry, f"{key}[{index}]", family, name)
            for index, name in enumerate(names)
        ]

    def _addresses(self, part: _Parts, endpoint: Entry, default: tuple[str, int]) -> list[Address]:
        networks = [network for network in part.networks if network is not None]
        found = binding.addresses(self._references, endpoint, networks, default)
        by = f"{endpoint.path} of {part.entry.path}"
        for address in found:
            for other, holder in self._taken:
                if address.collides(other):
                    self._references.fault(
                        part.entry,
                        "endpoints",
                        f"{endpoint.path} at {address}, where {holder} listens at {other}",
                        "one listener for an address; an endpoint listens on all networks of its"
                        " pipeline",
                    )
            self._taken.append((address, by))
        return found

    def _upstream(self, part: _Parts) -> tree.Upstream | None:
        if len(part.backends) > 1:
            self._findings.warn(f"{part.entry.path}.backends: only the first is used")
        first = part.backends[0] if part.backends else None
        return upstream(self._references, first) if first is not None else None

    # -- DICOM -------------------------------------------------------------------------------------

    def _dicom(self, part: _Parts) -> Iterator[tree.DicomListener]:
        for entry in part.endpoints:
            if entry is None or not isinstance(entry.value, tables_pipeline.DicomEndpoint):
                continue
            middleware = self._builder(part)
            builder, parties = self._rules(middleware) if middleware else (None, None)
            to = self._upstream(part)
            if not part.backends:
                told = 'the name of a [backends.*] with service = "jmix_backend"'
                self._references.fault(part.entry, "backends", "none", told)
            self._refuse_tls(part, entry)
            addresses = self._addresses(part, entry, binding.DICOM_DEFAULT)
            calling = self._calling(entry, entry.value.options, builder or _builder(), parties)
            for address in addresses:
                if builder is not None and to is not None:
                    yield self._listener(part, entry, address, builder, to, calling)

    def _listener(
        self,
        part: _Parts,
        entry: Entry,
        address: Address,
        builder: tree.Builder,
        to: tree.Upstream,
        calling: dict[str, tree.CallingAe] | None,
    ) -> tree.DicomListener:
        endpoint = entry.value
        assert isinstance(endpoint, tables_pipeline.DicomEndpoint)
        options = endpoint.options
        self._check_room(entry, options.max_pdu)
        if options.max_pdu not in tables_pipeline.USUAL_MAX_PDU:
            low, high = tables_pipeline.USUAL_MAX_PDU[0], tables_pipeline.USUAL_MAX_PDU[-1]
            told = f"{options.max_pdu} is accepted, and unusual ({low} to {high})"
            self._findings.warn(f"{entry.path}.options.max_pdu: {told}")
        return tree.DicomListener(
            pipeline=part.entry.name,
            endpoint=entry.name,
            host=address.host,
            port=address.port,
            ae_title=options.local_aet,
            max_pdu=options.max_pdu,
            enable_store=options.enable_store,
            enable_echo=options.enable_echo,
            max_associations=options.max_associations,
            ack=options.ack,
            accept_any_called_aet=options.accept_any_called_aet,
            tolerate_uids=options.tolerate_uids,
            accept_malformed=options.accept_malformed,
            limits=_limits(options),
            calling=calling,
            builder=builder,
            upstream=to,
        )

    def _check_room(self, entry: Entry, max_pdu: int) -> None:
        lane_bytes = self._single("fastjmix", tables_node.Fastjmix).lane_bytes
        most = lane_bytes // tables_pipeline.LEAST_PDUS_A_LANE
        if max_pdu > most:
            told = f"with lane_bytes = {lane_bytes}: {most} or less, so that a lane holds several"
            self._references.fault(entry, "options.max_pdu", str(max_pdu), told)

    def _rules(self, middleware: Entry) -> tuple[tree.Builder, Parties]:
        """What a jmix_builder says, complete; and what completes its overrides."""
        assert isinstance(middleware.value, tables_pipeline.BuilderMiddleware)
        options = middleware.value.options
        parties = self._parties.setdefault(
            middleware.name, Parties(self._references, middleware, options)
        )
        return parties.complete(_builder(options)), parties

    def _builder(self, part: _Parts) -> Entry | None:
        builders = [
            entry
            for entry in part.middleware
            if entry is not None and isinstance(entry.value, tables_pipeline.BuilderMiddleware)
        ]
        if len(builders) == 1:
            return builders[0]
        if builders or None not in part.middleware:  # else it may be the one with a fault
            self._references.fault(
                part.entry,
                "middleware",
                f"{len(builders) or 'no'} jmix_builder",
                'one [middleware.*] with type = "jmix_builder": without it no envelope is made',
            )
        return None

    def _refuse_tls(self, part: _Parts, endpoint: Entry) -> None:
        for entry in part.networks:
            if entry is None or not isinstance(entry.value, tables_net.Network):
                continue
            name, bind = binding.bind_table(entry.value)
            for key in ("cert_path", "key_path"):
                if getattr(bind, key) is not None:
                    self._references.fault(
                        entry,
                        f"{name}.{key}",
                        f"a TLS listener, and {endpoint.path} speaks DICOM on this network",
                        "no TLS for DICOM: it is not offered yet; put stunnel in front, and give"
                        " the query API a pipeline and a network of its own",
                    )

    def _calling(
        self,
        entry: Entry,
        options: tables_pipeline.DicomOptions,
        builder: tree.Builder,
        parties: Parties | None,
    ) -> dict[str, tree.CallingAe] | None:
        if not options.aet_table:
            if options.aet_table is not None:
                told = "empty, so every calling AE title is let in"
                self._findings.warn(f"{entry.path}.options.aet_table: {told}")
            return None
        found: dict[str, tree.CallingAe] = {}
        for name, given in options.aet_table.items():
            key = dotted("options", "aet_table", name)
            title = given.ae_title or self._title(entry, key, name)
            if title in found:
                told = "each AE title once"
                self._references.fault(entry, f"{key}.ae_title", f'"{title}" again', told)
            overrides = {
                name: value
                for name in tables_pipeline.OVERRIDES
                if (value := getattr(given, name)) is not None
            }
            merged = dataclasses.replace(builder, published=None, **overrides)
            if parties is not None:
                merged = parties.complete(merged, entry, key, given)
            found[title] = tree.CallingAe(
                title, given.host, given.port, given.max_associations, merged
            )
        return found

    def _title(self, entry: Entry, key: str, name: str) -> str:
        try:
            return ae_title(name)
        except ValueError:
            found = f"nothing, and the entry's name {shown(name)} is no AE title"
            self._references.fault(entry, f"{key}.ae_title", found, AE_TITLE_ALLOWED)
            return name

    # -- HTTP --------------------------------------------------------------------------------------

    def _http(self, part: _Parts, first: tree.Upstream | None) -> Iterator[tree.HttpListener]:
        for entry in part.endpoints:
            if entry is None or not isinstance(entry.value, tables_pipeline.JmixEndpoint):
                continue
            to = self._upstream(part) if part.backends else first
            for address in self._addresses(part, entry, binding.HTTP_DEFAULT):
                yield self._http_listener(part, entry, entry.value, address, to)

    def _http_listener(
        self,
        part: _Parts,
        entry: Entry,
        endpoint: tables_pipeline.JmixEndpoint,
        address: Address,
        to: tree.Upstream | None,
    ) -> tree.HttpListener:
        certificate, private_key = self._tls(address.network)
        asked = self._asked(entry, endpoint)
        open_to_all = endpoint.options.allow_unauthenticated
        if asked is None and not binding.is_loopback(address.host):
            if open_to_all:
                told = f"anyone who reaches {address} can read patients' data"
                self._findings.warn(f"{entry.path}: {told}")
            else:
                self._references.fault(
                    entry,
                    "options.authentication_ref",
                    f"nothing, and the query API at {address} can be reached from other machines",
                    "the name of an [authentications.*] that callers must present; or"
                    " allow_unauthenticated = true; or a loopback address",
                )
        return tree.HttpListener(
            pipeline=part.entry.name,
            endpoint=entry.name,
            host=address.host,
            port=address.port,
            path_prefix=endpoint.options.path_prefix,
            cert_file=certificate,
            key_file=private_key,
            credentials=asked,
            allow_unauthenticated=open_to_all,
            allowed_hosts=tuple(endpoint.options.allowed_hosts),
            upstream=to,
            decryption_key_file=recipient_key(
                self._references,
                entry,
                "options.decryption_key_file",
                endpoint.options.decryption_key_file,
            ),
        )

    def _asked(
        self, entry: Entry, endpoint: tables_pipeline.JmixEndpoint
    ) -> tree.Credentials | None:
        options = endpoint.options
        for key, name in (
            ("options.authentication_ref", options.authentication_ref),
            ("options.authentication", options.authentication),
            ("authentication", endpoint.authentication),
        ):
            if name is not None:
                return credentials(self._references, entry, key, name)
        peer = binding.peer(self._references, entry)
        if peer is None or peer.authentication is None or endpoint.peer_ref is None:
            return None
        by = self._references.find(entry, "peer_ref", "peers", endpoint.peer_ref)
        if by is None:
            return None
        return credentials(self._references, by, "authentication", peer.authentication)

    def _tls(self, network: Entry) -> tuple[Path | None, Path | None]:
        assert isinstance(network.value, tables_net.Network)
        name, bind = binding.bind_table(network.value)
        if (bind.cert_path is None) != (bind.key_path is None):
            missing = "cert_path" if bind.cert_path is None else "key_path"
            told = "a PEM file: TLS needs cert_path and key_path"
            self._references.fault(network, f"{name}.{missing}", "nothing", told)
        certificate = self._references.file(network, f"{name}.cert_path", bind.cert_path)
        private_key = self._references.file(network, f"{name}.key_path", bind.key_path)
        if certificate is not None and private_key is not None:
            from fastjmix.config.certificates import server_fault  # ssl: only who serves with it

            key, found = server_fault(certificate, private_key)
            if found:
                given = bind.cert_path if key == "cert_path" else bind.key_path
                self._references.fault(
                    network, f"{name}.{key}", f"{shown(given)}: {found}", TLS_PAIR
                )
        return certificate, private_key


@dataclasses.dataclass(frozen=True, slots=True)
class _Parts:
    """A pipeline's tables. None: a reference that leads nowhere, or to a table with faults."""

    entry: Entry
    networks: list[Entry | None]
    endpoints: list[Entry | None]
    middleware: list[Entry | None]
    backends: list[Entry | None]


def _builder(options: tables_pipeline.BuilderOptions | None = None) -> tree.Builder:
    given = options or tables_pipeline.BuilderOptions()
    names = (field.name for field in dataclasses.fields(tree.Builder) if field.name != "published")
    return tree.Builder(**{name: getattr(given, name) for name in names})


def _create(storage: tables_node.StorageOptions) -> bool | None:
    is_default = Path(storage.path) == Path(tables_node.DEFAULT_STORAGE)
    return True if storage.create is None and is_default else storage.create


def _limits(options: tables_pipeline.DicomOptions) -> tree.PeerLimits:
    names = (field.name for field in dataclasses.fields(tree.PeerLimits))
    return tree.PeerLimits(**{name: getattr(options, name) for name in names})


def _processors() -> int:
    """Those this process may use: a container's share where the kernel tells it by affinity."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


# -- what means nothing here -----------------------------------------------------------------------


def ignored(found: Tables) -> list[str]:
    """The paths of every key that was given and means nothing here; whole tables by their own."""
    paths: dict[str, None] = {}
    for entry in found.all():
        if entry.family in ("services", "middleware_types"):
            paths[entry.family] = None
        elif entry.family in tables.MEANINGLESS:
            paths[entry.path] = None
        elif entry.value is not None:
            paths.update(dict.fromkeys(_ignored(entry.value, entry.path)))
    return list(paths)


def _ignored(table: Table, path: str) -> Iterator[str]:
    for name, declared in type(table).model_fields.items():
        if name not in table.model_fields_set:
            continue
        value = getattr(table, name)
        below = f"{path}.{dotted(name)}"
        if isinstance(value, Table):
            yield from _ignored(value, below)
        elif table_of(declared) is not None and is_named(declared) and value:
            for key, inner in value.items():
                yield from _ignored(inner, f"{below}.{dotted(key)}")
    yield from (f"{path}.{name}" for name in table.ignored)
