"""How a table and its keys are declared: default, bounds, one line of meaning.

Guaranteed: a key is described once, where it is checked. Faults and documentation repeat it
(in_words.py).
"""

from __future__ import annotations

import os
import types
from typing import (
    Annotated,
    Any,
    ClassVar,
    Final,
    Literal,
    Self,
    TypeGuard,
    TypeVar,
    Union,
    get_args,
    get_origin,
)

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    ModelWrapValidatorHandler,
    PrivateAttr,
    model_validator,
)
from pydantic.config import JsonDict
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, PydanticUndefined
from pydantic_core.core_schema import no_info_plain_validator_function

from fastjmix.config.reading import Filled, as_number

# No plug-in of another package sees the secrets of a file. To look for plug-ins takes 9 ms.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")


class Table(BaseModel):
    """A TOML table: known keys only, never changed. Nothing is converted but `"${PORT}"` where a
    number or a truth value belongs: TOML has no other place for a variable."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        hide_input_in_errors=True,
        defer_build=True,  # most files use few of the tables
    )

    IGNORED: ClassVar[tuple[str, ...]] = ()
    """Harmony's keys that mean nothing here. They may be given, with any value."""

    _ignored: tuple[str, ...] = PrivateAttr(())

    @property
    def ignored(self) -> tuple[str, ...]:
        """The keys of IGNORED that were given, in that order."""
        return self._ignored

    @classmethod
    def empty(cls) -> Self:
        """Returns this table without a key: the defaults. It has none that is required."""
        return cls.model_construct()  # defaults need no validator, which takes some 3 ms to build

    @model_validator(mode="wrap")
    @classmethod
    def _read(cls, given: Any, validate: ModelWrapValidatorHandler[Self]) -> Self:
        """Takes the ignored keys out, and reads numbers out of variables."""
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


class _BuiltWhenGiven:
    """Lets pydantic build the validator of an inner table when a file has such a table.

    Its errors are the same: pydantic puts the place of the outer table before theirs.
    """

    def __get_pydantic_core_schema__(
        self, source: type[Table], handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return no_info_plain_validator_function(source.model_validate)


_TableT = TypeVar("_TableT", bound=Table)

Part = Annotated[_TableT, _BuiltWhenGiven()]
"""A table inside a table: `Part[Connection]`."""


# -- declaring a key -------------------------------------------------------------------------------

REQUIRED: Final = PydanticUndefined
"""The default of a key that must be given."""


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

    `allowed` replaces the words derived from the type; `unset` says what happens where the default
    is None; `reference` False marks a key that Harmony does not have; `row` a table that is
    described elsewhere; `bounds` are pydantic's (ge, le, multiple_of, min_length …).
    """
    options: JsonDict = {"unset": unset, "reference": reference, "secret": secret}
    options |= {"allowed": allowed, "row": row}
    if is_model(default):
        return Field(default_factory=default.empty, description=meaning, json_schema_extra=options)
    return Field(default, description=meaning, json_schema_extra=options, **bounds)


def option(field: FieldInfo, name: str) -> Any:
    """Returns an option that `key` was given for this field; None where it was made otherwise."""
    options = field.json_schema_extra
    return options.get(name) if isinstance(options, dict) else None


def label(meaning: str) -> Any:
    """Declares a key that only describes."""
    return key(None, meaning, unset="–")


def port(meaning: str, unset: str, least: int = 1) -> Any:
    """Declares a TCP port; `least` is 0 where the system may choose one."""
    return key(None, meaning, unset=unset, ge=least, le=65535)


def added(default: Any, meaning: str, **more: Any) -> Any:
    """Declares a key that Harmony does not have."""
    return key(default, meaning, reference=False, **more)


def secret_file(secret: str, **more: Any) -> Any:
    """Declares the key that names the file of a secret: `token_file` for `token`."""
    return key(
        None,
        f"The file that holds `{secret}`, relative to this configuration file; a newline at its end"
        " does not count",
        unset=f"`{secret}`",
        reference=False,
        min_length=1,
        allowed="a file's name",
        **more,
    )


# -- what a field is -------------------------------------------------------------------------------


def is_model(annotation: Any) -> TypeGuard[type[Table]]:
    """Returns whether this is a class of tables."""
    return isinstance(annotation, type) and issubclass(annotation, Table)


def required_part(annotation: Any) -> Any:
    """Returns X of X | None and of Part[X], and X itself of anything else."""
    if get_origin(annotation) in (Union, types.UnionType):
        parts = [part for part in get_args(annotation) if part is not type(None)]
        annotation = parts[0]
    is_part = get_origin(annotation) is Annotated and is_model(get_args(annotation)[0])
    return get_args(annotation)[0] if is_part else annotation


def _is_number(field: FieldInfo | None) -> bool:
    annotation = None if field is None else required_part(field.annotation)
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    return annotation in (int, float, bool)


def table_of(field: FieldInfo) -> type[Table] | None:
    """Returns the model of a field that is a table or a table of tables; None for anything else."""
    annotation = required_part(field.annotation)
    if is_named(field):
        annotation = required_part(get_args(annotation)[1])
    return annotation if is_model(annotation) else None


def item_of(field: FieldInfo) -> type[Table] | None:
    """Returns the model of the tables in an array of them; None for anything else."""
    annotation = required_part(field.annotation)
    item = required_part(get_args(annotation)[0]) if get_origin(annotation) is list else None
    return item if is_model(item) else None


def is_named(field: FieldInfo) -> bool:
    """Returns whether this is a table of tables, whose keys are names that the operator chose."""
    return get_origin(required_part(field.annotation)) is dict


def choices(field: FieldInfo) -> tuple[str, ...]:
    """Returns the strings that may stand at this key, where only some may."""
    annotation = required_part(field.annotation)
    listed = get_args(annotation) if get_origin(annotation) is Literal else ()
    return tuple(choice for choice in listed if isinstance(choice, str))
