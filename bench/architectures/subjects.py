"""What is learned from and tested on: skills and a world whose truth is known, real preferences, a user's file."""

import hashlib
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from bench.baselines import draw_prompts, first_user_turn, group_folds
from minirm.data.comparison import Comparison
from minirm.errors import InputError
from minirm.evaluation.pairs import pair_table
from minirm.evaluation.scoring import swap_prompts
from minirm.files.records import read_comparisons
from minirm.files.splits import prompt_key
from minirm.files.survey import usable
from minirm.worlds import skills
from minirm.worlds.films import read_prompt
from minirm.worlds.grammar import Judged, World, WorldConfig
from minirm.worlds.skills import SKILLS, find_skill

WORLD = "world"
"""Film reviews without facts, so that texts stay short: several skills mixed. Its tests name 32 films of their own."""
WORLD_CONFIG = WorldConfig(facts=0, responses=8, titles=16)
FOLDS = {"hh-harmless": 3}
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
    """One split of one data set."""

    name: str
    training: list[Comparison]
    """As many as were asked for, drawn by the seed: another seed has other ones, as far as there are any."""
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
    validation: int = 150
    """Comparisons of known truth for validation …"""
    test: int = 500
    """… and in each test set."""
    most_training: int = 4000
    """Of a data set with more comparisons, so many are drawn for training."""

    def has(self, name: str) -> bool:
        """Return whether a subject is there."""
        return is_known_truth(name) or self._path(name).exists()

    def digest(self, name: str) -> str:
        """Return the comparisons in a subject's files, in short, so that others are learned anew; "" without any."""
        if is_known_truth(name):
            return ""
        return _digest_rows(self._path(name))

    def _path(self, name: str) -> Path:
        return self.data / name if name in FOLDS or name in TRAIN_TEST else Path(name)

    def load(self, name: str, fold: int = 0, seed: int = 0, comparisons: int | None = None) -> Subject:
        """Return a subject.

        Args:
            seed: of the draw of the training comparisons. Validation and tests are always the same.
            comparisons: for training; None: all that a file has, and none of known truth.
        Raises:
            InputError: there is no such subject or file.
        """
        if is_known_truth(name):
            return self._known_truth(name, seed, comparisons or 0)
        if not self.has(name):
            known = ", ".join([*SKILLS, WORLD, *FOLDS, *TRAIN_TEST])
            raise InputError(f"subject {name!r}: must be one of {known}, or a file of comparisons")
        subject = self._files(name, fold)
        order = np.random.default_rng(seed).permutation(len(subject.training))[:comparisons]
        return replace(subject, training=[subject.training[i] for i in order])

    def _known_truth(self, name: str, seed: int, comparisons: int) -> Subject:
        draw = partial(_draw_world if name == WORLD else _draw_skill, name)
        training, validation = draw(comparisons, "train", seed=1 + seed), draw(self.validation, "validation", seed=0)
        views = {AS_TRAINED: "test"} | ({REVERSED: "reversed", SWAPPED: "swapped"} if name == WORLD else {})
        tests = {}
        for view, split in views.items():
            judged = draw(self.test, split, seed=0)
            world = name == WORLD
            keys = [read_prompt(j.comparison.prompt[0].text).film.title if world else i for i, j in enumerate(judged)]
            noise = WORLD_CONFIG.noise if world else skills.NOISE
            tests[view] = TestSet([j.comparison for j in judged], keys, judged, noise)
        return Subject(name, [j.comparison for j in training], [j.comparison for j in validation], tests)

    def _files(self, name: str, fold: int) -> Subject:
        if name in FOLDS:
            return self._fold(name, fold)
        return self._train_test(name) if name in TRAIN_TEST else self._file(name)

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
        return Subject(name, self._some(parts["train"]), parts["validation"][:500], _tests(parts["test"], prompt_key))

    def _file(self, name: str) -> Subject:
        rows = list(usable(read_comparisons([Path(name)]), Counter()))
        keys = {prompt_key(row) for row in rows}
        if len(keys) < FEWEST_PROMPTS:
            raise InputError(
                f"{name}: {len(keys)} distinct prompts; training, validation and test need {FEWEST_PROMPTS}"
            )
        held_out = draw_prompts(keys, TEST_SHARE, seed=0)
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
        return Subject(name, self._some(training), validation, tests)

    def _some(self, rows: list[Comparison]) -> list[Comparison]:
        """Return at most `most_training` of them, drawn at random."""
        return [rows[i] for i in np.random.default_rng(0).permutation(len(rows))[: self.most_training]]


def _tests(rows: list[Comparison], key: Callable[[Comparison], Hashable]) -> dict[str, TestSet]:
    """Return the two test sets that any data give; behind swapped prompts, what is left is what needs no prompt."""
    keys = [key(row) for row in rows]
    return {AS_TRAINED: TestSet(rows, keys), SWAPPED: TestSet(swap_prompts(rows), keys)}


def _draw_world(_name: str, n: int, split: str, *, seed: int) -> list[Judged]:
    return World(replace(WORLD_CONFIG, seed=seed)).sample(n, split)


def _draw_skill(name: str, n: int, split: str, *, seed: int) -> list[Judged]:
    return skills.sample(*find_skill(name), n, split, seed=seed)


def is_skill(name: str) -> bool:
    """Return whether a subject is a single skill, with or without its dial."""
    return name.partition(":")[0] in SKILLS


def is_known_truth(name: str) -> bool:
    """Return whether the truth about a subject's tests is known."""
    return name == WORLD or is_skill(name)


@lru_cache
def _digest_rows(path: Path) -> str:
    """Return 16 letters that change where other comparisons of a file, or of all files of a folder, are used."""
    found = hashlib.blake2b(digest_size=8)
    files = sorted(p for p in path.rglob("*.jsonl*") if p.is_file()) if path.is_dir() else [path]
    for row in usable(read_comparisons(files), Counter()):
        found.update(repr(replace(row, source="")).encode())
    return found.hexdigest()


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
