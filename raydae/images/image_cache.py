"""Decoded images that a process keeps, so that the next visit need not decode them again."""

import os
import threading
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
from numpy.typing import NDArray

MIN_BYTES, MAX_BYTES = 2**27, 2**31  # BSDS500's training set, decoded, has 93 MB


class ImageCache:
    """Decoded images by URI; beyond a number of bytes, the least recently used are dropped.

    Thread-safe.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._lock = threading.Lock()
        self._bytes = 0
        self._images: OrderedDict[str, NDArray[np.uint8]] = OrderedDict()

    def get(self, uri: str) -> NDArray[np.uint8] | None:
        """Return an image, uint8 HxWx3; none if it is not here."""
        with self._lock:
            if uri in self._images:
                self._images.move_to_end(uri)
            return self._images.get(uri)

    def put(self, uri: str, image: NDArray[np.uint8]) -> None:
        """Keep an image, uint8 HxWx3."""
        with self._lock:
            if uri in self._images:  # another thread was faster
                self._bytes -= self._images[uri].nbytes
            self._images[uri] = image
            self._bytes += image.nbytes
            while self._bytes > self.max_bytes and len(self._images) > 1:
                self._bytes -= self._images.popitem(last=False)[1].nbytes


def cache_bytes() -> int:
    """Return the bytes that a process may keep: a quarter of the memory, shared by all cores.

    An image that is not kept is decoded again at each visit, which costs ten times as much as its
    samples.
    """
    memory = psutil.virtual_memory().total
    with suppress(OSError, ValueError):  # no such file, or no limit
        memory = min(memory, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    share = memory // 4 // (os.cpu_count() or 1)
    return min(max(share, MIN_BYTES), MAX_BYTES)
