"""What is learned from and tested on: the known-truth world at several dials, real preferences, a user's file."""

import hashlib
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np

from bench.baselines import first_user_turn, group_folds
from minirm.data.comparison import Comparison
from minirm.data.splits import draw_validation, prompt_key
from minirm.errors import InputError
from minirm.evaluation.pairs import pair_table
from minirm.evaluation.scoring import swap_prompts
from minirm.files.records import read_comparisons
from minirm.files.survey import usable
from minirm.worlds.films import read_prompt
from minirm.worlds.grammar import Judged, World, WorldConfig

WORLD = "world"
WORLDS = {
    WORLD: {"noise": 0.7, "shortcut_strength": 0.5},
    "world, little noise": {"noise": 0.35, "shortcut_strength": 0.5},
    "world, much noise": {"noise": 1.4, "shortcut_strength": 0.5},
    "world, weak shortcut": {"noise": 0.7, "shortcut_strength": 0.2},
    "world, strong shortcut": {"noise": 0.7, "shortcut_strength": 0.8},
}
"""The film world without facts: what must be copied from the prompt is the title alone, and texts stay short."""
RESPONSES = 8
FOLDS = {"hh-harmless": 5}
"""Subjects that are tested by cross-validation; every other one has one test set."""
TRAIN_TEST = ("alpaca-pairs", "alpaca-rankings")
VALIDATION_SHARE, TEST_SHARE = 0.1, 0.2
FEWEST_PROMPTS = 20
"""Of a user's file: a fifth of them are four, and no interval stands on fewer."""
AS_TRAINED, REVERSED, SWAPPED = "as trained", "shortcut reversed", "prompts swapped"
VALIDATION = "validation"


@dataclass(frozen=True)
class TestSet:
    """Comparisons, and the truth about them where it is known."""

    __test__ = False  # no class of tests, whatever pytest makes of its name
    comparisons: list[Comparison]
    keys: list[Hashable]
    """What related comparisons share: the film, the first human turn, the prompt; intervals are over these."""
    judged: list[Judged] = field(default_factory=list)
    noise: float = 1.0
    """τ of the labels, where the truth is known."""


@dataclass(frozen=True)
class Subject:
    """One split of one data set. Training comparisons are in random order: the first n are n drawn at random."""

    name: str
    training: list[Comparison]
    validation: list[Comparison]
    tests: dict[str, TestSet]

    @property
    def sets(self) -> dict[str, list[Comparison]]:
        """Every set that is scored, by name."""
        return {VALIDATION: self.validation, **{name: test.comparisons for name, test in self.tests.items()}}


