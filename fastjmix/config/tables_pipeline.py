"""The tables of the pipelines: endpoints and middleware.

One model a table, one line of meaning a key: see tables.py.
"""

from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator

from fastjmix import _core
from fastjmix.config import tree
from fastjmix.config.declare import REQUIRED, Part, Table, added, key, label, port
from fastjmix.config.strings import (
    AE_TITLE_ALLOWED,
    HOST_ALLOWED,
    PATH_ALLOWED,
    AeTitle,
    Host,
    Network,
    PathPrefix,
)
from fastjmix.config.tables_jmix import (
    KEY_ALLOWED,
    Consent,
    Deid,
    Encryption,
    Entity,
    Parties,
    Signing,
    Text,
    overridden,
)
from fastjmix.config.tables_net import Listening
from fastjmix.config.tables_node import GIB, MIB
from fastjmix.config.tables_route import RouteOptions
from fastjmix.jmix.write import parties

DEFAULT_MAX_PDU: Final = 131_072  # the largest DCMTK sends; fewer headers for the same data
LEAST_MAX_PDU: Final = 4096  # DCMTK's own minimum; below it headers outweigh data
MOST_MAX_PDU: Final = MIB  # beyond it nothing gets faster
LEAST_PDUS_A_LANE: Final = 4  # else receiver and packer take turns instead of working side by side
USUAL_MAX_PDU: Final = range(16_384, 131_072 + 1)  # what the reference allows
MOST_HALF_OPEN: Final = 4096  # each may hold an A-ASSOCIATE-RQ that is not whole: 1 GiB in all
BACKENDS_MAX: Final = 16  # of a pipeline: a site has a PACS, an archive, a research store
MOST_ASSOCIATIONS: Final = _core.LANES_MAX  # of one listener, and of all of them together


# -- pipelines -------------------------------------------------------------------------------------


class Chain(Table):
    left: list[str] = key([], "On the way in")
    right: list[str] = key([], "On the way out")


def _chain(value: Any) -> Any:
    return {"left": value} if isinstance(value, list) else value


class Pipeline(Table):
    description: str | None = label("A label")
    id: str | None = label("A label")
    networks: list[str] = key(REQUIRED, "The [network.*] its endpoints listen on", min_length=1)
    endpoints: list[str] = key(REQUIRED, "Its [endpoints.*]", min_length=1)
    middleware: Annotated[Part[Chain], BeforeValidator(_chain)] = key(
        Chain,
        "Its [middleware.*]; a DICOM pipeline needs the jmix_builder",
        allowed="an array of names, or a table { left = […], right = […] }",
    )
    backends: list[str] = key(
        [],
        "Its [backends.*]: each envelope goes to all of them; a DICOM pipeline needs one",
        max_length=BACKENDS_MAX,
    )


class Caller(Table):
    """A calling AE title that is accepted."""

    ae_title: AeTitle | None = key(
        None,
        "A calling AE title that is accepted",
        unset="the entry's own name",
        allowed=AE_TITLE_ALLOWED,
    )
    host: str | None = key(None, "Without effect: nothing is connected to", unset="–")
    port: int | None = port("Without effect", "–")
    max_associations: int | None = added(
        None,
        "How many associations this AE title may have at once",
        unset="the endpoint's",
        ge=1,
        le=MOST_ASSOCIATIONS,
    )


class AetEntry(Caller):
    """The same, with its own values for settings of the jmix_builder."""

    skip_hashing: bool | None = added(None, "Override", unset="the builder's")
    skip_listing: bool | None = added(None, "Override", unset="the builder's")
    profile: tree.ProfileName | None = added(None, "Override", unset="the builder's")
    payload_hash: tree.PayloadHash | None = added(None, "Override", unset="the builder's")
    sender: Part[Entity] | None = overridden()
    requester: Part[Entity] | None = overridden()
    receivers: list[Part[Entity]] | None = overridden(min_length=1)
    classification: parties.Classification | None = added(None, "Override", unset="the builder's")
    custom_tags: list[Text] | None = added(None, "Override", unset="the builder's")
    consent: Part[Consent] | None = overridden()
    deid: Part[Deid] | None = overridden()
    encryption: Part[Encryption] | None = overridden()
    signing: Part[Signing] | None = overridden()
    release_grace_secs: float | None = added(
        None, "Override", unset="the builder's", ge=0, le=3600, allow_inf_nan=False
    )
    quiet_secs: float | None = added(
        None, "Override", unset="the builder's", ge=0.1, le=86_400, allow_inf_nan=False
    )


OVERRIDES: Final = tuple(
    name
    for name in AetEntry.model_fields
    if name not in Caller.model_fields and name not in Parties.model_fields
)
"""Settings that tree.Builder has under the same name. The parties are resolved by published.py."""


