"""The part `denoise`: megapixels per second and memory of the released network, by variant.

    tiled, whole    `Denoiser` on an image in memory, as users call it and in one tile, including
                    copies between the CPU and the GPU
    bare            the network's forward pass alone, on values that are on the device
    onnx            the network exported and run by onnxruntime, on values in the CPU's memory

The precision follows the name of a variant if it is not fp32. On a GPU, fp32 is IEEE 754's; tf32 is
torch's default for convolutions.
"""

import importlib
import importlib.util
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from raydae.benchmark.harness import Harness, own_process

SIZES = ((321, 481), (3000, 4000))  # height and width of the images; the last needs tiles
VARIANTS: dict[str, tuple[str, ...]] = {
    "cpu": ("tiled", "whole", "bare", "bare bf16"),
    "cuda": (
        *("tiled", "tiled bf16", "whole", "whole bf16"),
        *("bare", "bare tf32", "bare bf16", "bare fp16", "bare bf16 compiled"),
    ),
}
ONNX_PACKAGES = ("onnx", "onnxruntime", "onnxscript")
MIN_SECONDS, MAX_RUNS = 0.5, 50  # of the repetitions on a GPU
PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")  # of onnxruntime, the best first


class Speed(NamedTuple):
    """The figures of one variant."""

    variant: str
    megapixels_per_s: float
    memory_mib: float | None
    """Peak memory above that before the first image; None: unknown."""
    first_s: float | None
    """Seconds of the first image, if it includes a compilation."""


def measure(harness: Harness) -> None:
    """Measure every variant at every size."""
    variants = VARIANTS[harness.device]
    if missing := missing_onnx_packages():
        harness.log(f"denoise: onnx is left out, without {', '.join(missing)}")
    else:
        variants += ("onnx",)
    for height, width in SIZES:
        size = f"{height * width / 1e6:.2g} MP"
        speeds: dict[str, list[Speed]] = {}
        with own_process() as shared:
            for variant in harness.alternate(*variants):
                # A process's peak memory never falls; a GPU's counter can be reset.
                process = nullcontext(shared) if harness.device == "cuda" else own_process()
                with harness.log_failure(f"denoise {size}: {variant}"), process as call:
                    speed = call(measure_variant, variant, height, width, harness.device)
                    rate = speed.megapixels_per_s
                    harness.log(f"denoise {size}: {speed.variant}: {rate:.3g} MP/s")
                    speeds.setdefault(speed.variant, []).append(speed)
        _add_rows(harness, size, speeds)
        harness.save()


def _add_rows(harness: Harness, size: str, speeds: dict[str, list[Speed]]) -> None:
    """Add the rows and ratios of one image size to the report."""
    report = harness.report
    medians = {
        variant: report.add(
            "denoise", f"{size}, {variant}", "MP/s", [speed.megapixels_per_s for speed in found]
        )
        for variant, found in speeds.items()
    }
    for variant, found in speeds.items():
        what = f"{size}, {variant}"
        _add_known(harness, f"{what}: memory", "MiB", [speed.memory_mib for speed in found])
        firsts = [speed.first_s for speed in found]
        _add_known(harness, f"{what}: first image, with compilation", "s", firsts)
    if {"tiled", "bare"} <= medians.keys():
        ratio = medians["tiled"] / medians["bare"]
        report.ratios[f"denoise/bare, {size}"] = ratio
        report.ratios["denoise/bare"] = ratio  # in the end, that of the largest size


def _add_known(harness: Harness, what: str, unit: str, values: Sequence[float | None]) -> None:
    if known := [value for value in values if value is not None]:
        harness.report.add("denoise", what, unit, known)


def missing_onnx_packages() -> list[str]:
    """Return the packages that the variant `onnx` needs and that are not installed."""
    return [name for name in ONNX_PACKAGES if importlib.util.find_spec(name) is None]


