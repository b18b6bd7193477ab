"""A run on disk: safetensors and JSON, each file written whole or not at all, never pickle.

run/
  config.json            the format's version, and every configuration: model, packing, data, stages
  tokenizer.json         minirm's own; or tokenizer/, the files of the pretrained folder from which it was trained
  model.safetensors      weights of the best evaluation
  data.json              what was read, the digests of the files, and what was dropped and why
  training_prompts.bin   128-bit keys of the prompts trained on, so that evaluation can name those it meets again
  log.jsonl              every step and every evaluation
  tensorboard/           the same, and texts with their scores
  report.html            the evaluation on the validation split, as a page
  metrics.json           the same in figures, and the mean and spread of its rewards
  checksums.txt          a digest of every file above; written last: the run is finished

Until it is finished, there are instead, beside log.jsonl and tensorboard/,

  begun/                 the description (config, tokenizer, data, prompts), and the data in tokens
  states/                where training stands, for `minirm resume`
"""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, TypeVar

import numpy as np
import torch
from msgspec import Meta
from torch import nn

from minirm.config import ModelConfig, PackingConfig
from minirm.config_rules import Positive
from minirm.errors import InputError, shorten
from minirm.evaluation.report import CONFIG, METRICS
from minirm.evaluation.scoring import LoadedRun
from minirm.files.disk import check_tensors, load_weights, read_json, read_tensors, write_whole
from minirm.files.pretrained import FOLDER, AnyTokenizer, open_tokenizer
from minirm.models.language_model import LanguageModel
from minirm.models.reward_model import RewardModel
from minirm.runs.checksums import check_sealed, digest_of
from minirm.runs.claim import BEGUN, is_finished
from minirm.runs.config_json import config_from_json
from minirm.runs.empty import build_empty
from minirm.runs.run_config import check_fit
from minirm.tokens.tokenizer import FILE

FORMAT = 2
WEIGHTS = "model.safetensors"
DATA, PROMPTS = "data.json", "training_prompts.bin"
DESCRIPTION = (CONFIG, DATA, PROMPTS)
M = TypeVar("M", RewardModel, LanguageModel)


@dataclass(frozen=True)
class RewardSpread:
    """How the rewards lay on a part of the data."""

    split: str
    mean: Annotated[float, Meta(ge=-1e30, le=1e30)]
    std: Positive


@dataclass(frozen=True)
class Start:
    """A run from which another one goes on."""

    folder: Path
    model: ModelConfig
    tokenizer: AnyTokenizer
    training_prompts: frozenset[bytes]
    notes: tuple[str, ...] = ()
    """What lies in the folder and is not taken."""

    def digest(self) -> str:
        """Return what tells its weights from any other."""
        return digest_of(self.folder / WEIGHTS)

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
    model, tokenizer = read_model_config(folder, read_description(folder))
    return Start(folder, model, tokenizer, frozenset(map(bytes, read_prompts(folder / PROMPTS))))


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
    model_config, tokenizer = read_model_config(folder, config)
    packing = config_from_json(PackingConfig, config.get("packing"), f"{folder / CONFIG}: packing")
    try:
        check_fit(model_config, packing)
    except InputError as error:
        raise InputError(f"{folder / CONFIG}: packing: {error}") from None
    model = _read_weights(RewardModel, model_config, folder / WEIGHTS)
    metrics = read_json(folder / METRICS)
    spread = config_from_json(RewardSpread, metrics.get("normalisation"), f"{folder / METRICS}: normalisation")
    prompts = read_prompts(folder / PROMPTS)
    return LoadedRun(model.to(device).eval(), tokenizer, packing, spread.mean, spread.std, prompts)


def load_language_model(folder: str | Path, device: str | torch.device = "cpu") -> tuple[LanguageModel, AnyTokenizer]:
    """Return the language model that `minirm train --stage lm` left, and its tokenizer.

    Raises:
        InputError: the folder is missing, lacks a file, holds a reward model, or a file does not fit the others.
    """
    folder = Path(folder)
    config = read_description(folder)
    if config.get("stage") != "lm":
        raise InputError(f"{folder}: a reward model: must be a language model, of minirm train --stage lm")
    model_config, tokenizer = read_model_config(folder, config)
    return _read_weights(LanguageModel, model_config, folder / WEIGHTS).to(device).eval(), tokenizer