def _not_offered(service: str) -> Any:
    return key(
        False,
        f"{service} is not offered",
        allowed=f"false: fastjmix answers C-ECHO and C-STORE, not {service}",
    )


class DicomOptions(Table):
    local_aet: AeTitle = key(
        "JMIX_RECEIVER",
        "Our AE title, which callers must call unless `accept_any_called_aet`",
        allowed=AE_TITLE_ALLOWED,
    )
    max_pdu: int = key(
        DEFAULT_MAX_PDU,
        "The largest PDU body we announce and take, in bytes; larger is faster",
        ge=LEAST_MAX_PDU,
        le=MOST_MAX_PDU,
        allowed=f"an integer from {LEAST_MAX_PDU} to {MOST_MAX_PDU}; 0, which would mean no limit,"
        " is refused: a sender must not decide how much memory we need",
    )
    enable_store: bool = key(True, "C-STORE is accepted")
    enable_echo: bool = key(True, "C-ECHO is answered")
    enable_find: Literal[False] = _not_offered("C-FIND")
    enable_move: Literal[False] = _not_offered("C-MOVE")
    enable_get: Literal[False] = _not_offered("C-GET")
    aet_table: dict[str, Part[AetEntry]] | None = key(
        None,
        "The calling AE titles that are accepted; others are rejected (1/1/3)",
        unset="any is accepted",
        allowed="a table of tables { ae_title, host, port, and overrides }",
    )
    bind_addr: Host | None = key(
        None, "The address to listen on", unset="the connection's", allowed=HOST_ALLOWED
    )
    port: int | None = port("The port to listen on", "the connection's", 0)
    max_associations: int = added(
        64,
        "Associations at once; each has a lane. More are rejected for the moment (2/3/2)",
        ge=1,
        le=MOST_ASSOCIATIONS,
    )
    ack: tree.Ack = added(
        "stored",
        "When Success is answered: once the instance is durable here, or (one envelope an"
        " instance) after the 2xx of the upstream, of several the first",
    )
    accept_any_called_aet: bool = added(False, "Also callers that call another AE title than ours")
    acse_timeout_secs: float = added(
        30.0,
        "ARTIM (PS3.8 §9.1.5): for a caller's whole A-ASSOCIATE-RQ, and for its close at the end",
        ge=1,
        le=3600,
        allow_inf_nan=False,
    )
    dimse_timeout_secs: float = added(
        60.0,
        "Inside a message: how long a caller may send nothing",
        ge=1,
        le=86_400,
        allow_inf_nan=False,
    )
    network_timeout_secs: float = added(
        300.0,
        "Between messages: how long a caller may be silent; scanners pause between series",
        ge=1,
        le=86_400,
        allow_inf_nan=False,
    )
    min_bytes_per_sec: int = added(
        1000,
        "Inside a message: the least pace of a caller, on average over each dimse_timeout_secs; 0:"
        " any pace",
        ge=0,
        le=MIB,
    )
    tolerate_uids: bool = added(
        False,
        "Study, Series and SOP Instance UIDs that PS3.5 §9.1 does not allow are taken: up to 128"
        " printable characters",
    )
    accept_malformed: bool = added(
        False,
        "A data set that is cut, or contradicts its transfer syntax, is not refused (C000) but"
        " stored, logged, and marked in metadata",
    )
    max_half_open: int = added(
        512,
        "Connections without an association yet, at once and for each receiver; one more is closed",
        ge=1,
        le=MOST_HALF_OPEN,
    )
    proxy_protocol_from: list[Network] = added(
        [],
        "Addresses of proxies: what connects from there must begin with a header of the PROXY"
        " protocol, and counts as the client that the header names; no other's is read",
        allowed='an array of networks: "10.0.0.0/8", or one address',
    )
    IGNORED = (
        "storage_dir",  # all states of an envelope are under `storage.options.path`
        "aet",  # `local_aet` says it
        "incoming_store_port",  # Harmony's own store
        "persistent_store_scp",  # Harmony's own store
        "use_dcmtk_store",  # Harmony's own store
    )


