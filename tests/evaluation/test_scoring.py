import functools
import math
import os
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import ray

from raydae.distributed.spread import spread
from raydae.distributed.start import start_ray
from raydae.evaluation.scoring import evaluate, score_image
from raydae.images.image_file import read_image
from raydae.images.image_sets import ImageSets
from raydae.metrics.psnr import psnr
from raydae.noise.evaluation import EvaluationNoise, evaluation_noise


def levels(*sigmas: float) -> list[EvaluationNoise]:
    return [EvaluationNoise.white(sigma) for sigma in sigmas]


def test_the_noisy_input_is_scored_as_it_is_and_the_result_as_uint8(sets: ImageSets) -> None:
    clean = read_image(sets.test[0].uri)
    (line,) = score_image({"none": lambda noisy, sigma: noisy}, sets.test[0], levels(25))
    noisy = evaluation_noise(clean, 25) * 255
    assert line.noisy["psnr"] == psnr(clean, noisy)
    assert line.denoised["psnr"] == psnr(clean, np.rint(np.clip(noisy, 0, 255)))
    assert line.denoised["psnr"] > line.noisy["psnr"]  # clipping alone makes an easier task


def test_a_perfect_result(sets: ImageSets) -> None:
    clean = read_image(sets.test[0].uri)
    methods = {
        "perfect": lambda noisy, sigma: clean / np.float32(255),
        "none": lambda noisy, sigma: noisy,
    }
    lines = score_image(methods, sets.test[0], levels(15, 50))
    assert [(line.sigma, line.method) for line in lines] == [
        (15, "perfect"),
        (15, "none"),
        (50, "perfect"),
        (50, "none"),
    ]
    assert all(
        math.isinf(line.denoised["psnr"]) and line.denoised["ssim"] == pytest.approx(1)
        for line in lines[::2]
    )
    assert all(line.denoised["psnr"] < 30 and line.seconds >= 0 for line in lines[1::2])


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
def test_evaluating_under_ray_scores_as_in_this_process(sets: ImageSets) -> None:
    images = [*sets.val, *sets.test]
    local, failed = evaluate("gaussian", images, levels(15, 50), local_device="cpu")
    under_ray, failed_under_ray = evaluate("gaussian", images, levels(15, 50))
    assert failed == failed_under_ray == []
    assert len(local) == len(under_ray) == 4
    for expected, line in zip(local, under_ray, strict=True):
        assert (line.image, line.sigma) == (expected.image, expected.sigma)
        assert line.denoised["psnr"] == pytest.approx(expected.denoised["psnr"], abs=0.001)
        assert line.denoised["ssim"] == pytest.approx(expected.denoised["ssim"], abs=0.0001)
