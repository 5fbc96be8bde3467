"""The benchmark on a GPU, in small form."""

import pytest
import torch

from raydae.benchmark import denoising, flops
from raydae.benchmark.harness import Harness, own_process
from raydae.models.dae import DenoisingAutoencoder

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Harness:
    return Harness(tmp_path_factory.mktemp("bench"), print, "cuda", seconds=1, rounds=1)


@pytest.mark.parametrize("network", ["dae", "unet"])
@pytest.mark.parametrize("side", ["limit", "plain", "tricks"])
def test_each_side_trains_on_the_gpu(side: str, network: str, harness: Harness) -> None:
    config = harness.config(network, **{"data.patches_per_image": 2**14})
    answers = harness.run_baseline(side, config, harness.seconds, [32, 64])
    assert [answer["batch"] for answer in answers] == [32, 64]
    for answer in answers:
        assert answer["last"] >= answer["first"] + 1
        assert answer["patches_per_s"] > 100


def test_the_job_trains_on_the_gpu(harness: Harness) -> None:
    run = harness.train_steady("unet", rate=2000, batch=256)
    assert run["patches_per_s"] > 100
    assert 0 <= run["waited"] < run["seconds"]


@pytest.mark.parametrize("variant", denoising.VARIANTS["cuda"])
def test_each_variant_denoises_on_the_gpu(variant: str) -> None:
    with own_process() as call:
        speed = call(denoising.measure_variant, variant, 321, 481, "cuda")
    assert speed.megapixels_per_s > 1
    assert speed.memory_mib is not None
    assert 0 < speed.memory_mib < 4096


def test_training_does_not_reach_the_peak() -> None:
    network = DenoisingAutoencoder()
    needed = flops.training_flops(network, 64)
    # By hand: 2 operations for each of 292 million multiplications, three times but for the first
    # layer, whose input has no gradient.
    assert needed == pytest.approx(3 * 2 * 292e6, rel=0.05)
    assert flops.peak_flops(torch.device("cuda")) > 1e13
