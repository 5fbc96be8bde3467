"""The model file of a training run."""

from raydae.core.pixel_hashes import PixelHashes
from raydae.images.image_sets import ImageSets
from raydae.models.model_file import ModelInfo, pack_model
from raydae.models.weights import Weights
from raydae.training.checkpoints import TrainState
from raydae.training.config import Config


def model_of_run(state: TrainState, sets: ImageSets, weights: Weights, epoch: int) -> bytes:
    """Return the model file of a run's weights after an epoch.

    Args:
        state: the run's state, of its latest checkpoint.
        sets: the run's images.
        weights: the weights.
        epoch: the epoch (1, 2 ...) after which the run had them; 0: before the first one ended.
    """
    inherited = PixelHashes.from_text(state.inherited_hashes)
    config = Config.from_dict(state.config)
    info = ModelInfo(
        model=config.model,
        config=state.config,
        source=sets.source,
        train_hashes=PixelHashes.of([*sets.train.hashes, *sets.replaced_train_hashes]) | inherited,
        val_hashes=PixelHashes.of([*sets.val.hashes, *sets.replaced_val_hashes]),
        epoch=epoch,
        val_psnr=state.history[epoch - 1]["val_psnr"] if epoch else None,
    )
    return pack_model(weights, info)
