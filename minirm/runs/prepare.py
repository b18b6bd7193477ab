"""From files of comparisons to a folder of what training reads: split by prompt, a tokenizer, both splits in tokens.

The files are read once, and what they hold is kept on disk until it is encoded: memory does not grow with them.
"""

import dataclasses
import importlib.metadata
import math
import platform
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from minirm.config import OF_SINGLES
from minirm.config_rules import require
from minirm.data.comparison import Comparison
from minirm.errors import InputError
from minirm.files.disk import read_json, write_json, write_whole
from minirm.files.fields import Usage, tell_unread
from minirm.files.kept import Kept
from minirm.files.pretrained import AnyTokenizer, open_tokenizer
from minirm.files.reading import find_files, names_of
from minirm.files.records import read_comparisons
from minirm.files.splits import prompt_key, validation_mask
from minirm.files.survey import MERGED, DataSummary, describe
from minirm.runs.cache import key_of, prepared_once
from minirm.runs.checksums import digest_of
from minirm.runs.config_json import config_from_json, to_json
from minirm.runs.encode import encode, usable_by
from minirm.runs.run_config import REWARD, RunConfig
from minirm.runs.run_folder import (
    CONFIG,
    DATA,
    FORMAT,
    PROMPTS,
    Start,
    read_model_config,
    read_prompts,
    write_tokenizer,
)
from minirm.tokens.packing import labels_of
from minirm.tokens.stream import TokenStore
from minirm.tokens.tokenizer import FILE, Tokenizer
from minirm.training.objectives import broken_rule

KEPT = ("cut", "merged", MERGED)
"""How counts of what happened to a comparison that stayed begin."""
VALIDATION, STORES = "validation", "tokens"
"""What training alone reads: the comparisons of the validation split, and a store for each split and stage."""
READ, KEYS = "read", "keys.bin"
"""What was read, until it is encoded; and the key of each comparison's prompt."""
VOCABULARY_FROM = 1 << 24
"""Bytes of comparisons from which a vocabulary is learned; from half of them, English takes 0.1% more tokens."""


@dataclass(frozen=True)
class Prepared:
    """A run's data, split and encoded, as they lie in a folder."""

    config: RunConfig
    """With the model's true vocabulary."""
    tokenizer: AnyTokenizer
    data: dict
    """What data.json holds: a summary of the files and their digests, and what was cut, merged or dropped."""
    training_prompts: np.ndarray  # (prompts, 16) uint8
    validation: Kept
    stores: dict[str, TokenStore]
    """By split and stage: "training reward"."""


class Progress(Protocol):
    """Is told how far the work has come; in all may be unknown."""

    def __call__(self, what: str, done: int, total: int | None) -> object:
        """Of `what`, so much is done."""
        ...


def read_prepared(folder: Path) -> Prepared:
    """Return what `prepare` wrote into a folder, or into the cache that its configuration names."""
    config, data = config_in(folder / CONFIG), read_json(folder / DATA)
    _, tokenizer = read_model_config(folder, read_json(folder / CONFIG))
    made = folder if config.data.cache is None else config.data.cache / data["key"]
    stores = {path.name: TokenStore(path) for path in sorted((made / STORES).iterdir())}
    return Prepared(config, tokenizer, data, read_prompts(folder / PROMPTS), Kept(made / VALIDATION), stores)


def config_in(path: Path) -> RunConfig:
    """Return the configuration in a file that holds one, and maybe more.

    Raises:
        InputError: the file is missing or broken.
    """
    values = read_json(path)
    parts = {field.name: values[field.name] for field in dataclasses.fields(RunConfig) if field.name in values}
    return config_from_json(RunConfig, parts, str(path))


def check_unchanged(
    folder: Path, config: RunConfig, start: Start | None, progress: Progress, note: Callable[[str], object]
) -> None:
    """Refuse to go on with other data, or from another start, than what was prepared in a folder or its cache.

    What has gone from the cache is prepared there again.

    Raises:
        InputError: says what changed.
    """
    then, files = read_json(folder / DATA), _digests(config)
    now = {**files, None: None if start is None else start.digest()}
    before = {**then["files"], None: then["start"]}
    changed = [name or str(config.start) for name in now | before if now.get(name) != before.get(name)]
    if changed:
        raise InputError(f"{folder.parent}: the data changed since this run began ({', '.join(changed)}): train anew")
    if config.data.cache is None:
        return
    key, made = key_of(config, files, start), config.data.cache / then["key"]
    if key != then["key"] and not made.is_dir():
        raise InputError(f"{made}: the prepared data is gone, and other code had prepared it: train anew")
    _prepared_once(config, then["key"], start, files, progress, note)


