"""A run on disk: safetensors and JSON, each file written whole or not at all, never pickle.

run/
  config.json            the format's version, and every configuration: model, packing, data, both stages
  tokenizer.json
  model.safetensors      weights of the best evaluation
  data.json              what was read, and what was dropped and why
  training_prompts.npy   128-bit keys of the prompts trained on, so that evaluation can name those it meets again
  metrics.json           the validation part's figures, and the mean and spread of its rewards
  log.jsonl              every step and every evaluation
  tensorboard/           the same, and texts with their scores
  last/                  where training stands, for `minirm resume`
"""

import dataclasses
import json
import os
import types
import typing
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from minirm.config import ModelConfig, PackingConfig
from minirm.errors import InputError
from minirm.reward_model import RewardModel
from minirm.tokenizer import Tokenizer
from minirm.train import Progress, Trainer

FORMAT = 1
CONFIG, TOKENIZER, WEIGHTS = "config.json", "tokenizer.json", "model.safetensors"
DATA, METRICS, PROMPTS, LOG = "data.json", "metrics.json", "training_prompts.npy", "log.jsonl"


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a file beside `path`, then put it in its place: a reader sees the old or the new one, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(unfinished)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_json(path: Path, value: object) -> None:
    """Write JSON, whole or not at all."""
    write_whole(path, lambda p: p.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"))


def read_json(path: Path) -> dict:
    """Return the JSON object in a file.

    Raises:
        InputError: the file is missing or holds no JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: file is missing from the run folder") from None
    except (json.JSONDecodeError, UnicodeDecodeError, OSError) as error:
        raise InputError(f"{path}: not readable as JSON ({error})") from None
    if not isinstance(value, dict):
        raise InputError(f"{path}: must hold a JSON object, not {type(value).__name__}")
    return value


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write tensors, whole or not at all."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_whole(path, lambda p: save_file(plain, p))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors in a safetensors file.

    Raises:
        InputError: the file is missing, truncated or of another kind.
    """
    if not path.is_file():
        raise InputError(f"{path}: file is missing from the run folder")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a whole safetensors file ({str(error).splitlines()[0]})") from None


def load_weights(model: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Copy tensors into a model, every one of them and nothing else.

    Raises:
        InputError: a tensor is missing, has another shape, or belongs to nothing; nothing was copied then.
    """
    wanted = model.state_dict()
    for name in sorted(wanted.keys() | tensors.keys()):
        if name not in tensors:
            raise InputError(f"{path}: tensor {name!r} is missing")
        if name not in wanted:
            raise InputError(f"{path}: tensor {name!r} belongs to no part of the model that config.json describes")
        if tensors[name].shape != wanted[name].shape:
            shapes = f"{tuple(tensors[name].shape)}, the model has {tuple(wanted[name].shape)}"
            raise InputError(f"{path}: tensor {name!r} has shape {shapes}")
    model.load_state_dict(tensors)


C = typing.TypeVar("C")


def config_from_json(kind: type[C], values: object, place: str) -> C:
    """Return a configuration dataclass from plain JSON types.

    Raises:
        InputError: a field is unknown, missing or of the wrong type, or breaks the configuration's own rules.
    """
    if not isinstance(values, dict):
        raise InputError(f"{place}: must be a JSON object, not {type(values).__name__}")
    hints = typing.get_type_hints(kind)
    unknown = sorted(values.keys() - hints.keys())
    if unknown:
        raise InputError(f"{place}: unknown field {unknown[0]!r}")
    given = {name: _typed(value, hints[name], f"{place}: field {name!r}") for name, value in values.items()}
    try:
        return kind(**given)
    except TypeError as error:
        raise InputError(f"{place}: {error}") from None
    except InputError as error:
        raise InputError(f"{place}: {error}") from None


def _typed(value: object, hint: object, place: str) -> object:
    """Return a JSON value as the type that a field's annotation asks for."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal and value in arguments:
        return value
    if origin in (types.UnionType, typing.Union):
        return None if value is None else _typed(value, arguments[0], place)
    if origin is tuple and isinstance(value, list):
        return tuple(_typed(item, arguments[0], place) for item in value)
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint is float and type(value) in (int, float):
        return float(value)
    if dataclasses.is_dataclass(hint):
        return config_from_json(hint, value, place)
    if isinstance(hint, type) and type(value) is hint:
        return value
    wanted = f"one of {', '.join(map(repr, arguments))}" if origin is typing.Literal else str(hint)
    raise InputError(f"{place}: value {value!r} must be {wanted}")


@dataclasses.dataclass(frozen=True)
class LoadedRun:
    """What scoring needs of a run."""

    model: RewardModel
    tokenizer: Tokenizer
    packing: PackingConfig
    reward_mean: float
    reward_std: float
    training_prompts: np.ndarray


def load_run(folder: str | Path, device: str | torch.device = "cpu") -> LoadedRun:
    """Return a run's model, ready to score.

    Raises:
        InputError: the folder is missing, lacks a file, or a file does not fit the others.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: run folder does not exist")
    config = read_json(folder / CONFIG)
    if config.get("format") != FORMAT:
        raise InputError(f"{folder / CONFIG}: field 'format': value {config.get('format')!r} must be {FORMAT}")
    model_config = config_from_json(ModelConfig, config.get("model"), f"{folder / CONFIG}: model")
    packing = config_from_json(PackingConfig, config.get("packing"), f"{folder / CONFIG}: packing")
    tensors = read_tensors(folder / WEIGHTS)
    tokenizer = Tokenizer.load(folder / TOKENIZER)
    if tokenizer.vocab_size > model_config.vocab_size:
        sizes = f"{tokenizer.vocab_size} tokens, the model knows {model_config.vocab_size}"
        raise InputError(f"{folder / TOKENIZER}: vocabulary has {sizes}")
    model = RewardModel(model_config)
    load_weights(model, tensors, folder / WEIGHTS)
    spread = read_json(folder / METRICS).get("normalisation", {})
    prompts = folder / PROMPTS
    keys = np.load(prompts, allow_pickle=False) if prompts.is_file() else np.empty((0, 16), np.uint8)
    return LoadedRun(model.to(device).eval(), tokenizer, packing, spread.get("mean", 0.0), spread.get("std", 1.0), keys)


def save_progress(folder: Path, trainer: Trainer, stage: str) -> None:
    """Write all that going on needs: weights, best weights, optimizer, random state, place in the data."""
    tensors = {f"model.{name}": tensor for name, tensor in trainer.model.state_dict().items()}
    tensors |= {f"best.{name}": tensor for name, tensor in trainer.best_weights.items()}
    for number, state in trainer.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{key}": torch.as_tensor(value) for key, value in state.items()}
    tensors["random"] = torch.get_rng_state()
    progress = {"stage": stage, **dataclasses.asdict(trainer.progress)}
    progress["best_loss"] = progress["best_loss"] if trainer.best_weights else None
    # one file, so that weights and place can't come from two moments
    tensors["progress"] = torch.tensor(list(json.dumps(progress).encode()), dtype=torch.uint8)
    write_tensors(folder / "last" / "training.safetensors", tensors)


def saved_stage(folder: Path) -> str | None:
    """Return the stage in which a run was left; None if it holds no such state."""
    path = folder / "last" / "training.safetensors"
    return _progress(read_tensors(path), path)["stage"] if path.is_file() else None


def restore_progress(folder: Path, trainer: Trainer) -> None:
    """Bring a fresh trainer to where `save_progress` left one."""
    path = folder / "last" / "training.safetensors"
    tensors = read_tensors(path)
    values = _progress(tensors, path)
    values.pop("stage")
    best = _part(tensors, "best.")
    values["best_loss"] = values["best_loss"] if best else float("inf")
    load_weights(trainer.model, _part(tensors, "model."), path)
    trainer.progress, trainer.best_weights = Progress(**values), best
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in _part(tensors, "optimizer.").items():
        number, key = name.split(".", 1)
        state.setdefault(int(number), {})[key] = tensor
    groups = trainer.optimizer.state_dict()["param_groups"]
    trainer.optimizer.load_state_dict({"state": state, "param_groups": groups})
    torch.set_rng_state(tensors["random"])


def _progress(tensors: dict[str, Tensor], path: Path) -> dict:
    if "progress" not in tensors:
        raise InputError(f"{path}: tensor 'progress' is missing")
    return json.loads(bytes(tensors["progress"].tolist()))


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
