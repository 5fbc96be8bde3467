from pathlib import Path

import pytest

from raydae.benchmark import denoising
from raydae.benchmark.harness import Harness


def test_denoising_is_measured_in_each_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(denoising, "SIZES", ((64, 96),))
    saved = []
    harness = Harness(tmp_path, lambda line: None, rounds=1, save=lambda: saved.append(1))
    denoising.measure(harness)
    names = [row["what"].split(", ")[1] for row in harness.report.rows[:4]]
    assert names == ["tiled", "whole", "bare", "bare bf16"]
    assert harness.report.ratios["denoise/bare"] > 0
    assert saved


@pytest.mark.parametrize("variant", ["tiled bf16", "whole bf16", "bare fp16"])
def test_the_variants_of_a_gpu_denoise_on_the_cpu_too(variant: str) -> None:
    speed = denoising.measure_variant(variant, 64, 96, "cpu")
    assert speed.variant == variant
    assert speed.megapixels_per_s > 0


def test_onnx_is_measured_where_it_is_installed() -> None:
    if denoising.missing_onnx_packages():
        pytest.skip("needs onnx, onnxruntime and onnxscript")
    speed = denoising.measure_variant("onnx", 64, 96, "cpu")
    assert speed.variant == "onnx (CPUExecutionProvider)"
    assert speed.memory_mib is None
