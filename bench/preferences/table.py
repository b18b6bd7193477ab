"""Which pairs came out right, by every method: accuracies, paired differences with intervals, and the page."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from bench.architectures.answers import against_zero, with_interval
from bench.architectures.statistics import GROUPS, Resampled, resample, two_way_interval
from bench.judgements import Judged, JudgementSet
from bench.preferences.language import Language
from bench.preferences.learning import SCORES, WITH_LENGTH, WORDS, Learned
from bench.recipes.common import Page, table
from bench.recipes.pictures import beside_each_other, series
from minirm.errors import InputError
from minirm.evaluation.pairs import Rewards, pair_table
from minirm.metrics import Interval

MODEL = "minirm from nothing"
"""The network that all others are compared with."""
CROWDED = 16
"""Methods beyond which a picture leaves out those that words were added to."""
WITHOUT = "minus the same with 0 tokens first"


def together(network: str) -> str:
    """Return the name of the mean of a network's seeds."""
    return f"{network}, seeds together"


def beside_words(network: str) -> str:
    """Return the name of the mean of a network's seeds and the words' rewards, added."""
    return f"{network}, and words, added"


def behind_another(network: str) -> str:
    """Return the name of a network that reads each response behind the prompt of another comparison."""
    return f"{network} behind another prompt"


class Measured:
    """Which pairs came out right, by method, seed and pair; pairs of several splits one after the other."""

    def __init__(self, judged: JudgementSet, languages: Sequence[Language] = ()):
        self._judged = judged
        self.languages = languages
        """Of the networks that read texts first."""
        self._right: dict[str, list[NDArray]] = defaultdict(list)
        self._groups: list[str] = []
        self._shorter: list[NDArray] = []
        self._costs: dict[str, list[Learned]] = defaultdict(list)
        self._networks: list[str] = []
        """Their names, and those of what was made of them."""

    def check(self, test: Judged) -> None:
        """Raise InputError where no pair of a test part counts."""
        rows = test.comparisons
        least = self._judged.least_difference
        if not (pair_table(rows, [row.scores for row in rows]).reward_difference >= least).any():
            raise InputError(f"no two scores of a test part differ by {least:g}: nothing to test on")

    def add(
        self,
        test: Judged,
        plain: Mapping[str, Rewards],
        networks: Mapping[str, Sequence[Learned]],
        others: Mapping[str, Rewards],
    ) -> None:
        """Take in a test part.

        Args:
            plain: rewards by what needs no network; the strongest of it is what networks are held against.
            networks: what each network's seeds say; where the prompt decides, of the test part and, after it, of its
                responses behind other prompts.
            others: rewards that are shown, and held against nothing.
        """
        rows = test.comparisons
        pairs = pair_table(rows, [row.scores for row in rows])
        kept = pairs.reward_difference >= self._judged.least_difference
        words = plain.get(SCORES, plain[WITH_LENGTH])
        rewards: dict[str, Sequence[Rewards]] = {method: [values] for method, values in {**plain, **others}.items()}
        self._plain = list(plain)
        for network, seeds in networks.items():
            own = {network: [one.rewards[: len(rows)] for one in seeds]}
            mean = [np.mean(values, axis=0) for values in zip(*own[network], strict=True)]
            if len(seeds) > 1:
                own[together(network)] = [mean]
            own[beside_words(network)] = [added(mean, words)]
            self._networks += [name for name in own if name not in self._networks]
            rewards |= own
            if self._judged.prompt_decides:
                rewards[behind_another(network)] = [one.rewards[len(rows) :] for one in seeds]
            self._costs[network] += seeds
        for method, seeds in rewards.items():
            differences = np.stack([pair_table(rows, values).reward_difference[kept] for values in seeds])
            self._right[method].append((np.sign(differences) + 1) / 2)  # (S, pairs)
        self._shorter.append(pairs.length_difference[kept] < 0)
        self._groups += [str(test.groups[number]) for number in pairs.comparison[kept]]

    def figures(self) -> dict[str, dict[str, Resampled]]:
        """Return each method's accuracy, there where the better is shorter, and what it has above others.

        Others are what needs no network, above all the strongest of it, and the mean of the seeds from nothing.
        """
        groups = _numbered(self._groups)
        right = {method: np.concatenate(parts, axis=1) for method, parts in self._right.items()}
        shorter = np.concatenate(self._shorter)
        accuracy = {method: _mean(values, groups) for method, values in right.items()}
        found = {method: {"accuracy": figure} for method, figure in accuracy.items()}
        self.strongest = max(self._plain, key=lambda method: accuracy[method].whole[0])
        if shorter.any():
            for method, values in right.items():
                found[method]["where the better is shorter"] = _mean(values[:, shorter], groups[shorter])
        from_nothing = right[MODEL].mean(0, keepdims=True)
        for method in self._networks:
            for other in dict.fromkeys((self.strongest, WORDS, WITH_LENGTH)):
                found[method][f"minus {other}"] = _mean(right[method] - right[other], groups)
            if not method.startswith(MODEL):
                found[method][f"minus {MODEL}"] = _mean(right[method] - from_nothing, groups)
        for one in self.languages:
            if one.millions and (without := replace(one, millions=0.0).name) in right:
                found[one.name][WITHOUT] = _mean(right[one.name] - right[without].mean(0, keepdims=True), groups)
        return found

    @property
    def pairs(self) -> int:
        """How many pairs were tested on."""
        return len(self._groups)

    @property
    def groups(self) -> int:
        """How many groups they are of."""
        return len(set(self._groups))

    def costs(self) -> dict[str, tuple[float, float]]:
        """Return of each network the seconds of a training, as a mean, and the most bytes that one held."""
        return {
            network: (float(np.mean([one.seconds for one in seeds])), max(one.memory for one in seeds))
            for network, seeds in self._costs.items()
        }


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


