"""`minirm demo`: a world whose truth is known, a model trained on it, and how much of the truth the model learned."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from minirm.config import PackingConfig, TrainConfig, sized
from minirm.evaluation.evaluate import Evaluation
from minirm.evaluation.pictures import Bar, accuracy_bars, learning_curve, reward_against_utility
from minirm.evaluation.report import (
    Example,
    Picture,
    Section,
    Shown,
    Table,
    as_table,
    evaluation_section,
    write_report,
)
from minirm.evaluation.scoring import RewardScorer, usual_device
from minirm.files.disk import write_json, write_text
from minirm.files.records import to_json
from minirm.metrics import spearman
from minirm.runs.claim import claim, is_finished
from minirm.runs.job import train_run
from minirm.runs.journal import Observer, read_log
from minirm.runs.run_config import REWARD, DataConfig, RunConfig
from minirm.runs.run_folder import METRICS, load_run
from minirm.worlds.grammar import Judged, World, WorldConfig

TRAINING_ROWS = 10_000
TRAINING_RESPONSES = 8
"""K in training: 28 pairs for the price of one prompt and eight responses."""
TEST_ROWS = 4_000
"""Pairs in each test set."""
TELLING = 5
"""Examples of each of two kinds."""
TEST_SETS = {"test": "as trained", "reversed": "shortcut reversed", "swapped": "prompts swapped"}


@dataclass(frozen=True)
class Tested:
    """One test set, scored."""

    name: str
    judged: list[Judged]
    rewards: list[list[float]]
    evaluation: Evaluation
    best_possible: float

    @property
    def way(self) -> float:
        """Part of the way from chance to the best possible accuracy; 1 knows all that can be known."""
        return (self.evaluation.accuracy.value - 0.5) / (self.best_possible - 0.5)

    @property
    def row(self) -> tuple[str, str, str, str]:
        """Name, accuracy, interval, and what it is to be compared with."""
        accuracy, length = as_table(self.evaluation)[0], self.evaluation.length.longer_wins
        against = f"best possible {self.best_possible:.3f} ({self.way:.1%} of the way), longer wins {length.value:.3f}"
        return self.name, accuracy.value, accuracy.interval, against


def demo_config(data: Path, seed: int) -> RunConfig:
    """Return the configuration of the demo's run: about three minutes on two cores."""
    return RunConfig(
        data=DataConfig((data,), validation_share=3.0),
        model=sized("tiny", max_positions=256),
        packing=PackingConfig(tokens_per_batch=3072, max_tokens=256),
        language_model=TrainConfig(epochs=2.0, learning_rate=3e-3, seed=seed),
        reward=TrainConfig(epochs=1.4, learning_rate=2e-3, average_read=True, seed=seed),
    )


def run_demo(folder: Path, observer: Observer, *, seed: int = 0) -> list[Tested] | None:
    """Write data, run and report into a folder, and return the three test sets; None if the observer stopped the run.

    A demo of the same seed that was stopped goes on.

    Raises:
        InputError: the folder holds something else.
    """
    config = demo_config(folder / "data" / "train.jsonl", seed)  # a wrong seed is refused before anything is written
    run = folder / "run"
    with claim(folder, {"seed": seed}) as job:
        job.begin()
        world = World(WorldConfig(seed=seed))
        sets = {split: world.sample(TEST_ROWS, split) for split in TEST_SETS}
        sets["train"] = World(WorldConfig(responses=TRAINING_RESPONSES, seed=seed)).sample(TRAINING_ROWS, "train")
        for split, judged in sets.items():
            lines = "".join(json.dumps(to_json(one.comparison), ensure_ascii=False) + "\n" for one in judged)
            write_text(folder / "data" / f"{split}.jsonl", lines)
        if not is_finished(run) and train_run(config, run, observer) is None:
            return None
        scorer = RewardScorer(load_run(run, usual_device()))
        tested = []
        for split, name in TEST_SETS.items():
            comparisons = [one.comparison for one in sets[split]]
            rewards, evaluation = scorer.evaluate(comparisons, seed=seed)
            best = world.best_possible_accuracy(sets[split])
            tested.append(Tested(name, sets[split], rewards, evaluation, best))
        _write(folder, tested)
        job.finish()
        return tested


