"""Validation: means over the images for which a metric is defined."""

import math
from pathlib import Path

import pytest
from PIL import Image
from torch import nn

from raydae.images.listed import Listed
from raydae.images.scan import scan
from raydae.models.inference import Denoiser
from raydae.noise.evaluation import EvaluationNoise
from raydae.training.context import Context
from raydae.training.validation import validate
from tests.conftest import draw


def test_images_smaller_than_the_window_are_left_out_of_the_mean_of_ssim(tmp_path: Path) -> None:
    for name, size in (("a", 40), ("b", 10)):
        Image.fromarray(draw(0, size, size)).save(tmp_path / f"{name}.png")
    images, _ = scan(Listed.of((str(tmp_path / f"{name}.png"), name) for name in "ab"))
    denoise = Denoiser(nn.Identity())
    noises = [EvaluationNoise.white(15), EvaluationNoise.white(25)]

    def means(*chosen: int) -> dict[str, float]:
        files = [images[number] for number in chosen]
        return validate(denoise, files, noises, ("psnr", "ssim"), Context())

    both, large, small = means(0, 1), means(0), means(1)
    assert both["ssim"] == large["ssim"]
    assert both["psnr"] == pytest.approx((large["psnr"] + small["psnr"]) / 2)
    assert math.isnan(small["ssim"])
    assert not math.isnan(small["psnr"])
