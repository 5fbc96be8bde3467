"""The benchmark on a GPU, in small form."""

import pytest
import torch

from raydae.benchmark import denoise, flops, harness
from raydae.benchmark.harness import Bench
from raydae.models.dae import DenoisingAutoencoder

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("bench"), print, "cuda", seconds=1, rounds=1)


@pytest.mark.parametrize("network", ["dae", "unet"])
@pytest.mark.parametrize("side", ["limit", "plain", "tricks"])
def test_each_side_trains_on_the_gpu(side: str, network: str, bench: Bench) -> None:
    config = bench.config(network, **{"data.patches_per_image": 2**14})
    answers = bench.opponent(side, config, bench.seconds, [32, 64])
    assert [answer["batch"] for answer in answers] == [32, 64]
    for answer in answers:
        assert answer["last"] >= answer["first"] + 1
        assert answer["patches_per_s"] > 100


def test_the_job_trains_on_the_gpu(bench: Bench) -> None:
    run = bench.raydae("unet", rate=2000, batch=256)
    assert run["patches_per_s"] > 100
    assert 0 <= run["waited"] < run["seconds"]


@pytest.mark.parametrize("way", denoise.WAYS["cuda"])
def test_each_way_denoises_on_the_gpu(way: str) -> None:
    with harness._apart() as apart:
        speed = apart(denoise.measure, way, 321, 481, "cuda")
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
