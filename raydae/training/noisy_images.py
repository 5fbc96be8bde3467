"""Noisy images to score a denoiser on: with noise added, or with that of their own noisy files."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from raydae.images.image_file import ImageFile, read_image
from raydae.noise.evaluation import PairNoise, TestNoise


def noisy_versions(
    file: ImageFile,
    noises: Sequence[TestNoise],
    crop: Callable[[NDArray[np.uint8]], NDArray[np.uint8]] = lambda image: image,
) -> Iterator[tuple[TestNoise, NDArray[np.float32], NDArray[np.uint8]]]:
    """Read an image, and yield it with each noise.

    Args:
        file: the image.
        noises: the noises.
        crop: cuts out a part of the image before noise is added.

    Yields:
        The noise; the noisy image, float32 HxWx3 on the [0, 1] scale but free to leave it; and what
        a perfect denoiser would return, uint8 HxWx3.

    Raises:
        OSError: the image or its noisy file cannot be read, or the sizes differ.
    """
    clean = crop(read_image(file.uri))
    for noise in noises:
        if not isinstance(noise, PairNoise):
            noisy, target = noise(clean)
        else:
            own = crop(read_image(file.noisy[0].uri))
            if own.shape != clean.shape:
                raise OSError(f"{file.noisy[0].name} and {file.name} differ in size")
            noisy, target = own / np.float32(255), clean
        yield noise, noisy, target
