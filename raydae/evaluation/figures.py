"""The figure of a hyperparameter search."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator


@dataclass(frozen=True)
class TrialMark:
    """One trial of a search, as its figure shows it."""

    number: int
    status: str
    sigma: tuple[float, float]
    """Lowest and highest noise level of its training, 0-255 scale."""
    lr: float
    curve: list[tuple[int, float]]
    """(epoch, validation PSNR in dB)."""


def search_figure(trials: Sequence[TrialMark], best: int, noise: str, title: str) -> bytes:
    """Draw validation PSNR over learning rate and over noise level, and the learning curves below.

    Args:
        trials: the trials that have finished at least one epoch.
        best: the number of the best trial.
        noise: the noise of validation, in words.
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
        axes.set_ylabel(f"validation PSNR at {noise}, dB")
        axes.margins(0.1)
        axes.grid(alpha=0.3)
    curves.legend(fontsize=8, ncols=max(-(-len(trials) // 20), 1), loc="lower right")
    curves.set_title("pale: stopped early or failed", fontsize=9)
    buffer = io.BytesIO()
    with mpl.rc_context({"savefig.facecolor": "white"}):
        figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()
