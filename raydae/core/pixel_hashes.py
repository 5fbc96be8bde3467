"""A set of images, known by their pixels."""

import base64
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

DIGITS = 16  # of a hash in hexadecimal that are kept: 64 of its 128 bits


class PixelHashes:
    """A set of images, known by 64 bits of their pixels' hashes.

    A million images are 8 MB. That one of 10,000 others is taken for one of them by chance has a
    probability of 5e-10.

    >>> seen = PixelHashes.of(["00000000000000ff" * 2, "0" * 32])
    >>> "0" * 32 in seen, "1" * 32 in seen, len(seen), seen.text
    (True, False, 2, 'AAAAAAAAAAAAAAAAAAAA/w==')
    """

    def __init__(self, values: NDArray[np.uint64]) -> None:
        """Make a set of the first 64 bits of hashes, (n,); they may repeat."""
        self._values = np.unique(values)

    @classmethod
    def of(cls, hashes: Iterable[str]) -> "PixelHashes":
        """Return a set of hashes as `pixel_hash` returns them.

        Raises:
            ValueError: one is something else.
        """
        parts = [sha[:DIGITS] for sha in hashes]
        if any(len(part) != DIGITS for part in parts):
            raise ValueError(f"a hash has fewer than {DIGITS} digits")
        return cls(np.frombuffer(bytes.fromhex("".join(parts)), ">u8").astype(np.uint64))

    @classmethod
    def from_text(cls, text: str) -> "PixelHashes":
        """Return the set that has a `text`.

        Raises:
            ValueError: the text is something else.
        """
        data = base64.b64decode(text, validate=True)
        return cls(np.frombuffer(data, ">u8").astype(np.uint64))

    @property
    def text(self) -> str:
        """The set for a file: base64 of 8 bytes for each image, in order."""
        return base64.b64encode(self._values.astype(">u8").tobytes()).decode()

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, sha: str) -> bool:
        value = np.uint64(int(sha[:DIGITS], 16))
        place = int(np.searchsorted(self._values, value))
        return place < len(self) and bool(self._values[place] == value)

    def __or__(self, other: "PixelHashes") -> "PixelHashes":
        return PixelHashes(np.concatenate([self._values, other._values]))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PixelHashes) and np.array_equal(self._values, other._values)

    def __hash__(self) -> int:
        return hash(self._values.tobytes())
