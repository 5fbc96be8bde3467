"""Figures of a run."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from raydae.core.pixels import to_uint8
from raydae.metrics.psnr import psnr
from raydae.noise.evaluation import evaluation_noise


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


@dataclass(frozen=True)
class TrialMark:
    """A trial as the figure of a search shows it."""

    number: int
    status: str
    sigma: tuple[float, float]
    """Lowest and highest noise level it was trained with, 0-255 scale."""
    lr: float
    curve: list[tuple[int, float]]
    """(epoch, validation PSNR in dB)."""


def search_figure(trials: Sequence[TrialMark], best: int, judged_at: str, title: str) -> bytes:
    """Validation PSNR over learning rate and over noise level; the learning curves under them.

    Args:
        trials: those that have done an epoch.
        best: the number of the best.
        judged_at: the noise levels of validation, in words.
        title: written above.

    Returns:
        A PNG.
    """
    figure = Figure(figsize=(10, 8), layout="constrained")
    figure.suptitle(title, fontsize=11)
    grid = figure.add_gridspec(2, 2)
    by_lr, by_sigma = figure.add_subplot(grid[0, 0]), figure.add_subplot(grid[0, 1])
    curves = figure.add_subplot(grid[1, :])
    tops = {trial.number: max(psnr for _, psnr in trial.curve) for trial in trials}
    for trial in trials:
        alpha = 1.0 if trial.status == "finished" or trial.number == best else 0.35
        style: dict[str, Any] = {"color": f"C{trial.number % 10}", "alpha": alpha}
        mark = {"marker": "*" if trial.number == best else "o", **style}
        size = 14 if trial.number == best else 6
        top, (low, high) = tops[trial.number], trial.sigma
        by_lr.plot([trial.lr], [top], markersize=size, **mark)
        by_sigma.plot([(low + high) / 2], [top], markersize=size, **mark)
        if high > low:
            by_sigma.plot([low, high], [top, top], **style)
        epochs, psnrs = zip(*trial.curve, strict=True)
        label = f"trial {trial.number}" + (", the best" if trial.number == best else "")
        curves.plot(epochs, psnrs, marker=".", label=label, **style)
        for axes, x in ((by_lr, trial.lr), (by_sigma, (low + high) / 2)):
            axes.annotate(
                f"best: {trial.number}" if trial.number == best else str(trial.number),
                *((x, top), (5, 5)),
                textcoords="offset points",
                fontsize=8,
            )
    by_lr.set(xscale="log", xlabel="learning rate")
    by_sigma.set(xlabel="training noise: sigma, 0-255 scale (a bar: a range)")
    curves.set(xlabel="epoch")
    curves.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in (by_lr, by_sigma, curves):
        axes.set_ylabel(f"validation PSNR at sigma {judged_at}, dB")
        axes.margins(0.1)
        axes.grid(alpha=0.3)
    curves.legend(fontsize=8, ncols=max(-(-len(trials) // 20), 1), loc="lower right")
    curves.set_title("pale: stopped early or failed", fontsize=9)
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
