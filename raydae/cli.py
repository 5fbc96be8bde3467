"""What the jobs share: the command line made from dataclasses, and errors as exit codes."""

import dataclasses
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar, get_type_hints

import tyro
from rich.console import Console
from rich.markup import escape

from raydae.config import Config, load_config
from raydae.errors import UserError

T = TypeVar("T")
SHORT_FLAGS = {
    "data.path": "--data",
    "data.protocol": "--protocol",
    "noise.sigma": "--sigma",
    "model.name": "--model",
    "optim.lr": "--lr",
    "optim.batch_size": "--batch-size",
    "optim.epochs": "--epochs",
    "validation.images": "--val-images",
    "validation.sigma": "--val-sigma",
}


def parse(cls: type[T], description: str, argv: Sequence[str] | None = None) -> T:
    """The command line as a dataclass.

    Exits with 2, naming the closest flags, where it holds a flag that does not exist.
    """
    return _parse(cls, description, argv, None)


def parse_with_config(
    launch: type[T], description: str, argv: Sequence[str] | None = None
) -> tuple[Config, T]:
    """The command line of a job that takes a configuration: its flags, `launch`'s, and --config.

    Flags change what is in the file of --config, and that changes the defaults.

    Args:
        launch: a dataclass of what is not part of the configuration, with a field `config`.
        description: what the job does, for --help.
        argv: the command line's words; none: this process's.

    Raises:
        UserError: a value out of range, or a file that holds no configuration.
    """
    argv = sys.argv[1:] if argv is None else argv
    config = Config()
    for word, following in zip(argv, [*argv[1:], ""], strict=True):
        if word == "--config" or word.startswith("--config="):
            config = load_config(following if word == "--config" else word.partition("=")[2])
    both = type("Arguments", (launch, Config), {"__doc__": ""})
    combined = _with_short_flags(dataclass(frozen=True, kw_only=True)(both))
    arguments = _parse(combined, description, argv, _fill(combined, config.to_dict()))
    values = dataclasses.asdict(arguments)
    return (
        Config.from_dict({field.name: values[field.name] for field in dataclasses.fields(Config)}),
        launch(**{field.name: values[field.name] for field in dataclasses.fields(launch)}),  # type: ignore[arg-type]  # T is a dataclass
    )


def _parse(cls: type[T], description: str, argv: Sequence[str] | None, default: T | None) -> T:
    return tyro.cli(
        cls,
        description=description,
        args=argv,
        default=tyro.MISSING_NONPROP if default is None else default,
        config=(
            tyro.conf.FlagCreatePairsOff,
            tyro.conf.HelptextFromCommentsOff,
            tyro.conf.DisallowNone,
        ),
    )


def _with_short_flags(cls: type[Any], prefix: str = "") -> Any:
    """A dataclass like `cls` whose fields, nested ones too, go by their short flags as well."""
    body: dict[str, Any] = {"__doc__": cls.__doc__, "__annotations__": {}}
    hints = get_type_hints(cls)
    for field in dataclasses.fields(cls):
        kind = hints[field.name]
        if dataclasses.is_dataclass(kind) and isinstance(kind, type):
            kind = _with_short_flags(kind, f"{prefix}{field.name}.")
            body[field.name] = dataclasses.field(default_factory=kind)
        else:
            if short := SHORT_FLAGS.get(f"{prefix}{field.name}"):
                kind = Annotated[kind, tyro.conf.arg(aliases=[short])]
            body[field.name] = field.default
        body["__annotations__"][field.name] = kind
    return dataclass(frozen=True, kw_only=True)(type(cls.__name__, (cls,), body))


def _fill(cls: type[Any], values: dict[str, Any]) -> Any:
    """An instance of nested dataclasses from a nested dictionary."""
    kinds = {field.name: field.type for field in dataclasses.fields(cls)}
    return cls(
        **{
            name: _fill(kinds[name], value) if isinstance(value, dict) else value  # type: ignore[arg-type]  # a class, not its name
            for name, value in values.items()
        }
    )


def main(job: Callable[[], int]) -> None:
    """Runs a job and exits: with its code, with 2 after bad input, with 130 when interrupted."""
    logging.captureWarnings(
        capture=True
    )  # libraries warn about themselves; the user can do nothing
    try:
        code = job()
    except UserError as error:
        Console(stderr=True, soft_wrap=True).print(f"[bold red]error:[/] {escape(str(error))}")
        code = 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    sys.stdout.flush()
    sys.exit(code)
