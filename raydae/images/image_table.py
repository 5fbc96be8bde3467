"""Records of images as an Arrow table: a million of them are a few buffers, not Python objects."""

import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from raydae.images.image_file import ImageFile, NoisyFile

_FILE = [
    pa.field("uri", pa.string(), nullable=False),
    pa.field("name", pa.string(), nullable=False),
    pa.field("sha256", pa.string(), nullable=False),
    pa.field("size", pa.int64(), nullable=False),
    pa.field("modified", pa.float64(), nullable=False),
]
SCHEMA = pa.schema(
    [
        *_FILE,
        pa.field("height", pa.int32(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("noisy", pa.list_(pa.struct(_FILE)), nullable=False),
    ]
)
RECORDS = 4096  # that are Python objects at a time, in an iteration
KEPT = 32768  # that are kept when they have been asked for


class Images(Sequence[ImageFile]):
    """Records of images, in order. An `ImageFile` is made when it is asked for.

    >>> images = Images.of([ImageFile("a.png", "a", 40, 30, "00")])
    >>> images[0].height, len(images), images == Images.of(list(images))
    (40, 1, True)

    It pickles as its buffers, which processes of one machine share in Ray's object store.

    Attributes:
        table: with the columns of `SCHEMA`, each in one chunk.
    """

    def __init__(self, table: pa.Table) -> None:
        self.table = table.cast(SCHEMA).combine_chunks()
        # An item of an array takes a tenth of the time of an item of a table.
        self._columns = {
            name: pa.array([], self.table.schema.field(name).type)
            if not len(self.table)
            else self.table[name].chunk(0)
            for name in SCHEMA.names
        }
        self._record = functools.lru_cache(KEPT)(self._make)  # 13 us to make, 0.1 us to find

    @classmethod
    def of(cls, files: "Iterable[ImageFile]") -> "Images":
        """Return a table of records; the same one if it is a table already."""
        if isinstance(files, cls):
            return files
        files = list(files)
        columns: dict[str, list[Any]] = {
            field.name: [getattr(file, field.name) for file in files] for field in SCHEMA
        }
        columns["noisy"] = [[vars(noisy) for noisy in file.noisy] for file in files]
        return cls(pa.table(columns, SCHEMA))

    @classmethod
    def concat(cls, parts: "Iterable[Images]") -> "Images":
        """Return the images of several tables, one after the other."""
        return cls(pa.concat_tables([SCHEMA.empty_table(), *(part.table for part in parts)]))

    def __reduce__(self) -> tuple[Any, ...]:
        return Images, (self.table,)

    def __len__(self) -> int:
        return len(self.table)

    @overload
    def __getitem__(self, number: int) -> ImageFile: ...
    @overload
    def __getitem__(self, number: slice) -> "Images": ...
    def __getitem__(self, number: int | slice) -> "ImageFile | Images":
        if isinstance(number, slice):
            return self.take(range(*number.indices(len(self))))
        if not -len(self) <= number < len(self):
            raise IndexError(number)
        return self._record(number % len(self))

    def _make(self, number: int) -> ImageFile:
        texts = {name: self._columns[name][number].as_py() for name in _STRINGS}
        numbers = {name: column.item(number) for name, column in self._numbers.items()}
        if self.files[number] == 1:
            return ImageFile(**texts, **numbers)
        return _from_values({**texts, **numbers, "noisy": self._columns["noisy"][number].as_py()})

    @functools.cached_property
    def _numbers(self) -> dict[str, NDArray[Any]]:
        """The columns of numbers, of which an item takes a tenth of the time of Arrow's."""
        names = [name for name in SCHEMA.names if name not in (*_STRINGS, "noisy")]
        return {name: self._columns[name].to_numpy() for name in names}

    def __iter__(self) -> Iterator[ImageFile]:
        for first in range(0, len(self), RECORDS):
            yield from map(_from_values, self.table.slice(first, RECORDS).to_pylist())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Images) and bool(self.table.equals(other.table))

    def __hash__(self) -> int:
        return hash((len(self), self[0] if len(self) else None))

    def take(self, numbers: Sequence[int] | NDArray[np.int64]) -> "Images":
        """Return the images of some numbers, in their order."""
        return Images(self.table.take(pa.array(numbers, pa.int64())))

    def where(self, chosen: NDArray[np.bool_]) -> "Images":
        """Return the images that a mask chooses, bool (n,)."""
        return Images(self.table.filter(pa.array(chosen)))

    @property
    def areas(self) -> NDArray[np.int64]:
        """Pixels of each image: int64 (n,)."""
        height, width = (self.table[name].to_numpy().astype(np.int64) for name in _SIDES)
        area: NDArray[np.int64] = height * width
        return area

    @property
    def uris(self) -> list[str]:
        """The URI of each image."""
        uris: list[str] = self.table["uri"].to_pylist()
        return uris

    @property
    def all_uris(self) -> list[str]:
        """The URIs of all images, then those of all their noisy files."""
        return [*self.uris, *self.noisy_files["uri"].to_pylist()]

    @property
    def names(self) -> list[str]:
        """The name of each image."""
        names: list[str] = self.table["name"].to_pylist()
        return names

    def with_pixels_of(self, others: "Images") -> NDArray[np.bool_]:
        """Return which images have, or whose noisy files have, the pixels of other files: (n,)."""
        known = pa.array(others.hashes, pa.string())
        equal: NDArray[np.bool_] = pc.is_in(pa.array(self.hashes, pa.string()), known).to_numpy(
            False
        )
        return self.any_file(equal)

    def any_file(self, chosen: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return which images have a chosen file, (n,).

        Args:
            chosen: bool, for all images, then for all their noisy files.
        """
        found: NDArray[np.bool_] = chosen[: len(self)].copy()
        found[self._parents[chosen[len(self) :]]] = True
        return found

    @property
    def file_areas(self) -> NDArray[np.int64]:
        """Pixels of all images, then of all their noisy files."""
        return np.concatenate([self.areas, self.areas[self._parents]])

    @property
    def _parents(self) -> NDArray[np.int64]:
        """The number of the image of each noisy file."""
        noisy = self.table["noisy"].combine_chunks()
        parents: NDArray[np.int64] = pc.list_parent_indices(noisy).to_numpy()
        return parents

    @property
    def stamps(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Size and time of all images' files, then those of all their noisy files."""
        size, modified = (
            np.concatenate([part[name].to_numpy() for part in (self.table, self.noisy_files)])
            for name in ("size", "modified")
        )
        return size, modified

    @functools.cached_property
    def files(self) -> NDArray[np.int64]:
        """How many files each image has, with its noisy ones: int64 (n,)."""
        count: NDArray[np.int64] = pc.list_value_length(self.table["noisy"]).to_numpy() + 1
        return count

    @property
    def short_sides(self) -> NDArray[np.int32]:
        """The smaller of height and width: int32 (n,)."""
        short: NDArray[np.int32] = np.minimum(*(self.table[name].to_numpy() for name in _SIDES))
        return short

    @property
    def noisy_files(self) -> pa.Table:
        """The noisy files of all images, one after the other, with the fields of `NoisyFile`."""
        flat = pc.list_flatten(self.table["noisy"].combine_chunks())
        return pa.Table.from_batches([pa.RecordBatch.from_struct_array(flat)])

    @property
    def hashes(self) -> list[str]:
        """The hashes of all images, then those of all their noisy files."""
        return [*self.table["sha256"].to_pylist(), *self.noisy_files["sha256"].to_pylist()]


_SIDES = ("height", "width")
_STRINGS = ("uri", "name", "sha256")


def _from_values(values: dict[str, Any]) -> ImageFile:
    noisy = tuple(NoisyFile(**file) for file in values.pop("noisy"))
    return ImageFile(**values, noisy=noisy)
