"""The command line made from dataclasses: each field is a flag, a nested field a dotted flag.

tyro converts the words to values. What stays by hand is what it has no option for: an unknown flag
and a missing one are found before tyro runs, because tyro's own messages take several framed lines
and name no closest match; and its other messages are cut to one line.
"""

import contextlib
import dataclasses
import difflib
import io
import itertools
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar, get_type_hints

import tyro

from raydae.app.component_flags import config_class, with_components
from raydae.app.flags import SHORT_FLAGS, Flag, flags_of, print_help
from raydae.app.initial_weights import resolve_init
from raydae.app.invocation import with_invocations
from raydae.core.errors import UserError
from raydae.core.settings import coerce
from raydae.training.config import Config, load_config

T = TypeVar("T")


def parse(cls: type[T], description: str, argv: Sequence[str]) -> T:
    """Return a command line as a dataclass; --help prints the help and exits.

    Args:
        cls: the dataclass.
        description: the command's docstring, for --help.
        argv: the words after the command.

    Raises:
        UserError: a flag that does not exist (the closest are named), or a value of another type.
    """
    return _parse(cls, None, description, argv)


def parse_with_config(
    launch_class: type[T], description: str, argv: Sequence[str]
) -> tuple[Config, T]:
    """Return the configuration and the launch settings of a command line that has both.

    The file of --config changes the defaults, and flags change what the file says.

    Args:
        launch_class: a dataclass of what is not part of the configuration, with `config`, `name`,
            `storage` and `restart`.
        description: the command's docstring, for --help.
        argv: the words after the command.

    Raises:
        UserError: as `parse`; a value out of range, or a file that holds no configuration.
    """
    begun = with_components(_config_file(argv), argv, SHORT_FLAGS)
    config_cls = config_class(begun)
    both: Any = type("Arguments", (launch_class, config_cls), {"__doc__": ""})
    both = _with_short_flags(dataclass(frozen=True, kw_only=True)(both))
    defaults = _fill(both, begun.to_dict())
    values = dataclasses.asdict(_parse(both, defaults, description, argv))
    if values["init"] is not None:
        chosen = any(word.startswith(("--model", "--config")) for word in argv)
        values |= resolve_init(values, chosen)
    config = Config.from_dict({f.name: values[f.name] for f in dataclasses.fields(config_cls)})
    launch: Any = launch_class
    return config, launch(**{f.name: values[f.name] for f in dataclasses.fields(launch)})


def _config_file(argv: Sequence[str]) -> Config:
    """Return the configuration that --config names, or the default one."""
    config = Config()
    for number, word in enumerate(argv, start=1):
        if word == "--config":
            config = load_config(argv[number] if number < len(argv) else "")
        elif word.startswith("--config="):
            config = load_config(word.partition("=")[2])
    return config


def _parse(cls: type[T], defaults: T | None, description: str, argv: Sequence[str]) -> T:
    """Return a command line as a dataclass, `defaults` in place of the defaults of its fields."""
    flags = list(flags_of(cls, defaults))
    if "-h" in argv or "--help" in argv:
        print_help(with_invocations(description), flags)
        sys.exit(0)
    _check_names(flags, argv)
    output = io.StringIO()
    try:
        # Standard output too: tyro takes colours and line lengths from it, and none from a file.
        with contextlib.redirect_stderr(output), contextlib.redirect_stdout(io.StringIO()):
            return tyro.cli(
                cls,
                args=argv,
                default=tyro.MISSING_NONPROP if defaults is None else defaults,
                add_help=False,
                config=(
                    tyro.conf.FlagCreatePairsOff,
                    tyro.conf.HelptextFromCommentsOff,
                    tyro.conf.DisallowNone,
                ),
            )
    except SystemExit:
        raise UserError(f"{_one_line(output.getvalue())}; --help lists the flags") from None


def _check_names(flags: Sequence[Flag], argv: Sequence[str]) -> None:
    """Check that all flags of a command line exist, and that none is missing.

    Raises:
        UserError: it names the closest flags, or the missing one.
    """
    known = [name for flag in flags for name in flag.names]
    before_positional = itertools.takewhile(lambda word: word != "--", argv)
    given = [word.partition("=")[0].replace("_", "-") for word in before_positional]
    for name in given:
        if name.startswith("--") and name not in known:
            close = difflib.get_close_matches(name, known, n=3, cutoff=0.5) or ["--help"]
            raise UserError(f"there is no flag {name}; did you mean {' or '.join(close)}?")
    for flag in flags:
        if flag.is_required and not set(flag.names) & set(given):
            raise UserError(f"{flag.names[0]} is missing: {flag.help}")


def _one_line(message: str) -> str:
    """Return tyro's message in one line, without the heading and the help around it."""
    lines = [line.strip() for line in message.splitlines()[2:]]
    first = itertools.takewhile(lambda line: set(line) != {"-"}, lines)
    return " ".join(" ".join(first).split()).removeprefix("Error ").rstrip(".")


def _with_short_flags(cls: type[Any], prefix: str = "") -> type[Any]:
    """Return a dataclass like `cls` whose fields, nested ones too, have short flags as well."""
    body: dict[str, Any] = {"__doc__": cls.__doc__, "__annotations__": {}}
    types = get_type_hints(cls)
    for field in dataclasses.fields(cls):
        kind = types[field.name]
        own: dict[str, Any] = {"default": field.default}
        if dataclasses.is_dataclass(kind) and isinstance(kind, type):
            kind = _with_short_flags(kind, f"{prefix}{field.name}.")
            own = {"default_factory": kind}
        elif field.default_factory is not dataclasses.MISSING:
            own = {"default_factory": field.default_factory}
        if short := SHORT_FLAGS.get(f"{prefix}{field.name}"):
            kind = Annotated[kind, tyro.conf.arg(aliases=[short])]
        body[field.name] = dataclasses.field(**own)
        body["__annotations__"][field.name] = kind
    return dataclass(frozen=True, kw_only=True)(type(cls.__name__, (cls,), body))


def _fill(cls: type[Any], values: Mapping[str, Any]) -> Any:
    """Return an instance of nested dataclasses from a nested dictionary.

    A field that the dictionary lacks has its default; a value that has no field is left out.
    """
    types = get_type_hints(cls)
    return cls(
        **{
            name: _fill(kind, values[name])
            if isinstance(values[name], Mapping)
            else coerce(name, kind, values[name])
            for name, kind in types.items()
            if name in values
        }
    )
