"""Responses whose steps are labelled one by one: where in a response each step ends."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from minirm.data.comparison import Comparison, join_steps
from minirm.tokens.tokenizer import ComparisonTokenizer


class Steps(NamedTuple):
    """The labelled steps of one response."""

    ends: np.ndarray  # (S,) int64, the last token of each step, counted within the response; of the last step: of all
    labels: np.ndarray  # (S,) float64 in [0, 1]: 1 right, 0 wrong


def find_steps(
    comparison: Comparison, prompt: int, texts: Sequence[np.ndarray], tokenizer: ComparisonTokenizer
) -> tuple[Steps, ...]:
    """Return where steps end: as many tokens on as the text up to there has, the last one where the response ends."""
    found = []
    for ids, steps, labels in zip(texts, comparison.steps, comparison.step_labels, strict=True):
        begun = [
            replace(comparison, responses=(join_steps(steps[:n]),), scores=(0.0,), steps=None, step_labels=None)
            for n in range(1, len(steps))
        ]
        pieces = tokenizer.encode_comparisons(begun, by_assistant=False)
        lengths = [len(before) + len(response) - ending - prompt for before, [response], _, ending in pieces]
        ends = [min(max(length, 1), len(ids)) - 1 for length in lengths]
        found.append(Steps(np.array([*ends, len(ids) - 1]), np.array(labels, dtype=float)))
    return tuple(found)


def steps_left(steps: Steps, whole: np.ndarray, cut: np.ndarray) -> Steps:
    """Return the steps that are still whole."""
    left = steps.ends < (len(whole) if len(cut) == len(whole) else len(cut) - 1)
    return Steps(steps.ends[left], steps.labels[left])
