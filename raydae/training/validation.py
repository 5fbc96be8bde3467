"""Validation: fixed images with fixed noise, scored after every epoch."""

import functools
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from raydae.core.errors import UserError
from raydae.core.pixels import to_uint8
from raydae.images.image_file import ImageFile
from raydae.metrics import METRICS
from raydae.models.inference import Denoiser
from raydae.noise.evaluation import TestNoise
from raydae.training.context import Context
from raydae.training.noisy_images import noisy_versions

GPU_THREADS = 8  # that read, noise and score images: 0.1 s each, where a GPU denoises in 0.005 s


def validate(
    denoise: Denoiser,
    images: Sequence[ImageFile],
    noises: Sequence[TestNoise],
    metrics: Sequence[str],
    context: Context,
    on_image: Callable[[ImageFile, bool], object] = lambda file, readable: None,
) -> dict[str, float]:
    """Return the mean of each metric over all images and noises; all workers take part.

    Args:
        denoise: the denoiser, the same on all workers.
        images: all images; each worker scores its part of them.
        noises: the noise to remove.
        metrics: names or import paths.
        context: this worker's place.
        on_image: called after each of this worker's images, with whether it could be read.

    Returns:
        The mean by the metric's name, over the images for which it is not nan; nan if there are
        none.

    Raises:
        UserError: a metric of a user's own fails, on any worker.
    """
    sums = np.zeros((2, len(metrics)))
    part = images[context.rank :: context.workers]
    problem = None
    try:
        for file, scores in zip(part, score_images(denoise, part, noises, metrics), strict=True):
            on_image(file, scores is not None)
            if scores is not None:
                sums += scores
    except UserError as error:  # told to all workers, which would wait for this one
        problem = str(error)
    for said in context.gather(problem):
        if said is not None:
            raise UserError(said)
    totals, counts = context.total(torch.from_numpy(sums).to(context.device)).tolist()
    return {
        name: total / count if count else math.nan
        for name, total, count in zip(metrics, totals, counts, strict=True)
    }


def score_images(
    denoise: Denoiser,
    images: Sequence[ImageFile],
    noises: Sequence[TestNoise],
    metrics: Sequence[str] = ("psnr", "ssim"),
) -> Iterator[NDArray[np.float64] | None]:
    """Score a denoiser on images that are made noisy.

    Beside a GPU, threads do the CPU's part; on the CPU, torch has its threads already.

    Args:
        denoise: the denoiser.
        images: what to score it on.
        noises: the noise to remove.
        metrics: names or import paths.

    Yields:
        For each image in turn two rows: the sums of each metric over the noises, and how many
        values they have, because nan is left out; none if it cannot be read.

    Raises:
        UserError: a metric of a user's own fails.
    """
    lock = threading.Lock()  # the denoiser takes one image at a time
    functions = {name: METRICS.bind(name, {}) for name in metrics}

    def score(file: ImageFile) -> NDArray[np.float64] | None:
        sums = np.zeros((2, len(metrics)))
        try:
            for noise, noisy, target in noisy_versions(file, noises):
                with lock:
                    denoised = denoise(noisy)
                result = noise.compared(to_uint8(denoised))
                values = [
                    compute_metric(name, metric, noise.compared(target), result)
                    for name, metric in functions.items()
                ]
                defined = ~np.isnan(values)
                sums += [np.where(defined, values, 0), defined]
        except OSError:
            return None
        return sums

    if denoise.device.type != "cuda":
        yield from map(score, images)
        return
    # CUDA has a current device in each thread.
    set_device = functools.partial(torch.cuda.set_device, denoise.device)
    with ThreadPoolExecutor(GPU_THREADS, "score", set_device) as pool:
        yield from pool.map(score, images)


def compute_metric(
    name: str, metric: Callable[..., Any], clean: NDArray[np.uint8], image: NDArray[Any]
) -> float:
    """Return a metric of an image, HxWx3 on the 0-255 scale.

    Raises:
        UserError: it is a user's own metric, and it fails.
    """
    if name in METRICS.builtins:
        return float(metric(clean, image))
    try:
        return float(metric(clean, image))
    except Exception as error:  # whatever a user's code raises
        raise UserError(f"the metric {name} failed: {error!r}") from None
