"""Metrics of denoisers, image by image, by the literature's protocol.

The noise is drawn anew for each image from `np.random.RandomState(0)` and is neither clipped nor
rounded. The denoised image is rounded to uint8 before it is scored.
"""

import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from raydae.core.components import label_of
from raydae.core.errors import first_line
from raydae.core.pixels import to_uint8
from raydae.distributed.spread import spread
from raydae.evaluation import classical
from raydae.images.image_file import ImageFile
from raydae.metrics import METRICS
from raydae.models.inference import Denoiser
from raydae.models.model_file import load_model
from raydae.noise.evaluation import EvaluationNoise, TestNoise
from raydae.training.noisy_images import noisy_versions
from raydae.training.validation import compute_metric


@dataclass(frozen=True, kw_only=True)
class Score:
    """The result of one denoiser on one image with one noise."""

    image: str
    method: str
    noise: str
    """`EvaluationNoise.label`; `pairs` for the noise of the image's own noisy file."""
    sigma: float
    """Noise level, 0-255 scale; of noise that is not white, its standard deviation; of pairs
    and hidden pixels, the root of the mean square of their difference."""
    noisy: Mapping[str, float]
    """The metrics of the noisy image by name; PSNR in dB."""
    denoised: Mapping[str, float]
    """The metrics of the result, likewise."""
    seconds: float
    """Time to denoise the image, on one core or one GPU."""


def score_image(
    methods: Mapping[str, classical.Method],
    file: ImageFile,
    noises: Sequence[TestNoise],
    metrics: Sequence[str] = ("psnr", "ssim"),
    lock: AbstractContextManager[Any] = nullcontext(),  # noqa: B008  # it has no state
) -> list[Score]:
    """Score each method on one image with each noise.

    Args:
        methods: the denoisers by name.
        file: the clean image.
        noises: the noise to remove.
        metrics: names or import paths.
        lock: held while a method runs.

    Returns:
        The scores, ordered by noise, then by method.

    Raises:
        OSError: the image cannot be read.
        UserError: a metric of a user's own fails.
    """
    functions = {name: METRICS.bind(name, {}) for name in metrics}

    def measure(target: NDArray[np.uint8], image: NDArray[Any]) -> dict[str, float]:
        return {
            label_of(name): compute_metric(name, function, target, image)
            for name, function in functions.items()
        }

    scores = []
    for noise, noisy, target in noisy_versions(file, noises):
        sigma = noise.sigma
        if not isinstance(noise, EvaluationNoise):
            difference = noise.compared(noisy * 255 - target)
            sigma = float(np.sqrt(np.mean(difference**2, dtype=np.float64)))
        elif sigma is None:
            sigma = float(np.std(noisy * 255 - target))
        of_noisy = measure(noise.compared(target), noise.compared(noisy * 255))
        for name, method in methods.items():
            with lock:
                began = time.perf_counter()
                denoised = method(noisy, sigma)
                seconds = time.perf_counter() - began
            result = to_uint8(denoised)
            scores.append(
                Score(
                    image=file.name,
                    method=name,
                    noise=noise.label,
                    sigma=sigma,
                    noisy=of_noisy,
                    denoised=measure(noise.compared(target), noise.compared(result)),
                    seconds=seconds,
                )
            )
    return scores


def evaluate(
    model: str,
    images: Sequence[ImageFile],
    noises: Sequence[TestNoise],
    progress: Callable[[int, int], None] = lambda done, total: None,
    *,
    metrics: Sequence[str] = ("psnr", "ssim"),
    trust: Collection[str] = (),
    ensemble: bool = False,
    compare: bool = False,
    told: Sequence[float] = (),
    local_device: Literal["cpu", "cuda"] | None = None,
) -> tuple[list[Score], list[str]]:
    """Score a model file on images, in float32 (not TF32), in parallel.

    By default the images are spread over Ray's workers, which use a GPU where Ray has one; Ray must
    be running. CPU and GPU give the same scores up to rounding.

    Args:
        model: a path or URI that all nodes can read, or the name of a released model.
        images: the images to score it on.
        noises: the noise to remove.
        progress: called with (images done, images in all).
        metrics: names or import paths.
        trust: modules that may be imported, if the model file names a network of one of them.
        ensemble: average over the eight flips and rotations.
        compare: also score the methods of `raydae.evaluation.classical`.
        told: the levels that those are told, 0-255 scale; none: the true one.
        local_device: score in threads of this process, with the network on this device, instead of
            in Ray's workers.

    Returns:
        The scores, ordered by image, level and method; and one line for each image that failed.
    """

    def prepare() -> Callable[[ImageFile], list[Score]]:
        device = local_device or ("cuda" if torch.cuda.is_available() else "cpu")
        network, info = load_model(model, trust)
        denoiser = Denoiser(network, device, ensemble=ensemble)
        denoiser(np.zeros((256, 256), np.float32))  # warm up: the first call is the slowest
        name = f"{info.model.name}, ensemble" if ensemble else info.model.name
        methods: dict[str, classical.Method] = {name: lambda noisy, sigma: denoiser(noisy)}
        if compare:
            methods |= classical.available(told)
        # Threads share the GPU, so only one of them may be timed on it at once.
        lock = threading.Lock() if device == "cuda" else nullcontext()
        return lambda file: score_image(methods, file, noises, metrics, lock)

    threads = torch.get_num_threads()
    if local_device == "cpu":
        torch.set_num_threads(1)  # each scoring thread has a core of its own
    noises = [noise for i, noise in enumerate(noises) if noise not in noises[:i]]
    scored: dict[int, list[Score]] = {}
    failed = []
    results = spread(prepare, images, local_device is not None)
    try:
        for done, (number, result) in enumerate(results, start=1):
            if isinstance(result, Exception):
                failed.append(f"{images[number].name}: {first_line(result)}")
            else:
                scored[number] = result
            progress(done, len(images))
    finally:
        torch.set_num_threads(threads)
    return [score for number in sorted(scored) for score in scored[number]], sorted(failed)
