"""Settings: frozen dataclasses to dictionaries and back, with type checks and dotted names.

A dotted name such as `optim.lr` is a flag of the command line, a key of an override and a key of a
search space.
"""

import dataclasses
import difflib
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from raydae.core.errors import UserError

T = TypeVar("T")


def from_dict(cls: type[T], values: Any, prefix: str = "") -> T:
    """Return a dataclass made from a nested dictionary; missing keys take their defaults.

    Not dacite or cattrs: a misspelt key must name the closest setting, and a wrong type must name
    the dotted setting.

    Args:
        cls: a dataclass, whose fields may be dataclasses.
        values: as `dataclasses.asdict` or JSON has them.
        prefix: dotted name of `values`, with a dot at its end; empty at the top.

    Raises:
        UserError: a key that does not exist, or a value of the wrong type or range.
    """
    if not isinstance(values, Mapping):
        name = prefix.rstrip(".") or "a configuration"
        raise UserError(f"{name} must be a group of settings, not {values!r}")
    hints = get_type_hints(cls)
    for key in values:
        if key not in hints:
            raise unknown_setting(f"{prefix}{key}", [f"{prefix}{known}" for known in hints])
    return cls(
        **{
            key: from_dict(hints[key], value, f"{prefix}{key}.")
            if dataclasses.is_dataclass(hints[key])
            else coerce(f"{prefix}{key}", hints[key], value)
            for key, value in values.items()
        }
    )


def coerce(name: str, kind: Any, value: Any) -> Any:
    """Return a value in the type of its field, where JSON or a search space spells it otherwise.

    Args:
        name: dotted name of the setting.
        kind: `str`, `int`, `float`, `bool`, a `Literal`, one of these or None, a tuple of any
            length of one of these, or a mapping.
        value: the value.

    Raises:
        UserError: the value is of another type.
    """
    if get_origin(kind) in (Union, types.UnionType):
        if value is None and type(None) in get_args(kind):
            return None
        (kind,) = (option for option in get_args(kind) if option is not type(None))
    if get_origin(kind) is Literal:
        if value in get_args(kind):
            return value
        raise UserError(f"{name} must be one of {', '.join(get_args(kind))}, not {value!r}")
    if get_origin(kind) is tuple and isinstance(value, (list, tuple)):
        return tuple(coerce(name, get_args(kind)[0], item) for item in value)
    kind = get_origin(kind) or kind
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is str and number:  # a noise level as a number
        return format(value, ".12g")
    if kind is float and number:
        return float(value)
    if isinstance(value, kind) and isinstance(value, bool) == (kind is bool):
        return value
    raise UserError(f"{name} must be {kind.__name__}, not {value!r}")


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of a nested dictionary with their dotted names."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def closest(name: str, known: Sequence[str]) -> str:
    """Return the names most like a misspelt one, joined by "or"; all names if none is like it."""
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5) or sorted(known)
    return " or ".join(close)


def unknown_setting(name: str, known: Sequence[str]) -> UserError:
    """Return the error for a dotted name that does not exist."""
    if not known:
        return UserError(f"there is no setting {name!r}")
    return UserError(f"there is no setting {name!r}; did you mean {closest(name, known)}?")


def check_min(name: str, value: int, minimum: int) -> None:
    """Refuse a value below a minimum.

    Raises:
        UserError: the value is below it.
    """
    if value < minimum:
        raise UserError(f"{name} must be at least {minimum}, not {value}")


def check_between(name: str, value: int, minimum: int, maximum: int) -> None:
    """Refuse a value outside a range.

    Raises:
        UserError: the value is outside.
    """
    if not minimum <= value <= maximum:
        raise UserError(f"{name} must be from {minimum} to {maximum}, not {value}")
