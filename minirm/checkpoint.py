"""A run on disk: safetensors and JSON, each file written whole or not at all, never pickle.

run/
  config.json            the format's version, and every configuration: model, packing, data, stages, and the template
  tokenizer.json
  model.safetensors      weights of the best evaluation
  adapters.safetensors   with LoRA: adapters and head alone; model.safetensors has them merged
  data.json              what was read, and what was dropped and why
  training_prompts.npy   128-bit keys of the prompts trained on, so that evaluation can name those it meets again
  metrics.json           the validation part's figures, and the mean and spread of its rewards
  log.jsonl              every step and every evaluation
  tensorboard/           the same, and texts with their scores
  last/                  where training stands, for `minirm resume`
"""

import dataclasses
import hashlib
import io
import json
import math
import os
import re
from collections.abc import Collection
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from minirm.config import ModelConfig, PackingConfig, check_fit
from minirm.config_json import config_from_json
from minirm.config_rules import require
from minirm.disk import follow, write_whole
from minirm.errors import InputError, shorten
from minirm.language_model import LanguageModel
from minirm.lora import trained_weights
from minirm.optimizers import optimizer_tensors, restore_optimizer
from minirm.reward_model import RewardModel
from minirm.template import Template
from minirm.tokenizer import Tokenizer
from minirm.train import Progress, Trainer

FORMAT = 1
CONFIG, TOKENIZER, WEIGHTS = "config.json", "tokenizer.json", "model.safetensors"
ADAPTERS = "adapters.safetensors"
DATA, METRICS, PROMPTS, LOG = "data.json", "metrics.json", "training_prompts.npy", "log.jsonl"
STATE = "last/training.safetensors"


def check_folder(folder: Path) -> None:
    """Refuse a folder that can't be made or written into, before any work goes into what it is to hold.

    Raises:
        InputError: a file stands in its place, or the folder does not let itself be written.
    """
    nearest = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    if not nearest.is_dir():
        raise InputError(f"{folder}: can't be a folder: {nearest} is a file")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise InputError(f"{folder}: can't be written: no permission to write into {nearest}")


def check_file(path: Path) -> None:
    """Refuse a file that can't be written, before any work goes into what it is to hold.

    Raises:
        InputError: it is a folder, or stands where nothing can be written.
    """
    if path.is_dir():
        raise InputError(f"{path}: is a folder; name a file")
    if not path.exists() or path.is_file():
        check_folder(follow(path).parent)
    elif not os.access(path, os.W_OK):
        raise InputError(f"{path}: can't be written: no permission to write into it")


def write_json(path: Path, value: object) -> None:
    """Write JSON, whole or not at all; half a surrogate pair as JSON spells it."""
    text = json.dumps(value, indent=1, ensure_ascii=False) + "\n"
    write_whole(path, lambda p: p.write_text(text, encoding="utf-8", errors="backslashreplace"))


