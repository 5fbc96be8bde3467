from pathlib import Path

import pytest

from raydae.benchmark import feed
from raydae.benchmark.harness import Harness, own_process


@pytest.mark.parametrize("side", ["bare", "dataloader", "ray", "ray, device noise"])
def test_each_side_of_the_feed_brings_samples(side: str, tmp_path: Path) -> None:
    harness = Harness(tmp_path, lambda line: None)
    with own_process() as call:
        assert call(feed.SIDES[side], harness.config("unet"), 0.5, 2) > 0
