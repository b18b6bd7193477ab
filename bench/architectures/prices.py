"""What a training of the main subject takes: seconds to a given accuracy, at speeds measured for all together."""

from typing import NamedTuple

import numpy as np

from bench.architectures.statistics import Resampled, two_way_interval
from bench.architectures.study import Study
from bench.architectures.subjects import disjoint_pairs
from minirm.evaluation.pairs import pair_table
from minirm.metrics import Interval

OF_FINAL = 0.9
"""Part of its final accuracy that a training is timed to."""


class Seconds(NamedTuple):
    """Of training, mean over seeds, accuracies being those on validation."""

    to_most: float
    """To `OF_FINAL` of the way from ½ to the final accuracy."""
    whole: float


def histories(study: Study, contestant: str) -> list[list[dict]]:
    """Return the evaluations of each seed on the main subject, with the seconds that a quiet machine would take.

    Cells run side by side, and beside whatever else the machine does. So their seconds are scaled to the time per
    comparison that was measured for all contestants in one interleaved run.
    """
    scaled = []
    cells = [
        folds[0] for (name, subject, _), folds in study.table.items() if (name, subject) == (contestant, study.main)
    ]
    for result in map(study.result, cells):
        if "failed" not in result:
            quiet = result["history"][-1]["comparisons"] * study.costs[contestant].training.median
            scale = quiet / (result["seconds"] - result["language_model_seconds"])
            scaled.append([{**entry, "seconds": scale * entry["seconds"]} for entry in result["history"]])
    return scaled


def seconds(study: Study, contestant: str) -> Seconds | None:
    """Return how long a training takes, mean over seeds; None where none succeeded."""
    found = []
    for history in histories(study, contestant):
        final = history[-1]["accuracy"]
        wanted = min(final, 0.5 + OF_FINAL * (final - 0.5))  # below ½ there is no way
        reached = next(entry["seconds"] for entry in history if entry["accuracy"] >= wanted)
        found.append((reached, history[-1]["seconds"]))
    return Seconds(*np.mean(found, axis=0).tolist()) if found else None


def shortest_training(study: Study) -> float:
    """Return the seconds of the fastest training."""
    found = [seconds(study, name) for name in study.costs]
    return min((one.whole for one in found if one is not None), default=0.0)


def accuracy_after(study: Study, contestant: str, limit: float) -> Interval | None:
    """Return the accuracy on validation at the last evaluation by then (½ before the first), with its interval over
    seeds alone; None where fewer than two trainings succeeded, of whose luck nothing is known then."""
    by_then = [[e["accuracy"] for e in h if e["seconds"] <= 1.001 * limit] for h in histories(study, contestant)]
    if len(by_then) < 2:
        return None
    last = np.array([(accuracies or [0.5])[-1] for accuracies in by_then])
    return two_way_interval(Resampled(last, np.stack([last, last])), bounds=(0, 1))


def pairs_per_comparison(study: Study) -> float:
    """Return how many strictly ordered pairs a comparison of the main subject has, mean over validation."""
    rows = study.subject(study.main).validation
    return len(pair_table(rows, [[0.0] * len(row.responses) for row in rows]).better) / len(rows)


def pairs_trained_on(study: Study, contestant: str) -> float:
    """Return how many of a comparison's pairs a contestant learns from."""
    if not next(c for c in study.setup.networks if c.name == contestant).as_pairs:
        return pairs_per_comparison(study)
    rows = study.subject(study.main).validation
    return len(disjoint_pairs(rows)) / len(rows)


def mean_history(study: Study, contestant: str, field: str) -> list[float]:
    """Return a field of the evaluations, mean over seeds."""
    known = histories(study, contestant)
    shortest = min(map(len, known), default=0)
    return np.mean([[entry[field] for entry in history[:shortest]] for history in known], axis=0).tolist()
