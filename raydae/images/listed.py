"""Images that are listed but not decoded yet, as an Arrow table."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

_PART = pa.struct([pa.field("uri", pa.string()), pa.field("name", pa.string())])
SCHEMA = pa.schema(
    [
        pa.field("number", pa.int64(), nullable=False),  # its place in the list
        pa.field("uri", pa.string(), nullable=False),
        pa.field("name", pa.string(), nullable=False),
        pa.field("noisy", pa.list_(_PART), nullable=False),
        pa.field("split", pa.string()),  # train, val or test; "": none; null: not yet known
        pa.field("size", pa.int64(), nullable=False),  # bytes of its file, or files; 0: not known
        pa.field("modified", pa.float64()),  # when it was written, s since 1970; null: not known
    ]
)


@dataclass(frozen=True)
class Pair:
    """A clean file and its noisy ones, each as (URI, name), not decoded yet."""

    clean: tuple[str, str]
    noisy: tuple[tuple[str, str], ...]
    split: str | None = None
    """What a table says: train, val or test."""


class Listed:
    """Images by URI and name, each with its noisy files, if it has any. Pickles as its buffers.

    >>> listed = Listed.of([("a.png", "a"), ("b.png", "b")])
    >>> len(listed), [len(part) for part in listed.parts(100, 1)]
    (2, [1, 1])

    Attributes:
        table: with the columns of `SCHEMA`.
    """

    def __init__(self, table: pa.Table) -> None:
        self.table = table.cast(SCHEMA).combine_chunks()

    @classmethod
    def of(cls, images: Iterable[tuple[str, str] | Pair]) -> "Listed":
        """Return a table of images.

        Args:
            images: (URI, name) of each, or a pair.
        """
        pairs = [image if isinstance(image, Pair) else Pair(image, ()) for image in images]
        uri, name = zip(*(pair.clean for pair in pairs), strict=True) if pairs else ((), ())
        noisy = [[{"uri": uri, "name": name} for uri, name in pair.noisy] for pair in pairs]
        return cls.of_columns(uri, name, [pair.split for pair in pairs], noisy)

    @classmethod
    def of_columns(
        cls,
        uri: Sequence[str] | pa.Array,
        name: Sequence[str] | pa.Array,
        split: Sequence[str | None] | pa.Array | None = None,
        noisy: Sequence[Any] | None = None,
        stamps: Sequence[tuple[int, float]] | None = None,
    ) -> "Listed":
        """Return a table of images, given its columns.

        Args:
            uri: n URIs.
            name: n names.
            split: n splits; none: not yet known.
            noisy: n lists of noisy files; none: there are no noisy files.
            stamps: n sizes and times, if listing has told them.
        """
        n = len(uri)
        columns = [
            range(n),
            uri,
            name,
            [[]] * n if noisy is None else noisy,
            pa.nulls(n) if split is None else split,
            np.zeros(n, np.int64) if stamps is None else [size for size, _ in stamps],
            pa.nulls(n) if stamps is None else [modified for _, modified in stamps],
        ]
        arrays = [
            pa.array(values, field.type) for values, field in zip(columns, SCHEMA, strict=True)
        ]
        return cls(pa.table(arrays, schema=SCHEMA))

    def __len__(self) -> int:
        return len(self.table)

    def __iter__(self) -> Iterator[Pair]:
        for row in self.table.to_pylist():
            noisy = tuple((part["uri"], part["name"]) for part in row["noisy"])
            yield Pair((row["uri"], row["name"]), noisy, row["split"])

    @property
    def uris(self) -> list[str]:
        """The URI of each image."""
        uris: list[str] = self.table["uri"].to_pylist()
        return uris

    @property
    def all_uris(self) -> list[str]:
        """The URIs of all images, then those of all their noisy files."""
        return [*self.uris, *self._noisy.field("uri").to_pylist()]

    @property
    def file_count(self) -> int:
        """How many files there are: images and noisy ones."""
        return len(self) + len(self._noisy)

    @property
    def shots(self) -> NDArray[np.int64]:
        """How many noisy files each image has, (n,)."""
        count: NDArray[np.int64] = pc.list_value_length(self.table["noisy"]).to_numpy()
        return count

    @property
    def names(self) -> list[str]:
        """The name of each image."""
        names: list[str] = self.table["name"].to_pylist()
        return names

    @property
    def splits(self) -> NDArray[np.object_]:
        """The split of each image: train, val, test, empty, or None if it is not yet known."""
        splits: NDArray[np.object_] = self.table["split"].to_numpy()
        return splits

    @property
    def unsplit(self) -> bool:
        """Whether no image has a split."""
        return bool(self.table["split"].null_count == len(self))

    def find(self, uris: Sequence[str]) -> NDArray[np.int64]:
        """Return the places of some images, by URI; all must be here."""
        places = pc.index_in(pa.array(uris, pa.string()), self.table["uri"].combine_chunks())
        found: NDArray[np.int64] = places.to_numpy().astype(np.int64)
        return found

    @property
    def _noisy(self) -> pa.StructArray:
        """The noisy files of all images, one after the other."""
        return pc.list_flatten(self.table["noisy"].combine_chunks())

    @property
    def _parents(self) -> NDArray[np.int64]:
        """For each noisy file, the place of its image."""
        parents: NDArray[np.int64] = pc.list_parent_indices(
            self.table["noisy"].combine_chunks()
        ).to_numpy()
        return parents

    def per_image(self, values: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the sums over the files of each image, (n,).

        Args:
            values: one for each of `all_uris`.
        """
        sums: NDArray[np.int64] = values[: len(self)].copy()
        np.add.at(sums, self._parents, values[len(self) :])
        return sums

    def places_of_files(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return where in `all_uris` the files of `take(numbers)` are; numbers must ascend."""
        places = [numbers, len(self) + np.flatnonzero(np.isin(self._parents, numbers))]
        joined: NDArray[np.int64] = np.concatenate(places)
        return joined

    @property
    def stamps(self) -> tuple[NDArray[np.int64], NDArray[np.float64]] | None:
        """Size and time of each image's file, (n,); none if listing has not told them."""
        if self.table["modified"].null_count or self.file_count > len(self):
            return None
        return self.sizes, self.table["modified"].to_numpy()

    def with_splits(self, splits: NDArray[np.object_]) -> "Listed":
        """Return the same images with other splits, (n,)."""
        return self._with("split", pa.array(splits, pa.string()))

    def with_sizes(self, size: NDArray[np.int64]) -> "Listed":
        """Return the same images, numbered from 0, with the bytes of their files, (n,)."""
        numbered = self._with("number", pa.array(range(len(self)), pa.int64()))
        return numbered._with("size", pa.array(size))

    @property
    def sizes(self) -> NDArray[np.int64]:
        """The bytes of each image's files, (n,), as `with_sizes` was given them."""
        sizes: NDArray[np.int64] = self.table["size"].to_numpy()
        return sizes

    def take(self, numbers: NDArray[np.int64]) -> "Listed":
        """Return some of the images, by their places here."""
        return Listed(self.table.take(pa.array(numbers, pa.int64())))

    def where(self, chosen: NDArray[np.bool_]) -> "Listed":
        """Return the images that a mask chooses, (n,)."""
        return Listed(self.table.filter(pa.array(chosen)))

    def parts(self, max_bytes: int, max_images: int) -> "list[Listed]":
        """Return consecutive parts of about so many bytes of files, and so many images at most."""
        load = np.maximum(self.sizes / max_bytes, 1 / max_images)
        part = np.floor(np.cumsum(load) - load + 1e-9)
        begins = [*np.flatnonzero(np.diff(part, prepend=-1)), len(self)]
        return [
            Listed(self.table.slice(first, last - first))
            for first, last in itertools.pairwise(begins)
        ]

    def _with(self, name: str, values: pa.Array) -> "Listed":
        place = self.table.schema.get_field_index(name)
        return Listed(self.table.set_column(place, SCHEMA.field(name), values))
