"""What the test of a run has found; without torch, since its process sends it to the driver."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class RunScores:
    """The scores of a run's model, and a picture of what it does."""

    means: list[dict[str, Any]]
    """A row for each noise level, see `tables.mean_rows`."""
    images: list[dict[str, Any]]
    """The scores image by image, see `tables.to_records`."""
    failed: list[str]
    """A line for each image that could not be tested."""
    samples: bytes
    """A PNG: a few test images with the middle one of the noises."""
