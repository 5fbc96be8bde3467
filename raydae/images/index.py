"""The index: records of image files that were decoded before, so that none is decoded twice.

There is one Parquet file for each place that images come from, in the user's folder for caches. A
file counts as the same if its URI, its size and its time are. Losing the index costs only time.
"""

import hashlib
import io
import time
from collections.abc import Set
from contextlib import suppress

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from raydae.core.storage import Folder
from raydae.images.bsds500 import cache_folder
from raydae.images.image_table import Images

SETTLED_S = 3.0  # a file that was written so lately may be written again within its time stamp


class Index:
    """The records of one place.

    Attributes:
        images: the records, in no particular order.
    """

    def __init__(self, source: str) -> None:
        """Open the index of a place; it is empty if there is none, or if it cannot be read.

        Args:
            source: the place, such as a folder or a URI.
        """
        name = hashlib.sha256(source.encode(errors="surrogateescape")).hexdigest()[:32]
        self._path = cache_folder() / "index" / f"{name}.parquet"
        self.images = Images.of([])
        with suppress(OSError, ValueError, LookupError, pa.ArrowException):
            self.images = Images(pq.read_table(io.BytesIO(self._path.read_bytes())))

    def find(
        self, uris: list[str], size: NDArray[np.int64], modified: NDArray[np.float64]
    ) -> NDArray[np.int64]:
        """Return the number of the record of each file, -1 where there is none: (n,).

        Args:
            uris: n files.
            size: of each, bytes, (n,).
            modified: when each was written, seconds since 1970, (n,).
        """
        known = self.images.table
        found = pc.index_in(pa.array(uris, pa.string()), known["uri"].combine_chunks())
        rows: NDArray[np.int64] = pc.fill_null(found, -1).to_numpy().astype(np.int64)
        if len(known):
            own_size, own_modified = (known[name].to_numpy() for name in ("size", "modified"))
            rows[(own_size[rows] != size) | (own_modified[rows] != modified)] = -1
        return rows

    def save(self, images: Images, listed: Set[str]) -> None:
        """Replace the records of some files, in memory and on the disk.

        Images without a file of their own are not recorded, nor are files that may change
        unnoticed, because they were written a moment ago. A disk that is full is no error.

        Args:
            images: the new records.
            listed: the URIs that they replace the records of.
        """
        size, modified = (images.table[name].to_numpy() for name in ("size", "modified"))
        settled = images.where((size > 0) & (modified < time.time() - SETTLED_S))
        others = np.array([uri not in listed for uri in self.images.uris], bool)
        self.images = Images.concat([self.images.where(others), settled])
        if not len(self.images):
            return
        file = io.BytesIO()
        pq.write_table(self.images.table, file, compression="zstd")
        with suppress(OSError):
            Folder.of(self._path.parent).write(self._path.name, file.getvalue())
