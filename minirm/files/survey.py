"""What a set of comparisons holds, and what of it a reward model can learn from."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import accumulate, combinations
from math import comb

from minirm.data.comparison import Comparison

UNJUDGED = "rows without a judgement"
SINGLE = "rows with a single response"
IDENTICAL = "rows with identical responses"
TIED = "rows with all scores tied"
REMEMBERED_RESPONSES = 64  # K of the longest row of which each pair is remembered: K²
MERGED = "repeated responses merged"  # counts responses, not rows: the row stays


def usable(
    comparisons: Iterable[Comparison], counts: Counter, *, keep_ties: bool = False, keep_singles: bool = False
) -> Iterator[Comparison]:
    """Yield the comparisons that a reward model can learn from, and count what was dropped, by reason.

    Responses of a row with the same text become one, with their mean score. A row then needs two responses and, unless
    `keep_ties`, two scores that differ.

    Args:
        counts: is added to, under `SINGLE`, `IDENTICAL`, `TIED`, `MERGED` and `UNJUDGED`.
        keep_singles: each response is judged by itself, and one is enough; rows without a judgement are dropped.
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
    median: int
    """The lower one of two."""
    maximum: int


@dataclass(frozen=True)
class DataSummary:
    """What `describe` found."""

    rows: int
    """Records: prompts with their responses."""
    comparisons: int
    """Pairs of responses to one prompt whose scores differ strictly."""
    responses_per_row: dict[int, int]
    """K → how many rows have K responses."""
    prompt_characters: Lengths
    """All turns of a prompt together."""
    response_characters: Lengths
    tied_pairs: int
    """Pairs of responses to one prompt whose scores are equal."""
    tied_rows: int
    """Rows of two or more responses whose scores are all equal."""
    repeated_rows: int
    """Rows with the prompt, responses and scores of an earlier row."""
    conflicting_pairs: int
    """Pairs that an earlier row judged the other way round; of rows of at most `REMEMBERED_RESPONSES` responses."""
    soft_labels: int
    """Rows with a probability below 1."""
    margins: int
    """Rows with a margin other than 0."""
    weights: int
    """Rows with a weight other than 1."""
    subsets: dict[str, int]
    """Name of a subset → its rows."""
    prompts: int
    """Different prompts, not counting that there is none."""
    without_prompt: int
    """Rows that have no prompt."""
    shared_prompts: int | None
    """Different prompts that the other data has too; None if there was none to compare with."""
    dropped: dict[str, int]
    """Why a reward model would not learn from a row → how many; see `usable`."""


def describe(comparisons: Iterable[Comparison], other: Iterable[Comparison] | None = None) -> DataSummary:
    """Return what the comparisons hold, reading them once.

    Memory grows by a few numbers for each row and pair, to know what repeats; no text is kept.

    Args:
        other: comparisons, of a test set for instance, whose prompts should not occur in the first.
    """
    tally, dropped = _Tally(), Counter()
    for _ in usable(map(tally.add, comparisons), dropped):
        pass
    return DataSummary(
        **tally.counts,
        responses_per_row=dict(sorted(tally.responses_per_row.items())),
        prompt_characters=_lengths(tally.prompt_characters),
        response_characters=_lengths(tally.response_characters),
        subsets=dict(tally.subsets),
        prompts=len(tally.prompts),
        shared_prompts=None
        if other is None
        else len(tally.prompts & {hash(row.prompt) for row in other if row.prompt}),
        dropped=dict(dropped),
    )


ROW_COUNTS = {
    "rows": lambda row: True,
    "without_prompt": lambda row: not row.prompt,
    "tied_rows": lambda row: len(row.scores) > 1 and len(set(row.scores)) == 1,
    "soft_labels": lambda row: row.probability < 1,
    "margins": lambda row: row.margin != 0,
    "weights": lambda row: row.weight != 1,
}
PAIR_COUNTS = ("comparisons", "tied_pairs", "conflicting_pairs")


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
        self.counts = dict.fromkeys((*ROW_COUNTS, "repeated_rows", *PAIR_COUNTS), 0)
        self.responses_per_row, self.subsets = Counter(), Counter()
        self.prompt_characters, self.response_characters = Counter(), Counter()  # length → how often
        self.prompts, self.rows, self.verdicts = set(), set(), set()

    def add(self, row: Comparison) -> Comparison:
        """Count one row, and return it."""
        self.responses_per_row[len(row.responses)] += 1
        self.prompt_characters[sum(len(turn.text) for turn in row.prompt)] += 1
        self.response_characters.update(map(len, row.responses))
        if row.subset:
            self.subsets[row.subset] += 1
        prompt = hash(row.prompt)
        content = hash((prompt, row.responses, row.scores))
        for name, applies in ROW_COUNTS.items():
            self.counts[name] += applies(row)
        self.counts["repeated_rows"] += content in self.rows
        self.rows.add(content)
        if row.prompt:
            self.prompts.add(prompt)
        self._judge_pairs(prompt, row)
        return row

    def _judge_pairs(self, prompt: int, row: Comparison) -> None:
        tied = sum(comb(count, 2) for count in Counter(row.scores).values())
        self.counts["tied_pairs"] += tied
        self.counts["comparisons"] += comb(len(row.scores), 2) - tied
        if len(row.scores) > REMEMBERED_RESPONSES:
            return
        ranked = sorted(zip(row.scores, map(hash, row.responses), strict=True), reverse=True)
        for (high, better), (low, worse) in combinations(ranked, 2):
            if high > low:
                self.counts["conflicting_pairs"] += better != worse and hash((prompt, worse, better)) in self.verdicts
                self.verdicts.add(hash((prompt, better, worse)))


def _lengths(counts: Counter) -> Lengths:
    total = counts.total()
    if not total:
        return Lengths(0.0, 0, 0)
    lengths = sorted(counts)
    until = list(accumulate(counts[length] for length in lengths))
    mean = sum(length * n for length, n in counts.items()) / total
    return Lengths(mean, lengths[bisect_left(until, total / 2)], lengths[-1])
