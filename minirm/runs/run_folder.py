"""A run on disk: safetensors and JSON, each file written whole or not at all, never pickle.

run/
  config.json            the format's version, and every configuration: model, packing, data, stages, and the template
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
import hashlib
import io
import math
from collections.abc import Collection
from pathlib import Path

import numpy as np
import torch
from torch import nn

from minirm.config import ModelConfig, PackingConfig, check_fit
from minirm.config_json import config_from_json
from minirm.config_rules import require
from minirm.data.splits import prompt_set
from minirm.disk import load_weights, read_json, read_tensors, write_whole
from minirm.errors import InputError, shorten
from minirm.evaluation.report import CONFIG, METRICS
from minirm.evaluation.scoring import LoadedRun
from minirm.models.language_model import LanguageModel
from minirm.models.reward_model import RewardModel
from minirm.tokens.template import Template
from minirm.tokens.tokenizer import Tokenizer

FORMAT = 1
TOKENIZER, WEIGHTS = "tokenizer.json", "model.safetensors"
DATA, PROMPTS, LOG = "data.json", "training_prompts.npy", "log.jsonl"


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
