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

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet

from raydae.core.errors import UserError, first_line
from raydae.core.storage import Folder, split_path
from raydae.images.image_sets import SPLITS
from raydae.images.listed import Listed

_READERS: dict[str, Callable[[io.BytesIO], pa.Table]] = {
    ".csv": pyarrow.csv.read_csv,
    ".jsonl": pyarrow.json.read_json,
    ".parquet": pyarrow.parquet.read_table,
}
LISTS = tuple(_READERS)
NAMES = ("uri", "file_name")


def is_list(path: str) -> bool:
    """Return whether a path or URI names a list of images by its suffix."""
    return PurePosixPath(path.partition("?")[0]).suffix.lower() in LISTS


def read_list(path: str) -> Listed:
    """Return the images of a list, each with its noisy pictures, in the order of the list.

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
    if not len(table):
        raise UserError(f"{path} lists no images")
    names, splits, noisy = (_texts(table, column, path) for column in (key, "split", "noisy"))
    if (row := _first(names.is_null())) is not None:
        raise UserError(f"{path}, row {row + 1}: its {key} is empty")
    wrong = pc.and_(splits.is_valid(), pc.invert(pc.is_in(splits, pa.array(SPLITS))))
    if (row := _first(wrong)) is not None:
        raise UserError(
            f"{path}, row {row + 1}: its split is {splits[row].as_py()!r}; write train, val, test "
            "or nothing"
        )
    uris, noisy_uris = _absolute(folder, names), _absolute(folder, noisy)
    first = pc.index_in(uris, pc.unique(uris))  # the number of each row's image
    begins = pa.array(np.unique(first.to_numpy(), return_index=True)[1])
    own = splits.take(begins)
    other = pc.invert(pc.equal(pc.fill_null(splits, ""), pc.fill_null(own.take(first), "")))
    if (row := _first(other)) is not None:
        raise UserError(
            f"{path}, row {row + 1}: {names[row].as_py()} is in another split in a row before"
        )
    shots: list[dict[tuple[str, str], None]] | None = None
    if noisy.null_count < len(noisy):
        shots = [{} for _ in range(len(begins))]
        columns = (column.to_pylist() for column in (first, noisy_uris, noisy))
        for number, uri, text in zip(*columns, strict=True):
            if uri is not None:
                shots[number][uri, text] = None
    parts = None if shots is None else [[{"uri": u, "name": n} for u, n in own] for own in shots]
    return Listed.of_columns(uris.take(begins), names.take(begins), own, parts)


def list_table(path: str) -> Listed:
    """Return the images of a list, which has no noisy pictures.

    Raises:
        UserError: as `read_list`; or the images have noisy pictures, which would be ignored.
    """
    listed = read_list(path)
    if listed.file_count > len(listed):
        raise UserError(f"{path} has noisy pictures; use them with --data.pairs noisy=uri")
    return listed


def _texts(table: pa.Table, column: str, path: str) -> pa.Array:
    """Return a column of texts without blanks around them; null where there is no text."""
    if column not in table.column_names:
        return pa.nulls(len(table), pa.string())
    try:
        texts = pc.utf8_trim_whitespace(table[column].cast(pa.string())).combine_chunks()
    except pa.ArrowException:
        raise UserError(f"{path}: its column {column} has no texts") from None
    return pc.if_else(pc.equal(texts, ""), pa.scalar(None, pa.string()), texts)


def _absolute(folder: Folder, texts: pa.Array) -> pa.Array:
    """Return paths and URIs of a table as absolute ones."""
    whole = pc.or_(pc.match_substring(texts, "://"), pc.starts_with(texts, "/"))
    relative = texts.filter(pc.fill_null(pc.invert(whole), False)).to_pylist()
    absolute = [folder.path_of(posixpath.normpath(text)) for text in relative]
    return pc.replace_with_mask(
        texts, pc.fill_null(pc.invert(whole), False), pa.array(absolute, pa.string())
    )


def _first(mask: pa.Array) -> int | None:
    """Return the place of the first true value; none if there is none."""
    place = pc.index(mask, True).as_py()
    return None if place < 0 else int(place)
