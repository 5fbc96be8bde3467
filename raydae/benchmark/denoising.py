"""The denoising part of the benchmark: megapixels a second of the released network, way by way.

    tiled, whole    `Denoiser` on an image in memory, as a user has it and in one tile, copies
                    between the CPU and the GPU included
    bare            the network's forward pass alone, on values that are on the device
    onnx            the network exported and run by onnxruntime, values in the CPU's memory

Each is followed by its precision, where that is not fp32. On a GPU fp32 is that of IEEE 754, and
tf32 what torch makes of it in convolutions by default.
"""

import importlib
import importlib.util
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

WAYS: dict[str, tuple[str, ...]] = {
    "cpu": ("tiled", "whole", "bare", "bare bf16"),
    "cuda": (
        *("tiled", "tiled bf16", "whole", "whole bf16"),
        *("bare", "bare tf32", "bare bf16", "bare fp16", "bare bf16 compiled"),
    ),
}
ONNX = ("onnx", "onnxruntime", "onnxscript")  # what the way `onnx` needs
SHORT_S, MOST_RUNS = 0.5, 50  # on a GPU an image is denoised again and again for so long
PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")  # of onnxruntime, the best first


class Speed(NamedTuple):
    """What was measured of a way."""

    way: str
    megapixels_per_s: float
    memory_mib: float | None
    """The peak beyond what was there before; none: not known."""
    first_s: float | None
    """Of the first image, where a compilation is part of it."""


def missing() -> list[str]:
    """Return the packages for the way `onnx` that are not installed."""
    return [name for name in ONNX if importlib.util.find_spec(name) is None]


def measure(way: str, height: int, width: int, device_name: str) -> Speed:
    """Measure a way on an image of that size."""
    if way.endswith("compiled"):  # a compilation that an earlier run has stored says nothing
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = tempfile.mkdtemp(prefix="raydae-inductor-")
    import torch

    from raydae.benchmark.flops import synchronize
    from raydae.models.inference import Denoiser
    from raydae.models.model_file import load_model

    device = torch.device(device_name)
    cuda = device.type == "cuda"
    if cuda:
        cudnn: Any = torch.backends.cudnn  # torch's types do not know `conv`
        cudnn.conv.fp32_precision = "tf32" if "tf32" in way else "ieee"
    network, _ = load_model("released")
    if way == "onnx":
        name, work = _onnx(network.eval(), height, width)
    elif way.startswith("bare"):
        name, work = way, _bare(way, network.eval(), device, height, width)
    else:
        name, work = way, _denoiser(way, network, device, height, width)
    Denoiser(load_model("released")[0], device)(np.zeros((64, 64, 3), np.uint8))  # sets torch up
    if cuda:  # the peak begins anew with what there is now
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    before = _memory(cuda)

    def timed() -> float:
        synchronize(device)
        began = time.perf_counter()
        work()
        synchronize(device)
        return time.perf_counter() - began

    if cuda:  # the first chooses algorithms, or compiles
        first = timed()
        times = [timed() for _ in range(3)]
        while sum(times) < SHORT_S and len(times) < MOST_RUNS:
            times.append(timed())
    else:
        times = [timed() for _ in range(3 if height * width < 2e6 else 1)]
        first = times[0]
    return Speed(
        name,
        height * width / 1e6 / statistics.median(times),
        None if way == "onnx" else _memory(cuda) - before,
        first if way.endswith("compiled") else None,
    )


def _denoiser(way: str, network: Any, device: Any, height: int, width: int) -> Callable[[], object]:
    """Denoises an image as a user does."""
    from raydae.models.inference import Denoiser

    kind, _, precision = way.partition(" ")
    denoiser = Denoiser(network, device, precision or "fp32")
    if kind == "whole":
        denoiser.tile = max(height, width)
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    return lambda: denoiser(image)


def _bare(way: str, network: Any, device: Any, height: int, width: int) -> Callable[[], object]:
    """Runs the network alone on values that are on the device."""
    import torch

    from raydae.models.inference import channels_last

    network = channels_last(network, device)
    if way.endswith("compiled"):
        torch.compiler.reset()
        network = torch.compile(network, dynamic=False)
    down, right = _padded(network, height), _padded(network, width)
    values = torch.rand(1, down, right, 3, device=device).permute(0, 3, 1, 2)
    kinds = {"bf16": torch.bfloat16, "fp16": torch.float16}
    kind = next((kinds[word] for word in way.split() if word in kinds), None)

    def work() -> object:
        enabled = kind is not None
        with torch.inference_mode(), torch.autocast(device.type, dtype=kind, enabled=enabled):
            return network(values)

    return work


def _onnx(network: Any, height: int, width: int) -> tuple[str, Callable[[], object]]:
    """Exports the network for that size; the way's name with the provider that runs it."""
    import torch

    onnxruntime: Any = importlib.import_module("onnxruntime")  # which few have
    values = torch.rand(1, 3, _padded(network, height), _padded(network, width))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "network.onnx"
        torch.onnx.export(network, (values,), file, dynamo=True, verbose=False)
        there = onnxruntime.get_available_providers()
        chosen = [name for name in PROVIDERS if name in there]
        session = onnxruntime.InferenceSession(file, providers=chosen)
    provider = session.get_providers()[0]  # the first that could be loaded
    feed = {session.get_inputs()[0].name: values.numpy()}
    return f"onnx ({provider})", lambda: session.run(None, feed)


def _padded(network: Any, side: int) -> int:
    return -(-side // int(network.multiple)) * int(network.multiple)


def _memory(cuda: bool) -> float:
    """The most memory that torch had on the GPU, or that this process had, MiB."""
    if cuda:
        import torch

        return torch.cuda.max_memory_allocated() / 2**20
    unit = 1024 if sys.platform == "linux" else 1  # of ru_maxrss, in bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
