"""Read a list of images: a table of URIs in a Parquet, CSV or JSONL file.

uri         a path or URI of each image; relative paths begin at the table's folder
file_name   the same, as in the metadata.csv of Hugging Face's image folders
split       train, val, test or empty; optional
noisy       a noisy picture of the same scene, like `uri`; optional, for --data.pairs noisy=uri
"""

import io
import posixpath
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet

from raydae.core.errors import UserError, first_line
from raydae.core.storage import Folder, split_path
from raydae.images.image_sets import SPLITS

_READERS: dict[str, Callable[[io.BytesIO], pa.Table]] = {
    ".csv": pyarrow.csv.read_csv,
    ".jsonl": pyarrow.json.read_json,
    ".parquet": pyarrow.parquet.read_table,
}
LISTS = tuple(_READERS)
NAMES = ("uri", "file_name")


class Row(NamedTuple):
    """An image of a list."""

    uri: str
    name: str
    """As the table has it."""
    split: str | None
    noisy: tuple[str, str] | None
    """URI and name."""


def is_list(path: str) -> bool:
    """Return whether a path or URI names a list of images by its suffix."""
    return PurePosixPath(path.partition("?")[0]).suffix.lower() in LISTS


def read_list(path: str) -> list[Row]:
    """Return the images of a list, each once for each of its noisy pictures.

    Args:
        path: a local path or URI.

    Raises:
        UserError: there is no such file, or it is not as it must be.
    """
    folder, name = split_path(path)
    try:
        data = folder.read(name)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {first_line(error)}") from None
    suffix = PurePosixPath(name).suffix.lower()
    try:
        table = _READERS[suffix](io.BytesIO(data))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UserError(f"{path} is no {suffix[1:]} table: {first_line(error)}") from None
    key = next((column for column in NAMES if column in table.column_names), None)
    if key is None:
        raise UserError(f"{path} needs a column uri (or file_name); it has {table.column_names}")
    names, splits, noisy = (_texts(table, column, path) for column in (key, "split", "noisy"))
    rows: list[Row] = []
    split_of: dict[str, str | None] = {}
    for number, (text, split, partner) in enumerate(zip(names, splits, noisy, strict=True), 1):
        where = f"{path}, row {number}"
        if text is None:
            raise UserError(f"{where}: its {key} is empty")
        if split not in (None, *SPLITS):
            raise UserError(f"{where}: its split is {split!r}; write train, val, test or nothing")
        uri = _absolute(folder, text)
        if split_of.setdefault(uri, split) != split:
            raise UserError(f"{where}: {text} is in another split in a row before")
        own = None if partner is None else (_absolute(folder, partner), partner)
        rows.append(Row(uri, text, split, own))
    if not rows:
        raise UserError(f"{path} lists no images")
    return list(dict.fromkeys(rows))


def list_table(path: str) -> list[tuple[str, str, str | None]]:
    """Return (URI, name, split) of the images of a list.

    Raises:
        UserError: as `read_list`; or the images have noisy pictures, which would be ignored.
    """
    rows = read_list(path)
    if any(row.noisy is not None for row in rows):
        raise UserError(f"{path} has noisy pictures; use them with --data.pairs noisy=uri")
    return [(row.uri, row.name, row.split) for row in rows]


def _texts(table: pa.Table, column: str, path: str) -> list[str | None]:
    """Return a column of texts without blanks around them; None where there is no text."""
    if column not in table.column_names:
        return [None] * len(table)
    try:
        texts = pc.utf8_trim_whitespace(table[column].cast(pa.string()))
    except pa.ArrowException:
        raise UserError(f"{path}: its column {column} has no texts") from None
    return [text or None for text in texts.to_pylist()]


def _absolute(folder: Folder, text: str) -> str:
    """Return a path or URI of a table as an absolute one."""
    if "://" in text or posixpath.isabs(text):
        return text
    return folder.path_of(posixpath.normpath(text))
