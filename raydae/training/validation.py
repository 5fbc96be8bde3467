"""Validation: fixed images with fixed noise, scored after every epoch."""

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray

from raydae.images.image_sets import ImageFile, read_image
from raydae.metrics.metrics import psnr, ssim, to_uint8
from raydae.models.inference import Denoiser
from raydae.noise.gaussian import evaluation_noise

GPU_THREADS = 8  # that read, noise and score images: 0.1 s each, where a GPU denoises in 0.005 s


def score_images(
    denoise: Denoiser, images: Sequence[ImageFile], sigmas: Sequence[float]
) -> Iterator[NDArray[np.float64] | None]:
    """Score a denoiser on images with the literature's noise.

    Beside a GPU, threads do what the CPU has to do; on the CPU, torch has its threads already.

    Args:
        denoise: the denoiser.
        images: what to score it on.
        sigmas: noise levels, 0-255 scale.

    Yields:
        For each image in turn the sums over the levels of PSNR (dB), SSIM and 1; none where it
        cannot be read.
    """
    lock = threading.Lock()  # the denoiser takes one image at a time

    def score(file: ImageFile) -> NDArray[np.float64] | None:
        try:
            clean = read_image(file.uri)
        except OSError:
            return None
        sums = np.zeros(3)
        for sigma in sigmas:
            noisy = evaluation_noise(clean, sigma)
            with lock:
                denoised = denoise(noisy)
            result = to_uint8(denoised)
            sums += psnr(clean, result), ssim(clean, result), 1
        return sums

    if denoise.device.type != "cuda":
        yield from map(score, images)
        return
    # CUDA has a current device in each thread.
    with ThreadPoolExecutor(GPU_THREADS, "score", torch.cuda.set_device, (denoise.device,)) as pool:
        yield from pool.map(score, images)
