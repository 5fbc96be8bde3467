"""Data sources that draw their images, and some that are faulty."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.conftest import draw


class Waves:
    """Drawn images. A key holds the seed."""

    def __init__(self, *, number: int = 40, height: int = 48) -> None:
        self.number, self.height = number, height

    def images(self) -> Iterable[tuple[str, str | None]]:
        return [(f"wave/{i}", None) for i in range(self.number)]

    def read(self, key: str) -> NDArray[np.uint8]:
        return draw(int(key.removeprefix("wave/")), self.height)


class Split(Waves):
    """Eight images to train on, one for validation and one for testing."""

    def images(self) -> Iterable[tuple[str, str | None]]:
        yield from [("wave/9", "test"), ("wave/8", "val")]
        yield from ((f"wave/{i}", "train") for i in range(8))


class Faulty(Split):
    """A source with a fault: in its creation, in its list, or in the image wave/3."""

    def __init__(self, *, fault: str = "") -> None:
        super().__init__()
        self.fault = fault
        if fault == "open":
            raise FileNotFoundError(2, "No such file or directory", "slides.zarr")

    def images(self) -> Iterable[Any]:
        if self.fault == "list":
            raise OSError("no connection")
        entries: dict[str, list[object]] = {
            "none": [],
            "twice": [("a", None), ("a", "train")],
            "split": [("a", "trian")],
            "empty key": [("", None)],
            "no pair": ["a"],
        }
        return entries.get(self.fault, super().images())

    def read(self, key: str) -> Any:
        image = super().read(key)
        if key != "wave/3":
            return image
        if self.fault == "unreadable":
            raise OSError("a tile is damaged\nand more")
        faults: dict[str, Any] = {
            "dtype": image / np.float32(255),
            "grey": image[..., 0],
            "alpha": np.dstack((image, image[..., :1])),
            "list of lists": image.tolist(),
            "copy": super().read("wave/9"),
            "small": image[:15],
            "view": image[::-1, ::2],
        }
        return faults[self.fault]


def no_source() -> dict[str, int]:
    return {}


not_callable = 3
