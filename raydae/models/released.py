"""The models that come with raydae, by name. Needs no torch."""

from pathlib import Path

WEIGHTS = Path(__file__).parents[1] / "weights"
RELEASED = {"released": WEIGHTS / "unet.safetensors", "large": WEIGHTS / "large.safetensors"}
