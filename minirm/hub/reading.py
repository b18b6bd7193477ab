"""A folder in Hugging Face's layout → configuration, weights and tokenizer."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from minirm.config import ModelConfig
from minirm.errors import InputError, field_error, list_names
from minirm.files.disk import read_json
from minirm.files.pretrained import PretrainedTokenizer
from minirm.hub import adapters
from minirm.hub.families import FAMILIES, Family, part_rows, read_config
from minirm.hub.tensors import TensorFiles, assemble, check_parts, check_rest, heads_beside
from minirm.models.language_model import LanguageModel
from minirm.models.reward_model import RewardModel
from minirm.runs import run_folder
from minirm.runs.empty import build_empty
from minirm.runs.run_folder import CONFIG, Start, check_tokenizer

DRAWN = ("head.", "offset", "pooler.")
"""What a reward model made of a language model draws anew, unless the file has it."""


@dataclass(frozen=True)
class Imported:
    """What a pretrained folder gives."""

    config: ModelConfig
    weights: dict[str, Tensor]
    """As `RewardModel` and `LanguageModel` name them: "backbone.…"; "head.weight" (BERT: "offset", "pooler.…") if it
    was a classifier, and "unembedding.weight" if it was a language model with an untied head. float32, on the CPU."""
    tokenizer: PretrainedTokenizer
    notes: tuple[str, ...] = ()
    """What lies in the folder and is not taken."""

    @property
    def has_head(self) -> bool:
        """Whether it was a reward model already."""
        return "head.weight" in self.weights


def is_pretrained(folder: Path) -> bool:
    """Return whether a folder is a pretrained one or an adapter, in Hugging Face's layout, and not a run of minirm."""
    if (folder / adapters.SETTINGS).is_file():
        return True
    return (folder / CONFIG).is_file() and "model_type" in read_json(folder / CONFIG)


@dataclass(frozen=True)
class Pretrained(Start):
    """A pretrained folder from which a run goes on; of its training prompts, none is known."""

    def digest(self) -> str:
        """Return what tells its weights, its tokenizer and its chat template from any other."""
        digest = hashlib.blake2b(digest_size=16)
        with adapters.merged(self.folder) as folder:
            files = {entry.path for entry in TensorFiles(folder).entries.values()}
            for path in sorted(files.union(*map(folder.glob, ("*.json", "*.jinja", "*.txt")))):
                with path.open("rb") as file:
                    digest.update(hashlib.file_digest(file, "blake2b").digest())
        return digest.hexdigest()

    def take_over(self, model: nn.Module) -> None:
        """Copy the weights into a model: the backbone's, and a head's where both have it."""
        own = model.state_dict()
        weights = {name: tensor for name, tensor in read_model(self.folder).weights.items() if name in own}
        model.load_state_dict(weights, strict=False)  # of the backbone nothing is missing: `read_model` saw to it


def read_start(folder: Path) -> Start:
    """Return what `minirm train --from` goes on from: a finished run, or a pretrained folder.

    Raises:
        InputError: it is neither, lacks a file, or a file does not fit the others.
    """
    if not is_pretrained(folder):
        return run_folder.read_start(folder)
    with adapters.merged(folder) as whole:
        files = TensorFiles(whole)
        config, _, architecture = _read_description(whole)
        config, notes = _with_head(config, files, architecture), tuple(heads_beside(files))
        return Pretrained(folder, config, _read_tokenizer(whole, config), frozenset(), notes)