@dataclass(frozen=True)
class Sources:
    """Where subjects come from, and how large they are made."""

    data: Path
    """Folder of the real data sets."""
    world_training: int = 3000
    """Comparisons that a world offers for training …"""
    world_validation: int = 200
    """… for validation …"""
    world_test: int = 500
    """… and in each test set."""
    most_training: int = 4000
    """Of a data set with more comparisons, so many are drawn for training."""

    def has(self, name: str) -> bool:
        """Return whether a subject is there."""
        return name in WORLDS or self._path(name).exists()

    def digest(self, name: str) -> str:
        """Return what the files of a subject hold, in short, so that changed ones are learned anew; "" for a world."""
        if name in WORLDS:
            return ""
        path = self._path(name)
        return digest(tuple(sorted(p for p in path.rglob("*") if p.is_file())) if path.is_dir() else (path,))

    def _path(self, name: str) -> Path:
        return self.data / name if name in FOLDS or name in TRAIN_TEST else Path(name)

    def load(self, name: str, fold: int = 0) -> Subject:
        """Return a subject.

        Raises:
            InputError: there is no such subject or file.
        """
        if name in WORLDS:
            return self._world(name)
        if not self.has(name):
            known = ", ".join([*WORLDS, *FOLDS, *TRAIN_TEST])
            raise InputError(f"subject {name!r}: must be one of {known}, or a file of comparisons")
        if name in FOLDS:
            return self._fold(name, fold)
        if name in TRAIN_TEST:
            return self._train_test(name)
        return self._file(name)

    def _world(self, name: str) -> Subject:
        world = World(WorldConfig(facts=0, responses=RESPONSES, **WORLDS[name]))
        splits = {AS_TRAINED: "test", REVERSED: "reversed", SWAPPED: "swapped"}
        tests = {}
        for view, split in splits.items():
            judged = world.sample(self.world_test, split)
            films = [read_prompt(j.comparison.prompt[0].text).film.title for j in judged]
            tests[view] = TestSet([j.comparison for j in judged], films, judged, world.config.noise)
        parts = {"train": self.world_training, "validation": self.world_validation}
        training, validation = ([j.comparison for j in world.sample(n, split)] for split, n in parts.items())
        return Subject(name, training, validation, tests)

    def _fold(self, name: str, fold: int) -> Subject:
        rows = list(usable(read_comparisons([self._path(name)]), Counter()))
        train, test = group_folds(rows, FOLDS[name], first_user_turn)[fold]
        rest, held_out = [rows[i] for i in train], [rows[i] for i in test]
        return self._split(name, rest, _tests(held_out, first_user_turn), first_user_turn)

    def _train_test(self, name: str) -> Subject:
        parts = {
            part: list(usable(read_comparisons([self._path(name) / f"{part}.jsonl.gz"]), Counter()))
            for part in ("train", "validation", "test")
        }
        training = _shuffled(parts["train"])[: self.most_training]
        return Subject(name, training, parts["validation"][:500], _tests(parts["test"], prompt_key))

    def _file(self, name: str) -> Subject:
        rows = list(usable(read_comparisons([Path(name)]), Counter()))
        keys = {prompt_key(row) for row in rows}
        if len(keys) < FEWEST_PROMPTS:
            raise InputError(
                f"{name}: {len(keys)} distinct prompts; training, validation and test need {FEWEST_PROMPTS}"
            )
        held_out = draw_validation(keys, TEST_SHARE, seed=0)
        rest = [row for row in rows if prompt_key(row) not in held_out]
        tests = _tests([row for row in rows if prompt_key(row) in held_out], prompt_key)
        return self._split(name, rest, tests, prompt_key)

    def _split(
        self, name: str, rows: list[Comparison], tests: dict[str, TestSet], key: Callable[[Comparison], Hashable]
    ) -> Subject:
        """Set part of the rows aside for validation, by key."""
        keys = sorted({repr(key(row)) for row in rows})
        drawn = np.random.default_rng(0).permutation(len(keys))
        held_out = {keys[i] for i in drawn[: max(1, round(VALIDATION_SHARE * len(keys)))]}
        training = [row for row in rows if repr(key(row)) not in held_out]
        validation = [row for row in rows if repr(key(row)) in held_out]
        return Subject(name, _shuffled(training)[: self.most_training], validation, tests)


def _tests(rows: list[Comparison], key: Callable[[Comparison], Hashable]) -> dict[str, TestSet]:
    """Return the two test sets that any data give; behind swapped prompts, what is left is what needs no prompt."""
    keys = [key(row) for row in rows]
    return {AS_TRAINED: TestSet(rows, keys), SWAPPED: TestSet(swap_prompts(rows), keys)}


def _shuffled(rows: Sequence[Comparison]) -> list[Comparison]:
    return [rows[i] for i in np.random.default_rng(0).permutation(len(rows))]


@lru_cache
def digest(files: tuple[Path, ...]) -> str:
    """Return 16 letters that another content of the files would change."""
    found = hashlib.blake2b(digest_size=8)
    for file in files:
        found.update(file.read_bytes())
    return found.hexdigest()


def disjoint_pairs(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Return each comparison cut into pairs that share no response: as many responses, each in one pair."""
    rng = np.random.default_rng(0)
    pairs = []
    for comparison in comparisons:
        order = rng.permutation(len(comparison.responses))
        for i, j in zip(order[::2], order[1::2], strict=False):
            better, worse = (i, j) if comparison.scores[i] >= comparison.scores[j] else (j, i)
            texts = comparison.responses[better], comparison.responses[worse]
            scores = comparison.scores[better], comparison.scores[worse]
            if scores[0] > scores[1]:
                pairs.append(Comparison(comparison.prompt, texts, scores, subset=comparison.subset))
    return pairs


def best_possible(test: TestSet) -> np.ndarray:
    """Return for each strictly ordered pair the accuracy of one who knows every utility, max(p, 1 − p)."""
    utilities = [list(one.utilities) for one in test.judged]
    difference = pair_table(test.comparisons, utilities).reward_difference
    return 0.5 * (1 + np.tanh(0.5 * np.abs(difference) / test.noise))
