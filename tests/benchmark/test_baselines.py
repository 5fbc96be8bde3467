import json
import sys
from pathlib import Path

import numpy as np
import pytest

from raydae.benchmark import baselines
from raydae.images.image_sets import ImageSets
from raydae.training.config import Config


def test_the_plain_script_trains_on_the_noise_that_is_asked_for(
    config: Config, sets: ImageSets
) -> None:
    patches = baselines.Patches(sets.train, config)
    pairs = [patches[index] for index in range(len(patches))]
    noise = np.concatenate([(noisy - clean).numpy().ravel() for noisy, clean in pairs])
    assert noise.std() * 255 == pytest.approx(25, rel=0.02)
    assert abs(noise.mean()) * 255 < 1
    assert {tuple(clean.shape) for _, clean in pairs} == {(3, 16, 16)}
    assert all(clean.min() >= 0 and clean.max() <= 1 for _, clean in pairs)


@pytest.mark.parametrize("name", ["limit", "plain", "tricks"])
def test_each_side_trains_at_each_batch_size_and_says_how_fast(
    name: str,
    config: Config,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config.override({"optim.epochs": 9999}).to_dict()))
    words = ["baselines", name, "0.5", str(file), "cpu", "2", "4", "8"]
    monkeypatch.setattr(sys, "argv", words)
    baselines.main()
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [answer["batch"] for answer in answers] == [4, 8]
    for answer in answers:
        assert answer["last"] >= answer["first"] + 0.5
        assert answer["first_step_s"] > 0
        assert answer["patches_per_s"] > 0
