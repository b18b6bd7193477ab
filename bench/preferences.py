"""Real preferences: a reward model from nothing, against what needs no neural network, on the same pairs.

    python -m bench preferences NAME                  one of the sets of `bench.judgements.SETS`
    python -m bench preferences NAME --from FOLDER    from a language model's run, or a pretrained folder
    python -m bench preferences NAME --quick          its smallest part, in a minute or two: to see that it runs

Each set is split by group (a topic, a contest, a prompt) as `bench.judgements` says; the data is read from --data.
Results go to bench/results/NAME.json and NAME.md. Finished trainings are kept in --cache: the same command goes on
from there.
"""

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.architectures.answers import with_interval
from bench.architectures.statistics import GROUPS, Resampled, resample, two_way_interval
from bench.baselines import TfidfReward, WriterReward, chrf_rewards, length_rewards, overlap_rewards
from bench.judgements import SETS, Judged, JudgementSet, fold, merged_by_wins, read_splits
from bench.places import out_folder
from bench.recipes.common import Page, Setting, table, write_page
from bench.timing import machine
from minirm.config import LoraConfig, ModelConfig, PackingConfig, TrainConfig, sized
from minirm.data.comparison import Comparison, Turn
from minirm.data.splits import prompt_key
from minirm.errors import InputError
from minirm.evaluation.pairs import Rewards, pair_table
from minirm.evaluation.scoring import swap_prompts
from minirm.files.reading import read_file
from minirm.files.records import to_json
from minirm.hub.reading import is_pretrained, read_start
from minirm.runs.run_config import DataConfig, RunConfig

LONGER, WORDS, WITH_LENGTH = "longer wins", "TF-IDF + logistic regression", "the same + log length"
SCORES = "TF-IDF, ridge on the scores"
OVERLAP, CHRF = "overlap with the prompt: F1 of words", "overlap with the prompt: chrF"
ORACLE = "oracle: who wrote it, and log length"
MODEL, TOGETHER, SWAPPED = "minirm", "minirm, seeds together", "minirm behind another prompt"
BESIDE = "minirm, seeds together, and words, added"
LORA = LoraConfig(rank=8, alpha=16.0, matrices=("query", "key", "value", "output", "up", "down"))
VALIDATION_PART = 10
"""One of so many parts of the training groups is kept for validation."""


@dataclass(frozen=True)
class Recipe:
    """How a model is trained on one data set."""

    model: ModelConfig
    packing: PackingConfig
    language_model: TrainConfig
    reward: TrainConfig
    vocab_size: int = 4096
    merged: Callable[[Sequence[Comparison]], list[Comparison]] = list
    """What the pairs of a prompt become before they are trained on."""
    seeds: int = 1
    """Models that differ in their seed; from nothing each, unless they begin with …"""
    start: Path | None = None
    """… a run, all of whose weights learn on, or …"""
    lora: LoraConfig | None = None
    """… a pretrained folder, of which adapters and the head learn."""

    def begun_with(self, folder: Path, *, epochs: float, rate: float) -> "Recipe":
        """Return the recipe by which a model of elsewhere learns from the same comparisons.

        Args:
            folder: a run of `minirm train --stage lm`, which goes on as this recipe does; or a pretrained folder.
            epochs, rate: of a pretrained folder's adapters.
        Raises:
            InputError: the folder is not there, or is no model that minirm computes.
        """
        model = read_start(folder).model
        longest = min(self.packing.max_tokens, model.max_positions)
        packing = replace(self.packing, max_tokens=longest, share_prompt=not model.bidirectional)
        begun = replace(
            self, start=folder, model=model, packing=packing, language_model=replace(self.language_model, epochs=0.0)
        )
        if not is_pretrained(folder):
            return begun
        reward = replace(self.reward, epochs=epochs, learning_rate=rate, average_read=None)
        return replace(begun, reward=reward, lora=LORA, seeds=1)


def around_shared_response(pairs: Sequence[Comparison]) -> list[Comparison]:
    """Return the pairs of each prompt that share a response as one comparison, and the others as they are.

    The shared response scores ½, what was preferred to it 1, and what it was preferred to 0: the judgements stay, and
    each of them implies that the former are better than the latter. A response is then read once, not in every pair.
    """
    by_prompt: dict[bytes, list[Comparison]] = {}
    for pair in pairs:
        by_prompt.setdefault(prompt_key(pair), []).append(pair)
    merged = []
    for rows in by_prompt.values():
        [(shared, count)] = Counter(text for pair in rows for text in set(pair.responses)).most_common(1)
        scores = {shared: 0.5}
        for pair in rows:
            scored = dict(zip(pair.responses, pair.scores, strict=True))
            against = scored.pop(shared, None)
            if against is None or count == 1 or len(scored) != 1:
                merged.append(pair)
                continue
            [(other, score)] = scored.items()
            scores.setdefault(other, float(score > against))
        if len(scores) > 1:
            merged.append(replace(rows[0], responses=tuple(scores), scores=tuple(scores.values())))
    return merged


