"""What every method says of a test part: networks that learned the training part, and what needs none."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from bench.baselines import TfidfReward, WriterReward, chrf_rewards, length_rewards, overlap_rewards
from bench.judgements import SETS, Judged, fold
from bench.memory import in_fresh_process, most_resident_bytes
from bench.preferences.recipes import QUESTIONS, Recipe
from bench.recipes.common import Setting, told_apart
from minirm.data.comparison import Comparison, Turn
from minirm.evaluation.pairs import Rewards
from minirm.files.reading import read_file
from minirm.files.records import to_json
from minirm.hub.load import load_zero_shot
from minirm.runs.journal import read_log
from minirm.runs.run_config import LANGUAGE_MODEL, REWARD, DataConfig, RunConfig

LONGER, WORDS, WITH_LENGTH = "longer wins", "TF-IDF + logistic regression", "the same + log length"
SCORES = "TF-IDF, ridge on the scores"
OVERLAP, CHRF = "overlap with the prompt: F1 of words", "overlap with the prompt: chrF"
ASKED = ", asked"
"""How the row of a model ends that is asked and not trained."""
ORACLE = "oracle: who wrote it, and log length"
VALIDATION_PART = 10
"""One of so many parts of the training groups is kept for validation."""


class Learned(NamedTuple):
    """What a network that was trained says of the test part, and what it cost."""

    rewards: Rewards
    seconds: float
    """Of the steps of its training; those of a run that it began with are not in it."""
    memory: int
    """Bytes that the process which trained it held at its peak, libraries and data included."""


def train_and_score(
    setting: Setting, training: Judged, tests: Sequence[Comparison], recipe: Recipe, seed: int
) -> Learned:
    """Train on `training`, part of it kept for validation; return the rewards of `tests`, and the cost."""
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
    run, memory = _trained(setting, config)
    entries = [entry for stage in (LANGUAGE_MODEL, REWARD) for entry in read_log(run, stage)]
    seconds = sum(entry["seconds"] for entry in entries if entry["kind"] == "step")
    return Learned(scored_once(lambda rows: setting.scored(run, rows), tests), seconds, memory)


def _trained(setting: Setting, config: RunConfig) -> tuple[Path, int]:
    """Return the folder of a finished run, and the most memory that its process held."""
    folder = setting.folder(config, "preferences")
    memory = setting.result(f"memory of {folder.name}", None, lambda: in_fresh_process(_train, setting, config))
    return folder, memory


def _train(setting: Setting, config: RunConfig) -> int:
    setting.trained(config, "preferences")
    return most_resident_bytes()


def ask(setting: Setting, folder: Path, name: str, tests: Sequence[Comparison]) -> Rewards:
    """Return the rewards that a language model gives to tests, asked as `QUESTIONS` says; it was trained on none."""
    question = [{"role": "user", "content": QUESTIONS[name]}]

    def score(rows: Sequence[Comparison]) -> Rewards:
        identity = [question, [(row.prompt, row.responses) for row in rows]]
        scorer = load_zero_shot(folder, question, "Yes", "No")
        return setting.result(f"answers of {told_apart(folder)}", identity, lambda: scorer.score_comparisons(rows))

    return scored_once(score, tests)


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


def oracle(folder: Path, training: Judged, test: Judged) -> Rewards:
    """Return rewards by who wrote a response, and by its length."""
    files = SETS[folder.name].training, SETS[folder.name].test
    writers = [who_wrote(folder / f, p.comparisons) for f, p in zip(files, (training, test), strict=True)]
    return WriterReward().fit(training.comparisons, writers[0]).rewards(test.comparisons, writers[1])


def who_wrote(file: Path, comparisons: Sequence[Comparison]) -> list[list[str]]:
    """Return who wrote each response of the comparisons of a file, in their order."""
    fields = [row.fields for row in read_file(file)]
    names = {(f["prompt"], f[side]): f[f"{side}_model"] for f in fields for side in ("chosen", "rejected")}
    return [[names[row.prompt[-1].text, text] for text in row.responses] for row in comparisons]
