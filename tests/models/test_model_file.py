import io
import json
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from skimage.data import astronaut

from raydae import load
from raydae.core.errors import UserError
from raydae.core.pixel_hashes import PixelHashes
from raydae.core.pixels import to_uint8
from raydae.core.storage import Folder
from raydae.images.bsds500 import find
from raydae.images.listed import Listed
from raydae.images.scan import scan
from raydae.images.sources import cbsd68
from raydae.metrics.psnr import psnr
from raydae.models.config import ModelConfig
from raydae.models.header import metadata_of
from raydae.models.model_file import ModelInfo, load_model, pack_model
from raydae.models.networks import build
from raydae.models.released import RELEASED
from raydae.models.weights import BAD_CONTENT, pack, pack_optimizer, unpack, unpack_optimizer
from raydae.noise.evaluation import EvaluationNoise, evaluation_noise
from raydae.training.config import Config
from tests.conftest import draw

INFO = ModelInfo(
    model=ModelConfig(),
    config=Config().to_dict(),
    source="pictures",
    train_hashes=PixelHashes.of(["a" * 32, "b" * 32]),
    val_hashes=PixelHashes.of(["c" * 32]),
    epoch=3,
    val_psnr=25.5,
)


def test_a_model_file_holds_all_that_rebuilds_the_network(tmp_path: Path) -> None:
    network = build(ModelConfig()).to(memory_format=torch.channels_last)
    (tmp_path / "m").write_bytes(pack_model(network.state_dict(), INFO))
    for path in (tmp_path / "m", str(tmp_path / "m"), (tmp_path / "m").as_uri()):
        other, info = load_model(path)
        assert info == INFO
        assert not other.training
        for name, value in network.state_dict().items():
            assert torch.equal(value, other.state_dict()[name])


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"short",
        b"\xff" * 64,
        b"not a model at all, but long enough to look like one",
        pickle.dumps({"weights": [1, 2, 3]}),
        safetensors.torch.save({"a": torch.zeros(3)}),
        safetensors.torch.save({"a": torch.zeros(3)}, {"raydae": "{}"}),
        pack({"a": torch.zeros(3)}, {"raydae": json.dumps({"format": 1, "model": {"name": "x"}})}),
        pack_model({"layers.0.weight": torch.zeros(3)}, INFO),
        pack_model(build(ModelConfig()).state_dict(), INFO)[:-100],
    ],
)
def test_what_is_no_model_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m").write_bytes(content)
    with pytest.raises(UserError, match="is not a model of raydae") as caught:
        load(tmp_path / "m")
    assert "\n" not in str(caught.value)


def test_an_absent_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        load(tmp_path / "none")


