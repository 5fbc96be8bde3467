"""Training on pairs: samples are cut from both files, and a run resumes bit for bit."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from raydae.core.errors import UserError
from raydae.images.image_file import read_image
from raydae.images.image_sets import ImageSets
from raydae.images.image_table import Images
from raydae.images.sources import find_images
from raydae.metrics.psnr import psnr
from raydae.models.model_file import load_model
from raydae.models.networks import build
from raydae.models.weights import unpack
from raydae.noise.evaluation import EvaluationNoise, PairNoise
from raydae.noise.fixed_point import SCALE
from raydae.training import sync_control
from raydae.training.checkpoints import TrainState
from raydae.training.config import Config
from raydae.training.model_of_run import model_of_run
from raydae.training.noisy_images import noisy_versions
from raydae.training.samples import Samples, shards
from raydae.training.schedule import Schedule
from raydae.training.status import Outcome
from tests.conftest import SMALL, Pixels, draw, draw_noisy
from tests.training.test_loop import StopAfter, history, run

SHOTS = 3


@pytest.fixture(scope="session")
def shots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten scenes of one clean picture and three noisy ones."""
    folder = tmp_path_factory.mktemp("shots")
    for i in range(10):
        Image.fromarray(draw(i)).save(folder / f"{i}_mean.png")
        for shot in range(SHOTS):
            picture = draw_noisy(i, sigma=6 + shot, shot=shot)
            Image.fromarray(picture).save(folder / f"{i}_{shot}.png")
    return folder


@pytest.fixture
def config(shots: Path) -> Config:
    pairs = {"data.path": str(shots), "data.pairs": "*_*.png=*_mean.png", "precision": "fp32"}
    return Config().override({**SMALL, "optim.batch_size": 16, **pairs})


@pytest.fixture
def sets(config: Config) -> ImageSets:
    return find_images(config.data)


def noise_of(block: dict[str, Any]) -> Any:
    return block["noisy"] / SCALE * 255 - block["clean"]


def places(image: Pixels, patch: Pixels) -> list[tuple[int, ...]]:
    """Where in an image a patch was cut, and how it was flipped and turned."""
    windows = np.lib.stride_tricks.sliding_window_view(image, patch.shape)[:, :, 0]
    return [
        (flip, turn, *where)
        for flip in range(2)
        for turn in range(4)
        for where in np.argwhere(
            (windows == np.rot90(patch[:, ::-1] if flip else patch, turn)).all(axis=(-3, -2, -1))
        ).tolist()
    ]


def test_both_patches_are_cut_from_the_same_place(config: Config, sets: ImageSets) -> None:
    block = Samples.of(config, sets.train).block([range(24)], 24)
    noisy = np.rint(block["noisy"] / SCALE * 255).astype(np.uint8)
    picked = set()
    for clean_patch, noisy_patch in zip(block["clean"], noisy, strict=True):
        (found,) = [
            (file, shot, place)
            for file in sets.train
            for place in places(read_image(file.uri), clean_patch)
            for shot, own in enumerate(file.noisy)
            if place in places(read_image(own.uri), noisy_patch)
        ]
        picked.add(found[1])
    assert picked == set(range(SHOTS))
    assert np.abs(block["noisy"] - noisy / 255 * SCALE).max() <= 0.5, "rounded once"


def test_noisy_and_noisy(config: Config, shots: Path, tmp_path: Path) -> None:
    """Noise2Noise: each shot of a burst is a target of the two others."""
    rows = [
        f"{i}_{one}.png,{i}_{other}.png"
        for i in range(10)
        for one in range(SHOTS)
        for other in range(SHOTS)
        if one != other
    ]
    (tmp_path / "burst.csv").write_text("\n".join(["noisy,clean", *rows]))
    config = config.override({"data.pairs": str(tmp_path / "burst.csv")})
    sets = find_images(config.data)
    assert not sets.left_out
    assert len(sets.train) + len(sets.val) + len(sets.test) == 10 * SHOTS
    scenes = [{file.name[0] for file in part} for part in (sets.train, sets.val, sets.test)]
    assert sum(map(len, scenes)) == 10, "a scene is in one split"
    block = Samples.of(config, sets.train).block([range(64)], 64)
    assert noise_of(block).std() == pytest.approx(7 * 2**0.5, rel=0.15), "that of both"


def test_each_shot_is_picked_equally_often(config: Config, sets: ImageSets) -> None:
    levels = noise_of(Samples.of(config, sets.train).block([range(600)], 600)).std(axis=(1, 2, 3))
    shares = np.histogram(levels, [0, 6.5, 7.5, 99])[0] / 600
    assert shares == pytest.approx([1 / 3] * 3, abs=0.07)


