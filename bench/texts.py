"""The comparisons that the speed bench works on: real ones where they lie, the known-truth world where not."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from minirm.data.comparison import Comparison
from minirm.files.records import read_comparisons
from minirm.files.survey import usable
from minirm.tokens.packing import Encoded, tokenize
from minirm.tokens.tokenizer import Tokenizer
from minirm.worlds.grammar import World, WorldConfig

FILES = {
    "hh-harmless": "hh-harmless/pairs.jsonl.gz",
    "alpaca-pairs": "alpaca-pairs/test.jsonl.gz",
    "alpaca-rankings": "alpaca-rankings/test.jsonl.gz",
}
BUCKET = 1024
"""Comparisons that are sorted by length together: minirm's own bucket (`minirm.tokens.stream.BUCKET`), for everyone."""


@dataclass(frozen=True)
class Corpus:
    """At most a window of comparisons, none longer than the model's positions, with the tokenizer learned from them."""

    name: str
    comparisons: list[Comparison]
    encoded: list[Encoded]
    tokenizer: Tokenizer

    def spread(self, batches: int, per_batch: int) -> "Corpus":
        """Return `batches` of the batches into which all comparisons fall when sorted by their longest sequence.

        One from the middle of each of `batches` equal parts of the order: the lengths stay those of the whole, and a
        padded, sorted loop meets just the batches that it would cut.
        """
        order = sorted(range(len(self.encoded)), key=lambda row: longest(self.encoded[row]))
        starts = range(0, len(order) - per_batch + 1, per_batch)
        middles = [starts[int((part + 0.5) * len(starts) / batches)] for part in range(batches)]
        rows = [row for start in middles for row in order[start : start + per_batch]]
        return replace(
            self, comparisons=[self.comparisons[row] for row in rows], encoded=[self.encoded[row] for row in rows]
        )


def longest(encoded: Encoded) -> int:
    """Return the tokens of a comparison's longest sequence: prompt and response."""
    return len(encoded.prompt) + max(map(len, encoded.responses))


def sequences(encoded: Encoded) -> list[np.ndarray]:
    """Return each response behind its own copy of the prompt, as whoever does not share a prompt reads it."""
    return [np.concatenate([encoded.prompt, response]) for response in encoded.responses]


def read_corpus(name: str, data: Path, *, vocab_size: int, max_tokens: int, responses: int = 2) -> Corpus:
    """Return a window of comparisons drawn at random (seed 0), each of `responses` responses.

    Args:
        name: of `FILES`; where its file is absent, comparisons of the known-truth world are taken.
        data: the folder in which the files lie.
        vocab_size: of the tokenizer, at most; it is learned from these comparisons.
        max_tokens: a comparison with a longer sequence is left out, so that nobody has to cut a text.
        responses: K; of more responses, K with different scores are drawn; a comparison with fewer is left out.
    """
    rng = np.random.default_rng(0)
    file = data / FILES[name]
    if file.exists():
        found = list(usable(read_comparisons([file]), Counter()))
    else:
        name = "known-truth world"
        found = [made.comparison for made in World(WorldConfig(responses=responses)).sample(BUCKET, "train")]
    drawn = (_with_responses(found[row], responses, rng) for row in rng.permutation(len(found)))
    comparisons = [comparison for comparison in drawn if comparison is not None][:BUCKET]
    tokenizer = Tokenizer.train(_texts(comparisons))
    if tokenizer.vocab_size > vocab_size:
        tokenizer = Tokenizer.train(_texts(comparisons), vocab_size)
    pairs = zip(comparisons, tokenize(comparisons, tokenizer), strict=True)
    short = [(comparison, encoded) for comparison, encoded in pairs if longest(encoded) <= max_tokens]
    return Corpus(name, [comparison for comparison, _ in short], [encoded for _, encoded in short], tokenizer)


def _with_responses(comparison: Comparison, count: int, rng: np.random.Generator) -> Comparison | None:
    """Return the comparison with `count` of its responses, no two of one score; None if it has not so many."""
    by_score = {score: k for k, score in enumerate(comparison.scores)}
    if len(by_score) < count:
        return None
    kept = sorted(rng.permutation(list(by_score.values()))[:count], key=lambda k: -comparison.scores[k])
    return replace(
        comparison,
        responses=tuple(comparison.responses[k] for k in kept),
        scores=tuple(comparison.scores[k] for k in kept),
    )


def _texts(comparisons: Sequence[Comparison]) -> Iterator[str]:
    for comparison in comparisons:
        yield from (turn.text for turn in comparison.prompt)
        yield from comparison.responses


def made_of_noise(lengths: Sequence[tuple[int, Sequence[int]]], vocab_size: int) -> list[Encoded]:
    """Return comparisons of random tokens.

    Args:
        lengths: of each comparison, the tokens of its prompt and of its responses.
        vocab_size: ids are drawn from [8, vocab_size): below lie the special tokens.
    """
    rng = np.random.default_rng(0)

    def draw(count: int) -> np.ndarray:
        return rng.integers(8, vocab_size, count).astype(np.int32)

    return [
        Encoded(draw(prompt), tuple(draw(r) for r in responses), tuple(map(float, range(len(responses), 0, -1))))
        for prompt, responses in lengths
    ]
