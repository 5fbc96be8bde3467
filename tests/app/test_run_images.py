"""A run that resumes is compared with the images that it began with."""

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from raydae.app.run_images import images_of_run
from raydae.core.errors import UserError
from raydae.core.storage import Folder
from raydae.images.image_file import pixel_hash
from raydae.images.image_sets import ImageSets
from raydae.models.model_file import load_model
from raydae.models.networks import build
from raydae.training.checkpoints import TrainState
from raydae.training.config import Config
from raydae.training.model_of_run import model_of_run
from raydae.training.run_folder import Run, open_run
from tests.conftest import SMALL, draw, draw_folder


def no_ray() -> None:
    raise AssertionError("so few images are decoded without Ray")


def test_many_images_are_decoded_on_ray(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ray_cluster: None
) -> None:
    images = draw_folder(tmp_path / "images")
    config = Config().override({**SMALL, "data.path": str(images)})
    text = io.StringIO()
    index = iter(range(3))

    def find(start_ray: Callable[[], None]) -> ImageSets:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / f"cache{next(index)}"))
        run = open_run(Folder.of(tmp_path / "run"), config)
        return images_of_run(run, "train", Console(file=text), start_ray)[1]

    here = find(no_ray)
    started: list[bool] = []
    for limits in ({"FEW_IMAGES": 2}, {"FEW_BYTES": 100}):
        for name, limit in limits.items():
            monkeypatch.setattr(f"raydae.app.run_images.{name}", limit)
        assert find(lambda: started.append(True)) == here
    assert len(started) == 2


def test_images_that_changed_are_named_and_only_used_on_request(tmp_path: Path) -> None:
    images = draw_folder(tmp_path / "images")
    config = Config().override({**SMALL, "data.path": str(images)})
    folder = Folder.of(tmp_path / "run")
    text = io.StringIO()

    def again(config: Config) -> Run:
        screen = Console(file=text, width=200)
        return images_of_run(open_run(folder, config), "train", screen, no_ray)[0]

    run, sets = images_of_run(open_run(folder, config), "train", Console(file=text), no_ray)
    begun = run.begin(sets)
    assert again(config).sets == sets

    replaced = sets.train[0]
    Image.fromarray(draw(70)).save(images / replaced.name)
    (images / sets.train[1].name).unlink()
    with pytest.raises(UserError, match=r"images of run have changed .* --data\.changed accept"):
        again(config)
    said = text.getvalue()
    assert f"replaced since the run began: 1\n  {replaced.name}" in said
    assert f"removed since the run began: 1\n  {sets.train[1].name}" in said
    assert open_run(folder, config).sets == begun.sets

    accepting = config.override({"data.changed": "accept"})
    now = again(accepting).sets
    assert now is not None
    assert now.train[0].sha256 == pixel_hash(draw(70))
    text.truncate(0)
    assert again(config).sets == now, "it is recorded, and not asked again"
    assert not text.getvalue().strip("\0")
    weights = build(config.model).state_dict()
    file = tmp_path / "model.safetensors"
    file.write_bytes(model_of_run(TrainState(config=config.to_dict()), now, weights, 0))
    _, info = load_model(file)
    for trained_on in (replaced.sha256, now.train[0].sha256):
        assert trained_on in info.train_hashes, "the guard knows both"
