"""Scores as tables: means over the images, and image by image as JSON and CSV."""

import csv
import io
import math
from collections.abc import Sequence
from typing import Any

from raydae.evaluation.scoring import Score


def mean_rows(
    name: str, scores: Sequence[Score], remark: str | None = None
) -> list[dict[str, Any]]:
    """Return the means over the images, one row for each noise and method.

    Args:
        name: the name of the image set.
        scores: the scores of at least one image.
        remark: added to the rows of the first method, the model; the others were not trained.

    Returns:
        Rows as `results.json` holds them. An image for which a metric is NaN (the SSIM of one that
        is smaller than its window) is left out of that metric's means, and `METRIC_images` counts
        the others. A mean is None if there are none, or if it is infinite (the PSNR of equal
        images): JSON has no such numbers.
    """
    rows = []
    for noise, method in dict.fromkeys((score.noise, score.method) for score in scores):
        group = [score for score in scores if (score.noise, score.method) == (noise, method)]
        row: dict[str, Any] = {"set": name, "method": method, "noise": noise, "images": len(group)}
        records = [_record(score) for score in group]
        defined = {
            name: [
                record
                for record in records
                if not math.isnan(record[name]) and not math.isnan(record[f"{name}_noisy"])
            ]
            for name in group[0].noisy
        }
        for key in list(records[0])[3:]:  # after image, method and noise
            used = defined.get(key.removesuffix("_noisy"), records)
            row[key] = _finite(sum(record[key] for record in used) / len(used)) if used else None
        for metric, used in defined.items():
            if len(used) < len(group):
                row[f"{metric}_images"] = len(used)
        if remark is not None and method == scores[0].method:
            row["remark"] = remark
        rows.append(row)
    return rows


def to_records(scores: Sequence[Score]) -> list[dict[str, Any]]:
    """Return the scores image by image as JSON holds them: None for a value that is not finite."""
    return [{key: _finite(value) for key, value in _record(score).items()} for score in scores]


def to_csv(scores: Sequence[Score]) -> str:
    """Return the scores of at least one image, image by image, as CSV with a header."""
    text = io.StringIO()
    records = [_record(score) for score in scores]
    writer = csv.DictWriter(text, list(records[0]))
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()


def _record(score: Score) -> dict[str, Any]:
    """Return a score as one row: for each metric, its value before and after denoising."""
    row: dict[str, Any] = {"image": score.image, "method": score.method, "noise": score.noise}
    row["sigma"] = score.sigma
    for name, value in score.noisy.items():
        row |= {f"{name}_noisy": value, name: score.denoised[name]}
    return row | {"seconds": score.seconds}


def _finite(value: Any) -> Any:
    """Return the value, or None if it is a float that is not finite."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