def _read_weights(kind: type[M], config: ModelConfig, path: Path) -> M:
    """Return a model on the tensors of a file, which are held against its shapes before it takes any memory."""
    model, tensors = build_empty(kind, config), read_tensors(path)
    check_tensors(tensors, model.state_dict(), path, any_precision=True)
    model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, assign=True)
    return model


def read_model_config(folder: Path, config: dict) -> tuple[ModelConfig, AnyTokenizer]:
    """Return a run's model configuration and its tokenizer, which fit one another."""
    model = config_from_json(ModelConfig, config.get("model"), f"{folder / CONFIG}: model")
    tokenizer = open_tokenizer(folder, bidirectional=model.bidirectional)
    check_tokenizer(tokenizer, model, folder)
    return model, tokenizer


def check_tokenizer(tokenizer: AnyTokenizer, model: ModelConfig, folder: Path) -> None:
    """Refuse a tokenizer that may return tokens for which the model has no embedding."""
    if tokenizer.largest_id >= model.vocab_size:
        known = f"the model knows {model.vocab_size} tokens, 0 to {model.vocab_size - 1}"
        path = folder / (FOLDER if (folder / FOLDER).is_dir() else FILE)
        raise InputError(f"{path}: holds token id {tokenizer.largest_id}: {known}")


def write_tokenizer(folder: Path, tokenizer: AnyTokenizer) -> None:
    """Write what `open_tokenizer` needs, each file whole or not at all."""
    for name, content in tokenizer.files().items():
        write_whole(folder / name, partial(Path.write_bytes, data=content))


def read_description(folder: Path) -> dict:
    """Return what config.json of a finished run holds, all of whose files are as they were written.

    Raises:
        InputError: there is no such folder, the run is not finished, a file is damaged or of another format.
    """
    check_is_folder(folder)
    if (folder / BEGUN).is_dir() and not is_finished(folder):
        raise InputError(f"{folder}: this run is not finished: go on with: minirm resume {folder}")
    config = read_json(folder / CONFIG)
    if config.get("format") != FORMAT:
        why = ": a run of before has no checksums: train it anew" if config.get("format") == 1 else ""
        raise InputError(f'{folder / CONFIG}: field "format": {shorten(config.get("format"))}: must be {FORMAT}{why}')
    check_sealed(folder, whole=False)
    return config


def check_is_folder(folder: Path) -> None:
    """Refuse what is no folder.

    Raises:
        InputError: it is a file, or nothing.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: {'is a file, not a' if folder.exists() else 'no such'} run folder")


def model_digest(folder: Path) -> str:
    """Return what tells the model in a folder from any other: of its configuration, tokenizer and weights."""
    files = sorted(path for path in folder.glob("*") if path.suffix in (".json", ".jinja", ".safetensors"))
    files += sorted((folder / FOLDER).glob("*"))
    return hashlib.sha256("".join(path.name + digest_of(path) for path in files).encode()).hexdigest()


def write_prompts(path: Path, keys: Collection[bytes]) -> None:
    """Write prompt keys of 16 bytes each, in order, whole or not at all."""
    write_whole(path, lambda p: p.write_bytes(b"".join(sorted(keys))))


def read_prompts(path: Path) -> np.ndarray:
    """Return the prompt keys in a file, (prompts, 16) uint8.

    Raises:
        InputError: the file is missing or broken.
    """
    if not path.is_file():
        raise InputError(f"{path}: file is missing from the run folder")
    size = path.stat().st_size
    if size % 16:
        raise InputError(f"{path}: {size} bytes: must be a multiple of 16, the bytes of a prompt's key")
    return np.fromfile(path, dtype=np.uint8).reshape(-1, 16)
