"""Strings with rules of their own: AE titles, hosts, URLs, header fields; and limits.

Guaranteed: each type raises ValueError for a value that does not follow its rule; its words for the
operator stand beside it or at the key.
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import math
import re
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator

UNLIMITED: Final = "unlimited"

_HOST_NAME: Final = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9_-]{1,63}(?<!-))*")
_URL_PATH: Final = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=:@%/-]*")  # RFC 3986 §3.3
_FIELD_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")  # RFC 9110 §5.1


def ae_title(text: str) -> str:
    """Returns an AE title (PS3.5 §6.2, VR AE) without the spaces around it. Raises ValueError."""
    title = text.strip(" ")
    if not 1 <= len(title) <= 16 or "\\" in title or not (title.isascii() and title.isprintable()):
        raise ValueError("not an AE title")
    return title


def _host(text: str) -> str:
    """Returns a name or a canonical address. Refuses 127.1 and the like, which libraries read
    differently."""
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        return str(ipaddress.ip_address(bare))
    except ValueError:
        if len(text) > 253 or not _HOST_NAME.fullmatch(text) or _looks_numeric(text):
            raise ValueError("not a host") from None
        return text


def _looks_numeric(text: str) -> bool:
    last = text.rpartition(".")[2]  # WHATWG URL: a host whose last label is a number is an address
    return last.isdigit() or re.fullmatch(r"0[xX][0-9A-Fa-f]*", last) is not None


def _network(text: str) -> str:
    """Returns a network in CIDR notation, or one address. Refuses bits behind the prefix."""
    return str(ipaddress.ip_network(text))


def _path_prefix(text: str) -> str:
    """Returns "" or /a/b, without a slash at the end."""
    steps = [step for step in text.split("/") if step]
    if not _URL_PATH.fullmatch(text) or {".", ".."} & set(steps):
        raise ValueError("not a path")
    return "".join(f"/{step}" for step in steps)


def _base_url(text: str) -> str:
    parts = urlsplit(text)
    unwanted = parts.username or parts.password or parts.query or parts.fragment
    if parts.scheme not in ("http", "https") or not parts.hostname or unwanted:
        raise ValueError("not a base URL")
    _host(parts.hostname)
    _path_prefix(parts.path)
    if parts.port == 0:  # .port itself raises ValueError beyond 65535
        raise ValueError("no port")
    return text


def _proxy_url(text: str) -> str:
    parts = urlsplit(_base_url(text))
    if parts.scheme != "http" or parts.port is None or parts.path.strip("/"):
        raise ValueError("not the URL of a proxy")
    return f"http://{parts.netloc}"


def _pin(text: str) -> str:
    if len(base64.b64decode(text, validate=True)) != hashlib.sha256().digest_size:
        raise ValueError("no SHA-256")
    return text


def _absolute(text: str) -> str:
    if not text.startswith("/") or ".." in text.split("/") or not text.isprintable():
        raise ValueError("no absolute path")
    return text


def _file_mode(text: str) -> str:
    if not re.fullmatch(r"0?[0-7]{3}", text) or not int(text, 8) & 0o400:
        raise ValueError("no permissions of a file that we can read")
    return text


def _bucket(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]", text) or ".." in text:
        raise ValueError("no bucket")
    return text


def _object_prefix(text: str) -> str:
    """Returns "", or a prefix that ends with a slash. Raises ValueError."""
    steps = [step for step in text.split("/") if step]
    if len(text) > 512 or not re.fullmatch(r"[A-Za-z0-9._/-]*", text) or {".", ".."} & set(steps):
        raise ValueError("no prefix")
    return "".join(f"{step}/" for step in steps)


def _web_url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.fragment:
        raise ValueError("not a URL of a web service")
    _host(parts.hostname)
    if parts.port == 0 or not text.isprintable() or " " in text:
        raise ValueError("not a URL")
    return text


def _header_name(text: str) -> str:
    if not _FIELD_NAME.fullmatch(text):
        raise ValueError("not a header name")
    return text


def _header_value(text: str) -> str:
    if not (text.isascii() and text.isprintable()) or text != text.strip():
        raise ValueError("not a header value")
    return text


def _no_control(text: str) -> str:
    if not text.isprintable():
        raise ValueError("a control character")
    return text


def _user_name(text: str) -> str:
    if ":" in text:  # RFC 7617 §2: the colon ends the user name
        raise ValueError("a colon")
    return _no_control(text)


def _limit(value: Any) -> Any:
    return math.inf if value == UNLIMITED and isinstance(value, str) else value


AeTitle = Annotated[str, AfterValidator(ae_title)]
Host = Annotated[str, AfterValidator(_host)]
Network = Annotated[str, AfterValidator(_network)]
PathPrefix = Annotated[str, AfterValidator(_path_prefix)]
AbsolutePath = Annotated[str, AfterValidator(_absolute)]
BaseUrl = Annotated[str, AfterValidator(_base_url)]
Bucket = Annotated[str, AfterValidator(_bucket)]
FileMode = Annotated[str, AfterValidator(_file_mode)]
ObjectPrefix = Annotated[str, AfterValidator(_object_prefix)]
Pin = Annotated[str, AfterValidator(_pin)]
ProxyUrl = Annotated[str, AfterValidator(_proxy_url)]
WebUrl = Annotated[str, AfterValidator(_web_url)]
HeaderName = Annotated[str, AfterValidator(_header_name)]
HeaderValue = Annotated[str, AfterValidator(_header_value)]
Password = Annotated[str, AfterValidator(_no_control)]
UserName = Annotated[str, AfterValidator(_user_name)]
Limit = Annotated[float, BeforeValidator(_limit)]
"""A number, or "unlimited", which is read as infinity."""

SECS_A_DAY: Final = 86400.0

AE_TITLE_ALLOWED: Final = (
    "an AE title: 1 to 16 ASCII characters, no backslash, no control characters"
)
HOST_ALLOWED: Final = "a host name, or an IPv4 or IPv6 address in its usual form"
FILE_ALLOWED: Final = "a path"
PATH_ALLOWED: Final = 'a URL path such as "/api": no query, no fragment, no ".."'
ABSOLUTE_ALLOWED: Final = "an absolute path"
BUCKET_ALLOWED: Final = "the name of a bucket"
PIN_ALLOWED: Final = "an array of SHA-256 values in base64: 44 characters each"
PREFIX_ALLOWED: Final = 'letters, digits and ". _ - /", such as "radiology/"'
PROXY_ALLOWED: Final = "http://host:port, without user"
