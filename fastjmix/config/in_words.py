"""The values that a key allows, in words, for faults and for documentation.

Guaranteed: the words are derived from what pydantic checks, or were declared beside it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal, get_args, get_origin

import annotated_types
from pydantic.fields import FieldInfo

from fastjmix.config.declare import is_model, option, required_part


def listed(words: Iterable[str]) -> str:
    """Returns "a, b, c"."""
    return ", ".join(words)


def allowed(field: FieldInfo) -> str:
    """Returns the values that may stand at this key, in words."""
    return option(field, "allowed") or _in_words(field.annotation, field.metadata)


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
    if origin is dict or is_model(annotation):
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
