"""Read the images of a run, whole or in parts: from memory, from the pixel store, or by decoding.

    from memory     images that this process has decoded lately
    from the store  if the images of the run are more than the memory holds
    by decoding     else; the image is then put into the store

All three have the same pixels.
"""

import functools
import math
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from raydae.core.storage import Folder, local_path
from raydae.images.bsds500 import cache_folder
from raydae.images.bucket_store import BucketStore
from raydae.images.config import DataConfig
from raydae.images.image_cache import ImageCache, cache_bytes
from raydae.images.image_file import ImageFile, NoisyFile, is_remote, pixel_hash, read_image
from raydae.images.image_table import Images
from raydae.images.pictures import reason_of
from raydae.images.pixel_store import PixelStore, default_bytes
from raydae.images.stored_image import StoredImage

Store = PixelStore | BucketStore
Pixels = NDArray[np.uint8] | StoredImage
"""An image, HxWx3: whole, or to be read in parts."""
MAX_OPEN = 32768  # stored images that a process keeps open: mappings, of which Linux allows 65,530

_cache = ImageCache(cache_bytes())  # one for each process, whatever runs it reads for
_opened: OrderedDict[str, StoredImage] = OrderedDict()
_lock = threading.Lock()  # of `_opened`


@dataclass(frozen=True)
class Reader:
    """Reads the images of a run. Picklable and small; thread-safe."""

    folder: str | None
    """Of the pixel store, see `store_of`."""
    gib: float | None
    """Its size limit."""
    total_bytes: int
    """Of the run's training images, decoded."""
    remote: bool
    """Whether the images lie in a bucket."""

    @classmethod
    def of(cls, config: DataConfig, images: Images) -> "Reader":
        """Return a reader of training images."""
        total = 3 * int((images.areas * images.files).sum())
        return cls(config.cache, config.cache_gib, total, any(map(is_remote, images[:1].uris)))

    @property
    def store(self) -> Store | None:
        """This process's pixel store, if it pays.

        It does for images that are more than the memory holds, and for images in a bucket, which
        each process would fetch for itself.
        """
        if self.total_bytes <= _cache.max_bytes and not self.remote:
            return None
        return store_of(self.folder, self.gib)

    @property
    def waits(self) -> bool:
        """Whether reading means waiting for a bucket: many reads at a time are faster then."""
        return self.remote or is_remote(self.folder or "")

    def read(self, file: ImageFile | NoisyFile, height: int, width: int) -> Pixels | None:
        """Return an image; none if it cannot be read or has another size now.

        Args:
            file: its record.
            height: pixels.
            width: pixels.
        """
        image: Pixels | None = _cache.get(file.uri)
        if image is None:
            image = self._stored(file, height, width)
        if image is None:
            image = self._decoded(file)
        return image if image is not None and image.shape == (height, width, 3) else None

    def drop(self, name: str) -> None:
        """Remove an image from the pixel store, because it is damaged; it is decoded again.

        Args:
            name: the hash of its pixels.
        """
        _opened.pop(name, None)
        if (store := self.store) is not None:
            store.remove(name)

    def _decoded(self, file: ImageFile | NoisyFile) -> NDArray[np.uint8] | None:
        """Decode an image, and keep it."""
        try:
            image = read_image(file.uri)
        except OSError:
            return None
        keep(self.store, file, image)
        return image

    def _stored(self, file: ImageFile | NoisyFile, height: int, width: int) -> StoredImage | None:
        """Return an image of the pixel store."""
        with _lock:
            if (image := _opened.get(file.sha256)) is not None:
                _opened.move_to_end(file.sha256)
                return image
        store = self.store
        image = None if store is None else store.get(file.sha256, height, width)
        if image is not None:
            with _lock:
                _opened[file.sha256] = image
                if len(_opened) > MAX_OPEN:
                    _opened.popitem(last=False)
        return image


Keep = Callable[[ImageFile | NoisyFile, NDArray[np.uint8]], None]
"""Called with each image that is decoded for the record of a run, and its pixels."""


@dataclass(frozen=True)
class Filler:
    """Puts the training images of a run into the pixel store while they are decoded anyway."""

    folder: str | None
    gib: float | None

    @classmethod
    def of(cls, config: DataConfig, total_bytes: int, remote: bool) -> "Filler | None":
        """Return what keeps images; none if no store is used.

        Args:
            config: of the images.
            total_bytes: of all training images, decoded.
            remote: whether they lie in a bucket.
        """
        if Reader(config.cache, config.cache_gib, total_bytes, remote).store is None:
            return None
        return cls(config.cache, config.cache_gib)

    def __call__(self, file: ImageFile | NoisyFile, image: NDArray[np.uint8]) -> None:
        """Take a training image, uint8 HxWx3."""
        store = store_of(self.folder, self.gib)
        if store is not None and store.usable:
            store.put(file.sha256, image)


def store_report(config: DataConfig, images: Images) -> str | None:
    """Return what the user must know of this machine's pixel store; none if all images fit.

    Args:
        config: of the images.
        images: the training images.
    """
    store = Reader.of(config, images).store
    if store is None:
        return None
    cost = "an image that it lacks is decoded whenever patches are cut from it"
    try:
        names = store.names()
        lacking = np.array([sha not in names for sha in images.hashes], bool)
        lacking_bytes = 3 * int(images.file_areas[lacking].sum())
        room = store.room() if lacking_bytes else 0
    except OSError as error:
        return f"the pixel store {store.folder} cannot be used ({reason_of(error)}); {cost}"
    if lacking_bytes <= room:
        return None
    return (
        f"the pixel store has {np.sum(~lacking)} of {len(lacking)} training images: the others "
        f"need {lacking_bytes / 2**30:.1f} GiB, and {store.folder} has room for "
        f"{room / 2**30:.1f} (--data.cache-gib, or the free disk); {cost}"
    )


def keep(store: Store | None, file: ImageFile | NoisyFile, image: NDArray[np.uint8]) -> None:
    """Keep a decoded image in the store or, if there is none or it is full, in memory.

    Args:
        store: to keep it in.
        file: its record. If it has other pixels now, it is kept in memory only.
        image: uint8 HxWx3.
    """
    usable = store is not None and store.usable and pixel_hash(image) == file.sha256
    if store is None or not usable or not store.put(file.sha256, image):
        _cache.put(file.uri, image)


@functools.cache
def store_of(folder: str | None, gib: float | None) -> Store | None:
    """Return this process's pixel store in a folder; none if its limit is 0.

    Args:
        folder: `data.cache`; none: in the user's folder for caches.
        gib: `data.cache_gib`; none: half of the disk's free space, and no limit in a bucket.

    Raises:
        UserError: the folder is a URI that cannot be used.
    """
    if gib == 0:
        return None
    if folder is not None and "://" in str(local_path(folder)):
        return BucketStore(Folder.of(folder), math.inf if gib is None else gib * 2**30)
    path = cache_folder() / "pixels" if folder is None else Path(Folder.of(folder).uri)
    return PixelStore(path, default_bytes(path) if gib is None else int(gib * 2**30))
