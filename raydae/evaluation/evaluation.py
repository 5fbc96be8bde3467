"""PSNR and SSIM of denoisers on a set of images, by the literature's protocol."""

import csv
import io
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch

from raydae.core.errors import UserError, first_line
from raydae.core.pixels import to_uint8
from raydae.distributed.spread import spread
from raydae.evaluation import classical
from raydae.images.image_sets import ImageFile, read_image
from raydae.metrics.psnr import psnr
from raydae.metrics.ssim import ssim
from raydae.models.inference import Denoiser
from raydae.models.model_file import ModelInfo, load_model
from raydae.noise.evaluation import evaluation_noise


@dataclass(frozen=True, kw_only=True)
class Score:
    """How one image fared at one noise level with one denoiser; PSNR in dB."""

    image: str
    method: str
    sigma: float
    psnr_noisy: float
    psnr: float
    ssim_noisy: float
    ssim: float
    seconds: float
    """That denoising took, in a process that had a core or a GPU."""


def score(
    methods: Mapping[str, classical.Method],
    file: ImageFile,
    sigmas: Sequence[float],
    lock: AbstractContextManager[Any] = nullcontext(),  # noqa: B008  # it has no state
) -> list[Score]:
    """Scores one image at each level: the noisy input as it is, the results as uint8.

    Raises:
        OSError: the image cannot be read.
    """
    clean = read_image(file.uri)
    scores = []
    for sigma in sigmas:
        noisy = evaluation_noise(clean, sigma)
        psnr_noisy, ssim_noisy = psnr(clean, noisy * 255), ssim(clean, noisy * 255)
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
                    sigma=sigma,
                    psnr_noisy=psnr_noisy,
                    psnr=psnr(clean, result),
                    ssim_noisy=ssim_noisy,
                    ssim=ssim(clean, result),
                    seconds=seconds,
                )
            )
    return scores


def evaluate(
    model: str,
    images: Sequence[ImageFile],
    sigmas: Sequence[float],
    progress: Callable[[int, int], None] = lambda done, total: None,
    ensemble: bool = False,
    compare: bool = False,
    here: Literal["cpu", "cuda"] | None = None,
) -> tuple[list[Score], list[str]]:
    """Score a model file on images, in float32 (not TF32), spread over Ray's workers.

    Workers use a GPU where Ray has any, and score as the CPU does. Ray must run, unless it is
    done here.

    Args:
        model: path or URI of the model file, seen by all nodes, or `released`.
        images: what to score it on.
        sigmas: noise levels, 0-255 scale.
        progress: called with (images done, images in all).
        ensemble: average over the eight flips and turns.
        compare: score the denoisers of `raydae.evaluation.classical` too.
        here: in threads of this process, with its network on that device, instead of Ray's workers.

    Returns:
        The scores, in the order of the images, levels and denoisers; a line on each image that
        failed.
    """

    def prepare() -> Callable[[ImageFile], list[Score]]:
        device = here or ("cuda" if torch.cuda.is_available() else "cpu")
        network, info = load_model(model)
        denoiser = Denoiser(network, device, ensemble=ensemble)
        denoiser(np.zeros((256, 256), np.float32))  # the first call takes longest
        name = f"{info.model.name}, ensemble" if ensemble else info.model.name
        methods: dict[str, classical.Method] = {name: lambda noisy, sigma: denoiser(noisy)}
        if compare:
            methods |= classical.available()
        # Threads share a GPU, one image at a time.
        lock = threading.Lock() if device == "cuda" else nullcontext()
        return lambda file: score(methods, file, sigmas, lock)

    threads = torch.get_num_threads()
    if here == "cpu":
        torch.set_num_threads(1)  # each of the threads that score has a core
    sigmas = tuple(dict.fromkeys(sigmas))
    results: dict[int, list[Score]] = {}
    failed = []
    try:
        for done, (number, result) in enumerate(spread(prepare, images, here is not None), start=1):
            if isinstance(result, Exception):
                failed.append(f"{images[number].name}: {first_line(result)}")
            else:
                results[number] = result
            progress(done, len(images))
    finally:
        torch.set_num_threads(threads)
    return [line for number in sorted(results) for line in results[number]], sorted(failed)


def check_overlap(info: ModelInfo, images: Sequence[ImageFile], force: bool = False) -> str | None:
    """Refuses to evaluate a model on images it was trained on, known by their pixels.

    Returns:
        A remark that belongs beside the results: the images chose the model, or trained it and
        that was forced; none where they are new to it.

    Raises:
        UserError: it was trained on some of them, and that was not forced.
    """
    training, choosing = set(info.train_hashes), set(info.val_hashes)
    trained = [file.name for file in images if file.sha256 in training]
    chosen = [file.name for file in images if file.sha256 in choosing]
    if trained and not force:
        raise UserError(
            f"the model was trained on {len(trained)} of these {len(images)} images, such as "
            f"{trained[0]}, so its results on them say nothing; choose others, or use --force"
        )
    if trained:
        return f"trained on {len(trained)} of these {len(images)} images: no measure of quality"
    if chosen:
        return f"{len(chosen)} of these {len(images)} images chose the epoch of this model"
    return None


def table(name: str, scores: Sequence[Score], remark: str | None = None) -> list[dict[str, Any]]:
    """Means over the images, a row for each noise level and denoiser, as `results.json` holds them.

    `remark` goes with the rows of the first denoiser: the others were trained on nothing.
    """
    rows = []
    for sigma, method in dict.fromkeys((line.sigma, line.method) for line in scores):
        lines = [line for line in scores if (line.sigma, line.method) == (sigma, method)]
        row: dict[str, Any] = {"set": name, "method": method, "sigma": sigma, "images": len(lines)}
        for key in ("psnr_noisy", "psnr", "ssim_noisy", "ssim", "seconds"):
            row[key] = _mean([getattr(line, key) for line in lines])
        if remark is not None and method == scores[0].method:
            row["remark"] = remark
        rows.append(row)
    return rows


def records(scores: Sequence[Score]) -> list[dict[str, Any]]:
    """The scores image by image, as JSON can hold them: what is no number is none."""
    return [
        {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in asdict(line).items()
        }
        for line in scores
    ]


def to_csv(scores: Sequence[Score]) -> str:
    """The scores image by image, as CSV with a header."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(Score.__dataclass_fields__))
    writer.writeheader()
    writer.writerows(asdict(line) for line in scores)
    return text.getvalue()


def _mean(values: list[float]) -> float | None:
    """The mean where every value is a number; JSON has no infinity, and an SSIM may not exist."""
    mean = sum(values) / len(values)
    return mean if math.isfinite(mean) else None