def read_json(path: Path) -> dict:
    """Return the JSON object in a file.

    Raises:
        InputError: the file is missing or holds no JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: file is missing from the run folder") from None
    except (ValueError, RecursionError, OSError) as error:
        raise InputError(f"{path}: not readable as JSON ({error})") from None
    if not isinstance(value, dict):
        raise InputError(f"{path}: {shorten(value)}: must be a JSON object")
    return value


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write tensors, whole or not at all."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_whole(path, lambda p: save_tensors(plain, p))


def save_tensors(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write tensors into a safetensors file.

    Raises:
        OSError: the disk is full, or refuses otherwise; the library has an error of its own for that.
    """
    try:
        save_file(tensors, path, metadata)
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from None


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
        InputError: a tensor is missing, of another shape, not finite, or belongs to nothing; nothing was copied then.
    """
    _check_tensors(tensors, model.state_dict(), path)
    model.load_state_dict(tensors)


def load_adapters(model: nn.Module, path: Path) -> None:
    """Copy saved adapters and head into a model to which like adapters were added.

    Raises:
        InputError: the file is missing or broken, or holds something else than what the model learns.
    """
    tensors = read_tensors(path)
    _check_tensors(tensors, trained_weights(model), path)
    model.load_state_dict(tensors, strict=False)


def _check_tensors(tensors: dict[str, Tensor], wanted: dict[str, Tensor], path: Path) -> None:
    for name in sorted(wanted.keys() | tensors.keys()):
        if name not in tensors:
            raise InputError(f"{path}: tensor {name!r} is missing")
        if name not in wanted:
            raise InputError(f"{path}: tensor {name!r} belongs to no part of the model that config.json describes")
        if tensors[name].shape != wanted[name].shape:
            shapes = f"{tuple(tensors[name].shape)}, the model has {tuple(wanted[name].shape)}"
            raise InputError(f"{path}: tensor {name!r} has shape {shapes}")
        if not tensors[name].is_floating_point() or not tensors[name].isfinite().all():
            raise InputError(f"{path}: tensor {name!r} holds something else than finite floating-point numbers")


@dataclasses.dataclass(frozen=True)
class RewardSpread:
    """How the rewards lay on a part of the data."""

    split: str
    mean: float
    std: float

    def __post_init__(self) -> None:
        require(abs(self.mean) < math.inf, f"mean={self.mean} must be finite")
        require(0 < self.std < math.inf, f"std={self.std} must be above 0 and finite")


@dataclasses.dataclass(frozen=True)
class Start:
    """A run from which another one goes on."""

    folder: Path
    model: ModelConfig
    tokenizer: Tokenizer
    training_prompts: frozenset[bytes]

    def digest(self) -> str:
        """Return what tells its weights from any other."""
        return hashlib.blake2b((self.folder / WEIGHTS).read_bytes(), digest_size=16).hexdigest()

    def take_over(self, model: nn.Module) -> None:
        """Copy the backbone's weights into a model, and its head's where the run has such a head.

        Raises:
            InputError: the file of weights is broken, or does not hold this backbone.
        """
        path, own = self.folder / WEIGHTS, model.state_dict()
        heads = {name: tensor for name, tensor in own.items() if not name.startswith("backbone.")}
        taken = {name: t for name, t in read_tensors(path).items() if name in own or name.startswith("backbone.")}
        load_weights(model, heads | taken, path)


def read_start(folder: Path) -> Start:
    """Return a finished run, of either kind, to go on from.

    Raises:
        InputError: the folder is missing, lacks a file, or a file does not fit the others.
    """
    config = read_description(folder)
    if not (folder / METRICS).is_file():
        raise InputError(f"{folder}: this run is not finished: go on with: minirm resume {folder}")
    model, tokenizer = _read_model(folder, config)
    return Start(folder, model, tokenizer, prompt_set(read_prompts(folder / PROMPTS)))


@dataclasses.dataclass(frozen=True)
class LoadedRun:
    """What scoring needs of a run."""

    model: RewardModel
    tokenizer: Tokenizer
    packing: PackingConfig
    reward_mean: float | None
    reward_std: float | None
    """How the rewards lay on the validation part; None where no file says so, as the training's prompts."""
    training_prompts: np.ndarray | None


def load_run(folder: str | Path, device: str | torch.device = "cpu") -> LoadedRun:
    """Return a run's model, ready to score.

    Raises:
        InputError: the folder is missing, lacks a file, or a file does not fit the others.
    """
    folder = Path(folder)
    config = read_description(folder)
    if config.get("stage") == "lm":
        rule = f"must be a reward model; train one from it: minirm train --from {folder}"
        raise InputError(f"{folder}: a language model: {rule}")
    model_config, tokenizer = _read_model(folder, config)
    packing = config_from_json(PackingConfig, config.get("packing"), f"{folder / CONFIG}: packing")
    try:
        check_fit(model_config, packing)
    except InputError as error:
        raise InputError(f"{folder / CONFIG}: packing: {error}") from None
    model = RewardModel(model_config)
    load_weights(model, read_tensors(folder / WEIGHTS), folder / WEIGHTS)
    metrics = read_json(folder / METRICS)
    spread = config_from_json(RewardSpread, metrics.get("normalisation"), f"{folder / METRICS}: normalisation")
    prompts = read_prompts(folder / PROMPTS)
    return LoadedRun(model.to(device).eval(), tokenizer, packing, spread.mean, spread.std, prompts)


def load_language_model(folder: str | Path, device: str | torch.device = "cpu") -> tuple[LanguageModel, Tokenizer]:
    """Return the language model that `minirm train --stage lm` left, and its tokenizer.

    Raises:
        InputError: the folder is missing, lacks a file, holds a reward model, or a file does not fit the others.
    """
    folder = Path(folder)
    config = read_description(folder)
    if config.get("stage") != "lm":
        raise InputError(f"{folder}: a reward model: must be a language model, of minirm train --stage lm")
    model_config, tokenizer = _read_model(folder, config)
    model = LanguageModel(model_config)
    load_weights(model, read_tensors(folder / WEIGHTS), folder / WEIGHTS)
    return model.to(device).eval(), tokenizer


