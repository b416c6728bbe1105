"""The tables of the network: addresses of listeners, upstreams, and credentials for both.

One model a table, one line of meaning a key: see tables.py.
"""

from typing import Any, Final, Literal

from pydantic import Field

from fastjmix.config import tree
from fastjmix.config.declare import (
    REQUIRED,
    Part,
    Table,
    added,
    key,
    label,
    port,
    secret_file,
)
from fastjmix.config.strings import (
    ABSOLUTE_ALLOWED,
    BUCKET_ALLOWED,
    FILE_ALLOWED,
    HOST_ALLOWED,
    PATH_ALLOWED,
    PIN_ALLOWED,
    PREFIX_ALLOWED,
    PROXY_ALLOWED,
    AbsolutePath,
    BaseUrl,
    Bucket,
    FileMode,
    HeaderName,
    HeaderValue,
    Host,
    ObjectPrefix,
    Password,
    PathPrefix,
    Pin,
    ProxyUrl,
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


def _proxy() -> Any:
    return added(
        None,
        "The HTTP proxy that connections go through: a tunnel by CONNECT, for https",
        unset="none",
        allowed=PROXY_ALLOWED,
    )


def _proxy_authentication() -> Any:
    return added(None, "The [authentications.*] for the proxy: method basic", unset="none")


def _environment_proxy() -> Any:
    return added(
        None,
        "Goes by HTTPS_PROXY, HTTP_PROXY and NO_PROXY of the environment, which are disregarded"
        " otherwise",
        unset="false",
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
    proxy: ProxyUrl | None = _proxy()
    proxy_authentication: str | None = _proxy_authentication()
    use_environment_proxy: bool | None = _environment_proxy()
    client_cert_path: str | None = added(
        None,
        "PEM certificate chain that we present in TLS; relative to the working directory",
        unset="none",
        min_length=1,
        allowed=FILE_ALLOWED,
    )
    client_key_path: str | None = added(
        None,
        "PEM private key that belongs to it, without a password",
        unset="none",
        min_length=1,
        allowed=FILE_ALLOWED,
    )
    pin_sha256: list[Pin] | None = added(
        None,
        "Public keys that the upstream's certificate may have, beside being trusted: SHA-256 of"
        " SubjectPublicKeyInfo in base64; name the next one before it is renewed",
        unset="any",
        min_length=1,
        max_length=16,
        allowed=PIN_ALLOWED,
    )
    ip: tree.IpVersion | None = added(
        None, "Which addresses of the host's name are connected to", unset="any"
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


class _AnyTarget(Table):
    timeout_secs: float | None = timeout("30")
    max_retries: int | None = retries("3")
    enabled: bool = key(True, "A backend that refers to a disabled target is a fault")
    id: str | None = label("A label")
    name: str | None = label("A label")
    description: str | None = label("A label")
    tags: list[str] | None = label("Labels")


class Target(_AnyTarget):
    connection: Part[Connection] = key(Connection, "The upstream's address")
    url: BaseUrl | None = key(
        None,
        "The upstream's base URL, instead of `connection`",
        unset="`connection`",
        allowed="http://host:port/path or https://…, without user, query or fragment",
    )
    authentication: str | None = key(
        None, "The [authentications.*] of backends that name none", unset="none"
    )
    type: Protocol | None = key(None, "Where `connection.protocol` is missing", unset="–")
    protocol: Protocol | None = key(None, "Where `connection.protocol` is missing", unset="–")


class DirectoryTarget(_AnyTarget):
    type: Literal["directory"] = added(REQUIRED, "A directory, or a share that is mounted there")
    path: AbsolutePath = added(
        REQUIRED,
        "The directory that envelopes are written to, as `<id>.zip`; it is never made",
        allowed=ABSOLUTE_ALLOWED,
    )
    require_mount: bool = added(
        False,
        "Writes only while a file system (not that of /) is mounted at the path, or its parent",
    )
    file_mode: FileMode = added(
        "0640", "The permissions of an envelope's file", allowed='octal digits such as "0640"'
    )


class S3Connection(Table):
    ca_cert_path: str | None = added(
        None,
        "PEM file of authorities to trust beside the built-in ones; relative to the working"
        " directory",
        unset="the built-in ones",
        min_length=1,
        allowed=FILE_ALLOWED,
    )
    proxy: ProxyUrl | None = _proxy()
    proxy_authentication: str | None = _proxy_authentication()
    use_environment_proxy: bool | None = _environment_proxy()


class S3Target(_AnyTarget):
    type: Literal["s3"] = added(REQUIRED, "A bucket of an S3 service: pip install 'fastjmix[s3]'")
    bucket: Bucket = added(REQUIRED, "The bucket; it is never made", allowed=BUCKET_ALLOWED)
    prefix: ObjectPrefix = added(
        "", "Stands before the name of an envelope's object", allowed=PREFIX_ALLOWED
    )
    region: str = added("us-east-1", "The bucket's region", min_length=1)
    endpoint: BaseUrl | None = added(
        None,
        "The service's URL",
        unset="that of AWS for the region",
        allowed="http://host:port or https://…, without user, query or fragment",
    )
    path_style: bool = added(
        True, "The bucket stands in the path; false: before the endpoint's host"
    )
    conditional: bool = added(
        True, "A small envelope goes with If-None-Match: *; false: the service does not know that"
    )
    authentication: str | None = added(
        None, "The [authentications.*] that signs requests: method s3", unset="unsigned"
    )
    connection: Part[S3Connection] = added(S3Connection, "How the service is reached")


# -- credentials -----------------------------------------------------------------------------------


def _secret(name: str, meaning: str, allowed: str) -> Any:
    unset = f"`{name}_file`; its method requires one of them"
    return key(None, meaning, unset=unset, min_length=1, allowed=allowed, secret=True)


def _s3(name: str, meaning: str) -> Any:
    return added(
        None,
        meaning,
        unset=f"`{name}_file`; its method requires one of them",
        min_length=1,
        allowed="a string of printable ASCII",
        secret=True,
    )


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
    access_key_id: HeaderValue | None = _s3("access_key_id", "s3: the id of the access key")
    access_key_id_file: str | None = secret_file("access_key_id")
    secret_access_key: HeaderValue | None = _s3("secret_access_key", "s3: the secret access key")
    secret_access_key_file: str | None = secret_file("secret_access_key")
    session_token: HeaderValue | None = added(
        None,
        "s3: the session token of temporary keys",
        unset="`session_token_file`, or none",
        min_length=1,
        allowed="a string of printable ASCII",
        secret=True,
    )
    session_token_file: str | None = secret_file("session_token")
    IGNORED = ("credentials_path",)  # credentials are given here, by `${VAR}`, or in files


class Authentication(Table):
    id: str | None = key(None, "Another name to refer to it by", unset="the table's name")
    method: Literal["bearer", "basic", "api_key", "s3", "none", "jwt", "mutual_tls", "custom"] = (
        key(
            REQUIRED,
            "The method; s3 (not Harmony's): for such targets; jwt, mutual_tls and custom may be"
            " defined, but nothing may refer to them",
        )
    )
    name: str | None = label("A label")
    description: str | None = label("A label")
    options: Part[AuthenticationOptions] = key(AuthenticationOptions, "The credentials")


class ForeignAuthentication(Authentication):
    """jwt, mutual_tls, custom: may be in a file as long as no listener or upstream uses it."""

    options: dict[str, Any] = Field(default_factory=dict)  # type: ignore[assignment]
