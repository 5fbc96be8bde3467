"""A panel of images to look at: noisy, denoised by one or more models, and clean."""

import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from raydae.core.pixels import to_uint8
from raydae.evaluation.overlap import images_in
from raydae.images.image_file import ImageFile
from raydae.metrics.psnr import psnr
from raydae.models.inference import Denoiser
from raydae.models.model_file import load_model

Denoise = Callable[[NDArray[Any]], NDArray[Any]]
"""float32 HxWx3 on [0, 1] to the same."""
# Sizes in pixels.
MAX_SIDE = 384  # of a cell; four columns are then 1600 wide and fit a screen unscaled
MIN_SIDE = 240  # of a cell, so that its label fits; smaller images are enlarged
GAP = 8  # between cells
LABEL = 26  # the height of the line under a cell
FONT, TITLE_FONT = 16, 18


def panel(
    images: Sequence[tuple[NDArray[np.float32], NDArray[np.uint8] | None]],
    denoisers: Sequence[tuple[str, Denoise]],
    title: str,
) -> bytes:
    """Draw a row for each image: noisy, the result of each denoiser, clean.

    Under each cell stand its label and its PSNR; without a clean image, neither that nor it.

    Args:
        images: squares as `middle` cuts them, noisy and clean: float32 on [0, 1] and uint8, HxWx3.
            All have a clean one, or none has.
        denoisers: (label, function) for each column between noisy and clean.
        title: written above.

    Returns:
        A PNG.
    """
    rows = [_row(noisy, clean, denoisers) for noisy, clean in images]
    side = max(MIN_SIDE, *(cell.shape[0] for row in rows for _, cell in row))
    columns = len(rows[0])
    size = (columns * (side + GAP) + GAP, len(rows) * (side + LABEL + GAP) + LABEL + GAP)
    canvas = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(canvas)
    _write(draw, title, size[0] // 2, GAP + LABEL // 2, size[0], TITLE_FONT)
    for i, row in enumerate(rows):
        top = LABEL + GAP + i * (side + LABEL + GAP)
        for j, (label, cell) in enumerate(row):
            left = GAP + j * (side + GAP)
            shift = (side - cell.shape[0]) // 2
            canvas.paste(Image.fromarray(cell), (left + shift, top + shift))
            _write(draw, label, left + side // 2, top + side + LABEL // 2, side + GAP, FONT)
    buffer = io.BytesIO()
    canvas.save(buffer, format="png")
    return buffer.getvalue()


def released_column(name: str, images: Sequence[ImageFile] = ()) -> tuple[str, Denoiser]:
    """Return a column for `panel` that shows a released model, on the CPU.

    Args:
        name: of the model: `photo`, `gaussian` or `large`.
        images: the images of the panel; the label says if the model was trained on them.
    """
    network, info = load_model(name)
    trained = len(images_in(info.train_hashes, images))
    note = f" (trained on {'these' if trained == len(images) else 'some'})" if trained else ""
    return f"{name}{note}", Denoiser(network)


def middle(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the largest square at the middle of an image, of at most MAX_SIDE.

    It is shown pixel for pixel, because scaling an image down removes noise.
    """
    height, width = image.shape[:2]
    side = min(height, width, MAX_SIDE)
    top, left = (height - side) // 2, (width - side) // 2
    return image[top : top + side, left : left + side]


def _row(
    noisy: NDArray[np.float32],
    clean: NDArray[np.uint8] | None,
    denoisers: Sequence[tuple[str, Denoise]],
) -> list[tuple[str, NDArray[np.uint8]]]:
    """Return the labels and the uint8 cells of one row."""
    cells = [to_uint8(noisy), *(to_uint8(denoise(noisy)) for _, denoise in denoisers)]
    row = list(zip(["noisy", *(label for label, _ in denoisers)], cells, strict=True))
    if clean is not None:
        # The noisy image is scored before it is clipped, as everywhere.
        scored: list[NDArray[Any]] = [noisy * 255, *cells[1:]]
        row = [
            (f"{label}  {psnr(clean, image):.2f} dB", cell)
            for (label, cell), image in zip(row, scored, strict=True)
        ]
        row.append(("clean", clean))
    enlarge = max(MIN_SIDE // noisy.shape[0], 1)  # whole pixels only
    return [(label, cell.repeat(enlarge, 0).repeat(enlarge, 1)) for label, cell in row]


def _write(draw: ImageDraw.ImageDraw, text: str, x: int, y: int, width: int, size: int) -> None:
    """Write a line centred at (x, y), in a smaller font if it is wider than `width`."""
    font = ImageFont.load_default(size)
    if (length := draw.textlength(text, font)) > width:
        font = ImageFont.load_default(size * width / length)
    draw.text((x, y), text, "black", font, anchor="mm")
