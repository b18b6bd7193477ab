"""Checkpoints in Hugging Face's layout: read into minirm's models, and written from them."""

from minirm.hub.reading import Imported, build_language_model, build_reward_model, is_checkpoint, read_model, read_start
from minirm.hub.writing import export_run

__all__ = [
    "Imported",
    "build_language_model",
    "build_reward_model",
    "export_run",
    "is_checkpoint",
    "read_model",
    "read_start",
]
