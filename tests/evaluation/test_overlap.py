import dataclasses

import pytest

from raydae.core.errors import UserError
from raydae.core.pixel_hashes import PixelHashes
from raydae.evaluation.overlap import check_overlap
from raydae.images.image_sets import ImageSets
from raydae.models.config import ModelConfig
from raydae.models.model_file import ModelInfo
from raydae.training.config import Config


@pytest.fixture
def info(sets: ImageSets) -> ModelInfo:
    return ModelInfo(
        model=ModelConfig(),
        config=Config().to_dict(),
        source="pictures",
        train_hashes=PixelHashes.of(sets.train.hashes),
        val_hashes=PixelHashes.of(sets.val.hashes),
        epoch=1,
        val_psnr=None,
    )


def test_training_images_are_refused_whatever_their_names(info: ModelInfo, sets: ImageSets) -> None:
    renamed = [dataclasses.replace(sets.train[0], name="new.png", uri="elsewhere")]
    with pytest.raises(UserError, match=r"trained on 1 of these 1 images, such as new\.png"):
        check_overlap(info, renamed)
    assert "trained on 1 of these 2" in (
        check_overlap(info, [*renamed, *sets.test], force=True) or ""
    )


def test_images_that_selected_the_epoch_are_remarked_on(info: ModelInfo, sets: ImageSets) -> None:
    assert "epoch" in (check_overlap(info, sets.val) or "")
    assert check_overlap(info, sets.test) is None
