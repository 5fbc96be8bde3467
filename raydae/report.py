"""Figures of a run."""

import io
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from raydae.metrics import psnr, to_uint8
from raydae.noise import evaluation_noise


def panel(
    images: Sequence[NDArray[np.uint8]], sigma: float, denoise: Callable[[Any], Any], title: str
) -> bytes:
    """Noisy, denoised and clean side by side, a row for each image, PSNR written under each.

    Args:
        images: clean uint8 HxWx3.
        sigma: of the noise to add, 0-255 scale.
        denoise: float32 HxWx3 to the same on [0, 1].
        title: written above.

    Returns:
        A PNG.
    """
    # Every third of the width shows its image as wide as the widest one.
    heights = [image.shape[0] / image.shape[1] * 3.2 + 0.35 for image in images]
    figure = Figure(figsize=(10, sum(heights) + 0.5), layout="constrained")
    figure.suptitle(title, fontsize=11)
    axes = figure.subplots(len(images), 3, squeeze=False, height_ratios=heights)
    for row, clean in zip(axes, images, strict=True):
        noisy = evaluation_noise(clean, sigma)
        denoised = to_uint8(denoise(noisy))
        _show(row[0], to_uint8(noisy), f"noisy {psnr(clean, noisy * 255):.2f} dB")
        _show(row[1], denoised, f"denoised {psnr(clean, denoised):.2f} dB")
        _show(row[2], clean, "clean")
    buffer = io.BytesIO()
    with mpl.rc_context({"savefig.facecolor": "white"}):
        figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()


def _show(axis: Any, image: NDArray[np.uint8], label: str) -> None:
    axis.imshow(image, interpolation="antialiased")
    axis.set_xlabel(label, fontsize=9)
    axis.set(xticks=[], yticks=[])
    for spine in axis.spines.values():
        spine.set_visible(False)
