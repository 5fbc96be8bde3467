"""The flags of a dataclass, as `--help` shows them.

The table is written by hand: tyro's own help takes several lines for each of 45 flags, and has no
column of defaults.
"""

import dataclasses
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

import docstring_parser
import tyro
from rich.console import Console
from rich.table import Table
from rich.text import Text

SHORT_FLAGS = {
    "data.path": "--data",
    "data.protocol": "--protocol",
    "noise.options.sigma": "--sigma",
    "noise.on": "--noise-on",
    "model.name": "--model",
    "optim.lr": "--lr",
    "optim.batch_size": "--batch-size",
    "optim.epochs": "--epochs",
    "validation.images": "--val-images",
    "validation.sigma": "--val-sigma",
    "validation.noise": "--val-noise",
    "validation.metrics": "--metrics",
}
"""The second names of flags, by the dotted names of their fields."""
REQUIRED = "required"


@dataclass(frozen=True)
class Flag:
    """A flag as --help shows it."""

    names: tuple[str, ...]
    """As they are typed; a positional argument has one in capitals."""
    group: str
    """The heading that it stands under."""
    help: str
    default: str
    """As it would be typed, or `none`, or `REQUIRED`."""

    @property
    def is_required(self) -> bool:
        """Whether it must be given by name."""
        return self.default == REQUIRED and self.names[0].startswith("--")


def flags_of(cls: type[Any], defaults: Any = None, prefix: str = "") -> Iterator[Flag]:
    """Yield the flags that tyro makes of a dataclass; those of nested dataclasses come last.

    Args:
        cls: the dataclass; its fields' docstrings are the help.
        defaults: an instance of it; none: the defaults of its fields.
        prefix: of the dotted names: `model.` for the dataclass in the field `model`.
    """
    hints, types = get_type_hints(cls, include_extras=True), get_type_hints(cls)
    fields, docs = dataclasses.fields(cls), _docs(cls)
    nested = [field.name for field in fields if dataclasses.is_dataclass(types[field.name])]
    group = prefix.rstrip(".").replace(".", " ").capitalize() or "Job"
    for field in fields:
        if field.name in nested:
            continue
        dotted, doc = f"{prefix}{field.name}", docs.get(field.name, "")
        names: tuple[str, ...] = (f"--{dotted.replace('_', '-')}",)
        if dotted in SHORT_FLAGS:
            names = (SHORT_FLAGS[dotted], *names)
        if tyro.conf.Positional in get_args(hints[field.name]):
            names = (field.name.upper(),)
        if get_origin(types[field.name]) is Literal:
            doc = f"{'|'.join(get_args(types[field.name]))}: {doc}"
        default = _default(field) if defaults is None else getattr(defaults, field.name)
        yield Flag(names, group, doc.rstrip("."), _spell(default))
    for name in nested:
        inner = None if defaults is None else getattr(defaults, name)
        yield from flags_of(types[name], inner, f"{prefix}{name}.")


def _docs(cls: type[Any]) -> dict[str, str]:
    """Return the docstrings of the fields of a dataclass, those that it inherits too."""
    return {
        attribute.arg_name: attribute.description or ""
        for parent in reversed(cls.__mro__[:-1])
        for attribute in docstring_parser.parse_from_object(parent).params
    }


def _default(field: "dataclasses.Field[Any]") -> Any:
    factory = field.default_factory
    return field.default if factory is dataclasses.MISSING else factory()


def _spell(default: Any) -> str:
    if default is dataclasses.MISSING:
        return REQUIRED
    if isinstance(default, bool):
        return "on" if default else "off"
    if isinstance(default, tuple):
        return " ".join(default) or "none"
    return "none" if default is None else str(default)


def print_help(description: str, flags: Sequence[Flag]) -> None:
    """Print what a command does, and its flags.

    Args:
        description: paragraphs; their lines are joined, so that they fit any terminal.
        flags: in the order of their groups.
    """
    text = re.sub(r"(?<=\S)\n(?=\S)", " ", description.strip())
    Console(highlight=False, markup=False).print(text, "", _table(flags), sep="\n")


def _table(flags: Sequence[Flag]) -> Table:
    """Return a line for each flag, under the headings of their groups."""
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
