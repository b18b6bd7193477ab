"""From files of comparisons to a folder of what training reads: split by prompt, a tokenizer, both splits in tokens."""

import dataclasses
import importlib.metadata
import platform
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
import numpy as np
import torch

from minirm.config import OF_SINGLES, OF_TIES
from minirm.config_rules import config_from_json, require, to_json
from minirm.data.comparison import Comparison
from minirm.data.splits import draw_validation, prompt_key
from minirm.errors import InputError, name_paths
from minirm.files.disk import read_json, write_json
from minirm.files.fields import Usage, tell_unread
from minirm.files.pretrained import AnyTokenizer
from minirm.files.reading import find_files
from minirm.files.records import read_comparisons
from minirm.files.survey import MERGED, DataSummary, describe, usable
from minirm.runs.checksums import digest_of
from minirm.runs.run_config import LANGUAGE_MODEL, REWARD, DataConfig, RunConfig
from minirm.runs.run_folder import (
    CONFIG,
    DATA,
    FORMAT,
    PROMPTS,
    Start,
    read_model_config,
    read_prompts,
    write_prompts,
    write_tokenizer,
)
from minirm.tokens.packing import Encoded, fit, labels_of, tokenize
from minirm.tokens.stream import TokenStore, preferred
from minirm.tokens.tokenizer import Tokenizer
from minirm.training.objectives import broken_rule

KEPT = ("cut", "merged", MERGED)
"""How counts of what happened to a row that stayed begin."""


VALIDATION, STORES = "validation.json", "tokens"
"""What training alone reads: the comparisons of the validation split, and a store for each split and stage."""


@dataclass(frozen=True)
class Prepared:
    """A run's data, split and encoded, as they lie in a folder."""

    config: RunConfig
    """With the model's true vocabulary."""
    tokenizer: AnyTokenizer
    data: dict
    """What data.json holds: a summary of the files and their digests, and what was cut, merged or dropped."""
    training_prompts: np.ndarray  # (prompts, 16) uint8
    validation: list[Comparison]
    stores: dict[str, TokenStore]
    """By split and stage: "training reward"."""


def read_prepared(folder: Path) -> Prepared:
    """Return what `prepare` wrote into a folder."""
    config = config_in(folder / CONFIG)
    _, tokenizer = read_model_config(folder, read_json(folder / CONFIG))
    validation = msgspec.convert(read_json(folder / VALIDATION)["comparisons"], list[Comparison])
    stores = {path.name: TokenStore(path) for path in sorted((folder / STORES).iterdir())}
    data, prompts = read_json(folder / DATA), read_prompts(folder / PROMPTS)
    return Prepared(config, tokenizer, data, prompts, validation, stores)


def config_in(path: Path) -> RunConfig:
    """Return the configuration in a file that holds one, and maybe more.

    Raises:
        InputError: the file is missing or broken.
    """
    values = read_json(path)
    parts = {field.name: values[field.name] for field in dataclasses.fields(RunConfig) if field.name in values}
    return config_from_json(RunConfig, parts, str(path))


def check_unchanged(folder: Path, config: RunConfig, start: Start | None) -> None:
    """Refuse to go on with other data, or from another start, than what was prepared in a folder.

    Raises:
        InputError: says what changed.
    """
    then = read_json(folder / DATA)
    now = {**_digests(config), None: None if start is None else start.digest()}
    before = {**then["files"], None: then["start"]}
    changed = [name or str(config.start) for name in now | before if now.get(name) != before.get(name)]
    if changed:
        raise InputError(f"{folder.parent}: the data changed since this run began ({', '.join(changed)}): train anew")


def _digests(config: RunConfig) -> dict[str, str]:
    files = find_files([*config.data.data, *config.data.validation])
    return {str(path): digest_of(path) for path in files}


@dataclass
class Split:
    """Comparisons of the configured files, training and validation part apart."""

    config: DataConfig
    seed: int
    held_out: frozenset[bytes] = field(default_factory=frozenset)

    def names(self, part: str) -> str:
        """Return the files of a part, for messages."""
        own_files = self.config.validation if part == "validation" else ()
        return name_paths(own_files or self.config.data)

    def rows(self, part: str) -> Iterator[Comparison]:
        """Yield the comparisons of "training" or "validation", reading the files anew."""
        if self.config.validation:
            paths = self.config.data if part == "training" else self.config.validation
            return read_comparisons(paths, format=self.config.format, fields=self.config.fields)
        everything = read_comparisons(self.config.data, format=self.config.format, fields=self.config.fields)
        return (c for c in everything if (prompt_key(c) in self.held_out) == (part == "validation"))


