import dataclasses
import math

import numpy as np
import pytest

from raydae.config import Config, ModelConfig
from raydae.errors import UserError
from raydae.evaluation import Score, check_overlap, score, table, to_csv
from raydae.images import ImageSets, read_image
from raydae.metrics import psnr
from raydae.noise import evaluation_noise
from raydae.weights import ModelInfo


@pytest.fixture
def info(sets: ImageSets) -> ModelInfo:
    return ModelInfo(
        model=ModelConfig(),
        config=Config().to_dict(),
        source="pictures",
        train_hashes=tuple(file.sha256 for file in sets.train),
        val_hashes=tuple(file.sha256 for file in sets.val),
        epoch=1,
        val_psnr=None,
    )


def test_the_noisy_input_is_scored_as_it_is_and_the_result_as_uint8(sets: ImageSets) -> None:
    clean = read_image(sets.test[0].uri)
    (line,) = score(lambda noisy: noisy, sets.test[0], [25])
    noisy = evaluation_noise(clean, 25) * 255
    assert line.psnr_noisy == psnr(clean, noisy)
    assert line.psnr == psnr(clean, np.rint(np.clip(noisy, 0, 255)))
    assert line.psnr > line.psnr_noisy  # clipping alone makes an easier task


def test_a_perfect_result(sets: ImageSets) -> None:
    clean = read_image(sets.test[0].uri)
    lines = score(lambda noisy: clean / np.float32(255), sets.test[0], [15, 50])
    assert [line.sigma for line in lines] == [15, 50]
    assert all(math.isinf(line.psnr) and line.ssim == pytest.approx(1) for line in lines)


def test_training_images_are_refused_whatever_their_names(info: ModelInfo, sets: ImageSets) -> None:
    renamed = [dataclasses.replace(sets.train[0], name="new.png", uri="elsewhere")]
    with pytest.raises(UserError, match=r"trained on 1 of these 1 images, such as new\.png"):
        check_overlap(info, renamed)
    assert "trained on 1 of these 2" in (
        check_overlap(info, [*renamed, *sets.test], force=True) or ""
    )


def test_images_that_chose_the_model_are_remarked_on(info: ModelInfo, sets: ImageSets) -> None:
    assert "chose" in (check_overlap(info, sets.val) or "")
    assert check_overlap(info, sets.test) is None


def test_a_table_has_means_over_the_images() -> None:
    lines = [Score("a", 25, 20, 30, 0.4, 0.8), Score("b", 25, 20, 20, 0.2, math.nan)]
    lines.append(Score("a", 50, 14, math.inf, 0.1, 0.5))
    rows = table("set", lines, "a remark")
    assert rows[0] == {
        "set": "set",
        "sigma": 25,
        "images": 2,
        "psnr_noisy": 20,
        "psnr": 25,
        "ssim_noisy": pytest.approx(0.3),
        "ssim": None,
        "remark": "a remark",
    }
    assert (rows[1]["sigma"], rows[1]["psnr"]) == (50, None)


def test_csv_has_a_line_for_each_image() -> None:
    text = to_csv([Score("a,b", 25, 20, 30, 0.4, 0.8)])
    assert text.splitlines() == [
        "image,sigma,psnr_noisy,psnr,ssim_noisy,ssim",
        '"a,b",25,20,30,0.4,0.8',
    ]