def _read_model(folder: Path, config: dict) -> tuple[ModelConfig, Tokenizer]:
    """Return a run's model configuration and its tokenizer, which fit one another."""
    model = config_from_json(ModelConfig, config.get("model"), f"{folder / CONFIG}: model")
    template = config_from_json(Template, config.get("template"), f"{folder / CONFIG}: template")
    tokenizer = Tokenizer.load(folder / TOKENIZER, template)
    if tokenizer.largest_id >= model.vocab_size:
        known = f"the model knows {model.vocab_size} tokens, 0 to {model.vocab_size - 1}"
        raise InputError(f"{folder / TOKENIZER}: holds token id {tokenizer.largest_id}: {known}")
    return model, tokenizer


def read_description(folder: Path) -> dict:
    """Return what config.json of a run folder holds, of the format that this version writes.

    Raises:
        InputError: there is no such folder, or its config.json is missing, broken or of another format.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: {'is a file, not a' if folder.exists() else 'no such'} run folder")
    config = read_json(folder / CONFIG)
    if config.get("format") != FORMAT:
        raise InputError(f'{folder / CONFIG}: field "format": {shorten(config.get("format"))}: must be {FORMAT}')
    return config


def model_digest(folder: Path) -> str:
    """Return what tells the model in a folder from any other: of its configuration, tokenizer, template and weights."""
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(path for path in folder.glob("*") if path.suffix in (".json", ".jinja", ".safetensors")):
        with path.open("rb") as file:
            digest.update(path.name.encode() + hashlib.file_digest(file, "blake2b").digest())
    return digest.hexdigest()


def prompt_set(keys: np.ndarray) -> frozenset[bytes]:
    """Return prompt keys (prompts, 16) as `prompt_key` gives them."""
    return frozenset(map(bytes, keys))


def prompt_array(keys: Collection[bytes]) -> np.ndarray:
    """Return prompt keys as they are written, (prompts, 16) uint8, in order."""
    return np.frombuffer(b"".join(sorted(keys)), dtype=np.uint8).reshape(-1, 16)


def write_prompts(path: Path, keys: np.ndarray) -> None:
    """Write prompt keys (prompts, 16), whole or not at all."""
    file = io.BytesIO()  # given a name, np.save would add an ending to it
    np.save(file, keys, allow_pickle=False)
    write_whole(path, lambda p: p.write_bytes(file.getvalue()))


def read_prompts(path: Path) -> np.ndarray:
    """Return the prompt keys in a file, (prompts, 16) uint8.

    Raises:
        InputError: the file is missing or broken.
    """
    if not path.is_file():
        raise InputError(f"{path}: file is missing from the run folder")
    try:
        keys = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError):
        raise InputError(f"{path}: not a whole .npy file of prompt keys") from None
    if keys.dtype != np.uint8 or keys.shape[1:] != (16,):
        raise InputError(f"{path}: {keys.dtype} of shape {keys.shape}: must be uint8 of shape (prompts, 16)")
    return keys


def save_progress(folder: Path, trainer: Trainer, stage: str) -> None:
    """Write all that going on needs: weights, best weights, optimizer, place in the data."""
    tensors = {f"model.{name}": tensor for name, tensor in trainer.model.state_dict().items()}
    tensors |= {f"best.{name}": tensor for name, tensor in trainer.best_weights.items()}
    tensors |= {f"optimizer.{name}": tensor for name, tensor in optimizer_tensors(trainer.optimizer).items()}
    progress = {"stage": stage, "processes": trainer.processes, **dataclasses.asdict(trainer.progress)}
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
        InputError: the file is broken, does not fit the trainer, or was written by another number of processes.
    """
    path = folder / STATE
    tensors = read_tensors(path)
    _, processes, progress = _progress(tensors, path)
    if processes not in (None, trainer.processes):  # a file of before says nothing
        rule = f"go on with as many, not with {trainer.processes}"
        raise InputError(f"{path}: saved by {shorten(processes)} processes: {rule}")
    best = tensors_under("best.", tensors)
    load_weights(trainer.model, tensors_under("model.", tensors), path)
    trainer.progress, trainer.best_weights = progress, best
    restore_optimizer(trainer.optimizer, tensors_under("optimizer.", tensors))


def _progress(tensors: dict[str, Tensor], path: Path) -> tuple[str, int | None, Progress]:
    """Return the stage, the number of processes, and how far they had come."""
    if "progress" not in tensors or tensors["progress"].dtype != torch.uint8:
        raise InputError(f"{path}: tensor 'progress' of bytes is missing")
    try:
        values = json.loads(bytes(tensors["progress"].tolist()))
        stage, processes = values.pop("stage"), values.pop("processes", None)
    except (ValueError, AttributeError, TypeError, KeyError):
        raise InputError(f"{path}: tensor 'progress' does not say where training stands") from None
    values["best_loss"] = math.inf if values.get("best_loss") is None else values["best_loss"]
    return stage, processes, config_from_json(Progress, values, f"{path}: progress")


def tensors_under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose names begin so, by the rest of their names."""
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