def measure_variant(variant: str, height: int, width: int, device_name: str) -> Speed:
    """Measure one variant on an image of that size, in this process."""
    if variant.endswith("compiled"):  # an empty cache: otherwise an earlier compilation is reused
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = tempfile.mkdtemp(prefix="raydae-inductor-")
    import torch

    from raydae.benchmark.flops import synchronize
    from raydae.models.inference import Denoiser
    from raydae.models.model_file import load_model

    device = torch.device(device_name)
    cuda = device.type == "cuda"
    if cuda:
        cudnn: Any = torch.backends.cudnn  # torch's types do not know `conv`
        cudnn.conv.fp32_precision = "tf32" if "tf32" in variant else "ieee"
    network, _ = load_model("gaussian")
    if variant == "onnx":
        name, work = _onnx(network.eval(), height, width)
    elif variant.startswith("bare"):
        name, work = variant, _bare(variant, network.eval(), device, height, width)
    else:
        name, work = variant, _denoiser(variant, network, device, height, width)
    Denoiser(load_model("gaussian")[0], device)(np.zeros((64, 64, 3), np.uint8))  # sets up torch
    if cuda:  # the peak now starts from the current memory
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    before = _memory(cuda)

    def timed() -> float:
        synchronize(device)
        began = time.perf_counter()
        work()
        synchronize(device)
        return time.perf_counter() - began

    if cuda:  # the first run chooses algorithms, or compiles
        first = timed()
        times = [timed() for _ in range(3)]
        while sum(times) < MIN_SECONDS and len(times) < MAX_RUNS:
            times.append(timed())
    else:
        times = [timed() for _ in range(3 if height * width < 2e6 else 1)]
        first = times[0]
    return Speed(
        name,
        height * width / 1e6 / statistics.median(times),
        None if variant == "onnx" else _memory(cuda) - before,
        first if variant.endswith("compiled") else None,
    )


def _denoiser(
    variant: str, network: Any, device: Any, height: int, width: int
) -> Callable[[], object]:
    """Return a call that denoises an image as users do."""
    from raydae.models.inference import Denoiser

    kind, _, precision = variant.partition(" ")
    denoiser = Denoiser(network, device, precision or "fp32")
    if kind == "whole":
        denoiser.tile = max(height, width)
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    return lambda: denoiser(image)


def _bare(variant: str, network: Any, device: Any, height: int, width: int) -> Callable[[], object]:
    """Return a call of the network alone, on values that are on the device."""
    import torch

    from raydae.models.inference import channels_last

    network = channels_last(network, device)
    if variant.endswith("compiled"):
        torch.compiler.reset()
        network = torch.compile(network, dynamic=False)
    down, right = _padded(network, height), _padded(network, width)
    values = torch.rand(1, down, right, 3, device=device).permute(0, 3, 1, 2)
    dtypes = {"bf16": torch.bfloat16, "fp16": torch.float16}
    dtype = next((dtypes[word] for word in variant.split() if word in dtypes), None)

    def work() -> object:
        enabled = dtype is not None
        with torch.inference_mode(), torch.autocast(device.type, dtype=dtype, enabled=enabled):
            return network(values)

    return work


def _onnx(network: Any, height: int, width: int) -> tuple[str, Callable[[], object]]:
    """Export the network for that size; return the variant's name with its provider, and a call."""
    import torch

    onnxruntime: Any = importlib.import_module("onnxruntime")  # optional
    values = torch.rand(1, 3, _padded(network, height), _padded(network, width))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "network.onnx"
        torch.onnx.export(network, (values,), file, dynamo=True, verbose=False)
        available = onnxruntime.get_available_providers()
        chosen = [name for name in PROVIDERS if name in available]
        session = onnxruntime.InferenceSession(file, providers=chosen)
    provider = session.get_providers()[0]  # the first that could be loaded
    feed = {session.get_inputs()[0].name: values.numpy()}
    return f"onnx ({provider})", lambda: session.run(None, feed)


def _padded(network: Any, side: int) -> int:
    """Return a side rounded up to what the network accepts."""
    return -(-side // int(network.multiple)) * int(network.multiple)


def _memory(cuda: bool) -> float:
    """Return the peak memory in MiB: torch's on the GPU, or that of this process."""
    if cuda:
        import torch

        return torch.cuda.max_memory_allocated() / 2**20
    unit = 1024 if sys.platform == "linux" else 1  # of ru_maxrss, in bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