class JmixOptions(Table):
    path_prefix: PathPrefix = key(
        "/jmix", "Stands before /api/jmix in the URL", allowed=PATH_ALLOWED
    )
    authentication_ref: str | None = added(
        None, "The [authentications.*] that callers must present", unset="`authentication`"
    )
    authentication: str | None = added(None, "The same", unset="the endpoint's")
    allow_unauthenticated: bool = added(
        False, "Needed to listen beyond loopback without asking for credentials"
    )
    allowed_hosts: list[str] = added(
        [],
        "Without credentials: names in a request's Host beside localhost, addresses of loopback and"
        " the listener's own, as a proxy on this machine may send them",
    )
    proxy_protocol_from: list[Network] = added(
        [],
        "Addresses of proxies: what connects from there must begin with a header of the PROXY"
        " protocol, and counts as the client that the header names; no other's is read",
        allowed='an array of networks: "10.0.0.0/8", or one address',
    )
    decryption_key_file: str | None = added(
        None,
        "The X25519 private key that posted envelopes are encrypted to: each is decrypted, its"
        " payload checked, and passed on as it came; others are refused",
        unset="encrypted envelopes are checked as far as they can be without a key",
        min_length=1,
        allowed=KEY_ALLOWED,
    )
    IGNORED = (
        "skip_hashing",  # the jmix_builder's options say it
        "skip_listing",  # the jmix_builder's options say it
        "store_dir",  # all states of an envelope are under `storage.options.path`
    )


class _Endpoint(Table):
    id: str | None = label("A label")
    description: str | None = label("A label")
    service: str = key(REQUIRED, "The service that listens", allowed='"dicom_scp" or "jmix"')
    peer_ref: str | None = key(
        None, "The [peers.*] whose connection is used where `connection` says nothing", unset="none"
    )
    connection: Part[Listening] = key(Listening, "The listener's address")


class DicomEndpoint(_Endpoint):
    IGNORED = ("authentication",)  # a DICOM caller is known by its AE title: `aet_table`
    options: Part[DicomOptions] = key(DicomOptions, "The DICOM receiver")


class JmixEndpoint(_Endpoint):
    authentication: str | None = key(
        None, "The [authentications.*] that callers must present", unset="the peer's, else none"
    )
    options: Part[JmixOptions] = key(JmixOptions, "The query API")


class _Packing(Table):
    skip_hashing: bool = key(False, "No digests in the manifest: faster, and damage goes unnoticed")
    skip_listing: bool = key(False, "No list of files in the manifest")
    profile: tree.ProfileName = added(
        "harmony",
        "The envelope's layout and documents; with jmix-1.0 the published ones, with their parties",
    )
    payload_hash: tree.PayloadHash = added(
        "tree",
        "The hash over the payload: as published, or as jmix-rs and jmix-js verify it, which reads"
        " everything once more",
    )
    digest: tree.Digest = added("sha256", "Digests in the manifest; blake3 takes half the time")
    durability: tree.Durability = added(
        "fsync",
        "The promise of Success: on stable storage, or only in this machine's page cache, which a"
        " power failure empties",
    )
    release_grace_secs: float = added(
        1.0,
        "An envelope is sealed so long after its last association was released; `quiet_secs` after"
        " it where the calling AE title is known to come back",
        ge=0,
        le=3600,
        allow_inf_nan=False,
    )
    quiet_secs: float = added(
        30.0,
        "An envelope is sealed when no instance came for so long, and none is on the wire",
        ge=0.1,
        le=86_400,
        allow_inf_nan=False,
    )
    max_envelope_bytes: int = added(
        4 * GIB, "An envelope is sealed before it grows beyond this", ge=1
    )
    max_envelope_instances: int = added(
        10_000, "An envelope is sealed when it holds so many", ge=1, le=1_000_000
    )
    IGNORED = ("store_dir",)  # all states of an envelope are under `storage.options.path`


class BuilderOptions(Parties, _Packing):
    """Its bases are in this order so that docs/configuration.md lists the parties last."""


class _Middleware(Table):
    id: str | None = label("A label")
    description: str | None = label("A label")
    type: str = key(
        REQUIRED, "The middleware", allowed='"jmix_builder", "passthru", "route" or "command"'
    )


class BuilderMiddleware(_Middleware):
    options: Part[BuilderOptions] = key(BuilderOptions, "The envelope")


class PassthruOptions(Table):
    pass


class PassthruMiddleware(_Middleware):
    options: Part[PassthruOptions] = key(PassthruOptions, "None")


class RouteMiddleware(_Middleware):
    options: Part[RouteOptions] = key(REQUIRED, "The rules")


class CommandOptions(Table):
    argv: list[str] = added(
        REQUIRED,
        "The program and its arguments, without a shell; the archive's path is added at the end",
        min_length=1,
        max_length=256,
        allowed="an array of one or more strings; the first is the program's whole path",
    )
    timeout_secs: float = added(
        60.0,
        "How long it may take; then it is killed, and the envelope is put on hold",
        ge=0.1,
        le=86_400,
        allow_inf_nan=False,
    )
    memory_bytes: int = added(
        512 * MIB, "Its address space (RLIMIT_AS), each of its processes", ge=16 * MIB
    )
    at_once: int = added(1, "How many of it run at once", ge=1, le=64)


class CommandMiddleware(_Middleware):
    options: Part[CommandOptions] = key(REQUIRED, "The command")
