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
from raydae.images.listed import Listed

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
        self, listed: Listed, size: NDArray[np.int64], modified: NDArray[np.float64]
    ) -> NDArray[np.int64]:
        """Return the number of the record of each image, -1 where there is none: (n,).

        Args:
            listed: n images. If they have noisy files, the record must have the same.
            size: of each file in `listed.all_uris`, bytes.
            modified: when each was written, seconds since 1970.
        """
        known = self.images
        uri = listed.table["uri"].combine_chunks()
        found = pc.index_in(uri, known.table["uri"].combine_chunks())
        rows: NDArray[np.int64] = pc.fill_null(found, -1).to_numpy().astype(np.int64)
        here: NDArray[np.int64] = np.flatnonzero(rows >= 0)
        here = here[known.files[rows[here]] == listed.shots[here] + 1]
        # Both now have the same number of files, which are compared one by one.
        records, parts = known.take(rows[here]), listed.take(here)
        own_size, own_modified = records.stamps
        files = listed.places_of_files(here)
        equal = (own_size == size[files]) & (own_modified == modified[files])
        equal &= np.array(records.all_uris, object) == np.array(parts.all_uris, object)
        same = here[~records.any_file(~equal)]
        known_rows = np.full(len(rows), -1)
        known_rows[same] = rows[same]
        return known_rows

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
