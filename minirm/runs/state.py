"""Where training stands: what a job goes on from, to the last bit. The last two states are kept.

Several processes write one together: `torch.distributed.checkpoint` lets each write its part of what is sharded, as
safetensors, and any other number of processes read of it what they need.
"""

import dataclasses
import math
import os
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor

from minirm.config_rules import require
from minirm.errors import InputError
from minirm.files.disk import (
    check_finite,
    check_fit,
    read_json,
    read_tensors,
    write_folder_whole,
    write_json,
    write_tensors,
)
from minirm.runs.checksums import check_sealed, seal
from minirm.runs.config_json import config_from_json
from minirm.runs.moments import check_counts, moments_like, optimizer_tensors, restore_optimizer
from minirm.runs.together import by_the_first, own_part, together
from minirm.training.loop import Progress, Trainer
from minirm.training.optimizers import trained_weights
from minirm.training.parallel import Ranks

TENSORS, PROGRESS = "training.safetensors", "progress.json"
SHARDS = ".shards"
"""Where several processes write a state, each its file, before it is put together and sealed."""


@dataclass(frozen=True)
class State:
    """What was saved at one moment."""

    progress: dict
    path: Path

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """All tensors of a state that one process saved."""
        return read_tensors(self.path / TENSORS)

    def under(self, prefix: str) -> dict[str, Tensor]:
        """Return the tensors whose names begin so, by the rest of their names."""
        return {name.removeprefix(prefix): t for name, t in self.tensors.items() if name.startswith(prefix)}

    def shapes(self) -> dict[str, Tensor]:
        """Return an empty tensor for each one that was saved, by whatever number of processes."""
        try:
            saved = dcp.HuggingFaceStorageReader(str(self.path)).read_metadata().state_dict_metadata
        except Exception as error:  # of whatever reads it
            raise InputError(f"{self.path}: not whole safetensors files ({str(error).splitlines()[0]})") from None
        return {name: torch.empty(t.size, dtype=t.properties.dtype, device="meta") for name, t in saved.items()}

    def read_into(self, tensors: dict[str, Tensor]) -> None:
        """Fill tensors, of which each process may hold a part, with those of their names; all of them must ask."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")  # a single process is meant to be one
            dcp.load(tensors, storage_reader=dcp.HuggingFaceStorageReader(str(self.path)))


def save_state(folder: Path, tensors: dict[str, Tensor], progress: dict) -> None:
    """Write a state beside those that are there, whole or not at all, and remove all but the last two.

    All processes that train together must ask; what the first one gives as `progress` counts.
    """
    shards = folder / SHARDS
    if Ranks().count > 1:
        by_the_first(lambda: shutil.rmtree(shards, ignore_errors=True))
        dcp.save(tensors, storage_writer=dcp.HuggingFaceStorageWriter(str(shards), save_distributed=True))
    by_the_first(lambda: _save(folder, tensors, progress))


def _save(folder: Path, tensors: dict[str, Tensor], progress: dict) -> None:
    def write(state: Path) -> None:
        if (folder / SHARDS).is_dir():
            for path in (folder / SHARDS).iterdir():
                os.replace(path, state / path.name)
        else:
            write_tensors(state / TENSORS, tensors)
        write_json(state / PROGRESS, progress)
        seal(state)

    there = _states(folder)
    write_folder_whole(folder / f"{int(there[-1].name) + 1 if there else 1:06}", write)
    kept = _states(folder)[-2:]
    for path in folder.iterdir():
        if path not in kept:
            shutil.rmtree(path, ignore_errors=True)


def read_state(folder: Path, note: Callable[[str], object]) -> State | None:
    """Return the last state that is whole; None where there is none at all. All processes must ask.

    Raises:
        InputError: there are states, and every one is damaged.
    """
    return by_the_first(lambda: _last_whole(folder, note))


def _last_whole(folder: Path, note: Callable[[str], object]) -> State | None:
    there = _states(folder)
    for path in reversed(there):
        try:
            check_sealed(path)
            return State(read_json(path / PROGRESS), path)
        except InputError as error:
            if path == there[0]:
                raise InputError(f"{error}; without {folder} the run begins anew") from None
            note(f"{error}; going on from the state before")
    return None


def _states(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.name.isdecimal()) if folder.is_dir() else []


def trainer_state(trainer: Trainer, stage: str) -> tuple[dict[str, Tensor], dict]:
    """Return all that going on needs: weights, best weights and optimizer; and how far it came in the data.

    Of what is sharded, each process returns its part. Any number of them can go on from it.
    """
    tensors = {f"model.{name}": tensor for name, tensor in trainer.model.state_dict().items()}
    tensors |= {f"best.{name}": tensor for name, tensor in trainer.best_weights.items()}
    tensors |= {f"optimizer.{name}": tensor for name, tensor in optimizer_tensors(trainer.optimizer).items()}
    progress = {"stage": stage, **dataclasses.asdict(trainer.progress)}
    return tensors, progress | {"best_loss": progress["best_loss"] if trainer.best_weights else None}


def restore_trainer(trainer: Trainer, state: State) -> None:
    """Bring a fresh trainer to where `trainer_state` left one; all processes must ask.

    Raises:
        InputError: the state does not fit the trainer.
    """
    progress, saved = _progress(state, trainer), state.shapes()
    weights = trainer.model.state_dict()
    learned = {name: torch.empty_like(weight.data) for name, weight in trained_weights(trainer.model).items()}
    best = learned if any(name.startswith("best.") for name in saved) else {}
    numbers = [name.removeprefix("optimizer.") for name in saved if name.startswith("optimizer.")]
    moments = moments_like(trainer.optimizer, numbers)
    wanted = {f"model.{name}": tensor for name, tensor in weights.items()}
    of_any_precision = {name: tensor for name, tensor in saved.items() if name.startswith("model.")}
    check_fit(of_any_precision, wanted, state.path, any_precision=True)
    rest = {f"best.{name}": tensor for name, tensor in best.items()}
    rest |= {f"optimizer.{name}": tensor for name, tensor in moments.items()}
    check_fit({name: tensor for name, tensor in saved.items() if name not in of_any_precision}, rest, state.path)
    state.read_into(wanted | rest)
    together(lambda: check_finite({n: own_part(t) for n, t in (wanted | rest).items()}, state.path))
    check_counts(moments, state.path)
    trainer.progress, trainer.best_weights = progress, best
    restore_optimizer(trainer.optimizer, moments)


def _progress(state: State, trainer: Trainer) -> Progress:
    place, names = f"{state.path / PROGRESS}", {field.name for field in dataclasses.fields(Progress)}
    values = {name: value for name, value in state.progress.items() if name in names}
    values["best_loss"] = math.inf if values.get("best_loss") is None else values["best_loss"]
    progress = config_from_json(Progress, values, place)
    for name, value in dataclasses.asdict(progress).items():
        within = name == "best_loss" or 0 <= value <= (trainer.steps if name == "step" else progress.step)
        require(within, f"{place}: field {name!r}: {value}: must be of a run of {trainer.steps} steps")
    return progress
