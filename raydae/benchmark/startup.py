"""The part `startup`: seconds from the command to the first step, and from the last to the end."""

import time

from raydae.benchmark.harness import Harness


def measure(harness: Harness) -> None:
    """Measure a run of two steps by raydae, and by a plain script."""
    # With 32 patches on 16 images, an epoch is one step.
    config = harness.config("dae", **{"data.patches_per_image": 2, "optim.epochs": 2})
    times: dict[str, list[float]] = {}
    for _ in range(harness.rounds + 1):
        harness.log("startup")
        history, (began, ended) = harness.run_job(config, "--num-workers", 1)
        times.setdefault("raydae, start", []).append(history[0]["time"] - began)
        times.setdefault("raydae, end", []).append(ended - history[-1]["time"])
        began = time.time()
        marks = harness.run_baseline("plain", config, 0, [32])[0]
        times.setdefault("plain, start", []).append(marks["first"] - began)
        times.setdefault("plain, end", []).append(time.time() - marks["last"])
    medians = {
        what: harness.report.add("startup", what, "s", values) for what, values in times.items()
    }
    raydae, plain = (
        medians[f"{side}, start"] + medians[f"{side}, end"] for side in ("raydae", "plain")
    )
    harness.report.add("startup", "raydae above plain", "s", [raydae - plain])
    harness.report.ratios["startup/plain"] = raydae / plain
