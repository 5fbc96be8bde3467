"""PSNR and SSIM of a model on a set of images, by the literature's protocol."""

import csv
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import ray
import torch

from raydae.errors import UserError
from raydae.images import ImageFile, read_image
from raydae.metrics import psnr, ssim, to_uint8
from raydae.noise import evaluation_noise
from raydae.restore import Denoiser
from raydae.spread import spread
from raydae.storage import first_line
from raydae.weights import ModelInfo, load_model


@dataclass(frozen=True)
class Score:
    """How one image fared at one noise level; PSNR in dB."""

    image: str
    sigma: float
    psnr_noisy: float
    psnr: float
    ssim_noisy: float
    ssim: float


def score(denoise: Callable[[Any], Any], file: ImageFile, sigmas: Sequence[float]) -> list[Score]:
    """Scores one image at each level: the noisy input as it is, the result as uint8.

    Raises:
        OSError: the image cannot be read.
    """
    clean = read_image(file.uri)
    scores = []
    for sigma in sigmas:
        noisy = evaluation_noise(clean, sigma)
        denoised = to_uint8(denoise(noisy))
        noisy = noisy * 255
        scores.append(
            Score(
                image=file.name,
                sigma=sigma,
                psnr_noisy=psnr(clean, noisy),
                psnr=psnr(clean, denoised),
                ssim_noisy=ssim(clean, noisy),
                ssim=ssim(clean, denoised),
            )
        )
    return scores


def evaluate(
    model: str,
    images: Sequence[ImageFile],
    sigmas: Sequence[float],
    progress: Callable[[int, int], None] = lambda done, total: None,
    ensemble: bool = False,
) -> tuple[list[Score], list[str]]:
    """Scores a model file on images, in float32, spread over Ray's workers; Ray must run.

    Args:
        model: path or URI of the model file, seen by all nodes.
        images: what to score it on.
        sigmas: noise levels, 0-255 scale.
        progress: called with (images done, images in all).
        ensemble: average over the eight flips and turns.

    Returns:
        The scores, in the order of the images and levels; a line on each image that failed.
    """

    def prepare() -> Callable[[ImageFile], list[Score]]:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        denoiser = Denoiser(load_model(model)[0], device, ensemble=ensemble)
        return lambda file: score(denoiser, file, sigmas)

    results: dict[int, list[Score]] = {}
    failed = []
    for done, (number, result) in enumerate(spread(prepare, images), start=1):
        if isinstance(result, ray.exceptions.RayError):
            failed.append(f"{images[number].name}: {_cause(result)}")
        else:
            results[number] = result
        progress(done, len(images))
    return [line for number in sorted(results) for line in results[number]], sorted(failed)


def check_overlap(info: ModelInfo, images: Sequence[ImageFile], force: bool = False) -> str | None:
    """Refuses to evaluate a model on images it was trained on, known by their pixels.

    Returns:
        A remark that belongs beside the results: the images chose the model, or trained it and
        that was forced; none where they are new to it.

    Raises:
        UserError: it was trained on some of them, and that was not forced.
    """
    trained = [file.name for file in images if file.sha256 in set(info.train_hashes)]
    chosen = [file.name for file in images if file.sha256 in set(info.val_hashes)]
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
    """Means over the images, a row for each noise level, as `results.json` holds them."""
    rows = []
    for sigma in dict.fromkeys(line.sigma for line in scores):
        lines = [line for line in scores if line.sigma == sigma]
        row: dict[str, Any] = {"set": name, "sigma": sigma, "images": len(lines)}
        for key in ("psnr_noisy", "psnr", "ssim_noisy", "ssim"):
            row[key] = _mean([getattr(line, key) for line in lines])
        if remark is not None:
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


def _cause(error: ray.exceptions.RayError) -> str:
    cause = getattr(error, "cause", None)
    return first_line(cause if isinstance(cause, OSError) else error)
