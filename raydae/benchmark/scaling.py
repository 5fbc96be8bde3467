"""The part `scaling`: more workers on the same cores, on the CPU.

The global batch is fixed in one series and grows with the workers in the other. Beside each
measured rate the report has a predicted rate, from the time that a patch takes in parts: the
workers' steps without Ray and without each other, the exchange of gradients, and the overhead of
Ray with one worker.
"""

import multiprocessing
import os
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

from raydae.benchmark.harness import Harness
from raydae.distributed.resources import cores

EXPECTED_RATE = 150  # patches/s of unet on two cores, for epochs of about the right length
EXCHANGES = 30


def measure(harness: Harness) -> None:
    """Measure training with more and more workers, up to the number of cores."""
    cases = scaling_cases(cores())
    found: dict[tuple[int, int], list[dict[str, float]]] = {}
    for _ in range(harness.rounds):
        overhead_s = 0.0
        for workers, batch in cases:
            harness.log(f"scaling: {workers} workers, batch {batch}")
            run = harness.train_steady("unet", EXPECTED_RATE, workers, batch)
            run["others"] = run["seconds"] - run["waited"] - run["computed"]
            alone_s = 1 / independent_rate(harness, workers, batch)
            exchange_s = exchange_seconds(harness, workers)
            # The first case has one worker.
            overhead_s = overhead_s or 1 / run["patches_per_s"] - alone_s
            run["exchange"] = 1000 * exchange_s
            run["predicted"] = 1 / (alone_s + exchange_s / batch + overhead_s)
            found.setdefault((workers, batch), []).append(run)
    rates = {case: _add_rows(harness, *case, runs) for case, runs in found.items()}
    for workers, batch in cases[1:]:
        kind = "fixed batch" if batch == 32 else "batch a worker"
        ratio = rates[workers, batch] / rates[1, 32]
        harness.report.ratios[f"scaling/{workers}-1, {kind}"] = ratio
    harness.report.ratios["scaling/2x1-1x2"] = rates[2, 32] / rates[1, 32]


def scaling_cases(number: int) -> list[tuple[int, int]]:
    """Return (workers, batch) for so many cores: batches of 32, then batches of 32 a worker."""
    counts = [2**power for power in range(6) if 2**power <= max(number, 4)]
    fixed = [(workers, 32) for workers in counts if workers <= 8]
    return fixed + [(workers, 32 * workers) for workers in counts[1:] if workers <= number]


def independent_rate(harness: Harness, workers: int, batch: int) -> float:
    """Measure patches/s of as many processes as workers, each alone on its shard of the batch."""
    config, shard = harness.config("unet"), batch // workers
    threads = {"OMP_NUM_THREADS": str(max(cores() // workers, 1))}
    words = ("limit", config, harness.seconds / 2, [shard], threads)
    with ThreadPoolExecutor(workers) as pool:
        runs = [pool.submit(harness.run_baseline, *words) for _ in range(workers)]
        return sum(run.result()[0]["patches_per_s"] for run in runs)


def exchange_seconds(harness: Harness, workers: int) -> float:
    """Measure the seconds of an all-reduce of unet's gradients over the workers."""
    if workers == 1:
        return 0.0
    rendezvous = harness.folder / f"rendezvous{time.monotonic_ns()}"
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        ranks = [(rank, workers, str(rendezvous)) for rank in range(workers)]
        return statistics.median(pool.map(_all_reduce, ranks))


def _all_reduce(place: tuple[int, int, str]) -> float:
    """Return the seconds of an all-reduce, as the worker (rank, workers, rendezvous file)."""
    import torch
    import torch.distributed as dist

    from raydae.models.unet import UNet

    rank, workers, rendezvous = place
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo" if sys.platform == "linux" else "lo0"
    dist.init_process_group("gloo", f"file://{rendezvous}", rank=rank, world_size=workers)
    gradients = torch.zeros(sum(value.numel() for value in UNet().parameters()))
    times = []
    for _ in range(EXCHANGES):
        began = time.monotonic()
        dist.all_reduce(gradients)
        times.append(time.monotonic() - began)
    dist.destroy_process_group()
    return statistics.median(times)


def _add_rows(harness: Harness, workers: int, batch: int, runs: list[dict[str, float]]) -> float:
    """Add the rows of a case to the report; return its median rate."""
    report = harness.report
    what = f"{workers} x {max(cores() // workers, 1)} cores, batch {batch}"
    rate = report.add("scaling", what, "patches/s", [run["patches_per_s"] for run in runs])
    for name, key in (("data", "waited"), ("the others", "others")):
        percent = [100 * run[key] / run["seconds"] for run in runs]
        report.add("scaling", f"{what}: waits for {name}", "% of the time", percent)
    if workers > 1:
        exchanges = [run["exchange"] for run in runs]
        report.add("scaling", f"{what}: all-reduce", "ms a step", exchanges)
        predictions = [run["predicted"] for run in runs]
        predicted = report.add("scaling", f"{what}: predicted", "patches/s", predictions)
        report.ratios[f"scaling/predicted, {what}"] = rate / predicted
    return rate
