"""The sets of real judgements in ../shared/data: their files, what related comparisons share, how they are split.

One way in for all of them: `read_splits` yields training and test comparisons with the group of each, so that no group
(a topic, a contest, a prompt) stands on both sides.
"""

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bench.baselines import first_user_turn, group_folds
from minirm.data.comparison import Comparison
from minirm.errors import InputError
from minirm.files.reading import read_file
from minirm.files.records import read_comparisons
from minirm.files.splits import prompt_key
from minirm.files.survey import usable


@dataclass(frozen=True)
class JudgementSet:
    """How one set is read and split."""

    group: str
    """What related comparisons share, in words for tables."""
    field: str | None = None
    """The field of a record that names its group. None: the first user turn."""
    training: str = "pairs.jsonl.gz"
    test: str | None = None
    """File of the comparisons to be tested on. None: folds by group, of which …"""
    folds: int = 5
    """… there are so many."""
    tested_folds: int | None = None
    """Only the first so many of them are tested on; recipes may be chosen on the others. None: all."""
    prompt_decides: bool = False
    """Whether a response can't be judged without its prompt."""
    least_difference: float = 0.0
    """Of two scores, for a test pair to count."""


SETS = {
    "hh-harmless": JudgementSet("first human turn"),
    "alpaca-pairs": JudgementSet("prompt", "prompt", "train.jsonl.gz", "test.jsonl.gz"),
    "alpaca-rankings": JudgementSet("prompt", "prompt", "train.jsonl.gz", "test.jsonl.gz"),
    "ukpconvarg1-strict": JudgementSet("topic and side", "group"),
    "ibm-argq-pairs": JudgementSet("topic", "group"),
    "ibm-eviconv": JudgementSet("topic", "prompt"),
    "wmt19-darr": JudgementSet("reference", "prompt", folds=3, tested_folds=1, prompt_decides=True),
    "nycc-k16": JudgementSet("contest", "contest", "train.jsonl.gz", "validation.jsonl.gz", least_difference=0.1),
}


@dataclass(frozen=True)
class Judged:
    """Comparisons, and the group of each."""

    comparisons: list[Comparison]
    groups: list[Hashable]

    def take(self, numbers: Sequence[int]) -> "Judged":
        """Return some of them."""
        return Judged([self.comparisons[n] for n in numbers], [self.groups[n] for n in numbers])

    def at_most(self, count: int) -> "Judged":
        """Return so many of them, drawn at random (seed 0), in their order."""
        return self.take(sorted(np.random.default_rng(0).permutation(len(self.comparisons))[:count].tolist()))


def read_splits(data: Path, name: str, folds: int | None = None) -> Iterator[tuple[Judged, Judged]]:
    """Yield training and test part: one of each, or those of each fold.

    Args:
        folds: only the first so many. None: those of the set.
    Raises:
        InputError: the set is not there, or a record does not name its group.
    """
    one = SETS[name]
    training = _read(data / name / one.training, one.field)
    if one.test is not None:
        yield training, _read(data / name / one.test, one.field)
        return
    for train, test in fold(training, one.folds)[: folds or one.tested_folds]:
        yield training.take(train), training.take(test)


def fold(judged: Judged, folds: int, *, seed: int = 0) -> list[tuple[list[int], list[int]]]:
    """Return (training numbers, test numbers) per fold; a group stands on one side."""
    group_of = dict(zip(map(id, judged.comparisons), judged.groups, strict=True))
    return group_folds(judged.comparisons, folds, lambda comparison: str(group_of[id(comparison)]), seed=seed)


def _read(file: Path, field: str | None) -> Judged:
    """Return a file's comparisons that something can be learned from."""
    comparisons = list(usable(read_comparisons([file]), Counter()))
    if field is None:
        return Judged(comparisons, [first_user_turn(comparison) for comparison in comparisons])
    groups = {row.place: row.fields.get(field) for row in read_file(file)}
    missing = [place for place, group in groups.items() if group is None]
    if missing:
        raise InputError(f"{missing[0]}: {field} must be there: it names the group")
    return Judged(comparisons, [groups[comparison.source] for comparison in comparisons])


def merged_by_wins(pairs: Sequence[Comparison], *, most: int = 32) -> list[Comparison]:
    """Return the pairs of each prompt as rankings: a response's score is the share of its pairs that it won.

    Each response is then read once, not in every one of its pairs. The order of the scores need not keep every
    judgement, and compares responses that nobody compared; a comparison of more than two responses stays as it is.

    Args:
        most: responses of a ranking; where a prompt has more, they are dealt to several in the order of their scores,
            so that each ranking spans them all.
    """
    merged, by_prompt = [], defaultdict(list)
    for pair in pairs:
        (by_prompt[prompt_key(pair)] if len(pair.responses) == 2 else merged).append(pair)
    for rows in by_prompt.values():
        won, judged = Counter(), Counter()
        for pair in rows:
            judged.update(pair.responses)
            won[max(zip(pair.scores, pair.responses, strict=True))[1]] += 1
        texts = sorted(judged, key=lambda text: won[text] / judged[text])
        parts = -(-len(texts) // most)
        for part in (texts[start::parts] for start in range(parts)):
            scores = tuple(won[text] / judged[text] for text in part)
            if len(set(scores)) > 1:
                merged.append(replace(rows[0], responses=tuple(part), scores=scores))
    return merged