@dataclass(frozen=True)
class SetPage(Page):
    """The page of one set."""

    strongest: str = ""
    """What of all that needs no network is the most accurate."""


def page(title: str, judged: JudgementSet, seeds: int, measured: Measured) -> SetPage:
    """Return the table of a set, and its figures with their intervals."""
    found = measured.figures()
    columns = ["accuracy", "where the better is shorter", f"minus {measured.strongest}", f"minus {MODEL}", WITHOUT]
    columns = [column for column in columns if any(column in figures for figures in found.values())]
    rows = [[method, *(_cell(figures, column) for column in columns)] for method, figures in found.items()]
    about = (
        f"{measured.pairs:,} test pairs in {measured.groups} groups ({judged.group}); no group is on both sides. "
        f"Seeds from nothing: {seeds}, from elsewhere as many as the recipe has. 95% intervals over groups, and over "
        "seeds where a row has several (grouped jackknife, Student's t); differences are paired."
    )
    if judged.least_difference:
        about += f" Pairs whose scores differ by at least {judged.least_difference:g}."
    costs = [
        [network, f"{seconds:,.0f}", f"{memory / 1e6:,.0f}"] for network, (seconds, memory) in measured.costs().items()
    ]
    header = ["network", "seconds of a training's steps, mean", "MB of its process at the peak"]
    lines = [about, "", *table(["method", *columns], rows), "", *table(header, costs)]
    figures = {f"{method}: {key}": _interval(f, key) for method, of in found.items() for key, f in of.items()}
    return SetPage(title, lines, figures, _picture(found, title, measured.languages), measured.strongest)


def _picture(found: Mapping[str, Mapping[str, Resampled]], title: str, languages: Sequence[Language]) -> Figure:
    """Return all methods side by side, or, where models read different amounts first, what each amount gave."""
    lines: dict[str, dict[float, Interval]] = defaultdict(dict)
    for one in sorted(languages, key=lambda one: one.millions):
        lines[one.model][one.millions] = _interval(found[one.name]["accuracy"], "accuracy")
    if len({one.millions for one in languages}) > 1:
        return series(lines, "million tokens of text, read first", f"accuracy on {title}")
    crowded = len(found) > CROWDED
    accuracies = {
        method: _interval(figures["accuracy"], "accuracy")
        for method, figures in found.items()
        if not crowded or method not in map(beside_words, found)
    }
    networks = {method for method, figures in found.items() if any(column.startswith("minus") for column in figures)}
    return beside_each_other(accuracies, networks, "accuracy")


def _interval(figure: Resampled, column: str) -> Interval:
    """Return a figure's interval, which for an accuracy ends at 0 and 1."""
    value, low, high = two_way_interval(figure)
    return Interval(value, low, high) if column.startswith("minus") else Interval(value, max(low, 0.0), min(high, 1.0))


def _cell(figures: dict[str, Resampled], column: str) -> str:
    if column not in figures:
        return ""
    interval = _interval(figures[column], column)
    return against_zero(interval) if column.startswith("minus") else with_interval(interval)
