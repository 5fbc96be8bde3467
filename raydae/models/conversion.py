"""Images as users have them, as arrays to denoise one by one: stacks, lists, PIL, torch, 16 bits.

The result is what was given: the same type, layout, dtype and device.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

Array = NDArray[Any]
Restore = Callable[[list[Array]], Any]

LIMIT = 8.0
"""The largest value of floating point: 1 and 7 times noise of sigma 255 on the 0-255 scale."""
KINDS = "a NumPy array, a torch tensor, a PIL image, or a list of numbers or of images"


def is_plain(image: object) -> bool:
    """Return whether an image is an array that needs no conversion."""
    if not isinstance(image, np.ndarray) or image.ndim == 4:
        return False
    return bool(image.dtype == np.uint8 or image.dtype.kind not in "iu")


def unpack(image: Any) -> tuple[list[Array], Restore]:
    """Return the arrays of an image or of several, and what makes the results what was given.

    Args:
        image: A NumPy array, (h, w, 3), (h, w) or a stack (n, h, w, 3). A torch tensor likewise, or
            channels first: (3, h, w), (1, h, w), (n, 3, h, w) or (n, 1, h, w); first, if both fit.
            A PIL image: alpha is kept; a palette becomes RGB. Nested lists of numbers: whole ones
            are 0 to 255. A list or tuple of images.

    Raises:
        ValueError: Anything else.
    """
    if isinstance(image, np.ndarray):
        return _unpack_array(image)
    if isinstance(image, Tensor):
        return _unpack_tensor(image)
    if isinstance(image, Image.Image):
        return _unpack_pil(image)
    if isinstance(image, list | tuple):
        return _unpack_list(image)
    if hasattr(image, "__array__"):  # as of other array libraries
        return _unpack_array(np.asarray(image))
    raise ValueError(f"an image is {KINDS}, not a {type(image).__name__}")


def check(array: Array) -> None:
    """Check that an array can be denoised.

    Raises:
        ValueError: Its shape or dtype is another, it is empty, has values that are not finite, or
            floating point that is not on the [0, 1] scale. Noise may leave it, but not beyond
            `LIMIT`.
    """
    if not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)) or array.size == 0:
        raise ValueError(f"an image is HxWx3 or HxW, or a stack NxHxWx3, not {array.shape}")
    if array.dtype == np.uint8:
        return
    if not np.issubdtype(array.dtype, np.floating):
        raise ValueError(
            "an image is uint8, uint16 or int16, or floating point on [0, 1], not "
            f"{array.dtype}: convert it first"
        )
    low, high = float(array.min()), float(array.max())
    if not np.isfinite([low, high]).all():
        count = array.size - np.count_nonzero(np.isfinite(array))
        raise ValueError(f"{count} of {array.size} values are NaN or infinite: replace them first")
    if low < -LIMIT or high > LIMIT:
        raise ValueError(
            f"the values lie between {low:g} and {high:g}, but floating point is on the scale from "
            "0 to 1: divide it, by 255 if it is from 0 to 255"
        )


def apply(function: Callable[[Array], Array], array: Array) -> Array:
    """Return what a function of uint8 or floating point makes of an array; 16 bits as float32.

    The ends of the range of uint16 and int16 are 0 and 1.
    """
    if array.dtype.kind not in "iu" or array.dtype.itemsize != 2:
        return function(array)
    low, high = np.iinfo(array.dtype).min, np.iinfo(array.dtype).max
    values = array.astype(np.float32)
    values -= low
    values /= high - low
    values = function(values)
    values *= high - low
    values += low
    return np.rint(values, out=values).clip(low, high).astype(array.dtype)


def _unpack_array(array: Array) -> tuple[list[Array], Restore]:
    if array.ndim != 4:
        return [array], lambda results: results[0]
    if not len(array):
        raise ValueError("there are no images")
    return list(array), np.stack


def _unpack_tensor(tensor: Tensor) -> tuple[list[Array], Restore]:
    values = tensor.detach().cpu()
    array = (values.float() if tensor.dtype == torch.bfloat16 else values).numpy()
    channels = _channel_axis(array.shape)
    last = array if channels is None else np.moveaxis(array, channels, -1)
    grey = channels is not None and last.shape[-1] == 1
    arrays, restore = _unpack_array(last[..., 0] if grey and array.ndim == 3 else last)
    if grey and array.ndim == 4:
        arrays = [part[..., 0] for part in arrays]

    def back(results: list[Array]) -> Tensor:
        result = restore(results)
        if grey:
            result = result[..., None]
        if channels is not None:
            result = np.moveaxis(result, -1, channels)
        return torch.from_numpy(np.ascontiguousarray(result)).to(tensor.device, tensor.dtype)

    return arrays, back


def _channel_axis(shape: Sequence[int]) -> int | None:
    """Return the axis of a tensor's channels if they are first, else none."""
    if len(shape) not in (3, 4):
        return None
    first = len(shape) - 3
    if shape[first] == 3 or (shape[first] == 1 and shape[-1] != 3):
        return first
    return None


def _unpack_pil(image: Image.Image) -> tuple[list[Array], Restore]:
    mode = {"1": "L", "P": "RGB", "PA": "RGBA"}.get(image.mode, image.mode)
    if image.has_transparency_data:
        mode = {"L": "LA", "RGB": "RGBA"}.get(mode, mode)
    if mode not in ("L", "LA", "RGB", "RGBA", "F") and not mode.startswith("I;16"):
        raise ValueError(f"a PIL image of mode {mode} is not supported: convert it to RGB first")
    converted = image if image.mode == mode else image.convert(mode)
    pixels = np.asarray(converted)
    alpha = converted.getchannel("A") if mode.endswith("A") else None
    if alpha is not None:
        pixels = pixels[..., :3] if mode == "RGBA" else pixels[..., 0]

    def back(results: list[Array]) -> Image.Image:
        result = Image.fromarray(results[0])
        if alpha is not None:
            result.putalpha(alpha)
        result.info = {key: image.info[key] for key in image.info if key != "transparency"}
        return result

    return [pixels], back


def _unpack_list(images: list[Any] | tuple[Any, ...]) -> tuple[list[Array], Restore]:
    leaf: Any = images
    while isinstance(leaf, list | tuple) and leaf:
        leaf = leaf[0]
    if isinstance(leaf, int | float | np.number):
        return _unpack_numbers(images)
    if not images:
        raise ValueError("there are no images")
    parts = [unpack(image) for image in images]

    def back(results: list[Array]) -> Any:
        rest = iter(results)
        return type(images)([restore([next(rest) for _ in arrays]) for arrays, restore in parts])

    return [array for arrays, _ in parts for array in arrays], back


def _unpack_numbers(values: list[Any] | tuple[Any, ...]) -> tuple[list[Array], Restore]:
    try:
        array = np.asarray(values)
    except ValueError:
        raise ValueError("the rows of the list differ in length") from None
    if array.dtype.kind in "iu":
        low, high = array.min(), array.max()
        if low < 0 or high > 255:
            raise ValueError(
                f"the list has whole numbers from {low} to {high}, but they are on the scale from "
                "0 to 255: pass an array of uint16, or floating point from 0 to 1"
            )
        array = array.astype(np.uint8)
    arrays, restore = _unpack_array(array)
    return arrays, lambda results: restore(results).tolist()
