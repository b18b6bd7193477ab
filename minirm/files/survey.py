"""What a set of comparisons holds, and what of it a reward model can learn from."""

from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import accumulate, combinations
from math import comb

import numpy as np

from minirm.data.comparison import Comparison

UNJUDGED = "comparisons without a judgement"
SINGLE = "comparisons with a single response"
IDENTICAL = "comparisons with identical responses"
TIED = "comparisons with all scores tied"
REMEMBERED_RESPONSES = 64  # K of the longest comparison of which each pair is remembered: K²
MERGED = "repeated responses merged"  # counts responses: the comparison stays


def usable(
    comparisons: Iterable[Comparison], counts: Counter, *, keep_ties: bool = False, keep_singles: bool = False
) -> Iterator[Comparison]:
    """Yield the comparisons that a reward model can learn from, and count what was dropped, by reason.

    Responses to one prompt with the same text become one, with their mean score. A comparison then needs two responses
    and, unless `keep_ties`, two scores that differ.

    Args:
        counts: is added to, under `SINGLE`, `IDENTICAL`, `TIED`, `MERGED` and `UNJUDGED`.
        keep_singles: each response is judged by itself, and one is enough; what nobody judged is dropped.
    """
    for comparison in comparisons:
        if keep_singles:
            if comparison.is_judged or comparison.steps is not None:
                yield comparison
            else:
                counts[UNJUDGED] += 1
            continue
        distinct = _merge_repeated(comparison)
        if len(comparison.responses) == 1:
            counts[SINGLE] += 1
        elif len(distinct.responses) == 1:
            counts[IDENTICAL] += 1
        elif not keep_ties and len(set(distinct.scores)) == 1:
            counts[TIED] += 1
        else:
            if distinct is not comparison:
                counts[MERGED] += len(comparison.responses) - len(distinct.responses)
            yield distinct


def _merge_repeated(comparison: Comparison) -> Comparison:
    scores: dict[str, list[float]] = {}
    for response, score in zip(comparison.responses, comparison.scores, strict=True):
        scores.setdefault(response, []).append(score)
    if len(scores) == len(comparison.responses):
        return comparison
    means = tuple(sum(values) / len(values) for values in scores.values())
    return replace(comparison, responses=tuple(scores), scores=means)


@dataclass(frozen=True)
class Lengths:
    """Lengths in characters."""

    mean: float
    median: int  # the lower one of two
    maximum: int


@dataclass(frozen=True)
class DataSummary:
    """How many of each `describe` found."""

    comparisons: int
    pairs: int  # of responses to one prompt whose scores differ
    responses_per_comparison: dict[int, int]  # K → comparisons
    prompt_characters: Lengths  # of all turns of a prompt together
    response_characters: Lengths
    tied_pairs: int
    tied_comparisons: int  # of two or more responses, all of equal score
    repeated_comparisons: int  # with the prompt, responses and scores of an earlier one
    conflicting_pairs: int  # judged the other way round earlier; where K is at most `REMEMBERED_RESPONSES`
    soft_labels: int  # probabilities below 1
    margins: int  # other than 0
    weights: int  # other than 1
    subsets: dict[str, int]
    prompts: int  # different ones, not counting that there is none
    without_prompt: int
    shared_prompts: int | None  # that the other data has too; None if there was none to compare with
    dropped: dict[str, int]  # by reason: what a reward model would not learn from; see `usable`


def describe(comparisons: Iterable[Comparison], other: Iterable[Comparison] | None = None) -> DataSummary:
    """Return what the comparisons hold, reading them once.

    Memory grows by a few numbers for each comparison and pair, to know what repeats; no text is kept.

    Args:
        other: comparisons, of a test set for instance, whose prompts should not occur in the first.
    """
    tally, dropped = _Tally(), Counter()
    for _ in usable(map(tally.add, comparisons), dropped):
        pass
    tally.finish()
    prompts = _distinct(tally.prompts)
    others = None if other is None else _distinct(array("q", (hash(one.prompt) for one in other if one.prompt)))
    return DataSummary(
        **tally.counts,
        responses_per_comparison=dict(sorted(tally.responses.items())),
        prompt_characters=_lengths(tally.prompt_characters),
        response_characters=_lengths(tally.response_characters),
        subsets=dict(tally.subsets),
        prompts=len(prompts),
        shared_prompts=None if others is None else len(np.intersect1d(prompts, others)),
        dropped=dict(dropped),
    )


