"""Results as tables: of a test, of a search, of a benchmark."""

from collections.abc import Sequence
from typing import Any

from rich.table import Table


def score_table(scores: Sequence[dict[str, Any]]) -> Table:
    """Return the scores of each image."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("image", "method", "sigma", "PSNR noisy", "PSNR", "SSIM noisy", "SSIM"):
        text = heading in ("image", "method")
        table.add_column(heading, justify="left" if text else "right", no_wrap=True)
    for line in scores:
        table.add_row(
            line["image"],
            line["method"],
            f"{line['sigma']:g}",
            f"{line['psnr_noisy']:.2f}",
            f"{line['psnr']:.2f}",
            f"{line['ssim_noisy']:.4f}",
            f"{line['ssim']:.4f}",
        )
    return table


def result_table(rows: Sequence[dict[str, Any]]) -> Table:
    """Return the test table: means over the images, and the seconds that an image took."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    words = ["set", "method"]
    numbers = ["sigma", "images", "PSNR noisy", "PSNR", "gain", "SSIM noisy", "SSIM", "s/image"]
    for heading in words + numbers:
        table.add_column(heading, justify="left" if heading in words else "right", no_wrap=True)
    for row in rows:
        noisy, denoised = row["psnr_noisy"], row["psnr"]
        gain = None if noisy is None or denoised is None else denoised - noisy
        table.add_row(
            row["set"],
            row["method"],
            f"{row['sigma']:g}",
            str(row["images"]),
            spell_number(noisy, ".2f"),
            spell_number(denoised, ".2f"),
            spell_number(gain, "+.2f"),
            spell_number(row["ssim_noisy"], ".4f"),
            spell_number(row["ssim"], ".4f"),
            spell_number(row["seconds"], ".2f"),
        )
    return table


def benchmark_table(rows: Sequence[dict[str, Any]]) -> Table:
    """Return the medians of what was measured, and the range of the measurements."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("part", "what", "median", "min", "max", "unit"):
        number = heading in ("median", "min", "max")
        table.add_column(heading, justify="right" if number else "left", no_wrap=True)
    for row in rows:
        values = [f"{row[key]:,.4g}" for key in ("median", "min", "max")]
        table.add_row(row["part"], row["what"], *values, row["unit"])
    return table


def trial_table(rows: Sequence[dict[str, Any]], epochs: int, title: str | None = None) -> Table:
    """Return the trials of a search.

    Args:
        rows: trial, status, sigma, lr, others (the other settings, in words), epochs, val_psnr,
            best (whether it is the best).
        epochs: of a trial that is not stopped.
        title: written above the table.
    """
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), title=title)
    for heading in ("trial", "status", "sigma", "lr", "epoch", "PSNR"):
        table.add_column(heading, justify="left" if heading == "status" else "right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for row in rows:
        pale = row["status"] in ("stopped", "failed")
        table.add_row(
            str(row["trial"]),
            row["status"],
            row["sigma"],
            f"{row['lr']:g}",
            f"{row['epochs']}/{epochs}",
            spell_number(row["val_psnr"], ".2f"),
            row["others"] + ("  best" if row["best"] else ""),
            style="bold" if row["best"] else "dim" if pale else None,
        )
    return table


def spell_number(value: float | None, form: str) -> str:
    """Return a number in a format such as `.2f`; a dash for none."""
    return "-" if value is None else f"{value:{form}}"
