"""Results as tables: of a test, of a search, of a benchmark."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

from rich.table import Table

from raydae.core.errors import one_line
from raydae.metrics import SSIM_WINDOW
from raydae.noise.evaluation import HiddenPixels, PairNoise

FORMATS = {"psnr": ".2f", "ssim": ".4f"}  # of metrics; others have four digits
_NAME_WIDTH = 60  # longer names are cut, so that the numbers are not


def score_table(scores: Sequence[dict[str, Any]]) -> Table:
    """Return the scores of each image, as `tables.to_records` has them."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    words, metrics = ("image", "method"), metrics_of(scores[0])
    columns = [f"{metric}{state}" for metric in metrics for state in ("_noisy", "")]
    noise = _noise_columns(scores)
    for heading in (*words, *noise, *map(_heading, columns)):
        justify: Literal["left", "right"] = "left" if heading in (*words, "noise") else "right"
        width = _NAME_WIDTH if heading == "image" else None
        table.add_column(heading, justify=justify, no_wrap=True, max_width=width)
    for line in scores:
        values = [_metric(line, column) for column in columns]
        table.add_row(
            one_line(line["image"]), line["method"], *(noise[key](line) for key in noise), *values
        )
    return table


def result_table(rows: Sequence[dict[str, Any]]) -> Table:
    """Return the test table: means over the images, and the seconds that an image took."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    words, noise = ["set", "method"], _noise_columns(rows)
    columns = []
    for metric in metrics_of(rows[0]):
        columns += [f"{metric}_noisy", metric, *(["gain"] if metric == "psnr" else [])]
    for heading in [*words, *noise, "images", *map(_heading, columns), "s/image"]:
        left = heading in (*words, "noise")
        table.add_column(heading, justify="left" if left else "right", no_wrap=True)
    for row in rows:
        values = [_gain(row) if column == "gain" else _metric(row, column) for column in columns]
        table.add_row(
            row["set"],
            row["method"],
            *(noise[key](row) for key in noise),
            str(row["images"]),
            *values,
            spell_number(row["seconds"], ".2f"),
        )
    return table


def undefined_lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return a line for each metric that is not defined for some images, and so leaves them out."""
    lines = {}
    for row in rows:
        for metric in metrics_of(row):
            count = row["images"] - row.get(f"{metric}_images", row["images"])
            if count:
                why = (
                    f": smaller than its window of {SSIM_WINDOW}x{SSIM_WINDOW}"
                    if metric == "ssim"
                    else ""
                )
                lines[metric] = (
                    f"{_heading(metric)} is not defined for {count} of {row['images']} images"
                    f"{why}; its means leave them out"
                )
    return list(lines.values())


def noise_of(row: dict[str, Any]) -> str:
    """Return the noise of a row of scores in words; white Gaussian noise by its sigma."""
    label: str = row.get("noise", f"{row['sigma']:g}")  # results before noise kinds have no label
    return label


def level_of(row: dict[str, Any]) -> str:
    """Return the noise of a row of scores in words, for a sentence."""
    if _is_white(row):
        return f"sigma {row['sigma']:g}"
    own = {PairNoise.label: "the pairs' own noise", HiddenPixels.label: "the images' own noise"}
    return own.get(noise_of(row), noise_of(row))


def _is_white(row: dict[str, Any]) -> bool:
    return noise_of(row) == f"{row['sigma']:g}"


def _noise_columns(rows: Sequence[dict[str, Any]]) -> dict[str, Callable[[dict[str, Any]], str]]:
    """Return the columns that tell the noise: sigma, and its name if any is not white Gaussian."""
    sigma = {"sigma": lambda row: f"{row['sigma']:.3g}"}
    return sigma if all(map(_is_white, rows)) else {"noise": noise_of, **sigma}


def metrics_of(row: dict[str, Any]) -> list[str]:
    """Return the names of the metrics in a row of scores."""
    return [key.removesuffix("_noisy") for key in row if key.endswith("_noisy")]


def _heading(column: str) -> str:
    metric = column.removesuffix("_noisy")
    name = metric.upper() if metric in FORMATS else metric
    return f"{name} noisy" if column.endswith("_noisy") else name


def _metric(row: dict[str, Any], column: str) -> str:
    return spell_number(row[column], FORMATS.get(column.removesuffix("_noisy"), ".4g"))


def _gain(row: dict[str, Any]) -> str:
    noisy, denoised = row["psnr_noisy"], row["psnr"]
    return spell_number(None if None in (noisy, denoised) else denoised - noisy, "+.2f")


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
