"""Data sources: images that a user's own code lists and reads, for example from an archive.

`--data MODULE:NAME` names any callable that returns a `Source`. Its keyword parameters are the
source's options. For example, `--data sources:microscope` uses this file, ``sources.py``::

    class microscope:
        def __init__(self, *, path: str = "slides.zarr") -> None:
            self.slides = zarr.open(path, mode="r")

        def images(self):
            return [(key, None) for key in self.slides]

        def read(self, key):
            return self.slides[key][:]

An image of a source is identified by a URI from which any process can read it,
``source:MODULE:NAME?OPTIONS#KEY``. Options are JSON; options and key are percent-encoded.
"""

import functools
import inspect
import json
from collections.abc import Iterable, Mapping
from typing import Any, Protocol, runtime_checkable
from urllib.parse import quote, unquote

import numpy as np
from numpy.typing import NDArray

from raydae.core.components import load
from raydae.core.errors import UserError, first_line
from raydae.images.listed import Listed

_SCHEME = "source:"


@runtime_checkable
class Source(Protocol):
    """A set of images that can be listed and read."""

    def images(self) -> Iterable[tuple[str, str | None]]:
        """Return (key, split) of each image, in any order.

        A key is a unique, non-empty string. It must always name the same image, because it
        identifies the image in the files of a run. The split is ``train``, ``val`` or ``test``. If
        it is None, raydae splits by the hash of the key, which is stable when images are added.

        Raises:
            OSError: The images cannot be listed.
        """
        ...

    def read(self, key: str) -> NDArray[np.uint8]:
        """Return an image as RGB, uint8 H×W×3.

        Called in several processes, each of which creates the source anew, and from several
        threads at once. An image must have the same pixels each time.

        Raises:
            OSError: The image cannot be read. It is left out and reported.
        """
        ...


def is_source_uri(uri: str) -> bool:
    """Return whether a URI identifies an image of a source."""
    return uri.startswith(_SCHEME)


def list_source(path: str, options: Mapping[str, Any]) -> Listed:
    """Return the images of a source by URI and key, sorted by key, with their splits.

    Args:
        path: The import path of the source, MODULE:NAME.
        options: Its options: values that JSON can represent.

    Raises:
        UserError: The source cannot be imported or created, cannot list its images, or lists none
            or wrong ones.
    """
    text = json.dumps(dict(options), sort_keys=True)
    query = f"?{quote(text)}" if options else ""
    splits: dict[str, str | None] = {}
    try:
        for entry in _create(path, text).images():
            match entry:
                case (str(key), None | "train" | "val" | "test" as split) if key:
                    if key in splits:
                        raise UserError(f"{path}: images() lists {key!r} twice; keys must differ")
                    splits[key] = split
                case _:
                    raise UserError(
                        f"{path}: images() lists {entry!r}; it must list pairs (key, split), where "
                        "key is a string, and split is 'train', 'val', 'test' or None"
                    )
    except OSError as error:
        raise UserError(f"{path} cannot be listed: {first_line(error)}") from error
    if not splits:
        raise UserError(f"{path}: images() lists no images")
    keys = sorted(splits)
    uris = [f"{_SCHEME}{path}{query}#{quote(key)}" for key in keys]
    return Listed.of_columns(uris, keys, [splits[key] for key in keys])


def read_source_image(uri: str) -> NDArray[np.uint8]:
    """Read an image of a source as RGB, uint8 H×W×3.

    Args:
        uri: As `list_source` returns it.

    Raises:
        OSError: The image cannot be read.
        UserError: The source cannot be imported or created, or returns something else than RGB.
    """
    head, _, key = uri.removeprefix(_SCHEME).partition("#")
    path, _, text = head.partition("?")
    key = unquote(key)
    source = _create(path, unquote(text) or "{}")
    try:
        image: Any = source.read(key)
    except OSError as error:
        raise OSError(f"{path}: {key} cannot be read: {first_line(error)}") from error
    if not isinstance(image, np.ndarray):
        found = f"a {type(image).__name__}"
    elif image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        found = f"{image.dtype} of shape {image.shape}"
    else:
        return np.ascontiguousarray(image)
    raise UserError(
        f"{path}: read({key!r}) returned {found}; it must return RGB, a NumPy array of uint8 "
        "and shape (height, width, 3)"
    )


@functools.lru_cache(maxsize=8)
def _create(path: str, options: str) -> Source:
    """Create a source, once per process.

    Args:
        path: MODULE:NAME.
        options: The keyword arguments, as a JSON object.

    Raises:
        UserError: The source cannot be imported or created, or has no such options.
    """
    factory = load(path)
    if not callable(factory):
        raise UserError(f"{path} is a {type(factory).__name__}; name a class or a function")
    values = json.loads(options)
    signature = inspect.signature(factory)
    try:
        signature.bind(**values)
    except TypeError as error:
        known = ", ".join(signature.parameters) or "none"
        raise UserError(f"{path}: {error}; its options are: {known}") from None
    try:
        source = factory(**values)
    except OSError as error:
        raise UserError(f"{path} cannot be opened: {first_line(error)}") from error
    if not isinstance(source, Source):
        raise UserError(
            f"{path} returns a {type(source).__name__}, not a data source; "
            "a source has the methods images() and read(key)"
        )
    return source
