from pathlib import Path

import pytest
from PIL import Image

from raydae.benchmark import feed, photographs
from raydae.benchmark.harness import Harness, own_process


@pytest.mark.parametrize("side", ["bare", "dataloader", "ray", "ray, device noise"])
def test_each_side_of_the_feed_brings_samples(side: str, tmp_path: Path) -> None:
    harness = Harness(tmp_path, lambda line: None)
    with own_process() as call:
        assert call(feed.SIDES[side], harness.config("unet"), 0.5, 2) > 0


def test_photographs_bring_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photographs, "NUMBER", 2)
    harness = Harness(tmp_path, lambda line: None)
    sides = [side for side in feed.SIDES if side.startswith("photographs")]
    assert len(sides) == 3
    for side in sides:
        assert feed.SIDES[side](harness.config("unet"), 0.5, 2) > 0
    with Image.open(tmp_path / "photographs" / "train" / "00.jpg") as image:
        assert image.size == (6000, 4000)
    with Image.open(tmp_path / "pieces" / "train" / "00-00.png") as image:
        assert image.size == (480, 480)
