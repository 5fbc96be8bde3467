from pathlib import Path

import pytest

from raydae.benchmark.harness import Harness
from raydae.benchmark.scaling import exchange_seconds, independent_rate, scaling_cases
from raydae.training.config import Config, check_workers


@pytest.mark.parametrize("number", [1, 2, 16, 64])
def test_every_case_of_scaling_can_be_trained(number: int) -> None:
    for workers, batch in scaling_cases(number):
        check_workers((workers, workers), Config().override({"optim.batch_size": batch}))
        assert batch // workers % Config().optim.micro_batch == 0
    assert (2, 32) in scaling_cases(number)


def test_workers_exchange_gradients_and_compute_side_by_side(tmp_path: Path) -> None:
    harness = Harness(tmp_path, lambda line: None, seconds=1)
    assert exchange_seconds(harness, 1) == 0
    assert exchange_seconds(harness, 2) > 0
    assert independent_rate(harness, 2, 16) > 0
