"""Find the pictures that a user's inputs name: files, folders and patterns."""

import glob
import itertools
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from raydae.core.errors import UserError
from raydae.images.pictures import suffixes
from raydae.images.plugins import SUFFIXES, advice_for


class Found(NamedTuple):
    """What a user's inputs name."""

    pictures: list[tuple[Path, Path]]
    """Pairs (source, output name), in the order of the inputs and sorted within each. The output
    name is the file's name, or the path relative to the folder that was given."""
    left_out: Counter[str]
    """How many files and folders are no pictures or not looked into, by suffix or kind."""


def expand(inputs: Sequence[str], out: Path | None = None) -> Found:
    """Find the pictures that the user's inputs name.

    Args:
        inputs: Files, folders and patterns such as ``shots/*.png``. A file is taken whatever its
            suffix. In a folder and its sub-folders, and by a pattern, pictures are found by their
            suffix. Hidden files are skipped. Linked folders are left out, and so are folders that a
            pattern matches. Brackets in a pattern are those of a name, if there is such a name.
        out: Folder for the results. Results of an earlier run are skipped where a folder or a
            pattern finds them.

    Raises:
        UserError: An input names no picture, or a pipe, a socket or a device; or two different
            files would get the same output name.
    """
    sources: dict[Path, Path] = {}
    left_out: dict[Path, str] = {}
    for text in inputs:
        for source, name, reason in _matches(text, out):
            if reason:
                left_out[source.absolute()] = reason
                continue
            other = sources.setdefault(name, source)
            if not other.samefile(source):
                raise UserError(
                    f"{other} and {source} would both be written as {name}: "
                    "denoise them in two runs, into two folders"
                )
    return Found([(source, name) for name, source in sources.items()], Counter(left_out.values()))


def describe_left_out(left_out: Counter[str]) -> str:
    """Return in one line what was left out, the most frequent first; empty if nothing was."""
    if not left_out:
        return ""
    counts = ", ".join(
        f"{count} {kind}{'s' * (count > 1 and kind.endswith('folder'))}"
        for kind, count in sorted(left_out.items(), key=lambda item: (-item[1], item[0]))
    )
    advice = next(filter(None, map(advice_for, sorted(left_out.keys() & SUFFIXES))), "")
    return f"left out: {counts}{advice and '; '}{advice}"


def _matches(text: str, out: Path | None) -> list[tuple[Path, Path, str]]:
    """Return (source, output name, reason) of what one input names.

    The reason says why it is left out; it is empty for pictures.
    """
    if not text:
        raise UserError("an input is empty: give a file, a folder or a pattern")
    path = Path(text)
    folder = path if path.is_dir() else None
    if folder is not None:
        found = [
            (file, file.relative_to(folder))
            for file in sorted(folder.rglob("*"))
            if not any(part.startswith(".") for part in file.relative_to(folder).parts)
        ]
    elif path.is_file():
        return [(path, Path(path.name), "")]
    elif path.exists():
        raise UserError(f"{text} is a pipe, a socket or a device: give a file")
    elif glob.has_magic(text):
        found = [(file, Path(file.name)) for file in _glob(text)]
    else:
        raise UserError(f"{text} does not exist: give a file, a folder or a pattern")
    named = [
        (file, name, reason)
        for file, name in found
        if (reason := _why_left_out(file, in_folder=folder is not None)) is not None
    ]
    if all(reason for *_, reason in named):
        others = describe_left_out(Counter(reason for *_, reason in named))
        raise UserError(
            f"{text} has no pictures: give a file, a folder or a pattern that has some"
            + (f" ({others})" if others else "")
        )
    named = [entry for entry in named if out is None or not _is_result(entry[0], folder, out)]
    if all(reason for *_, reason in named):
        raise UserError(f"{text} would be overwritten: choose another output folder")
    return named


def _why_left_out(path: Path, in_folder: bool) -> str | None:
    """Return why a path is left out, as a kind to count; empty for a picture.

    None: it is a folder whose files are looked at themselves.
    """
    if path.is_dir():
        if not in_folder:
            return "folder"
        if path.is_symlink():
            return "linked folder"
        return None if os.access(path, os.R_OK | os.X_OK) else "unreadable folder"
    suffix = path.suffix.lower()
    if suffix not in suffixes():
        return suffix or "without a suffix"
    return "" if path.is_file() else f"{suffix} that is no file"


def _glob(text: str) -> list[Path]:
    """Return what a pattern matches, sorted.

    A part with brackets, such as the folder ``x[1]``, is a name as it stands, if anything has it.
    """
    choices = [dict.fromkeys((part.replace("[", "[[]"), part)) for part in text.split("/")]
    for parts in itertools.product(*choices):
        # Path.glob takes no absolute pattern, and its "*" matches hidden files.
        if found := glob.glob("/".join(parts), recursive=True):  # noqa: PTH207
            return [Path(name) for name in sorted(found)]
    return []


def _is_result(source: Path, folder: Path | None, out: Path) -> bool:
    """Return whether a picture found in a folder, or by a pattern (None), is an earlier result."""
    source, out = source.resolve(), out.resolve()
    if folder is None:
        return out in (source, source.parent)  # a pattern's results have no sub-folders
    return out.is_relative_to(folder.resolve()) and source.is_relative_to(out)
