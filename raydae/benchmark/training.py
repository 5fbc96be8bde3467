"""The part `train`: patches per second in steady state, beside the limit and the baselines."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from raydae.benchmark.harness import Harness, own_process
from raydae.training.config import Config

NETWORKS = ("dae", "unet")
BATCHES = {"cpu": (32,), "cuda": (32, 256, 1024)}
MAX_LOADER_BATCH = 256  # for plain and tricks, which take patches from a DataLoader
Run = Mapping[str, Any]
"""The figures of one measurement; `patches_per_s` is always there."""


def measure(harness: Harness) -> None:
    """Measure raydae, its limit and the baselines; on a GPU, also model FLOPs utilisation."""
    peak, flops = 0.0, dict[str, int]()
    if harness.device == "cuda":
        harness.log("train: the GPU's peak")
        with own_process() as call:
            peak, flops = call(_card, {name: harness.config(name) for name in NETWORKS})
        harness.report.add("train", "bf16 matrix product, the peak", "TFLOP/s", [peak / 1e12])
    limits = []
    for network in NETWORKS:
        runs: dict[tuple[int, str], list[Run]] = {}
        for side in harness.alternate("limit", "raydae", "plain", "tricks"):
            with harness.log_failure(f"train {network}: {side}"):
                for batch, run in _run_side(harness, side, network, runs):
                    rate = run["patches_per_s"]
                    harness.log(f"train {network}: {side}, batch {batch}: {rate:,.0f} patches/s")
                    runs.setdefault((batch, side), []).append(run)
        rates = {case: _add_rows(harness, network, *case, runs[case]) for case in sorted(runs)}
        for (batch, side), rate in rates.items():
            name = _label(network, batch)
            if peak:
                mfu = 100 * flops[network] * rate / peak
                harness.report.add("train", f"{name}, {side}: MFU", "% of the peak", [mfu])
            if side != "raydae" and (batch, "raydae") in rates:
                ratio = rates[batch, "raydae"] / rate
                harness.report.ratios[f"train/{side}-{name}"] = ratio
                limits += [ratio] if side == "limit" else []
        harness.save()
    if limits:
        harness.report.ratios["train/limit"] = min(limits)


def _run_side(
    harness: Harness, side: str, network: str, runs: Mapping[tuple[int, str], Sequence[Run]]
) -> Iterator[tuple[int, Run]]:
    """Measure a side; yield each batch size with its figures."""
    batches = BATCHES[harness.device]
    if side == "raydae":
        for batch in batches:
            rate = runs[batch, "limit"][-1]["patches_per_s"]
            yield batch, harness.train_steady(network, rate, batch=batch)
        return
    if side != "limit":
        batches = tuple(batch for batch in batches if batch <= MAX_LOADER_BATCH)
    # On a GPU, a short epoch would be over before the DataLoader's workers have started.
    patches = 16 if harness.device == "cpu" else 2**14
    config = harness.config(network, **{"data.patches_per_image": patches})
    for figures in harness.run_baseline(side, config, harness.seconds, batches):
        yield int(figures["batch"]), figures


def _add_rows(harness: Harness, network: str, batch: int, side: str, runs: Sequence[Run]) -> float:
    """Add the rows of a side to the report; return its median rate."""
    what = f"{_label(network, batch)}, {side}"
    rates = [run["patches_per_s"] for run in runs]
    rate = harness.report.add("train", what, "patches/s", rates)
    if side == "raydae":
        waits = [100 * run["waited"] / run["seconds"] for run in runs]
        harness.report.add("train", f"{what}: waits for data", "% of the time", waits)
    if harness.device == "cuda" and side in ("plain", "tricks"):  # tricks compiles in this step
        firsts = [run["first_step_s"] for run in runs]
        harness.report.add("train", f"{what}: until the first step is done", "s", firsts)
    return rate


def _label(network: str, batch: int) -> str:
    """Return the name of a network in the rows; a batch of 32, the default, is left out."""
    return network if batch == 32 else f"{network} batch {batch}"


def _card(configs: dict[str, Config]) -> tuple[float, dict[str, int]]:
    from raydae.benchmark.flops import card  # torch: only in the process that measures

    return card(configs)
