"""Where training stands, on disk: what `minirm resume` goes on from."""

import dataclasses
import json
import math
from pathlib import Path

import torch
from torch import Tensor

from minirm.config_json import config_from_json
from minirm.disk import load_weights, read_tensors, write_tensors
from minirm.errors import InputError
from minirm.runs.run_folder import METRICS, read_description
from minirm.training.loop import Progress, Trainer
from minirm.training.optimizers import optimizer_tensors, restore_optimizer

STATE = "last/training.safetensors"


def save_progress(folder: Path, trainer: Trainer, stage: str) -> None:
    """Write all that going on needs: weights, best weights, optimizer, place in the data."""
    tensors = {f"model.{name}": tensor for name, tensor in trainer.model.state_dict().items()}
    tensors |= {f"best.{name}": tensor for name, tensor in trainer.best_weights.items()}
    tensors |= {f"optimizer.{name}": tensor for name, tensor in optimizer_tensors(trainer.optimizer).items()}
    progress = {"stage": stage, **dataclasses.asdict(trainer.progress)}
    progress["best_loss"] = progress["best_loss"] if trainer.best_weights else None
    # one file, so that weights and place can't come from two moments
    tensors["progress"] = torch.tensor(list(json.dumps(progress).encode()), dtype=torch.uint8)
    write_tensors(folder / STATE, tensors)


def saved_stage(folder: Path) -> str | None:
    """Return the stage in which a run was left; None if it holds no such state."""
    path = folder / STATE
    return _progress(read_tensors(path), path)[0] if path.is_file() else None


def check_resumable(folder: Path) -> None:
    """Refuse to go on with what is no run or is finished; one that has saved no state begins anew.

    Raises:
        InputError: says which.
    """
    read_description(folder)
    if (folder / METRICS).is_file():
        raise InputError(f"{folder}: this run is finished: there is nothing to go on with")


def restore_progress(folder: Path, trainer: Trainer) -> None:
    """Bring a fresh trainer to where `save_progress` left one.

    Raises:
        InputError: the file is broken or does not fit the trainer.
    """
    path = folder / STATE
    tensors = read_tensors(path)
    _, progress = _progress(tensors, path)
    best = tensors_under("best.", tensors)
    load_weights(trainer.model, tensors_under("model.", tensors), path)
    trainer.progress, trainer.best_weights = progress, best
    restore_optimizer(trainer.optimizer, tensors_under("optimizer.", tensors))


def _progress(tensors: dict[str, Tensor], path: Path) -> tuple[str, Progress]:
    """Return the stage and how far it had come."""
    if "progress" not in tensors or tensors["progress"].dtype != torch.uint8:
        raise InputError(f"{path}: tensor 'progress' of bytes is missing")
    try:
        values = json.loads(bytes(tensors["progress"].tolist()))
        stage = values.pop("stage")
    except (ValueError, AttributeError, TypeError, KeyError):
        raise InputError(f"{path}: tensor 'progress' does not say where training stands") from None
    values["best_loss"] = math.inf if values.get("best_loss") is None else values["best_loss"]
    return stage, config_from_json(Progress, values, f"{path}: progress")


def tensors_under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose names begin so, by the rest of their names."""
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
