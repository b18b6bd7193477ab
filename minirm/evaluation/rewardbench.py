"""A RewardBench file's results, in the shape in which RewardBench's own scripts write them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from minirm.data.comparison import Comparison
from minirm.errors import InputError, field_error
from minirm.files.disk import write_json

RESULTS, SCORES = "rewardbench.json", "rewardbench_scores.json"
TIES = "ties"
"""RewardBench 2's subset of questions with several right answers, in whatever case its name is written."""


def write_results(
    folder: Path, comparisons: Sequence[Comparison], rewards: Sequence[Sequence[float]], *, model: str
) -> None:
    """Write accuracy per subset, and the scores of every row, by its own id or else by where it was read.

    A row is right if a chosen response has the highest reward; where several share it, by the part of them that is
    chosen. RewardBench itself counts equal scores of a pair as wrong. A row of "Ties" is neither right nor wrong by
    itself: see `ties_score`.

    Args:
        rewards: one list per comparison.
        model: what to call the model.
    """
    rows = [_row(comparison, row) for comparison, row in zip(comparisons, rewards, strict=True)]
    named = {"model": model, "model_type": "Seq. Classifier"}
    write_json(folder / RESULTS, named | score_subsets(comparisons, rewards))
    write_json(folder / SCORES, named | {column: [row[column] for row in rows] for column in rows[0]})


def score_subsets(comparisons: Sequence[Comparison], rewards: Sequence[Sequence[float]]) -> dict[str, float]:
    """Return accuracy per subset, and of "Ties" the score of RewardBench 2."""
    subsets: dict[str, list[dict]] = {}
    for comparison, row in zip(comparisons, rewards, strict=True):
        subsets.setdefault(comparison.subset, []).append(_row(comparison, row))
    return {
        name: ties_score(rows) if name.lower() == TIES else float(np.mean([row["results"] for row in rows]))
        for name, rows in sorted(subsets.items())
    }


def check_ties(comparisons: Sequence[Comparison]) -> None:
    """Refuse rows of "Ties" that the benchmark's formula can't use.

    Raises:
        InputError: the id does not say to which question a row belongs, and as what; or no response is rejected.
    """
    for one in comparisons:
        named = isinstance(one.id, str) and one.id.startswith(("ref:", "tied:"))
        if one.subset.lower() == TIES and not (named and len(set(one.scores)) == 2):
            rule = 'must be "ref:…" or "tied:…", and some response rejected, in the subset "Ties"'
            raise InputError(f"{one.source}: {field_error('id', one.id, rule)}")


def _row(comparison: Comparison, rewards: Sequence[float]) -> dict:
    own_id, best = comparison.id, max(comparison.scores)
    is_chosen = [score == best for score in comparison.scores]
    chosen = [reward for reward, is_one in zip(rewards, is_chosen, strict=True) if is_one]
    rejected = [reward for reward, is_one in zip(rewards, is_chosen, strict=True) if not is_one]
    winners = [is_one for reward, is_one in zip(rewards, is_chosen, strict=True) if reward == max(rewards)]
    return {
        "id": comparison.source if own_id == "" or not isinstance(own_id, int | str) else own_id,
        "subset": comparison.subset,
        "results": None if comparison.subset.lower() == TIES else sum(winners) / len(winners),
        "scores_chosen": chosen[0] if len(rewards) == 2 else chosen,
        "scores_rejected": rejected[0] if len(rewards) == 2 else rejected,
    }


def ties_score(rows: Sequence[dict]) -> float:
    """Return RewardBench 2's score of its subset "Ties".

    A question comes twice: as "tied:N" with several right answers, and as "ref:N" with one. With the spread s of a
    question's right answers, worst to best, and the gap g between its worst right and its best wrong one,

        0.3 P(g_tied > 0) + 0.3 P(g_ref > 0) + 0.2 P(g_tied > s) + 0.2 P(min(g_ref, g_tied) > s)
        + 0.01 mean tanh(min(g_ref, g_tied) / s − 1)

    the first two over all such rows, the others over questions of which both are there; of none, they are 0.

    Args:
        rows: {"id", "scores_chosen", "scores_rejected"} of each.
    Source: allenai/reward-bench, rewardbench/utils.py, process_single_model.
    """
    spreads, gaps = {}, {"ref": {}, "tied": {}}
    for row in rows:
        kind, _, question = row["id"].partition(":")
        right, wrong = np.atleast_1d(row["scores_chosen"]), np.atleast_1d(row["scores_rejected"])
        gaps[kind][question] = right.min() - wrong.max()
        if kind == "tied":
            spreads[question] = right.max() - right.min()
    both = sorted(gaps["ref"].keys() & gaps["tied"].keys())
    tied, ref, spread = (np.array([of[question] for question in both]) for of in (gaps["tied"], gaps["ref"], spreads))
    worst = np.minimum(tied, ref)
    with np.errstate(divide="ignore", invalid="ignore"):
        margin = np.nan_to_num(np.tanh(worst / spread - 1), nan=0.0)
    terms = [np.array(list(gaps["tied"].values())) > 0, np.array(list(gaps["ref"].values())) > 0, tied > spread]
    weighted = zip((0.3, 0.3, 0.2, 0.2, 0.01), [*terms, worst > spread, margin], strict=True)
    return float(sum(weight * term.mean() for weight, term in weighted if len(term)))
