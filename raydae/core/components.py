"""Components: networks, noises, losses, optimizers, metrics and data sources, by name.

A component is a class or a function. Its name is one of a table, such as `unet`, or an import path,
such as `nets:Wide`: the attribute `Wide` of the module `nets`, which lies in the working directory
or is installed. Its options are its keyword parameters, each with a default and a type: those of a
class's constructor, and the keyword-only ones of a function. They are flags, keys of `config.json`
and keys of a search space, such as `model.options.width`.
"""

import dataclasses
import functools
import importlib
import inspect
import re
import sys
import types
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import docstring_parser

from raydae.core.errors import UserError
from raydae.core.settings import closest, coerce, unknown_setting

IMPORT_PATH = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):([A-Za-z_]\w*)")
VALUES = (bool, int, float, str)  # types of an option


@dataclass(frozen=True, kw_only=True)
class NoOptions:
    """The options of a component that has none."""


@dataclass(frozen=True)
class Builtin:
    """A component of raydae's own: where it is, and its options, which load no heavy package."""

    path: str
    options: type[Any] = NoOptions


@dataclass(frozen=True)
class Table:
    """The components of one kind.

    Attributes:
        kind: what they are, for messages, such as `network`.
        setting: dotted name of the setting that selects one, such as `model.name`.
        builtins: raydae's own by name.
        inputs: parameters that raydae passes, which are no options.
    """

    kind: str
    setting: str
    builtins: Mapping[str, Builtin]
    inputs: Collection[str] = ()

    def options_class(self, name: str) -> type[Any]:
        """Return the dataclass of a component's options.

        Raises:
            UserError: there is no such component, or an option lacks a default or a type.
        """
        if name in self.builtins:
            return self.builtins[name].options
        return _options_class(self.load(name), name, frozenset(self.inputs))

    def check(self, name: str, options: Mapping[str, Any], prefix: str) -> dict[str, Any]:
        """Return all options of a component: the given ones, checked, and the defaults.

        Args:
            name: the component's name or import path.
            options: some or all of its options.
            prefix: dotted name of the options, such as `model.options`.

        Raises:
            UserError: there is no such component or option, or a value is of the wrong type.
        """
        cls = self.options_class(name)
        hints = get_type_hints(cls)
        for key in options:
            if key not in hints:
                if not hints:
                    raise UserError(f"there is no setting '{prefix}.{key}': {name} has no options")
                raise unknown_setting(f"{prefix}.{key}", [f"{prefix}.{known}" for known in hints])
        values = {
            key: coerce(f"{prefix}.{key}", hints[key], value) for key, value in options.items()
        }
        return dataclasses.asdict(cls(**values))

    def load(self, name: str) -> Any:
        """Return the class or function with a name or an import path.

        Raises:
            UserError: there is none.
        """
        if name in self.builtins:
            return load(self.builtins[name].path)
        if IMPORT_PATH.fullmatch(name) is None:
            raise UserError(
                f"{self.setting}: there is no {self.kind} {name!r}; did you mean "
                f"{closest(name, list(self.builtins))}? The names are "
                f"{', '.join(self.builtins)}; one of your own is MODULE:NAME"
            )
        return load(name)

    def bind(self, name: str, options: Mapping[str, Any]) -> Any:
        """Return a component with its options: an instance of a class, or a partial function.

        Raises:
            UserError: there is no such component, or it refuses its options.
        """
        target = self.load(name)
        if not isinstance(target, type):
            return functools.partial(target, **options)
        try:
            return target(**options)
        except (TypeError, ValueError) as error:
            raise UserError(f"{self.setting} {name}: {error}") from None


def load(path: str) -> Any:
    """Return the attribute that an import path names.

    The working directory is searched too, wherever Python was started from.

    Args:
        path: `MODULE:NAME`.

    Raises:
        UserError: there is no such module or attribute, or importing the module fails.
    """
    module_name, _, name = path.partition(":")
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if f"{module_name}.".startswith(f"{error.name}."):  # not one that the module imports
            raise UserError(
                f"{path}: there is no module {error.name!r} in {folder} or among the installed "
                "packages; run the command where the file is"
            ) from None
        raise UserError(f"{path}: {module_name} cannot be imported: {error}") from None
    except Exception as error:  # whatever a user's module raises
        raise UserError(f"{path}: {module_name} cannot be imported: {error!r}") from None
    try:
        return getattr(module, name)
    except AttributeError:
        names = [known for known in vars(module) if not known.startswith("_")]
        hint = f"; did you mean {closest(name, names)}?" if names else ""
        raise UserError(f"{path}: the module {module_name} has no {name!r}{hint}") from None


def module_of(name: str) -> str:
    """Return the module of an import path; empty for a name of a table."""
    found = IMPORT_PATH.fullmatch(name)
    return found.group(1) if found else ""


def label_of(name: str) -> str:
    """Return a component's name without its module, for tables and file names."""
    return name.rpartition(":")[2]


@functools.cache
def _options_class(target: Callable[..., Any], name: str, inputs: frozenset[str]) -> type[Any]:
    """Return a dataclass of the options of a user's class or function."""
    if not callable(target):
        raise UserError(f"{name} is neither a class nor a function")
    constructor: Any = target.__init__ if isinstance(target, type) else target  # type: ignore[misc]  # of this very class
    hints = get_type_hints(constructor)
    fields = []
    for parameter in inspect.signature(target).parameters.values():
        if parameter.name in inputs or parameter.kind in (
            parameter.VAR_POSITIONAL,
            parameter.VAR_KEYWORD,
        ):
            continue
        if not isinstance(target, type) and parameter.kind is not parameter.KEYWORD_ONLY:
            continue  # what raydae passes
        if parameter.default is parameter.empty:
            raise UserError(f"{name}: its option {parameter.name!r} needs a default value")
        kind = hints.get(parameter.name, type(parameter.default))
        if not _is_value(kind):
            raise UserError(
                f"{name}: its option {parameter.name!r} needs a type of bool, int, float, str or "
                "a Literal of str, or None and one of these"
            )
        fields.append((parameter.name, kind, dataclasses.field(default=parameter.default)))
    made = dataclasses.make_dataclass("Options", fields, frozen=True, kw_only=True)
    said = docstring_parser.parse_from_object(target).params
    lines = [f"    {one.arg_name}: {' '.join((one.description or '').split())}" for one in said]
    made.__doc__ = "\n".join([f"The options of {name}.", "", "Args:", *lines])
    return made


def _is_value(kind: Any) -> bool:
    """Return whether an option can be of a type."""
    if get_origin(kind) is Union or get_origin(kind) is types.UnionType:
        kinds = [one for one in get_args(kind) if one is not type(None)]
        return len(kinds) == 1 and _is_value(kinds[0])
    if get_origin(kind) is Literal:
        return all(isinstance(value, str) for value in get_args(kind))
    return kind in VALUES