ARGUMENTS = Recipe(
    sized("tiny", max_positions=256, dropout=0.1),
    PackingConfig(tokens_per_batch=2048, max_tokens=256),
    TrainConfig(epochs=0.0),
    TrainConfig(epochs=6.0, learning_rate=3e-4, average_read=True, evaluate_every=0.5),
    merged=merged_by_wins,
    seeds=2,
)
RECIPES = {
    "hh-harmless": Recipe(
        sized("tiny", style="llama", layers=1, width=256, max_positions=256),
        PackingConfig(tokens_per_batch=4096, max_tokens=256),
        TrainConfig(epochs=0.5, learning_rate=2e-3),
        TrainConfig(epochs=1.0, learning_rate=1e-4, schedule="constant", average_read=True),
        vocab_size=2048,
        seeds=8,
    ),
    "alpaca-pairs": Recipe(
        sized("tiny", layers=1, width=256, max_positions=512, dropout=0.4),
        PackingConfig(tokens_per_batch=16384, max_tokens=512),
        TrainConfig(epochs=0.0),
        TrainConfig(epochs=1.0, learning_rate=1e-3, average_read=True),
        merged=around_shared_response,
        seeds=6,
    ),
    "wmt19-darr": Recipe(
        sized("tiny", max_positions=256, dropout=0.1, token_types=True),
        PackingConfig(tokens_per_batch=4096, max_tokens=256),
        TrainConfig(epochs=0.0),
        TrainConfig(epochs=1.0, learning_rate=3e-4, average_read=True, evaluate_every=0.25),
        merged=merged_by_wins,
        seeds=3,
    ),
    **dict.fromkeys(("ukpconvarg1-strict", "ibm-argq-pairs", "ibm-eviconv"), ARGUMENTS),
    "nycc-k16": Recipe(
        sized("tiny", max_positions=128),
        PackingConfig(tokens_per_batch=8192, max_tokens=128),
        TrainConfig(epochs=0.0),
        TrainConfig(epochs=0.25, learning_rate=1e-3, average_read=True, evaluate_every=0.25),
    ),
    "alpaca-rankings": Recipe(
        sized("tiny", max_positions=512, dropout=0.2),
        PackingConfig(tokens_per_batch=16384, max_tokens=512),
        TrainConfig(epochs=0.1, learning_rate=2e-3),
        TrainConfig(epochs=1.0, learning_rate=3e-4, average_read=True),
    ),
}


def train_and_score(
    setting: Setting, training: Judged, tests: Sequence[Comparison], recipe: Recipe, seed: int
) -> Rewards:
    """Train both stages from nothing on `training`, part of it kept for validation; return the rewards of `tests`."""
    parts = min(VALIDATION_PART, len(set(training.groups)))
    learned, held_out = (training.take(numbers) for numbers in fold(training, parts)[0])
    merged = [recipe.merged(part.comparisons) for part in (learned, held_out)]
    texts = ["".join(json.dumps(to_json(row)) + "\n" for row in rows) for rows in merged]
    files = [(setting.keep("judgements.jsonl", text),) for text in texts]
    config = RunConfig(
        DataConfig(
            *files, vocab_size=recipe.vocab_size if recipe.start is None else None, language_model_responses="all"
        ),
        recipe.model,
        recipe.packing,
        replace(recipe.language_model, seed=seed),
        replace(recipe.reward, seed=seed),
        lora=recipe.lora,
        start=recipe.start,
    )
    return scored_once(lambda rows: setting.scored(setting.trained(config, "preferences"), rows), tests)


def scored_once(score: Callable[[Sequence[Comparison]], Rewards], comparisons: Sequence[Comparison]) -> Rewards:
    """Return the rewards of comparisons, each response being scored once behind its prompt, in however many pairs."""
    responses: dict[tuple[Turn, ...], dict[str, None]] = {}
    for row in comparisons:
        responses.setdefault(row.prompt, {}).update(dict.fromkeys(row.responses))
    rows = [Comparison(prompt, tuple(texts), (0.0,) * len(texts)) for prompt, texts in responses.items()]
    rewards = {row.prompt: dict(zip(row.responses, r, strict=True)) for row, r in zip(rows, score(rows), strict=True)}
    return [[rewards[row.prompt][text] for text in row.responses] for row in comparisons]


