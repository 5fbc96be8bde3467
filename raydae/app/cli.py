"""What the jobs share: the command line made from dataclasses, and errors as exit codes."""

import contextlib
import dataclasses
import difflib
import io
import itertools
import json
import logging
import os
import secrets
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import docstring_parser
import pyarrow as pa
import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from raydae.app import console
from raydae.core.config import Config, load_config
from raydae.core.errors import UserError
from raydae.core.storage import Folder, first_line, split_path
from raydae.images.image_sets import ImageSets
from raydae.images.sources import find_images, synthetic_set
from raydae.training.runs import find_model
from raydae.training.schedule import Schedule

T = TypeVar("T")
SHORT_FLAGS = {
    "data.path": "--data",
    "data.protocol": "--protocol",
    "noise.sigma": "--sigma",
    "noise.on": "--noise-on",
    "model.name": "--model",
    "optim.lr": "--lr",
    "optim.batch_size": "--batch-size",
    "optim.epochs": "--epochs",
    "validation.images": "--val-images",
    "validation.sigma": "--val-sigma",
}


def parse(cls: type[T], description: str, argv: Sequence[str] | None = None) -> T:
    """The command line as a dataclass.

    Raises:
        UserError: a flag that does not exist (the closest are named), or a value of another type.
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
    for number, word in enumerate(argv, start=1):
        if word == "--config":
            config = load_config(argv[number] if number < len(argv) else "")
        elif word.startswith("--config="):
            config = load_config(word.partition("=")[2])
    both = type("Arguments", (launch, Config), {"__doc__": ""})
    combined = _with_short_flags(dataclass(frozen=True, kw_only=True)(both))
    arguments = _parse(combined, description, argv, _fill(combined, config.to_dict()))
    values = dataclasses.asdict(arguments)
    if values["init"] is not None:
        if values["init"] == "last":  # which is another when the same command is given again
            raise UserError("--init takes a file, a URI, released or large, not last")
        values["init"] = find_model(values["init"])  # the workers are elsewhere
        chosen = any(word.startswith(("--model", "--config")) for word in argv)
        asked, network = values["model"] if chosen else None, _network_begun_with(values)
        if network is None or asked not in (None, network):
            network = _network_of(values["init"], asked)
        values["model"] = network
    return (
        Config.from_dict({field.name: values[field.name] for field in dataclasses.fields(Config)}),
        launch(**{field.name: values[field.name] for field in dataclasses.fields(launch)}),  # type: ignore[arg-type]  # T is a dataclass
    )


def _network_begun_with(values: dict[str, Any]) -> dict[str, Any] | None:
    """The network of the run that goes on, if it began with the same weights: they may be gone."""
    if values["name"] is None or values["restart"]:
        return None
    try:
        run = Folder.of(values["storage"]) / values["name"]
        begun = Config.from_dict(json.loads(run.read("config.json")))
    except (OSError, ValueError, TypeError, AttributeError, UserError):
        return None
    return dataclasses.asdict(begun.model) if begun.init == values["init"] else None


def _network_of(model: str, chosen: dict[str, Any] | None) -> dict[str, Any]:
    """The network of a model file, which must be the one that was chosen, if one was."""
    from raydae.models.model_file import load_model  # with torch, which takes seconds

    _, info = load_model(model)
    network = dataclasses.asdict(info.model)
    if chosen not in (None, network):
        raise UserError(
            f"--init {model} holds a {_describe(network)}, not a {_describe(chosen)}; leave "
            "--config and the flags of the network out, or give those of the former"
        )
    return network


def _describe(network: dict[str, Any]) -> str:
    if network["name"] != "unet":
        return str(network["name"])
    return "unet of width {width}, {levels} levels and {blocks} blocks".format(**network)


def _parse(cls: type[T], description: str, argv: Sequence[str] | None, default: T | None) -> T:
    argv = sys.argv[1:] if argv is None else argv
    flags = list(_flags(cls, default))
    if "-h" in argv or "--help" in argv:
        Console(highlight=False, markup=False).print(
            description.strip(), "", _help(flags), sep="\n"
        )
        sys.exit(0)
    known = [name for flag in flags for name in flag.names]
    given = []
    for word in itertools.takewhile(lambda word: word != "--", argv):
        name = word.partition("=")[0].replace("_", "-")
        given.append(name)
        if name.startswith("--") and name not in known:
            close = difflib.get_close_matches(name, known, n=3, cutoff=0.5) or ["--help"]
            raise UserError(f"there is no flag {name}; did you mean {' or '.join(close)}?")
    for flag in flags:
        needed = flag.default == "required" and flag.names[0].startswith("--")
        if needed and not set(flag.names) & set(given):
            raise UserError(f"{flag.names[0]} is missing: {flag.help}")
    said = io.StringIO()
    try:
        # Its output too, by which tyro decides on colours and lines: to a file it writes plainly.
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            return tyro.cli(
                cls,
                description=description,
                args=argv,
                default=tyro.MISSING_NONPROP if default is None else default,
                add_help=False,
                config=(
                    tyro.conf.FlagCreatePairsOff,
                    tyro.conf.HelptextFromCommentsOff,
                    tyro.conf.DisallowNone,
                ),
            )
    except SystemExit:
        raise UserError(f"{_one_line(said.getvalue())}; --help lists the flags") from None


def _one_line(said: str) -> str:
    """What tyro says in several lines, without the heading and the help around it."""
    lines = [line.strip() for line in said.splitlines()[2:]]
    first = itertools.takewhile(lambda line: set(line) != {"-"}, lines)
    return " ".join(" ".join(first).split()).removeprefix("Error ").rstrip(".")


@dataclass(frozen=True)
class _Flag:
    """A flag as --help shows it."""

    names: tuple[str, ...]
    group: str
    help: str
    default: str


def _flags(cls: type[Any], values: Any, prefix: str = "", group: str = "Job") -> Iterator[_Flag]:
    """The flags that tyro makes of a dataclass, those of nested ones after its own."""
    hints, kinds = get_type_hints(cls, include_extras=True), get_type_hints(cls)
    docs = {
        attribute.arg_name: attribute.description or ""
        for parent in cls.__mro__[:-1]
        for attribute in docstring_parser.parse_from_object(parent).params
    }
    nested = [
        field.name
        for field in dataclasses.fields(cls)
        if dataclasses.is_dataclass(kinds[field.name])
    ]
    for field in dataclasses.fields(cls):
        if field.name in nested:
            continue
        dotted, doc = f"{prefix}{field.name}", docs[field.name]
        names: tuple[str, ...] = (f"--{dotted.replace('_', '-')}",)
        if dotted in SHORT_FLAGS:
            names = (SHORT_FLAGS[dotted], *names)
        if tyro.conf.Positional in get_args(hints[field.name]):
            names = (field.name.upper(),)
        if get_origin(kinds[field.name]) is Literal:
            doc = f"{'|'.join(get_args(kinds[field.name]))}: {doc}"
        default = field.default if values is None else getattr(values, field.name)
        yield _Flag(names, group, doc.rstrip("."), _spell(default))
    for name in nested:
        heading = name.capitalize()
        inner = None if values is None else getattr(values, name)
        yield from _flags(kinds[name], inner, f"{prefix}{name}.", heading)


def _spell(default: Any) -> str:
    if default is dataclasses.MISSING:
        return "required"
    if isinstance(default, bool):
        return "on" if default else "off"
    if isinstance(default, tuple):
        return " ".join(default) or "none"
    return "none" if default is None else str(default)


def _help(flags: Sequence[_Flag]) -> Table:
    """A line for each flag, under the headings of their groups."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, min_width=max(len(", ".join(flag.names)) for flag in flags) + 2)
    table.add_column()
    table.add_column(no_wrap=True, style="dim")
    heading = None
    for flag in flags:
        if flag.group != heading:
            table.add_row(Text(flag.group, style="bold"), "", "" if heading else "default")
            heading = flag.group
        table.add_row("  " + ", ".join(flag.names), flag.help, flag.default)
    return table


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