@pytest.mark.parametrize("kind", ["gaussian", "speckle"])
def test_the_rest_of_the_patches_has_noise_that_is_added(
    kind: str, config: Config, sets: ImageSets
) -> None:
    changes = {"data.pairs_share": 0.25, "noise.kind": kind}
    if kind == "gaussian":
        changes["noise.options.sigma"] = "40"
    config = config.override(changes)
    samples = Samples.of(config, sets.train)
    block = samples.block([range(400)], 400)
    made = (block["noisy"] != np.rint(np.rint(block["noisy"] / SCALE * 255) / 255 * SCALE)).any(
        axis=(1, 2, 3)
    )
    assert np.mean(made) == pytest.approx(0.75, abs=0.06)
    if kind == "gaussian":
        assert noise_of(block)[made].std() == pytest.approx(40, rel=0.02)
        assert noise_of(block)[~made].std() == pytest.approx(7, rel=0.1)
    alone = samples.block([range(133, 134)], 1)
    for name, column in alone.items():
        np.testing.assert_array_equal(column[0], block[name][133])
    half = Samples.of(config.override({"data.pairs_share": 0.5}), sets.train)
    same = (half.block([range(400)], 400)["noisy"] == block["noisy"]).all(axis=(1, 2, 3))
    assert np.mean(same[made]) == pytest.approx(2 / 3, abs=0.06), "these are as they were"


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_one_to_four_workers_train_on_the_same_samples(
    share: float, config: Config, sets: ImageSets
) -> None:
    config = config.override({"data.pairs_share": share})
    samples, schedule = Samples.of(config, sets.train), Schedule.of(config, len(sets.train))
    whole = list(shards(samples, schedule, 0))
    for workers in (2, 3, 4):
        streams = [list(shards(samples, schedule, 0, rank, workers)) for rank in range(workers)]
        for step, expected in enumerate(whole):
            for name, column in expected.items():
                parts = [
                    stream[step][name][: len(schedule.shard(step, rank, workers))]
                    for rank, stream in enumerate(streams)
                ]
                np.testing.assert_array_equal(np.concatenate(parts), column)


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_a_resumed_run_equals_an_uninterrupted_one(
    share: float,
    config: Config,
    sets: ImageSets,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sync_control, "SYNC_SECONDS", 0)  # it can stop after any step
    config = config.override({"data.pairs_share": share})
    assert run(config, sets, tmp_path / "whole") == Outcome("finished")
    for step in (1, 3):
        assert run(config, sets, tmp_path / "parts", tell=StopAfter(step)) == Outcome("stopped")
    assert run(config, sets, tmp_path / "parts") == Outcome("finished")
    for name in ("last.safetensors", "model.safetensors"):
        ours, theirs = (unpack((tmp_path / d / name).read_bytes()) for d in ("whole", "parts"))
        assert all(torch.equal(value, theirs[key]) for key, value in ours.items())
    assert history(tmp_path / "whole") == history(tmp_path / "parts")


def test_a_noisy_file_that_is_gone_changes_only_its_own_samples(
    config: Config, sets: ImageSets
) -> None:
    before = Samples.of(config, sets.train).block([range(96)], 96)
    file = sets.train[2]
    gone = dataclasses.replace(file.noisy[1], uri="/nowhere.png")
    noisy = (file.noisy[0], gone, file.noisy[2])
    files = [*sets.train[:2], dataclasses.replace(file, noisy=noisy), *sets.train[3:]]
    images = Images.of(files)
    block = Samples.of(config, images).block([range(96)], 96)
    changed = (block["noisy"] != before["noisy"]).any(axis=(1, 2, 3))
    assert 0 < changed.sum() < 12
    np.testing.assert_array_equal(block["unreadable"], np.where(changed, 2, -1))


def test_pairs_score_by_their_own_noise(config: Config, sets: ImageSets) -> None:
    (noise,) = config.evaluation_noises
    assert noise == PairNoise()
    file = sets.val[0]
    ((_, noisy, clean),) = noisy_versions(file, [noise], lambda image: image[:20])
    np.testing.assert_array_equal(clean, read_image(file.uri)[:20])
    np.testing.assert_array_equal(np.rint(noisy * 255), read_image(file.noisy[0].uri)[:20])
    assert 25 < psnr(clean, noisy * 255) < 35

    (white,) = config.override({"validation.sigma": "15"}).evaluation_noises
    assert white == EvaluationNoise.white(15), "if it is asked for"
    gone = dataclasses.replace(file.noisy[0], uri="/nowhere.png")
    with pytest.raises(OSError, match="nowhere"):
        list(noisy_versions(dataclasses.replace(file, noisy=(gone,)), [noise]))


def test_the_model_knows_its_noisy_files(config: Config, sets: ImageSets, tmp_path: Path) -> None:
    weights = build(config.model).state_dict()
    file = tmp_path / "model.safetensors"
    file.write_bytes(model_of_run(TrainState(config=config.to_dict()), sets, weights, 0))
    _, info = load_model(file)
    for images, known in ((sets.train, info.train_hashes), (sets.val, info.val_hashes)):
        assert len(images.hashes) > len(images)
        assert all(sha in known for sha in images.hashes)


def test_noise_on_the_device_is_refused(config: Config, sets: ImageSets) -> None:
    with pytest.raises(UserError, match=r"--noise-on device: data\.pairs needs the CPU"):
        config.override({"noise.on": "device"})
    assert "noisy" in Samples.of(config, sets.train, gpu=True).block([range(2)], 2)


def test_what_is_trained_on_in_words(config: Config) -> None:
    assert config.noise_description == "pairs"
    mixed = config.override({"data.pairs_share": 0.5, "noise.options.sigma": "5:50"})
    assert mixed.noise_description == "50% pairs, else sigma 5:50"
    assert Config().noise_description == "sigma 25"
