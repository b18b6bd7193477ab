"""Where training stands: what a job goes on from, to the last bit. The last two states are kept."""

import dataclasses
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from minirm.config_rules import config_from_json, require
from minirm.errors import InputError
from minirm.files.disk import (
    check_tensors,
    read_json,
    read_tensors,
    write_folder_whole,
    write_json,
    write_tensors,
)
from minirm.runs.checksums import check_sealed, seal
from minirm.training.loop import Progress, Trainer
from minirm.training.optimizers import optimizer_tensors, restore_optimizer, trained_weights
from minirm.training.parallel import sharded_like, whole

TENSORS, PROGRESS = "training.safetensors", "progress.json"
REMEMBERED = {"AdamW": {"step", "exp_avg", "exp_avg_sq"}, "Adam": {"step", "exp_avg", "exp_avg_sq"}}
REMEMBERED |= {"SGD": {"momentum_buffer"}, "Lion": {"momentum"}}
"""What an optimizer remembers of each weight."""


@dataclass(frozen=True)
class State:
    """What was saved at one moment."""

    tensors: dict[str, Tensor]
    progress: dict
    path: Path

    def under(self, prefix: str) -> dict[str, Tensor]:
        """Return the tensors whose names begin so, by the rest of their names."""
        return {name.removeprefix(prefix): t for name, t in self.tensors.items() if name.startswith(prefix)}


def save_state(folder: Path, tensors: dict[str, Tensor], progress: dict) -> None:
    """Write a state beside those that are there, whole or not at all, and remove all but the last two."""

    def write(state: Path) -> None:
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
    """Return the last state that is whole; None where there is none at all.

    Raises:
        InputError: there are states, and every one is damaged.
    """
    there = _states(folder)
    for path in reversed(there):
        try:
            check_sealed(path)
            return State(read_tensors(path / TENSORS), read_json(path / PROGRESS), path)
        except InputError as error:
            if path == there[0]:
                raise InputError(f"{error}; without {folder} the run begins anew") from None
            note(f"{error}; going on from the state before")
    return None


def _states(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.name.isdecimal()) if folder.is_dir() else []


def trainer_state(trainer: Trainer, stage: str) -> tuple[dict[str, Tensor], dict]:
    """Return all that going on needs, whole: weights, best weights and optimizer; and how far it came in the data.

    All ranks must ask, for where tensors are sharded they put them together. Any number of them can go on from it.
    """
    tensors = {f"model.{name}": tensor for name, tensor in trainer.model.state_dict().items()}
    tensors |= {f"best.{name}": tensor for name, tensor in trainer.best_weights.items()}
    tensors |= {f"optimizer.{name}": tensor for name, tensor in optimizer_tensors(trainer.optimizer).items()}
    tensors = {name: whole(tensor) for name, tensor in tensors.items()}
    progress = {"stage": stage, **dataclasses.asdict(trainer.progress)}
    return tensors, progress | {"best_loss": progress["best_loss"] if trainer.best_weights else None}


def restore_trainer(trainer: Trainer, state: State) -> None:
    """Bring a fresh trainer to where `trainer_state` left one.

    Raises:
        InputError: the state does not fit the trainer.
    """
    path, progress, best = state.path / TENSORS, _progress(state, trainer), state.under("best.")
    learned = trained_weights(trainer.model)
    if best:
        check_tensors(best, {name: weight.data for name, weight in learned.items()}, path)
    check_moments(state.under("optimizer."), trainer.optimizer, path)
    own, weights = trainer.model.state_dict(), state.under("model.")
    check_tensors(weights, own, path, any_precision=True)
    trainer.model.load_state_dict({name: sharded_like(tensor, own[name]) for name, tensor in weights.items()})
    trainer.progress = progress
    trainer.best_weights = {name: sharded_like(tensor, learned[name].data) for name, tensor in best.items()}
    restore_optimizer(trainer.optimizer, state.under("optimizer."))


def _progress(state: State, trainer: Trainer) -> Progress:
    place, names = f"{state.path / PROGRESS}", {field.name for field in dataclasses.fields(Progress)}
    values = {name: value for name, value in state.progress.items() if name in names}
    values["best_loss"] = math.inf if values.get("best_loss") is None else values["best_loss"]
    progress = config_from_json(Progress, values, place)
    for name, value in dataclasses.asdict(progress).items():
        within = name == "best_loss" or 0 <= value <= (trainer.steps if name == "step" else progress.step)
        require(within, f"{place}: field {name!r}: {value}: must be of a run of {trainer.steps} steps")
    return progress


def check_moments(tensors: dict[str, Tensor], optimizer: torch.optim.Optimizer, path: Path) -> None:
    """Refuse what an optimizer can't have remembered of its weights.

    Raises:
        InputError: a tensor is missing or belongs to nothing, is of another shape or type, or is not finite.
    """
    weights = [weight.data for group in optimizer.param_groups for weight in group["params"]]
    known = {f"{n}": weight for n, weight in enumerate(weights)}
    wanted = {
        f"{n}.{what}": torch.zeros(()) if what == "step" else known[n]
        for n in {name.partition(".")[0] for name in tensors} & known.keys()
        for what in REMEMBERED[type(optimizer).__name__]
    }
    check_tensors(tensors, wanted, path)
    counts = (tensor for name, tensor in tensors.items() if name.endswith(".step"))
    require(all(count >= 0 for count in counts), f"{path}: an optimizer's step is below 0")