def _digests(config: RunConfig) -> dict[str, str]:
    files = find_files([*config.data.data, *config.data.validation])
    return {str(path): digest_of(path) for path in files}


def prepare(
    config: RunConfig,
    folder: Path,
    start: Start | None = None,
    progress: Progress = lambda *_: None,
    note: Callable[[str], object] = lambda _: None,
) -> Prepared:
    """Read the files, split them by prompt, train the tokenizer on the training split and encode both into `folder`.

    With a cache, what is large is prepared there, unless it was before.

    Args:
        start: where to take the tokenizer from instead, and the prompts that it was trained on as well.
        progress: hears how far the work has come.
        note: hears what is found in the cache.
    Raises:
        InputError: the files can't be read, or hold nothing to learn from.
    """
    files = _digests(config)
    if config.data.cache is None:
        _make(config, folder, start, files, progress)
    else:
        made = _prepared_once(config, key_of(config, files, start), start, files, progress, note)
        for name in (PROMPTS, DATA):
            write_whole(folder / name, lambda path, name=name: shutil.copyfile(made / name, path))
        write_tokenizer(folder, open_tokenizer(made, bidirectional=config.model.bidirectional))
    tokenizer = open_tokenizer(folder, bidirectional=config.model.bidirectional)
    vocab_size = tokenizer.vocab_size if start is None else start.model.vocab_size
    config = replace(config, model=replace(config.model, vocab_size=vocab_size))
    versions = {"minirm": minirm_version(), "torch": torch.__version__, "python": platform.python_version()}
    write_json(folder / CONFIG, {"format": FORMAT, "versions": versions, **to_json(config)})
    return read_prepared(folder)


def _prepared_once(
    config: RunConfig, key: str, start: Start | None, files: dict, progress: Progress, note: Callable[[str], object]
) -> Path:
    """Return the folder in the cache that holds what a run needs."""
    return prepared_once(
        config.data.cache, key, files, lambda path: _make(config, path, start, files, progress, key), note
    )


def _make(
    config: RunConfig, folder: Path, start: Start | None, files: dict, progress: Progress, key: str | None = None
) -> None:
    """Prepare the data into a folder."""
    summary, unread = _read(config, folder / READ, progress)
    parts, training_prompts = _split(config, folder / READ)
    kept = usable_by(config, parts["validation"], Counter()) if REWARD in config.stages else ()
    kept = Kept.write(kept, folder / VALIDATION)
    _check_validation(config, kept)
    if start is None:
        tokenizer = _learn_tokenizer(config, parts["training"], folder, progress)
    else:
        tokenizer = start.tokenizer
        known = np.frombuffer(b"".join(start.training_prompts), np.uint8).reshape(-1, 16)
        training_prompts = np.unique(np.concatenate([training_prompts, known]), axis=0)
    write_tokenizer(folder, tokenizer)
    counts = encode(config, tokenizer, parts, folder / STORES, progress)
    for part in parts:
        for stage in config.stages:
            _check_something_is_left(config, part, stage, TokenStore(folder / STORES / f"{part} {stage}"), counts)
    write_whole(folder / PROMPTS, lambda path: path.write_bytes(training_prompts.tobytes()))
    digest = None if start is None else start.digest()
    found = {"summary": summary, "counts": dict(sorted(counts.items())), "unread": unread}
    write_json(folder / DATA, {**found, "files": files, "start": digest, "key": key})
    shutil.rmtree(folder / READ)


def _learn_tokenizer(config: RunConfig, comparisons: Kept, folder: Path, progress: Progress) -> Tokenizer:
    """Return a tokenizer learned from a part, or the one that an earlier process left in the folder."""
    if (folder / FILE).is_file():
        return Tokenizer.load(folder / FILE)
    progress("learning a vocabulary", 0, None)
    return Tokenizer.train(_texts(_sample(comparisons)), config.data.vocab_size)


def _read(config: RunConfig, folder: Path, progress: Progress) -> tuple[dict, str | None]:
    """Read the files once, keep their comparisons in a folder, and return what they hold, and what was left unread."""
    data, done = config.data, folder / "read.json"
    if not done.is_file():
        shutil.rmtree(folder, ignore_errors=True)
        usage: dict[str, Usage] = {}
        how = {"format": data.format, "fields": data.fields, "usage": usage}
        size, sizes = 0, [path.stat().st_size for path in find_files([*data.data, *data.validation])]

        def keep(paths: Sequence[Path], name: str) -> Iterator[Comparison]:
            nonlocal size
            (folder / name).mkdir(parents=True)
            with (folder / name / KEYS).open("wb") as keys:
                for one, bytes_ in Kept.writing(_checked(read_comparisons(paths, **how), config), folder / name):
                    keys.write(prompt_key(one))
                    size += bytes_
                    if size % 4096 < bytes_:
                        progress("reading", size, max(size, sum(sizes)))
                    yield one

        summary = describe(keep(data.data, "data"), keep(data.validation, "validation") if data.validation else None)
        _check_learnable(config, summary)
        write_json(done, {"summary": dataclasses.asdict(summary), "unread": tell_unread(usage)})
    found = read_json(done)
    return found["summary"], found["unread"]


