"""How a key is declared: default, bounds, one line of meaning; and the same said in words.

Wanted: a key is described once, where it is checked; faults and documentation repeat it.
Guaranteed: what `allowed` says is derived from what pydantic checks, or stands beside it.
"""

from __future__ import annotations

import ipaddress
import math
import re
import types
from collections.abc import Iterable
from typing import (
    Annotated,
    Any,
    ClassVar,
    Final,
    Literal,
    Self,
    TypeGuard,
    Union,
    get_args,
    get_origin,
)
from urllib.parse import urlsplit

import annotated_types
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    model_validator,
)
from pydantic.config import JsonDict
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from fastjmix.config.reading import Filled, as_number

UNLIMITED: Final = "unlimited"

_HOST_NAME: Final = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9_-]{1,63}(?<!-))*")
_URL_PATH: Final = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=:@%/-]*")  # RFC 3986 §3.3
_FIELD_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")  # RFC 9110 §5.1


class Table(BaseModel):
    """A TOML table: known keys only, never changed. Nothing is converted but `"${PORT}"`, where a
    number or a truth value belongs: TOML has no other place for a variable."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, hide_input_in_errors=True, defer_build=True
    )

    IGNORED: ClassVar[tuple[str, ...]] = ()
    """Harmony's keys that mean nothing here. They may be given, with any value."""

    _ignored: tuple[str, ...] = PrivateAttr(())

    @property
    def ignored(self) -> tuple[str, ...]:
        """The keys of IGNORED that were given, in that order."""
        return self._ignored

    @model_validator(mode="wrap")
    @classmethod
    def _read(cls, given: Any, validate: ModelWrapValidatorHandler[Self]) -> Self:
        """Sets the ignored keys aside, and reads numbers out of variables."""
        if not isinstance(given, dict):
            return validate(given)
        table = validate(
            {
                name: as_number(value)
                if isinstance(value, Filled) and _is_number(cls.model_fields.get(name))
                else value
                for name, value in given.items()
                if name not in cls.IGNORED
            }
        )
        table._ignored = tuple(name for name in cls.IGNORED if name in given)
        return table


def key(
    default: Any,
    meaning: str,
    *,
    allowed: str = "",
    unset: str = "",
    reference: bool = True,
    secret: bool = False,
    row: bool = False,
    **bounds: Any,
) -> Any:
    """Declares a key.

    `default` is PydanticUndefined (`REQUIRED`) where there is none. `allowed` replaces the words
    derived from the type; `unset` says what happens where the default is None; `reference` False
    marks a key that Harmony does not have; `row` a table that is described elsewhere; `bounds` are
    pydantic's (ge, le, multiple_of, min_length …).
    """
    about: JsonDict = {"unset": unset, "reference": reference, "secret": secret}
    about |= {"allowed": allowed, "row": row}
    if _is_model(default):
        return Field(default_factory=default, description=meaning, json_schema_extra=about)
    return Field(default, description=meaning, json_schema_extra=about, **bounds)


REQUIRED: Final = PydanticUndefined


def about(field: FieldInfo, what: str) -> Any:
    """What `key` was told about this field."""
    extra = field.json_schema_extra
    return extra.get(what) if isinstance(extra, dict) else None


def label(meaning: str) -> Any:
    """A key that only describes."""
    return key(None, meaning, unset="–")


def port(meaning: str, unset: str, least: int = 1) -> Any:
    """A TCP port; `least` 0 where the system may choose one."""
    return key(None, meaning, unset=unset, ge=least, le=65535)


def own(default: Any, meaning: str, **more: Any) -> Any:
    """A key of fastjmix's own."""
    return key(default, meaning, reference=False, **more)


# -- in words --------------------------------------------------------------------------------------


def allowed(field: FieldInfo) -> str:
    """What may stand at this key, in words."""
    return about(field, "allowed") or _in_words(field.annotation, field.metadata)


def choices(field: FieldInfo) -> tuple[str, ...]:
    """The strings that may stand at this key, where only some may."""
    annotation = required_part(field.annotation)
    said = get_args(annotation) if get_origin(annotation) is Literal else ()
    return tuple(choice for choice in said if isinstance(choice, str))


def listed(words: Iterable[str]) -> str:
    """a, b, c"""
    return ", ".join(words)