def baselines(name: str, training: Judged, test: Judged) -> dict[str, Rewards]:
    """Return the rewards of the test part by everything that needs no neural network."""
    learned, rows = training.comparisons, test.comparisons
    rewards = {
        LONGER: length_rewards(rows),
        WORDS: TfidfReward().fit(learned).rewards(rows),
        WITH_LENGTH: TfidfReward(use_log_length=True).fit(learned).rewards(rows),
    }
    if max(len(row.responses) for row in learned) > 2:
        rewards[SCORES] = TfidfReward().fit_scores(learned).rewards(rows)
    if SETS[name].prompt_decides:
        rewards |= {OVERLAP: overlap_rewards(rows), CHRF: chrf_rewards(rows)}
    return rewards


def measure(setting: Setting, name: str, recipe: Recipe, folds: int | None) -> "Measured":
    """Return what every method says of all test parts, each learned from the training part beside it."""
    found = Measured(SETS[name])
    for number, (training, test) in enumerate(read_splits(setting.shared, name, folds)):
        print(f"split {number + 1}: {len(training.comparisons)} comparisons for training", flush=True)
        rows = test.comparisons
        tests = [*rows, *(swap_prompts(rows) if SETS[name].prompt_decides else [])]
        scored = [train_and_score(setting, training, tests, recipe, seed) for seed in range(recipe.seeds)]
        rewards = {method: [values] for method, values in baselines(name, training, test).items()}
        if name == "alpaca-pairs":
            rewards[ORACLE] = [_oracle(setting.shared / name, training, test)]
        rewards[MODEL] = [values[: len(rows)] for values in scored]
        if SETS[name].prompt_decides:
            rewards[SWAPPED] = [values[len(rows) :] for values in scored]
        found.add(test, rewards)
    return found


class Measured:
    """Which pairs came out right, by method, seed and pair; pairs of several splits one after the other."""

    def __init__(self, judged: JudgementSet):
        self._judged = judged
        self._right: dict[str, list[NDArray]] = {}
        self._groups: list[str] = []
        self._shorter: list[NDArray] = []

    def add(self, test: Judged, rewards: dict[str, Sequence[Rewards]]) -> None:
        """Take in a test part, and the rewards of each method's S seeds."""
        rows = test.comparisons
        pairs = pair_table(rows, [row.scores for row in rows])
        kept = pairs.reward_difference >= self._judged.least_difference
        together = [np.mean(values, axis=0) for values in zip(*rewards[MODEL], strict=True)]
        words = rewards.get(SCORES, rewards[WITH_LENGTH])[0]
        rewards = {**rewards, TOGETHER: [together], BESIDE: [added(together, words)]}
        for method, seeds in rewards.items():
            differences = np.stack([pair_table(rows, values).reward_difference[kept] for values in seeds])
            self._right.setdefault(method, []).append((np.sign(differences) + 1) / 2)  # (S, pairs)
        self._shorter.append(pairs.length_difference[kept] < 0)
        self._groups += [str(test.groups[number]) for number in pairs.comparison[kept]]

    def figures(self) -> dict[str, dict[str, Resampled]]:
        """Return each method's accuracy, there where the better is shorter, and what it has above the best of words."""
        groups = _numbered(self._groups)
        right = {method: np.concatenate(parts, axis=1) for method, parts in self._right.items()}
        shorter = np.concatenate(self._shorter)
        accuracy = {method: _mean(values, groups) for method, values in right.items()}
        found = {method: {"accuracy": figure} for method, figure in accuracy.items()}
        own = (MODEL, TOGETHER, BESIDE)
        plain = [method for method in accuracy if method not in (*own, SWAPPED, ORACLE)]
        self.strongest = max(plain, key=lambda method: accuracy[method].whole[0])
        if shorter.any():
            for method, values in right.items():
                found[method]["where the better is shorter"] = _mean(values[:, shorter], groups[shorter])
        for method in own:
            for other in dict.fromkeys((self.strongest, WORDS, WITH_LENGTH)):
                found[method][f"minus {other}"] = _mean(right[method] - right[other], groups)
        return found

    @property
    def pairs(self) -> int:
        """How many pairs were tested on."""
        return len(self._groups)

    @property
    def groups(self) -> int:
        """How many groups they are of."""
        return len(set(self._groups))


def added(*several: Rewards) -> Rewards:
    """Return the sum of several rewards, each at a spread of 1 within its comparisons: no label has a say in it."""
    centred = [[np.array(row) - np.mean(row) for row in rewards] for rewards in several]
    spreads = [np.concatenate(rows).std() or 1.0 for rows in centred]
    return [sum(row / s for row, s in zip(rows, spreads, strict=True)) for rows in zip(*centred, strict=True)]


