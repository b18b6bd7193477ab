"""From files of comparisons to what training reads: split by prompt, a tokenizer, both parts in tokens."""

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from minirm.config_rules import require
from minirm.data.records import Comparison, read_comparisons
from minirm.data.splits import draw_validation, prompt_key
from minirm.data.survey import MERGED, DataSummary, describe, usable
from minirm.errors import InputError, name_paths
from minirm.runs.run_config import LANGUAGE_MODEL, REWARD, DataConfig, RunConfig
from minirm.runs.run_folder import Start, prompt_array
from minirm.tokens.packing import Encoded, fit, tokenize
from minirm.tokens.pretrained import AnyTokenizer
from minirm.tokens.stream import TokenStore, preferred
from minirm.tokens.tokenizer import Tokenizer

KEPT = ("cut", "merged", MERGED)
"""How counts of what happened to a row that stayed begin."""


@dataclass(frozen=True)
class Prepared:
    """A run's data, split and encoded."""

    tokenizer: AnyTokenizer
    summary: DataSummary
    counts: Counter[str]
    """What was cut, merged or dropped, by part and reason."""
    training_prompts: np.ndarray  # (prompts, 16) uint8
    validation: list[Comparison]
    stores: dict[str, TokenStore]
    start_digest: str | None = None
    """What stands for the weights that training starts from."""

    def description(self) -> dict:
        """Return what data.json holds: equal for equal data, however often it is read."""
        digest = hashlib.blake2b(digest_size=16)
        for name, store in sorted(self.stores.items()):
            digest.update(name.encode())
            for column in (store.tokens, store.piece_ends, store.scores, store.row_ends, store.dials, store.learned):
                digest.update(column)
        summary, counts = dataclasses.asdict(self.summary), dict(sorted(self.counts.items()))
        text = json.dumps(
            {"summary": summary, "counts": counts, "digest": digest.hexdigest(), "start": self.start_digest}
        )
        return json.loads(text)  # as it is read back: keys that are numbers become text


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
            return read_comparisons(paths, format=self.config.format)
        everything = read_comparisons(self.config.data, format=self.config.format)
        return (c for c in everything if (prompt_key(c) in self.held_out) == (part == "validation"))


def prepare(config: RunConfig, folder: Path, start: Start | None = None) -> Prepared:
    """Read the files, split them by prompt, train the tokenizer on the training part and encode both into `folder`.

    Args:
        start: where to take the tokenizer from instead, and the prompts that it was trained on as well.
    Raises:
        InputError: the files can't be read, or hold nothing to learn from.
    """
    data, seed = config.data, config.seed
    keys: set[bytes] = set()
    named = read_comparisons(data.validation, format=data.format) if data.validation else None
    summary = describe(_noting_keys(read_comparisons(data.data, format=data.format), keys), named)
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
    stores: dict[str, TokenStore] = {}
    for part in ("training", "validation"):
        stores |= _encode(config, split, part, tokenizer, folder / part, counts)
    seen = (keys - held_out) | (frozenset() if start is None else start.training_prompts)
    digest = None if start is None else start.digest()
    return Prepared(tokenizer, summary, counts, prompt_array(seen), validation, stores, digest)


def _check_learnable(config: RunConfig, summary: DataSummary) -> None:
    """Refuse data that the reward stage, where there is one, can't learn from, or would leave unread."""
    if REWARD not in config.stages:
        return
    names = name_paths(config.data.data)
    require(summary.comparisons > 0, f"{names}: no two responses differ in score: nothing to learn from")
    for name, rows in (("margin", summary.margins), ("probability", summary.soft_labels)):
        known = config.reward.loss == "all_pairs" or not rows
        require(known, f'{names}: rows with a "{name}": {rows}; only loss=all_pairs knows it')


def _validation_comparisons(config: RunConfig, split: Split) -> list[Comparison]:
    found = list(usable(split.rows("validation"), Counter(), keep_ties=config.reward.loss == "rao_kupper"))
    if not any(len(set(c.scores)) > 1 and c.probability != 0.5 for c in found):
        raise InputError(f"{split.names('validation')}: no pair of the validation part has a better response")
    return found


def _encode(
    config: RunConfig, split: Split, part: str, tokenizer: AnyTokenizer, folder: Path, counts: Counter[str]
) -> dict[str, TokenStore]:
    """Write one part's store for each stage, and add to `counts` what was cut, merged or dropped."""
    stores = {}
    for stage in config.stages:
        found: Counter[str] = Counter()
        rows = split.rows(part)
        if stage == REWARD:
            rows = usable(rows, found, keep_ties=config.reward.loss == "rao_kupper")
        encoded = tokenize(rows, tokenizer, by_assistant=stage == LANGUAGE_MODEL and config.only_assistant)
        if stage == LANGUAGE_MODEL:  # before anything is cut: a response that is not learned needs no room
            encoded = _as_texts(config, encoded)
        how = {"keep_first": config.model.bidirectional, "keep_incomparable": stage == LANGUAGE_MODEL}
        encoded = fit(encoded, config.packing, found, **how)
        store = stores[f"{part} {stage}"] = TokenStore.write(encoded, folder / stage)
        if not len(store):
            dropped = {count: name for name, count in found.items() if not name.startswith(KEPT)}
            why = f", most of it ({max(dropped)}) {dropped[max(dropped)]}" if dropped else ""
            raise InputError(f"{split.names(part)}: nothing of the {part} part is left for the {stage}{why}")
        counts.update({f"{part}, {stage}: {name}": n for name, n in found.items() if n})
    return stores


def _as_texts(config: RunConfig, encoded: Iterable[Encoded]) -> Iterator[Encoded]:
    """Yield what a language model is to learn of comparisons."""
    for item in encoded:
        chosen = preferred(item) if config.data.language_model_responses == "preferred" else item
        learned = chosen.learned if config.only_assistant else None
        if not config.model.predicts_prompts:
            learned = np.zeros(len(chosen.prompt), dtype=bool)
        yield replace(chosen, learned=learned)


def _noting_keys(rows: Iterable[Comparison], keys: set[bytes]) -> Iterator[Comparison]:
    for row in rows:
        keys.add(prompt_key(row))
        yield row


def _texts(rows: Iterable[Comparison]) -> Iterator[str]:
    for row in rows:
        yield from (turn.text for turn in row.prompt)
        yield from row.responses