def _in_words(annotation: Any, metadata: Iterable[Any] = ()) -> str:
    annotation, metadata = required_part(annotation), list(metadata)
    origin = get_origin(annotation)
    if origin is Annotated:
        return _in_words(get_args(annotation)[0], get_args(annotation)[1:])
    if origin is Literal:
        *others, last = (f'"{choice}"' for choice in get_args(annotation))
        return f"{', '.join(others)} or {last}" if others else last
    filled = any(isinstance(m, annotated_types.MinLen) for m in metadata)
    if origin is list:
        return "an array of one or more strings" if filled else "an array of strings"
    if origin is dict or _is_model(annotation):
        return "a table"
    if annotation is bool:
        return "true or false"
    if annotation in (int, float):
        return _number("an integer" if annotation is int else "a number", metadata)
    return "a string that is not empty" if filled else "a string"


def _number(noun: str, metadata: list[Any]) -> str:
    low = next((m.ge for m in metadata if isinstance(m, annotated_types.Ge)), None)
    high = next((m.le for m in metadata if isinstance(m, annotated_types.Le)), None)
    step = next(
        (m.multiple_of for m in metadata if isinstance(m, annotated_types.MultipleOf)), None
    )
    words = noun if step is None else f"a multiple of {step}"
    if low is not None and high is not None:
        return f"{words} from {low} to {high}"
    return words if low is None else f"{words}, {low} or more"


def required_part(annotation: Any) -> Any:
    """X of X | None, and X itself of anything else."""
    if get_origin(annotation) in (Union, types.UnionType):
        parts = [part for part in get_args(annotation) if part is not type(None)]
        return parts[0]
    return annotation


def _is_number(field: FieldInfo | None) -> bool:
    annotation = None if field is None else required_part(field.annotation)
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    return annotation in (int, float, bool)


def table_of(field: FieldInfo) -> type[Table] | None:
    """The model inside a field that is a table or a table of tables; None for anything else."""
    annotation = required_part(field.annotation)
    if is_named(field):
        annotation = get_args(annotation)[1]
    return annotation if _is_model(annotation) else None


def item_of(field: FieldInfo) -> type[Table] | None:
    """The model of the tables in a field that is an array of them; None for anything else."""
    annotation = required_part(field.annotation)
    item = get_args(annotation)[0] if get_origin(annotation) is list else None
    return item if _is_model(item) else None


def _is_model(annotation: Any) -> TypeGuard[type[Table]]:
    return isinstance(annotation, type) and issubclass(annotation, Table)


def is_named(field: FieldInfo) -> bool:
    """Is this a table of tables, whose own keys are names that the operator chose?"""
    return get_origin(required_part(field.annotation)) is dict


# -- checked strings -------------------------------------------------------------------------------


def ae_title(text: str) -> str:
    """An AE title (PS3.5 §6.2, VR AE) without the spaces around it. Raises ValueError."""
    title = text.strip(" ")
    if not 1 <= len(title) <= 16 or "\\" in title or not (title.isascii() and title.isprintable()):
        raise ValueError("not an AE title")
    return title


def _host(text: str) -> str:
    """A name or a canonical address: what libraries read differently (127.1) is not let in."""
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


def _path_prefix(text: str) -> str:
    """ "" or /a/b, without a slash at the end."""
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
PathPrefix = Annotated[str, AfterValidator(_path_prefix)]
BaseUrl = Annotated[str, AfterValidator(_base_url)]
HeaderName = Annotated[str, AfterValidator(_header_name)]
HeaderValue = Annotated[str, AfterValidator(_header_value)]
Password = Annotated[str, AfterValidator(_no_control)]
UserName = Annotated[str, AfterValidator(_user_name)]
Limit = Annotated[float, BeforeValidator(_limit)]
"""A number, or "unlimited", which is read as infinity."""

AE_TITLE_ALLOWED: Final = (
    "an AE title: 1 to 16 ASCII characters, no backslash, no control characters"
)
HOST_ALLOWED: Final = "a host name, or an IPv4 or IPv6 address in its usual form"
FILE_ALLOWED: Final = "a path"
PATH_ALLOWED: Final = 'a URL path such as "/api": no query, no fragment, no ".."'