COUNTED = {
    "comparisons": lambda one: True,
    "without_prompt": lambda one: not one.prompt,
    "tied_comparisons": lambda one: len(one.scores) > 1 and len(set(one.scores)) == 1,
    "soft_labels": lambda one: one.probability < 1,
    "margins": lambda one: one.margin != 0,
    "weights": lambda one: one.weight != 1,
}


def as_rows(summary: DataSummary) -> Iterator[tuple[str, str]]:
    """Yield a summary as names and values to print."""
    for name, value in vars(summary).items():
        label = name.replace("_", " ")
        if isinstance(value, Lengths):
            yield label, f"mean {value.mean:,.0f}, median {value.median:,}, longest {value.maximum:,}"
        elif isinstance(value, dict):
            yield label, ", ".join(f"{key}: {count:,}" for key, count in value.items()) or "none"
        elif value is not None:
            yield label, f"{value:,}"


class _Tally:
    """What was seen so far. Texts are remembered by their 64-bit hash: of a million, no two are likely to share one."""

    def __init__(self):
        self.counts = dict.fromkeys((*COUNTED, "repeated_comparisons", "pairs", "tied_pairs", "conflicting_pairs"), 0)
        self.responses, self.subsets = Counter(), Counter()
        self.prompt_characters, self.response_characters = Counter(), Counter()  # length → how often
        self.prompts, self.contents, self.verdicts, self.reversed = (array("q") for _ in range(4))

    def add(self, one: Comparison) -> Comparison:
        """Count one comparison, and return it."""
        self.responses[len(one.responses)] += 1
        self.prompt_characters[sum(len(turn.text) for turn in one.prompt)] += 1
        self.response_characters.update(map(len, one.responses))
        if one.subset:
            self.subsets[one.subset] += 1
        prompt = hash(one.prompt)
        for name, applies in COUNTED.items():
            self.counts[name] += applies(one)
        self.contents.append(hash((prompt, one.responses, one.scores)))
        if one.prompt:
            self.prompts.append(prompt)
        self._judge_pairs(prompt, one)
        return one

    def _judge_pairs(self, prompt: int, one: Comparison) -> None:
        tied = sum(comb(count, 2) for count in Counter(one.scores).values())
        self.counts["tied_pairs"] += tied
        self.counts["pairs"] += comb(len(one.scores), 2) - tied
        if len(one.scores) > REMEMBERED_RESPONSES:
            return
        ranked = sorted(zip(one.scores, map(hash, one.responses), strict=True), reverse=True)
        for (high, better), (low, worse) in combinations(ranked, 2):
            if high > low and better != worse:
                self.verdicts.append(hash((prompt, better, worse)))
                self.reversed.append(hash((prompt, worse, better)))

    def finish(self) -> None:
        """Count what repeats or contradicts what came before."""
        self.counts["repeated_comparisons"] = len(self.contents) - len(_distinct(self.contents))
        verdicts, first = np.unique(np.frombuffer(self.verdicts, np.int64), return_index=True)
        if len(verdicts):
            others = np.frombuffer(self.reversed, np.int64)
            found = np.searchsorted(verdicts, others).clip(max=len(verdicts) - 1)
            before = (verdicts[found] == others) & (first[found] < np.arange(len(others)))
            self.counts["conflicting_pairs"] = int(before.sum())


def _distinct(hashes: array) -> np.ndarray:
    return np.unique(np.frombuffer(hashes, np.int64))


def _lengths(counts: Counter) -> Lengths:
    total = counts.total()
    if not total:
        return Lengths(0.0, 0, 0)
    lengths = sorted(counts)
    until = list(accumulate(counts[length] for length in lengths))
    mean = sum(length * n for length, n in counts.items()) / total
    return Lengths(mean, lengths[bisect_left(until, total / 2)], lengths[-1])
