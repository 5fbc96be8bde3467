"""Scores as tables: means over the images, and image by image as JSON and CSV."""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from raydae.evaluation.scoring import Score


def mean_rows(
    name: str, scores: Sequence[Score], remark: str | None = None
) -> list[dict[str, Any]]:
    """Return the means over the images, one row for each noise level and method.

    Args:
        name: the name of the image set.
        scores: the scores of at least one image.
        remark: added to the rows of the first method, the model; the others were not trained.

    Returns:
        Rows as `results.json` holds them. A mean that is not finite is None, because JSON has
        neither infinity (the PSNR of equal images) nor NaN (the SSIM of an image of few pixels).
    """
    rows = []
    for sigma, method in dict.fromkeys((score.sigma, score.method) for score in scores):
        group = [score for score in scores if (score.sigma, score.method) == (sigma, method)]
        row: dict[str, Any] = {"set": name, "method": method, "sigma": sigma, "images": len(group)}
        for key in ("psnr_noisy", "psnr", "ssim_noisy", "ssim", "seconds"):
            row[key] = _finite(sum(getattr(score, key) for score in group) / len(group))
        if remark is not None and method == scores[0].method:
            row["remark"] = remark
        rows.append(row)
    return rows


def to_records(scores: Sequence[Score]) -> list[dict[str, Any]]:
    """Return the scores image by image as JSON holds them: None for a value that is not finite."""
    return [{key: _finite(value) for key, value in asdict(score).items()} for score in scores]


def to_csv(scores: Sequence[Score]) -> str:
    """Return the scores image by image as CSV with a header."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(Score.__dataclass_fields__))
    writer.writeheader()
    writer.writerows(asdict(score) for score in scores)
    return text.getvalue()


def _finite(value: Any) -> Any:
    """Return the value, or None if it is a float that is not finite."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