def read_model(folder: str | Path) -> Imported:
    """Return the model in a folder: a GPT-2, Llama or BERT, language model or classifier with one label.

    Weights are read one at a time, the largest first, so that no second copy of them is ever held.

    Raises:
        InputError: a file is missing or broken, config.json describes a model that minirm does not compute, or the
            weights are not those of the model that it describes.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: {'is a file, not a' if folder.exists() else 'no such'} folder")
    with adapters.merged(folder) as whole:
        config, family, architecture = _read_description(whole)
        files = TensorFiles(whole)
        config = _with_head(config, files, architecture)
        tokenizer = _read_tokenizer(whole, config)
        weights = _read_weights(files, config, family, architecture)
        return Imported(config, weights, tokenizer, tuple(heads_beside(files)))


def _read_tokenizer(folder: Path, config: ModelConfig) -> PretrainedTokenizer:
    tokenizer = PretrainedTokenizer(folder, bidirectional=config.bidirectional)
    check_tokenizer(tokenizer, config, folder)
    return tokenizer


def _with_head(config: ModelConfig, files: TensorFiles, architecture: str) -> ModelConfig:
    """Return the configuration, its head untied only if there is one: a classifier has none."""
    has_logits = "lm_head.weight" in files.entries or architecture.endswith(("ForCausalLM", "LMHeadModel"))
    return replace(config, tied_head=config.tied_head or not has_logits)


def _read_description(folder: Path) -> tuple[ModelConfig, Family, str]:
    """Return what config.json describes, and the class of transformers that wrote it, "" if it does not say."""
    path = folder / CONFIG
    if not path.is_file():
        raise InputError(f"{path}: missing: a folder in Hugging Face's layout has one")
    values = read_json(path)
    try:
        if values.get("model_type") not in list(FAMILIES):  # a list, since JSON has values that no dict can look up
            raise field_error("model_type", values.get("model_type"), f"must be one of {', '.join(FAMILIES)}")
        family = FAMILIES[values["model_type"]]
        architectures = values.get("architectures")
        architecture = architectures[0] if isinstance(architectures, list) and architectures else ""
        return read_config(values, family), family, str(architecture)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _read_weights(files: TensorFiles, config: ModelConfig, family: Family, architecture: str) -> dict[str, Tensor]:
    found = set(filter(family.is_read, files.entries))
    bare = not any(name.startswith(family.prefix) for name in found)  # the backbone was saved alone
    is_classifier = family.heads["head.weight"] in found or architecture.endswith("ForSequenceClassification")
    head = files.entries.get(family.heads["head.weight"])
    if is_classifier and head is not None and head.shape[:1] != (1,):
        names = read_json(files.path.parent / CONFIG).get("id2label")
        named = f" ({list_names(names.values())})" if isinstance(names, dict) else ""
        raise InputError(f"{head.path}: {head.name!r} has {head.shape[0]} labels{named}: a reward model must have one")
    shapes = _shapes(config)
    names = {ours: family.names(ours, bare=bare) for ours in shapes}
    for ours in [ours for ours in names if ours.startswith(DRAWN) and not is_classifier]:
        if not found.issuperset(names[ours]):
            del names[ours]
    transposed = {ours: family.is_transposed(ours, len(shapes[ours])) for ours in names}
    parts = {}
    for ours in names:
        parts |= _part_shapes(names[ours], shapes[ours], config, transposed=transposed[ours])
    check_parts(files, parts)
    check_rest(files, found - parts.keys() - ({"lm_head.weight"} if config.tied_head else set()))
    largest_first = sorted(names, key=lambda ours: -torch.Size(shapes[ours]).numel())
    return {ours: assemble(files, names[ours], shapes[ours], transposed=transposed[ours]) for ours in largest_first}


def _shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a reward model's tensors, and of a language model's own."""
    tensors = build_empty(RewardModel, config).state_dict()
    if not config.tied_head:
        tensors |= build_empty(LanguageModel, config).state_dict()
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _part_shapes(
    names: tuple[str, ...], shape: tuple[int, ...], config: ModelConfig, *, transposed: bool
) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the parts that make up a tensor of this shape."""
    shapes = [(rows, *shape[1:]) for rows in part_rows(names, shape[0], config)]
    return {name: part[::-1] if transposed else part for name, part in zip(names, shapes, strict=True)}


def build_reward_model(imported: Imported) -> RewardModel:
    """Return the reward model of a pretrained folder, on its very tensors; the head is drawn anew if it has none."""
    model = build_empty(RewardModel, imported.config)
    if not imported.has_head:
        model.draw_head()
    weights = {name: tensor for name, tensor in imported.weights.items() if not name.startswith("unembedding.")}
    model.load_state_dict(weights, assign=True, strict=False)  # complete but for the head: `read_model` saw to it
    return model


def build_language_model(imported: Imported) -> LanguageModel:
    """Return the language model of a pretrained folder, on its very tensors."""
    model = build_empty(LanguageModel, imported.config)
    weights = {name: tensor for name, tensor in imported.weights.items() if not name.startswith(DRAWN)}
    model.load_state_dict(weights, assign=True)
    return model
