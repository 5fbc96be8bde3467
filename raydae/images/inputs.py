"""Find the pictures that a user's inputs name: files, folders and patterns."""

import glob
from collections.abc import Sequence
from pathlib import Path

from raydae.core.errors import UserError
from raydae.images.pictures import suffixes


def expand(inputs: Sequence[str], out: Path | None = None) -> list[tuple[Path, Path]]:
    """Find the pictures that the user's inputs name.

    Args:
        inputs: Files, folders and patterns such as ``shots/*.png``. A file is taken whatever its
            suffix. In a folder and its sub-folders, and by a pattern, pictures are found by their
            suffix. Hidden files are skipped, and so are folders that a pattern matches.
        out: Folder for the results. Results of an earlier run are skipped where a folder or a
            pattern finds them.

    Returns:
        Pairs (source, output name), in the order of the inputs and sorted within each. The output
        name is the file's name, or the path relative to the folder that was given.

    Raises:
        UserError: An input names no picture, or two different files would get the same output
            name.
    """
    sources: dict[Path, Path] = {}
    for text in inputs:
        for source, name in _matches(text, out):
            other = sources.setdefault(name, source)
            if not other.samefile(source):
                raise UserError(
                    f"{other} and {source} would both be written as {name}: "
                    "denoise them in two runs, into two folders"
                )
    return [(source, name) for name, source in sources.items()]


def _matches(text: str, out: Path | None) -> list[tuple[Path, Path]]:
    """Return (source, output name) of the pictures that one input names."""
    if not text:
        raise UserError("an input is empty: give a file, a folder or a pattern")
    path = Path(text)
    if path.is_dir():
        found = [
            (file, file.relative_to(path))
            for file in sorted(path.rglob("*"))
            if not any(part.startswith(".") for part in file.relative_to(path).parts)
        ]
    elif path.exists():
        return [(path, Path(path.name))]
    elif glob.has_magic(text):
        found = [
            (file, Path(file.name))
            # Path.glob takes no absolute pattern, and its "*" matches hidden files.
            for file in map(Path, sorted(glob.glob(text, recursive=True)))  # noqa: PTH207
        ]
    else:
        raise UserError(f"{text} does not exist: give a file, a folder or a pattern")
    found = [pair for pair in found if pair[0].suffix.lower() in suffixes() and pair[0].is_file()]
    if not found:
        raise UserError(f"{text} has no pictures: give a file, a folder or a pattern that has some")
    folder = path if path.is_dir() else None
    found = [pair for pair in found if out is None or not _is_result(pair[0], folder, out)]
    if not found:
        raise UserError(f"{text} would be overwritten: choose another output folder")
    return found


def _is_result(source: Path, folder: Path | None, out: Path) -> bool:
    """Return whether a picture found in a folder, or by a pattern (None), is an earlier result."""
    source, out = source.resolve(), out.resolve()
    if folder is None:
        return source.parent == out  # a pattern's results have no sub-folders
    return out.is_relative_to(folder.resolve()) and source.is_relative_to(out)
