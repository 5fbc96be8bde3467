"""A run that resumes is compared with the images that it began with."""

import io
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from raydae.app.run_images import images_of_run
from raydae.core.errors import UserError
from raydae.core.storage import Folder
from raydae.images.image_file import pixel_hash
from raydae.training.checkpoints import TrainState
from raydae.training.config import Config
from raydae.training.model_of_run import model_of_run
from raydae.training.run_folder import Run, open_run
from tests.conftest import SMALL, draw, draw_folder


def test_images_that_changed_are_named_and_only_used_on_request(tmp_path: Path) -> None:
    images = draw_folder(tmp_path / "images")
    config = Config().override({**SMALL, "data.path": str(images)})
    folder = Folder.of(tmp_path / "run")
    text = io.StringIO()

    def again(config: Config) -> Run:
        return images_of_run(open_run(folder, config), "train", Console(file=text, width=200))[0]

    run, sets = images_of_run(open_run(folder, config), "train", Console(file=text))
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
    model = model_of_run(TrainState(config=config.to_dict()), now, {}, 0)
    for trained_on in (replaced.sha256, now.train[0].sha256):
        assert trained_on.encode() in model, "the guard knows both"