def prepare(config: RunConfig, folder: Path, start: Start | None = None) -> Prepared:
    """Read the files, split them by prompt, train the tokenizer on the training split and encode both into `folder`.

    Args:
        start: where to take the tokenizer from instead, and the prompts that it was trained on as well.
    Raises:
        InputError: the files can't be read, or hold nothing to learn from.
    """
    data, seed, files = config.data, config.seed, _digests(config)
    keys: set[bytes] = set()
    usage: dict[str, Usage] = {}
    how = {"format": data.format, "fields": data.fields, "usage": usage}
    named = _checked(read_comparisons(data.validation, **how), config) if data.validation else None
    rows = _checked(read_comparisons(data.data, **how), config)
    summary = describe(_noting_keys(rows, keys), named)
    _check_learnable(config, summary)
    if not data.validation and len(keys) < 2:
        raise InputError(
            f"{name_paths(data.data)}: one distinct prompt only: two are needed to keep one for validation"
        )
    held_out = frozenset() if data.validation else draw_validation(keys, data.validation_share / 100, seed)
    split = Split(data, seed, held_out)
    validation = _validation_comparisons(config, split) if REWARD in config.stages else []
    tokenizer = Tokenizer.train(_texts(split.rows("training")), data.vocab_size) if start is None else start.tokenizer
    counts: Counter[str] = Counter()
    for part in ("training", "validation"):
        _encode(config, split, part, tokenizer, folder / STORES, counts)
    vocab_size = tokenizer.vocab_size if start is None else start.model.vocab_size
    config = replace(config, model=replace(config.model, vocab_size=vocab_size))
    versions = {"minirm": minirm_version(), "torch": torch.__version__, "python": platform.python_version()}
    write_json(folder / CONFIG, {"format": FORMAT, "versions": versions, **to_json(config)})
    write_tokenizer(folder, tokenizer)
    write_json(folder / VALIDATION, {"comparisons": [dataclasses.asdict(one) for one in validation]})
    write_prompts(folder / PROMPTS, (keys - held_out) | (frozenset() if start is None else start.training_prompts))
    digest = None if start is None else start.digest()
    found = {
        "summary": dataclasses.asdict(summary),
        "counts": dict(sorted(counts.items())),
        "unread": tell_unread(usage),
    }
    write_json(folder / DATA, {**found, "files": files, "start": digest})
    return read_prepared(folder)


def minirm_version() -> str:
    """Return the installed version."""
    return importlib.metadata.version("minirm")


def _check_learnable(config: RunConfig, summary: DataSummary) -> None:
    """Refuse data that the reward stage, where there is one, can't learn from."""
    if REWARD not in config.stages:
        return
    names, compares = name_paths(config.data.data), config.reward.loss not in OF_SINGLES
    require(not compares or summary.pairs > 0, f"{names}: no two responses differ in score: nothing to learn from")


def _checked(rows: Iterable[Comparison], config: RunConfig) -> Iterator[Comparison]:
    """Yield the comparisons, refusing one whose labels the loss of the reward stage can't use."""
    for row in rows:
        judged = row.is_judged or row.steps is not None
        rule = broken_rule(labels_of([row]), config.reward) if REWARD in config.stages and judged else None
        if rule:
            raise InputError(f"{row.source}: {rule}")
        yield row


def _usable(rows: Iterable[Comparison], counts: Counter, config: RunConfig) -> Iterator[Comparison]:
    loss = config.reward.loss
    return usable(rows, counts, keep_ties=loss in OF_TIES, keep_singles=loss in OF_SINGLES)


def _validation_comparisons(config: RunConfig, split: Split) -> list[Comparison]:
    found = list(_usable(split.rows("validation"), Counter(), config))
    if config.reward.loss not in OF_SINGLES and not any(len(set(c.scores)) > 1 and c.probability != 0.5 for c in found):
        raise InputError(f"{split.names('validation')}: no pair of the validation part has a better response")
    return found


def _encode(
    config: RunConfig, split: Split, part: str, tokenizer: AnyTokenizer, folder: Path, counts: Counter[str]
) -> None:
    """Write one split's store for each stage, and add to `counts` what was cut, merged or dropped."""
    for stage in config.stages:
        found: Counter[str] = Counter()
        rows = split.rows(part)
        if stage == REWARD:
            rows = _usable(rows, found, config)
        encoded = tokenize(rows, tokenizer, by_assistant=stage == LANGUAGE_MODEL and config.only_assistant)
        if stage == LANGUAGE_MODEL:  # before anything is cut: a response that is not learned needs no room
            encoded = _as_texts(config, encoded)
        how = {"keep_first": config.model.bidirectional, "keep_incomparable": stage == LANGUAGE_MODEL}
        encoded = fit(encoded, config.packing, found, **how)
        if not len(TokenStore.write(encoded, folder / f"{part} {stage}")):
            dropped = {count: name for name, count in found.items() if not name.startswith(KEPT)}
            why = f", most of it ({max(dropped)}) {dropped[max(dropped)]}" if dropped else ""
            raise InputError(f"{split.names(part)}: nothing of the {part} part is left for the {stage}{why}")
        counts.update({f"{part}, {stage}: {name}": n for name, n in found.items() if n})


def _as_texts(config: RunConfig, encoded: Iterable[Encoded]) -> Iterator[Encoded]:
    """Yield what a language model is to learn of comparisons."""
    for item in encoded:
        chosen = preferred(item) if config.data.language_model_responses == "preferred" else item
        learned = chosen.learned if config.only_assistant else None
        if not config.model.predicts_prompts:
            learned = np.zeros(len(chosen.prompt), dtype=bool)
        yield replace(chosen, learned=learned, steps=None)


def _noting_keys(rows: Iterable[Comparison], keys: set[bytes]) -> Iterator[Comparison]:
    for row in rows:
        keys.add(prompt_key(row))
        yield row


def _texts(rows: Iterable[Comparison]) -> Iterator[str]:
    for row in rows:
        yield from (turn.text for turn in row.prompt)
        yield from row.responses
