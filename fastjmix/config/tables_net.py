"""The tables of the network: addresses of listeners, upstreams, and credentials for both.

One model a table, one line of meaning a key: see tables.py.
"""

from typing import Any, Final, Literal

from pydantic import Field

from fastjmix.config.declare import REQUIRED, Part, Table, key, label, port, secret_file
from fastjmix.config.strings import (
    FILE_ALLOWED,
    HOST_ALLOWED,
    PATH_ALLOWED,
    BaseUrl,
    HeaderName,
    HeaderValue,
    Host,
    Password,
    PathPrefix,
    UserName,
)

LONGEST_TIMEOUT_SECS: Final = 86_400  # 4 GiB over 1 Mbit/s take ten hours

Protocol = Literal["http", "https", "h3", "dicom", "harmony", "fhir", "hl7v2", "custom"]


# -- addresses -------------------------------------------------------------------------------------


class Bind(Table):
    bind_address: Host | None = key(
        None,
        "The address to listen on",
        unset="0.0.0.0 (DICOM), 127.0.0.1 (HTTP)",
        allowed=HOST_ALLOWED,
    )
    bind_port: int | None = port(
        "The port to listen on; 0: one that the system chooses", "11113 (DICOM), 8086 (HTTP)", 0
    )
    cert_path: str | None = key(
        None,
        "PEM certificate chain: HTTPS; not for DICOM",
        unset="plain HTTP",
        min_length=1,
        allowed=FILE_ALLOWED,
    )
    key_path: str | None = key(
        None,
        "PEM private key that belongs to it, without a password",
        unset="plain HTTP",
        min_length=1,
        allowed=FILE_ALLOWED,
    )
    IGNORED = ("force_https",)  # there is no second, plain listener to redirect from


class Network(Table):
    id: str | None = label("A label")
    tcp_config: Part[Bind] | None = key(
        None, "A listener's address", unset="the listener's default"
    )
    http: Part[Bind] | None = key(None, "The same table by its other name", unset="`tcp_config`")
    enable_wireguard: bool = key(False, "Not offered; true is answered with a warning")
    IGNORED = (
        "http3",  # HTTP/3 is not offered
        "interface",  # WireGuard's
    )


class Listening(Table):
    """The connection of a peer or an endpoint: where the listener listens."""

    host: Host | None = key(
        None, "The address to listen on", unset="the network's", allowed=HOST_ALLOWED
    )
    port: int | None = port("The port to listen on", "the network's", 0)
    protocol: Protocol | None = label("The endpoint's service decides")
    IGNORED = (
        "base_path",  # `options.path_prefix` says it
        "ca_cert_path",  # callers present no certificates
    )


class Peer(Table):
    connection: Part[Listening] = key(Listening, "The listener's address")
    enabled: bool = key(True, "An endpoint that refers to a disabled peer is a fault")
    authentication: str | None = key(
        None,
        "The [authentications.*] that callers must present, for a jmix endpoint that names none",
        unset="nothing",
    )
    id: str | None = label("A label")
    name: str | None = label("A label")
    description: str | None = label("A label")
    tags: list[str] | None = label("Labels")
    type: Protocol | None = label("The endpoint's service decides")
    protocol: Protocol | None = label("The endpoint's service decides")
    IGNORED = (
        "timeout_secs",  # the limits of a caller are fastjmix's own
        "max_retries",  # a listener retries nothing
    )


class Connection(Table):
    host: Host | None = key(None, "The upstream's host", unset="the target's", allowed=HOST_ALLOWED)
    port: int | None = port("The upstream's port", "443 (https), 80 (http)")
    protocol: Protocol | None = key(None, "http or https", unset="http")
    base_path: PathPrefix | None = key(
        None, "Stands before `path_prefix` in the URL", unset='""', allowed=PATH_ALLOWED
    )
    ca_cert_path: str | None = key(
        None,
        "PEM file of the authorities to trust, and no others; relative to the working directory",
        unset="the system's",
        min_length=1,
        allowed=FILE_ALLOWED,
    )


def timeout(unset: str) -> Any:
    return key(
        None,
        "The time that the upstream may take to answer; the body has limits of its own",
        unset=unset,
        ge=1,
        le=LONGEST_TIMEOUT_SECS,
        allow_inf_nan=False,
    )


def retries(unset: str) -> Any:
    return key(None, "Retries before an upstream counts as down", unset=unset, ge=0, le=10)


class Target(Table):
    connection: Part[Connection] = key(Connection, "The upstream's address")
    url: BaseUrl | None = key(
        None,
        "The upstream's base URL, instead of `connection`",
        unset="`connection`",
        allowed="http://host:port/path or https://…, without user, query or fragment",
    )
    timeout_secs: float | None = timeout("30")
    max_retries: int | None = retries("3")
    enabled: bool = key(True, "A backend that refers to a disabled target is a fault")
    authentication: str | None = key(
        None, "The [authentications.*] of backends that name none", unset="none"
    )
    type: Protocol | None = key(None, "Where `connection.protocol` is missing", unset="–")
    protocol: Protocol | None = key(None, "Where `connection.protocol` is missing", unset="–")
    id: str | None = label("A label")
    name: str | None = label("A label")
    description: str | None = label("A label")
    tags: list[str] | None = label("Labels")


# -- credentials -----------------------------------------------------------------------------------


def _secret(name: str, meaning: str, allowed: str) -> Any:
    unset = f"`{name}_file`; its method requires one of them"
    return key(None, meaning, unset=unset, min_length=1, allowed=allowed, secret=True)


class AuthenticationOptions(Table):
    token: HeaderValue | None = _secret("token", "bearer: the token", "a string of printable ASCII")
    token_file: str | None = secret_file("token")
    username: UserName | None = _secret("username", "basic: the user", "a string without a colon")
    username_file: str | None = secret_file("username")
    password: Password | None = _secret("password", "basic: the password", "a string on one line")
    password_file: str | None = secret_file("password")
    api_key: HeaderValue | None = _secret(
        "api_key", "api_key: the key", "a string of printable ASCII"
    )
    api_key_file: str | None = secret_file("api_key")
    header_name: HeaderName | None = key(
        None,
        "api_key: the header field that carries it",
        unset="X-API-Key",
        min_length=1,
        allowed="the name of an HTTP header field",
    )
    IGNORED = ("credentials_path",)  # credentials are given here, by `${VAR}`, or in files


class Authentication(Table):
    id: str | None = key(None, "Another name to refer to it by", unset="the table's name")
    method: Literal["bearer", "basic", "api_key", "none", "jwt", "mutual_tls", "custom"] = key(
        REQUIRED,
        "The method; jwt, mutual_tls and custom may be defined, but nothing may refer to them",
    )
    name: str | None = label("A label")
    description: str | None = label("A label")
    options: Part[AuthenticationOptions] = key(AuthenticationOptions, "The credentials")


class ForeignAuthentication(Authentication):
    """jwt, mutual_tls, custom: may be in a file as long as no listener or upstream uses it."""

    options: dict[str, Any] = Field(default_factory=dict)  # type: ignore[assignment]
