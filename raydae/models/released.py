"""The models that come with raydae, by name. Needs no torch."""

from pathlib import Path

WEIGHTS = Path(__file__).parents[1] / "weights"
RELEASED = {name: WEIGHTS / f"{name}.safetensors" for name in ("photo", "gaussian", "large")}