def _numbered(groups: Sequence[str]) -> NDArray:
    """Return of each pair one of at most `GROUPS` parts into which whole groups were dealt, large ones first."""
    loads = [0] * GROUPS
    part_of: dict[str, int] = {}
    for group, count in Counter(groups).most_common():
        part_of[group] = int(np.argmin(loads))
        loads[part_of[group]] += count
    return np.array([part_of[group] for group in groups])


def _mean(values: NDArray, groups: NDArray) -> Resampled:
    return resample(lambda keep: values[:, keep].mean(1), groups)


def _oracle(folder: Path, training: Judged, test: Judged) -> Rewards:
    """Return rewards by who wrote a response, and by its length."""
    files = SETS[folder.name].training, SETS[folder.name].test
    writers = [who_wrote(folder / f, p.comparisons) for f, p in zip(files, (training, test), strict=True)]
    return WriterReward().fit(training.comparisons, writers[0]).rewards(test.comparisons, writers[1])


def who_wrote(file: Path, comparisons: Sequence[Comparison]) -> list[list[str]]:
    """Return who wrote each response of the comparisons of a file, in their order."""
    fields = [row.fields for row in read_file(file)]
    names = {(f["prompt"], f[side]): f[f"{side}_model"] for f in fields for side in ("chosen", "rejected")}
    return [[names[row.prompt[-1].text, text] for text in row.responses] for row in comparisons]


def page(name: str, recipe: Recipe, measured: Measured) -> Page:
    """Return the table of a set, and its figures with their intervals."""
    found, one = measured.figures(), SETS[name]
    columns = ["accuracy", "where the better is shorter", f"minus {measured.strongest}"]
    rows = [[method, *(_cell(figures, column) for column in columns)] for method, figures in found.items()]
    about = (
        f"{measured.pairs:,} test pairs in {measured.groups} groups ({one.group}); no group is on both sides. "
        f"{recipe.seeds} seeds; 95% intervals over groups and seeds (grouped jackknife, Student's t); "
        "differences are paired."
    )
    if one.least_difference:
        about += f" Pairs whose scores differ by at least {one.least_difference:g}."
    lines = [about, "", *table(["method", *columns], rows)]
    figures = {f"{method}: {key}": two_way_interval(f) for method, of in found.items() for key, f in of.items()}
    return Page(name, lines, figures)


def _cell(figures: dict[str, Resampled], column: str) -> str:
    if column not in figures:
        return ""
    interval = two_way_interval(figures[column])
    unresolved = column.startswith("minus") and interval[1] <= 0 <= interval[2]
    return with_interval(interval, "+" if column.startswith("minus") else "") + " not resolved" * unresolved


def main(argv: Sequence[str]) -> int:
    """Measure one data set and write its table."""
    parser = argparse.ArgumentParser(
        prog="python -m bench preferences", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=SETS)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--cache", type=Path, default=Path("bench-cache/preferences"), help="finished trainings")
    parser.add_argument(
        "--from", dest="start", type=Path, help="a language model's run, or a pretrained folder, whose adapters learn"
    )
    parser.add_argument("--epochs", type=float, default=3.0, help="of a pretrained folder's adapters")
    parser.add_argument("--rate", type=float, default=5e-4, help="their learning rate")
    parser.add_argument("--folds", type=int, help="only the first so many")
    parser.add_argument("--quick", action="store_true", help="one seed, one fold, a twentieth of an epoch")
    parser.add_argument("--out", type=Path, help="bench/results; with --folds or --quick a new temporary folder")
    options = parser.parse_args(argv)
    if not (options.data / options.name).is_dir():
        print(f"{options.data / options.name}: not there; skipped")
        return 0
    began, recipe, facts = time.perf_counter(), RECIPES[options.name], machine()
    name = options.name if options.start is None else f"{options.name}-{options.start.name}"
    if options.quick:
        first, second = (replace(stage, epochs=stage.epochs / 20) for stage in (recipe.language_model, recipe.reward))
        recipe, options.folds = replace(recipe, language_model=first, reward=second, seeds=1), 1
    try:
        if options.start is not None:
            recipe = recipe.begun_with(options.start, epochs=options.epochs, rate=options.rate)
        measured = measure(Setting(options.data, options.cache), options.name, recipe, options.folds)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
    minutes = round((time.perf_counter() - began) / 60, 1)
    facts = {"command": " ".join(["python -m bench preferences", *argv]), **facts, "minutes of this call": minutes}
    out = out_folder(options.out, whole=options.folds is None)
    print(write_page(page(options.name, recipe, measured), name, facts, out))
    return 0
