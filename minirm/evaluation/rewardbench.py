"""A RewardBench file's results, in the shape in which RewardBench's own scripts write them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from minirm.data.records import Comparison
from minirm.disk import write_json

RESULTS, SCORES = "rewardbench.json", "rewardbench_scores.json"


def write_results(
    folder: Path, comparisons: Sequence[Comparison], rewards: Sequence[Sequence[float]], *, model: str
) -> None:
    """Write accuracy per subset, and the scores of every row, by its own id or else by where it was read.

    A row is right if a chosen response has the highest reward; where several share it, by the part of them that is
    chosen. RewardBench itself counts equal scores of a pair as wrong.

    Args:
        rewards: one list per comparison.
        model: what to call the model.
    """
    rows = [_row(comparison, row) for comparison, row in zip(comparisons, rewards, strict=True)]
    subsets: dict[str, list[float]] = {}
    for row in rows:
        subsets.setdefault(row["subset"], []).append(row["results"])
    named = {"model": model, "model_type": "Seq. Classifier"}
    write_json(folder / RESULTS, named | {name: float(np.mean(right)) for name, right in sorted(subsets.items())})
    write_json(folder / SCORES, named | {column: [row[column] for row in rows] for column in rows[0]})


def _row(comparison: Comparison, rewards: Sequence[float]) -> dict:
    own_id, best = comparison.id, max(comparison.scores)
    is_chosen = [score == best for score in comparison.scores]
    chosen = [reward for reward, is_one in zip(rewards, is_chosen, strict=True) if is_one]
    rejected = [reward for reward, is_one in zip(rewards, is_chosen, strict=True) if not is_one]
    winners = [is_one for reward, is_one in zip(rewards, is_chosen, strict=True) if reward == max(rewards)]
    return {
        "id": comparison.source if own_id == "" or not isinstance(own_id, int | str) else own_id,
        "subset": comparison.subset,
        "results": sum(winners) / len(winners),
        "scores_chosen": chosen[0] if len(rewards) == 2 else chosen,
        "scores_rejected": rejected[0] if len(rewards) == 2 else rejected,
    }
