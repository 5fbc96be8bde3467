"""The guard against evaluating a model on images that it was trained on or selected by."""

from collections.abc import Sequence

from raydae.core.errors import UserError
from raydae.core.pixel_hashes import PixelHashes
from raydae.images.image_file import ImageFile
from raydae.models.model_file import ModelInfo


def check_overlap(info: ModelInfo, images: Sequence[ImageFile], force: bool = False) -> str | None:
    """Refuse to evaluate a model on its training images; they are recognised by their pixels.

    Args:
        info: the metadata of the model file, with the hashes of its images.
        images: the evaluation images.
        force: return a remark instead of raising.

    Returns:
        A remark to show with the results, if some of the images trained the model or selected its
        epoch; None if the model has seen none of them.

    Raises:
        UserError: the model was trained on some of the images, and `force` is not set.
    """
    trained = images_in(info.train_hashes, images)
    selecting = images_in(info.val_hashes, images)
    if trained and not force:
        raise UserError(
            f"the model was trained on {len(trained)} of these {len(images)} images, such as "
            f"{trained[0].name}, so its results on them say nothing about its quality; choose "
            "other images, or use --force"
        )
    if trained:
        return f"trained on {len(trained)} of these {len(images)} images: no measure of quality"
    if selecting:
        return (
            f"the epoch of this model was chosen by {len(selecting)} of these {len(images)} images"
        )
    return None


def images_in(hashes: PixelHashes, images: Sequence[ImageFile]) -> list[ImageFile]:
    """Return the images that are, or whose noisy files are, among those of `hashes`."""
    return [file for file in images if any(sha in hashes for sha in file.hashes)]