def verdict(tested: Sequence[Tested]) -> str:
    """Return the accuracy as trained, its interval and the best possible accuracy, in one line."""
    accuracy = tested[0].evaluation.accuracy
    interval = f"[{accuracy.low:.4f}, {accuracy.high:.4f}]"
    return f"accuracy {accuracy.value:.4f} {interval}, best possible {tested[0].best_possible:.4f}"


def _write(folder: Path, tested: Sequence[Tested]) -> None:
    metrics = {
        one.name: {"best_possible_accuracy": one.best_possible, "way": one.way, **one.evaluation.to_json()}
        for one in tested
    }
    bars = [Bar(one.name, (a := one.evaluation.accuracy).value, a.low, a.high, one.best_possible) for one in tested]
    trained = tested[0]
    utilities = [u for one in trained.judged for u in one.utilities]
    rewards = [r for row in trained.rewards for r in row]
    scatter = f"Spearman's correlation of reward and true utility: {spearman(utilities, rewards):.3f}."
    comparisons = [one.comparison for one in trained.judged]
    curve = learning_curve(read_log(folder / "run", REWARD))
    sections = [
        Section(
            "Three test sets",
            [
                "The labels are drawn by chance from true utilities, so nobody can be right more often than the best "
                "possible accuracy. In the second set, longer responses tend to be worse, where in training they "
                "tended to be better. In the third, each pair stands behind another prompt, which mostly turns the "
                "truth round: a model that does not read the prompt falls below chance.",
                Table(("test set", "accuracy", "95% interval", "against"), [one.row for one in tested]),
                Picture(accuracy_bars(bars), "Accuracy with its 95% interval, and the best possible accuracy."),
            ],
        ),
        Section(
            "What was learned",
            [Picture(reward_against_utility(utilities, rewards), scatter), Picture(curve, "Learning.")],
        ),
        evaluation_section(comparisons, trained.rewards, trained.evaluation, "As trained, in full"),
        Section("The ten most telling examples", telling_examples(tested[1])),
    ]
    write_report(folder / "report.html", title="minirm demo", verdict=verdict(tested), sections=sections)
    write_json(folder / METRICS, metrics)


def telling_examples(tested: Tested) -> list[Example]:
    """Return pairs that the shortcut gets wrong: where the model is surest and right, and where it is surest and wrong.

    Right and wrong are by true utility, which no label's luck can change.
    """
    gaps = []
    for n, (one, rewards) in enumerate(zip(tested.judged, tested.rewards, strict=True)):
        better, worse = sorted(range(len(rewards)), key=lambda k: -one.utilities[k])[:2]
        shorter = len(one.comparison.responses[better]) < len(one.comparison.responses[worse])
        if shorter and one.utilities[better] > one.utilities[worse]:
            gaps.append((rewards[better] - rewards[worse], n))
    gaps.sort()
    right = [n for gap, n in gaps[::-1][:TELLING] if gap > 0]
    wrong = [n for gap, n in gaps[:TELLING] if gap < 0]
    resisted, fooled = "The longer response is worse, and the model knows.", "The model is wrong, and sure of it."
    return [_example(tested, n, resisted) for n in right] + [_example(tested, n, fooled) for n in wrong]


def _example(tested: Tested, n: int, note: str) -> Example:
    one = tested.judged[n]
    texts, scores = one.comparison.responses, one.comparison.scores
    shown = [
        Shown(text, reward, score == max(scores), utility)
        for text, reward, score, utility in zip(texts, tested.rewards[n], scores, one.utilities, strict=True)
    ]
    return Example(one.comparison.prompt[-1].text, shown, note)
