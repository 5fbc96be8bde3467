import dataclasses
import functools
import math
import os
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import ray

from raydae.core.config import Config, ModelConfig
from raydae.core.errors import UserError
from raydae.distributed.spread import spread
from raydae.distributed.start import start_ray
from raydae.evaluation.evaluation import Score, check_overlap, evaluate, score, table, to_csv
from raydae.images.image_sets import ImageSets, read_image
from raydae.metrics.metrics import psnr
from raydae.models.model_file import ModelInfo
from raydae.noise.gaussian import evaluation_noise

LINE = Score(
    image="a",
    method="unet",
    sigma=25,
    psnr_noisy=20,
    psnr=30,
    ssim_noisy=0.4,
    ssim=0.8,
    seconds=0.5,
)


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
    (line,) = score({"none": lambda noisy, sigma: noisy}, sets.test[0], [25])
    noisy = evaluation_noise(clean, 25) * 255
    assert line.psnr_noisy == psnr(clean, noisy)
    assert line.psnr == psnr(clean, np.rint(np.clip(noisy, 0, 255)))
    assert line.psnr > line.psnr_noisy  # clipping alone makes an easier task


def test_a_perfect_result(sets: ImageSets) -> None:
    clean = read_image(sets.test[0].uri)
    methods = {
        "perfect": lambda noisy, sigma: clean / np.float32(255),
        "none": lambda noisy, sigma: noisy,
    }
    lines = score(methods, sets.test[0], [15, 50])
    assert [(line.sigma, line.method) for line in lines] == [
        (15, "perfect"),
        (15, "none"),
        (50, "perfect"),
        (50, "none"),
    ]
    assert all(math.isinf(line.psnr) and line.ssim == pytest.approx(1) for line in lines[::2])
    assert all(line.psnr < 30 and line.seconds >= 0 for line in lines[1::2])


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
    lines = [LINE, dataclasses.replace(LINE, image="b", psnr=20, ssim_noisy=0.2, ssim=math.nan)]
    lines.append(dataclasses.replace(LINE, sigma=50, psnr=math.inf))
    lines.append(dataclasses.replace(LINE, method="tv"))
    rows = table("set", lines, "a remark")
    assert rows[0] == {
        "set": "set",
        "method": "unet",
        "sigma": 25,
        "images": 2,
        "psnr_noisy": 20,
        "psnr": 25,
        "ssim_noisy": pytest.approx(0.3),
        "ssim": None,
        "seconds": 0.5,
        "remark": "a remark",
    }
    assert (rows[1]["sigma"], rows[1]["psnr"]) == (50, None)
    assert (rows[2]["method"], rows[2]["images"]) == ("tv", 1)
    assert "remark" not in rows[2]


def test_csv_has_a_line_for_each_image() -> None:
    text = to_csv([dataclasses.replace(LINE, image="a,b")])
    assert text.splitlines() == [
        "image,method,sigma,psnr_noisy,psnr,ssim_noisy,ssim,seconds",
        '"a,b",unet,25,20,30,0.4,0.8,0.5',
    ]


@pytest.fixture(scope="module")
def ray_with_a_gpu() -> Iterator[None]:
    """Ray that counts one GPU on this machine, whether there is one or not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray, "init", functools.partial(ray.init, num_gpus=1))
        start_ray((2, 2), threads=1)
    yield
    ray.shutdown()


@pytest.mark.usefixtures("ray_with_a_gpu")
def test_one_gpu_works_on_all_items_in_one_actor() -> None:
    def prepare() -> Callable[[int], tuple[int, int, list[int], str]]:
        def work(item: int) -> tuple[int, int, list[int], str]:
            visible = os.environ["CUDA_VISIBLE_DEVICES"]
            return item, os.getpid(), ray.get_gpu_ids(), visible

        return work

    results = dict(spread(prepare, range(6)))
    pid = results[0][1]  # type: ignore[index]
    assert results == {item: (item, pid, [0], "0") for item in range(6)}


@pytest.mark.usefixtures("ray_with_a_gpu")
def test_evaluating_under_ray_scores_as_here(sets: ImageSets) -> None:
    images = [*sets.val, *sets.test]
    here, failed = evaluate("released", images, [15, 50], here="cpu")
    under_ray, failed_under_ray = evaluate("released", images, [15, 50])
    assert failed == failed_under_ray == []
    assert len(here) == len(under_ray) == 4
    for expected, line in zip(here, under_ray, strict=True):
        assert (line.image, line.sigma) == (expected.image, expected.sigma)
        assert line.psnr == pytest.approx(expected.psnr, abs=0.001)
        assert line.ssim == pytest.approx(expected.ssim, abs=0.0001)
