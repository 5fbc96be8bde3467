"""The parts of the benchmark, by the names that the command line takes."""

from collections.abc import Callable

from raydae.benchmark import denoising, feed, scaling, startup, training
from raydae.benchmark.harness import Harness

PARTS: dict[str, Callable[[Harness], None]] = {
    "train": training.measure,
    "feed": feed.measure,
    "startup": startup.measure,
    "scaling": scaling.measure,
    "denoise": denoising.measure,
}
