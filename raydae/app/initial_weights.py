"""--init: the weights to start from decide the network.

A run that starts from a model file has the network of that file, so that neither its name nor its
width has to be typed again.
"""

import dataclasses
import json
from typing import Any

from raydae.core.components import module_of
from raydae.core.errors import UserError
from raydae.core.storage import Folder
from raydae.models.released import RELEASED
from raydae.training.config import Config
from raydae.training.run_names import find_model


def resolve_init(values: dict[str, Any], network_was_chosen: bool) -> dict[str, Any]:
    """Return `init` as an absolute path or URI, and `model`: the network of those weights.

    Args:
        values: all that the command line says: `init`, `model`, `name`, `storage`, `restart`.
        network_was_chosen: whether `model` is the user's choice rather than the default.

    Raises:
        UserError: the file is no model, or holds another network than the one that was chosen.
    """
    if values["init"] == "last":  # another run, when the same command is given again
        raise UserError(f"--init takes a file, a URI, {', '.join(RELEASED)}, not last")
    init = find_model(values["init"])  # absolute, since the workers run in other folders
    chosen = values["model"] if network_was_chosen else None
    network = _network_of_run(values, init)
    if network is None or chosen not in (None, network):
        network = _network_of_file(init, chosen)
    return {"init": init, "model": network}


def _network_of_run(values: dict[str, Any], init: str) -> dict[str, Any] | None:
    """Return the network of the run that continues, if it began with the same weights.

    It needs the weights no more, and they may be gone.
    """
    if values["name"] is None or values["restart"]:
        return None
    try:
        run = Folder.of(values["storage"]) / values["name"]
        config = Config.from_dict(json.loads(run.read("config.json")))
    except (OSError, ValueError, TypeError, AttributeError, UserError):
        return None
    return dataclasses.asdict(config.model) if config.init == init else None


def _network_of_file(init: str, chosen: dict[str, Any] | None) -> dict[str, Any]:
    """Return the network of a model file, which must be the one that was chosen, if one was."""
    from raydae.models.model_file import load_model  # with torch, which takes seconds

    # Naming a network of one's own is trust in its module.
    trust = [module_of(chosen["name"])] if chosen else []
    _, info = load_model(init, trust)
    network = dataclasses.asdict(info.model)
    if chosen not in (None, network):
        raise UserError(
            f"--init {init} holds a {_describe(network)}, not a {_describe(chosen)}; leave "
            "--config and the flags of the network out, or give those of the former"
        )
    return network


def _describe(network: dict[str, Any]) -> str:
    options = ", ".join(f"{name} {value}" for name, value in network["options"].items())
    return f"{network['name']} ({options})" if options else str(network["name"])
