"""The images of a run, split into sets, and the file that records them."""

import hashlib
import io
import json
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raydae.core.errors import first_line
from raydae.images.image_table import SCHEMA, Images

SPLITS = ("train", "val", "test")
_TEXTS = ("left_out", "unused", "replaced_train_hashes", "replaced_val_hashes")
_FORMAT = 2
_TABLE = pa.schema(
    [
        pa.field("use", pa.string(), nullable=False),  # a split, or one of _TEXTS
        pa.field("text", pa.string()),  # of those
        *(field.with_nullable(True) for field in SCHEMA),
    ]
)


@dataclass(frozen=True)
class ImageSets:
    """The images of a run, split into training, validation and test sets."""

    source: str
    """Where the images come from, for messages."""
    train: Images
    val: Images
    test: Images
    left_out: tuple[str, ...] = ()
    """One line for each image that is not used: its name and the reason."""
    unused: tuple[str, ...] = ()
    """URIs of those images."""
    replaced_train_hashes: tuple[str, ...] = ()
    """Hashes of training images that were replaced while the run was stopped."""
    replaced_val_hashes: tuple[str, ...] = ()
    """Hashes of validation images, likewise."""

    def to_parquet(self) -> bytes:
        """Return the sets as a Parquet file: a row for each image and for each text."""
        parts = [
            *(_rows(split, getattr(self, split).table) for split in SPLITS),
            *(_rows(use, pa.table({"text": pa.array(getattr(self, use))})) for use in _TEXTS),
        ]
        table = pa.concat_tables(parts)
        about = {"format": _FORMAT, "source": self.source, "sha256": _digest(self.source, table)}
        file = io.BytesIO()
        table = table.replace_schema_metadata({"raydae": json.dumps(about)})
        pq.write_table(table, file, compression="zstd")
        return file.getvalue()

    @classmethod
    def from_parquet(cls, data: bytes) -> "ImageSets":
        """Return the sets that `to_parquet` was given.

        Raises:
            ValueError, LookupError, TypeError: the data is something else, or damaged.
        """
        try:
            table = pq.read_table(io.BytesIO(data))
        except (OSError, pa.ArrowException) as error:  # of the content, since it is in memory
            raise ValueError(f"images.parquet is damaged ({first_line(error)})") from None
        about = json.loads((table.schema.metadata or {})[b"raydae"])
        if about["format"] != _FORMAT:
            raise ValueError("images.parquet was written by another version of raydae")
        if not table.schema.equals(_TABLE) or about["sha256"] != _digest(about["source"], table):
            raise ValueError("images.parquet is damaged")
        parts = {use: table.filter(pc.equal(table["use"], use)) for use in (*SPLITS, *_TEXTS)}
        train, val, test = (Images(parts[split].select(SCHEMA.names)) for split in SPLITS)
        texts: list[tuple[str, ...]] = [tuple(parts[use]["text"].to_pylist()) for use in _TEXTS]
        return cls(str(about["source"]), train, val, test, *texts)


def _digest(source: str, table: pa.Table) -> str:
    """Return the hash of what the file says, which does not depend on how Parquet stores it."""
    digest = hashlib.sha256(source.encode(errors="surrogateescape"))
    noisy = table["noisy"].combine_chunks()
    shots = pa.Table.from_batches([pa.RecordBatch.from_struct_array(pc.list_flatten(noisy))])
    columns = [pc.list_value_length(noisy), *table.drop_columns(["noisy"]), *shots]
    for column in columns:
        text = pa.types.is_string(column.type)
        values = pc.fill_null(column, "\0" if text else -1)
        if text:
            digest.update("\n".join(values.to_pylist()).encode())
        else:
            digest.update(values.to_numpy().tobytes())
    return digest.hexdigest()


def _rows(use: str, table: pa.Table) -> pa.Table:
    """Return rows of the file: the columns that a table has, the others null."""
    n = len(table)
    columns = [
        pa.array([use] * n, pa.string())
        if field.name == "use"
        else table[field.name].cast(field.type)
        if field.name in table.column_names
        else pa.nulls(n, field.type)
        for field in _TABLE
    ]
    return pa.table(columns, schema=_TABLE)


def subsample(images: Images, number: int) -> Images:
    """Return `number` evenly spaced images. Return all if it is 0 or exceeds their count."""
    if number == 0 or number >= len(images):
        return images
    return images.take([i * len(images) // number for i in range(number)])