def test_a_file_of_another_version(tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(pack({}, {"raydae": json.dumps({"format": 99})}))
    with pytest.raises(UserError, match="another version"):
        load(tmp_path / "m")


def test_weights_and_optimizer_come_back_bit_for_bit() -> None:
    torch.manual_seed(0)
    network = build(ModelConfig()).to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(network.parameters(), fused=True)
    network(torch.rand(4, 3, 16, 16)).mean().backward()
    optimizer.step()
    weights = unpack(pack(network.state_dict()))
    assert all(torch.equal(weights[name], value) for name, value in network.state_dict().items())
    state = unpack_optimizer(pack_optimizer(optimizer.state_dict()))
    for key, values in optimizer.state_dict()["state"].items():
        for name, value in values.items():
            assert torch.equal(state["state"][key][name], value)
            assert state["state"][key][name].stride() == value.stride()


BOMB = """
from pathlib import Path
from torch import nn

Path("ran").touch()


class Net(nn.Module):
    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, width, 1)

    def forward(self, noisy):
        return self.layer(noisy)
"""


def saved_values() -> dict[str, Any]:
    """What the model file of INFO says."""
    values: dict[str, Any] = json.loads(metadata_of(pack_model({}, INFO))["raydae"])
    return values


def test_a_model_file_with_lists_of_hashes_loads_as_before(tmp_path: Path) -> None:
    values = saved_values() | {"format": 2, "train_hashes": ["b" * 32, "a" * 32, "b" * 32]}
    weights = build(ModelConfig()).state_dict()
    file = tmp_path / "model.safetensors"
    file.write_bytes(pack(weights, {"raydae": json.dumps(values | {"val_hashes": ["c" * 32]})}))
    assert load_model(file)[1] == INFO
    file.write_bytes(pack(weights, {"raydae": json.dumps(values | {"val_hashes": ["c"]})}))
    with pytest.raises(UserError, match="is not a model of raydae"):
        load_model(file)


def hostile_files(module: str) -> list[dict[str, Any]]:
    """What a model file could say to have a module imported."""
    values = saved_values()
    bomb = f"{module}:Net"
    return [
        values | {"model": {"name": bomb, "options": {}}},
        values | {"model": {"name": bomb, "options": {"width": 3}, "extra": 1}},
        values | {"format": 1, "model": {"name": bomb, "width": 3}},
        values | {"config": {**values["config"], "model": {"name": bomb, "options": {}}}},
        values | {"config": {**values["config"], "noise": {"kind": bomb, "options": {}}}},
        values | {"config": {**values["config"], "optim": {"loss": bomb, "optimizer": bomb}}},
        values | {"config": {**values["config"], "data": {"path": bomb}}},
    ]


@pytest.mark.parametrize("number", range(7))
def test_a_model_file_never_imports_what_is_not_trusted(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = f"bomb_{number}"
    (tmp_path / f"{module}.py").write_text(BOMB)
    monkeypatch.chdir(tmp_path)
    weights = {"layer.weight": torch.zeros(3, 3, 1, 1), "layer.bias": torch.zeros(3)}
    data = pack(weights, {"raydae": json.dumps(hostile_files(module)[number])})
    (tmp_path / "m").write_bytes(data)
    for trust in ((), ("other",)):
        with pytest.raises(UserError):
            load(tmp_path / "m", trust=trust)
    assert module not in sys.modules
    assert not (tmp_path / "ran").exists()


def test_a_trusted_module_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "trusted_nets.py").write_text(BOMB)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    weights = {"layer.weight": torch.zeros(3, 3, 1, 1), "layer.bias": torch.full((3,), 0.5)}
    data = pack(weights, {"raydae": json.dumps(hostile_files("trusted_nets")[0])})
    (tmp_path / "m").write_bytes(data)
    with pytest.raises(UserError, match="--trust trusted_nets"):
        load(tmp_path / "m")
    denoised = load(tmp_path / "m", trust=["trusted_nets"])(np.zeros((5, 7, 3), np.uint8))
    assert (denoised == 128).all()
    assert denoised.shape == (5, 7, 3)


def test_a_pickle_is_not_even_read(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[Path]]:
            return Path.touch, (tmp_path / "ran",)

    for data in (pickle.dumps(Bomb()), _torch_saved(Bomb())):
        for read in (unpack, unpack_optimizer):
            with pytest.raises(BAD_CONTENT):
                read(data)
    assert not (tmp_path / "ran").exists()


def _torch_saved(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(("name", "megabytes"), [("photo", 6), ("gaussian", 6), ("large", 20)])
def test_the_released_models_say_what_they_are(name: str, megabytes: int) -> None:
    assert RELEASED[name].stat().st_size < megabytes * 1e6
    network, info = load_model(name)
    assert {value.dtype for value in network.state_dict().values()} == {torch.float32}
    assert info.model.name == "unet"
    noise = info.config["noise"]
    assert noise["kind"] == "camera" if name == "photo" else noise["sigma"] == "0:55"
    assert info.protocol == "cbsd68"
    assert info.config["data"]["path"] is None, "the place where its images lay says nothing"
    assert len(info.train_hashes) == 727


@pytest.mark.parametrize("name", ["gaussian", "large"])
def test_a_released_model_takes_noise_away_and_leaves_the_rest(name: str) -> None:
    denoise = load(name)
    clean = draw(0, 70, 91)
    for sigma, gain in ((15, 8), (50, 10)):
        noisy = evaluation_noise(clean, sigma)
        assert psnr(clean, to_uint8(denoise(noisy))) > psnr(clean, noisy * 255) + gain
    assert psnr(clean, denoise(clean)) > 40


def test_the_model_for_photographs_removes_the_noise_of_cameras_and_nothing_else() -> None:
    denoise = load("photo")
    clean = draw(0, 128, 160)
    gains = []
    for shot in ("0.001", "0.004"):
        options = {"shot": shot, "clean": 0, "grey": 0, "tint": 0}
        noisy, learned = EvaluationNoise(kind="camera", options=options)(clean)
        gains.append(psnr(learned, to_uint8(denoise(noisy))) - psnr(learned, noisy * 255))
    assert min(gains) > 2.5
    photograph = astronaut()[:256, 100:356]
    assert psnr(photograph, denoise(photograph)) > 45


@pytest.mark.parametrize("name", sorted(RELEASED))
def test_a_released_model_has_not_seen_cbsd68(name: str, bsds500: Path) -> None:
    _, info = load_model(name)
    root = find(Folder.of(bsds500))
    assert root is not None
    images, _ = scan(Listed.of(cbsd68(root)))
    assert len(images) == 68
    seen = info.train_hashes | info.val_hashes
    assert not [file.name for file in images if file.sha256 in seen]