def find_images_for(config: Config, screen: Console) -> ImageSets:
    """The images of a new run; says which cannot be used, and what stands in for BSDS500."""

    def synthetic_fallback(reason: str) -> Path:
        console.notice(
            screen,
            f"BSDS500 is not here and could not be downloaded:\n{reason}\n"
            "This trains on the EMBEDDED SYNTHETIC IMAGES instead (dead leaves). To train on\n"
            f"BSDS500, get it by other means and say: python {sys.argv[0]} --data PATH",
        )
        with console.counting(screen, "drawing images") as progress:
            return synthetic_set(progress)

    with console.counting(screen, "checking images") as progress:
        sets = find_images(config.data, synthetic_fallback, progress)
    Schedule.of(config, len(sets.train))  # refuses a batch larger than an epoch
    console.print_some(screen, "left out", sets.left_out)
    return sets


@dataclass(frozen=True)
class OutputFile:
    """A file for a job's results."""

    folder: Folder
    name: str

    def write(self, text: str) -> None:
        """Writes it, whole or not at all.

        Raises:
            UserError: it cannot be written.
        """
        try:
            self.folder.write(self.name, text.encode())
        except (OSError, pa.ArrowInvalid) as error:
            path = self.folder.path_of(self.name)
            raise UserError(f"--out {path} cannot be written: {first_line(error)}") from None


def output_file(path: str, *suffixes: str) -> OutputFile:
    """The file of --out; that it can be written is found out here, before the work.

    Args:
        path: local path or URI.
        suffixes: one of which the name has to end in.

    Raises:
        UserError: it has another, or cannot be written.
    """
    folder, name = split_path(path)
    if not name.endswith(suffixes):
        raise UserError(f"--out {path}: the name must end in {' or '.join(suffixes)}")
    if folder.local is not None and (folder.local / name).is_dir():
        raise UserError(f"--out {path} is a folder; give a file")
    check_writable(folder, path)
    return OutputFile(folder, name)


def check_writable(folder: Folder, path: str) -> None:
    """Refuses a folder for --out, given as `path`, that cannot be written; makes a missing one.

    Raises:
        UserError: it cannot be written.
    """
    name = f".raydae-{secrets.token_hex(8)}"
    try:
        folder.write(name, b"")
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"--out {path} cannot be written: {first_line(error)}") from None
    with contextlib.suppress(OSError):  # who may write need not be one who may delete
        folder.delete(name)


def command_to_continue(name: str) -> str:
    """This process's command line, for the run of that name."""
    words = [word for word in sys.argv if word != "--restart"]
    if not any(word == "--name" or word.startswith("--name=") for word in words):
        words += ["--name", name]
    return shlex.join(["python", *words])


def print_error(error: object) -> None:
    """Says on standard error what went wrong."""
    Console(stderr=True, soft_wrap=True).print(f"[bold red]error:[/] {escape(str(error))}")


def main(job: Callable[[], int]) -> None:
    """Runs a job and exits: with its code, with 2 after bad input, with 130 when interrupted."""
    logging.captureWarnings(
        capture=True
    )  # libraries warn about themselves; the user can do nothing
    try:
        code = job()
    except UserError as error:
        print_error(error)
        code = 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    if "raydae.distributed.start" in sys.modules:
        sys.modules["raydae.distributed.start"].leave()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # Python would take a second to take Ray and torch down
