"""Flags for the options of the components that a command line names.

`--model.options.width` exists if `--model.name` is a network with an option `width`.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_type_hints

from raydae.core.components import NoOptions
from raydae.images.config import is_source
from raydae.training.config import COMPONENTS, Config


def with_components(config: Config, argv: Sequence[str], short_flags: dict[str, str]) -> Config:
    """Return a configuration with the components that a command line names.

    Their options have their defaults.

    Args:
        config: the configuration that the flags change.
        argv: the words after the command.
        short_flags: short flags by dotted name.

    Raises:
        UserError: there is no such component.
    """
    named = {}
    for setting in COMPONENTS:
        flags = {f"--{setting}", short_flags.get(setting, f"--{setting}")}
        for word, following in zip(argv, [*argv[1:], ""], strict=True):
            flag, equals, value = word.partition("=")
            if flag in flags:
                named[setting] = value if equals else following
    return config.override(named)


def config_class(config: Config) -> type[Any]:
    """Return a dataclass like `Config` whose options are those of the configuration's components.

    Raises:
        UserError: a component is not there any more.
    """
    groups: dict[str, dict[str, type[Any]]] = {}
    for setting, (options, table) in COMPONENTS.items():
        group, _, name = options.partition(".")
        chosen = getattr(getattr(config, group), setting.rpartition(".")[2])
        absent = chosen is None or (setting == "data.path" and not is_source(chosen))
        cls = NoOptions if absent else table.options_class(chosen)
        groups.setdefault(group, {})[name] = cls
    hints = get_type_hints(Config)
    return _like(Config, {name: _like(hints[name], fields) for name, fields in groups.items()})


def _like(cls: type[Any], kinds: dict[str, type[Any]]) -> type[Any]:
    """Return a dataclass like `cls` with fields of other types, each a dataclass with defaults.

    It checks no values: `Config.from_dict` checks what it is given in the end.
    """
    body: dict[str, Any] = {
        "__doc__": cls.__doc__,
        "__annotations__": dict(kinds),
        "__post_init__": lambda self: None,
    }
    body |= {name: dataclasses.field(default_factory=kind) for name, kind in kinds.items()}
    made: type[Any] = dataclass(frozen=True, kw_only=True)(type(cls.__name__, (cls,), body))
    return made
