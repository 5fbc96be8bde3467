"""Decoded pixels in a bucket, of which a patch reads two or three blocks.

All nodes share them, where `pixel_store` is each node's own. A request takes tens of milliseconds,
so many are made at a time (`training.samples`). The files are those of `pixel_store`. None is ever
removed for others: a bucket has rules for what nobody uses.
"""

import functools
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raydae.core.errors import first_line
from raydae.core.storage import Folder, open_parts
from raydae.images.stored_image import SUFFIX, DamagedError, StoredImage, file_bytes, file_size


@dataclass
class BucketStore:
    """A folder of decoded images behind a URI. Picklable; thread-safe.

    Attributes:
        folder: where the files are.
        max_bytes: of all files together, as far as this process knows.
        problem: why no more images are kept, once writing has failed.
        full: whether an image had no room; none is kept from then on.
    """

    folder: Folder
    max_bytes: float
    problem: str | None = None
    full: bool = False

    def get(self, name: str, height: int, width: int) -> StoredImage | None:
        """Return an image, or none if it is not here, or damaged.

        Args:
            name: the hash of its pixels.
            height: pixels.
            width: pixels.
        """
        try:
            size, read = open_parts(self.folder, f"{name}{SUFFIX}")
            part = lambda first, number: np.frombuffer(read(first, number), np.uint8)  # noqa: E731
            return StoredImage(name, height, width, size, part)
        except DamagedError:
            self.remove(name)
            return None
        except OSError:
            return None

    def put(self, name: str, pixels: NDArray[np.uint8]) -> bool:
        """Keep an image; return whether it is here now.

        A bucket that cannot be written only sets `problem`.

        Args:
            name: the hash of its pixels.
            pixels: uint8 HxWx3.
        """
        if not self.usable:
            return False
        try:
            if name in self._sizes:
                return True
            size = file_size(*pixels.shape[:2])
            if sum(self._sizes.values()) + size > self.max_bytes:
                self.full = True
                return False
            self.folder.write(f"{name}{SUFFIX}", file_bytes(pixels))
        except OSError as error:
            self.problem = f"{self.folder} cannot be written ({first_line(error)})"
            return False
        self._sizes[name] = size
        return True

    def names(self) -> set[str]:
        """Return the names of all images that are here, as far as this process knows.

        Raises:
            OSError: the bucket cannot be listed.
        """
        return set(self._sizes)

    def remove(self, name: str) -> None:
        """Remove an image, if it is here."""
        self._sizes.pop(name, None)
        with suppress(OSError):
            self.folder.delete(f"{name}{SUFFIX}")

    def room(self) -> float:
        """Return the bytes that more images can take.

        Raises:
            OSError: the bucket cannot be listed.
        """
        return max(self.max_bytes - sum(self._sizes.values()), 0)

    @property
    def usable(self) -> bool:
        """Whether images are still kept."""
        return self.problem is None and not self.full

    @functools.cached_property
    def _sizes(self) -> dict[str, int]:
        """The bytes of each image that is here: listed once, a thousand in a request."""
        files = self.folder.stamps()
        return {
            name.removesuffix(SUFFIX): size
            for name, (size, _) in files.items()
            if name.endswith(SUFFIX)
        }
