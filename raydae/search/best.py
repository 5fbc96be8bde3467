"""The configuration and the model of a search's best trial."""

import json
from typing import Any

from raydae.core.errors import UserError
from raydae.core.storage import Folder
from raydae.images.image_sets import ImageSets
from raydae.models.header import is_whole, metadata_of
from raydae.training.checkpoints import Checkpoints
from raydae.training.run_folder import MODEL


def read_best(trial: Folder, sets: ImageSets) -> tuple[dict[str, Any], bytes]:
    """Return the configuration of a trial as it was resolved, and a model file of its best weights.

    They come from the newest checkpoint, or from the trial's own model file if none is intact.

    Args:
        trial: the trial's run folder.
        sets: the images of the search.

    Raises:
        UserError: neither is intact.
        OSError: the storage cannot be read.
    """
    from raydae.models.weights import unpack  # with torch: seconds
    from raydae.training.model_of_run import model_of_run

    try:
        found = Checkpoints(trial).latest()
    except UserError:  # none is intact
        found = None
    if found is not None:
        state, weights = found.state, unpack(found.files["best.safetensors"])
        return state.config, model_of_run(state, sets, weights, state.best_epoch)
    model = trial.read(MODEL) if MODEL in trial.files() else b""
    if not is_whole(model):
        raise UserError(
            f"the best trial has no intact checkpoint and no intact model in {trial}; restore one, "
            "or search again with --restart"
        )
    config: dict[str, Any] = json.loads(metadata_of(model)["raydae"])["config"]
    return config, model