def _split(config: RunConfig, folder: Path) -> tuple[dict[str, Kept], np.ndarray]:
    """Return the comparisons of each part, and the keys of the training prompts, (prompts, 16) uint8, in order."""
    everything = Kept(folder / "data")
    keys = np.fromfile(folder / "data" / KEYS, "S16")
    prompts, of_comparison = np.unique(keys, return_inverse=True)
    if config.data.validation:
        parts, held_out = (
            {"training": everything, "validation": Kept(folder / "validation")},
            np.zeros(len(prompts), bool),
        )
    else:
        if len(prompts) < 2:
            names = names_of(config.data.data)
            raise InputError(f"{names}: one distinct prompt only: two are needed to keep one for validation")
        held_out = validation_mask(as_rows(prompts), config.data.validation_share / 100, config.seed)
        sides = {"training": ~held_out[of_comparison], "validation": held_out[of_comparison]}
        parts = {part: Kept(folder / "data", np.flatnonzero(mask)) for part, mask in sides.items()}
    return parts, as_rows(prompts)[~held_out]


def as_rows(keys: np.ndarray) -> np.ndarray:
    """Return keys of 16 bytes each as numbers, (keys, 16) uint8."""
    return np.ascontiguousarray(keys).view(np.uint8).reshape(-1, 16)


def _sample(comparisons: Kept) -> Kept:
    """Return so many comparisons, from everywhere, as are enough to learn a vocabulary from."""
    numbers = np.asarray(comparisons.numbers)
    size = int(comparisons.ends[-1]) * len(numbers) / len(comparisons.ends)
    return comparisons[:: max(1, math.ceil(size / VOCABULARY_FROM))]


def minirm_version() -> str:
    """Return the installed version."""
    return importlib.metadata.version("minirm")


def _check_learnable(config: RunConfig, summary: DataSummary) -> None:
    """Refuse data that the reward stage, where there is one, can't learn from."""
    if REWARD not in config.stages:
        return
    names, compares = names_of(config.data.data), config.reward.loss not in OF_SINGLES
    require(not compares or summary.pairs > 0, f"{names}: no two responses differ in score: nothing to learn from")


def _checked(comparisons: Iterable[Comparison], config: RunConfig) -> Iterator[Comparison]:
    """Yield the comparisons, refusing one whose labels the loss of the reward stage can't use."""
    for one in comparisons:
        judged = one.is_judged or one.steps is not None
        rule = broken_rule(labels_of([one]), config.reward) if REWARD in config.stages and judged else None
        if rule:
            raise InputError(f"{one.source}: {rule}")
        yield one


def _check_validation(config: RunConfig, comparisons: Kept) -> None:
    """Refuse a validation part on which no reward model could be right or wrong."""
    compares = REWARD in config.stages and config.reward.loss not in OF_SINGLES
    if compares and not any(len(set(one.scores)) > 1 and one.probability != 0.5 for one in comparisons):
        raise InputError(f"{_names(config, 'validation')}: no pair of the validation part has a better response")


def _names(config: RunConfig, part: str) -> str:
    """Return the files of a part, for messages."""
    own_files = config.data.validation if part == "validation" else ()
    return names_of(own_files or config.data.data)


def _check_something_is_left(config: RunConfig, part: str, stage: str, store: TokenStore, counts: Counter) -> None:
    """Refuse a part of which a stage can learn nothing."""
    if not len(store):
        before = f"{part}, {stage}: "
        found = {name.removeprefix(before): n for name, n in counts.items() if name.startswith(before)}
        dropped = {count: name for name, count in found.items() if not name.startswith(KEPT)}
        why = f", most of it ({max(dropped)}) {dropped[max(dropped)]}" if dropped else ""
        raise InputError(f"{_names(config, part)}: nothing of the {part} part is left for the {stage}{why}")


def _texts(comparisons: Iterable[Comparison]) -> Iterator[str]:
    for one in comparisons:
        yield from (turn.text for turn in one.prompt)
        yield from one.responses
