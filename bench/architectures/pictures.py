"""The bench's pictures, as matplotlib figures that read at phone width."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from bench.architectures.answers import shortened
from bench.architectures.differences import Difference, against_baseline
from bench.architectures.figures import ACCURACY, DOUBTS, WAY, Scored
from bench.architectures.plan import COMPARED
from bench.architectures.prices import histories, mean_history, seconds
from bench.architectures.statistics import risk_coverage
from bench.architectures.study import Study, figure_of
from bench.architectures.subjects import AS_TRAINED, is_skill
from minirm import metrics
from minirm.metrics import Interval

COLOURS = ("#1f2430", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#8c564b", "#6a3d9a", "#7f7f00")
MARKERS = "osD^vPX*<>h"
"""As many as no colour repeats with."""
GREY, PALE = "#697080", "#e3e6eb"
WIDTH_INCHES = 4.6


def compared(study: Study) -> list[str]:
    """Return the networks that stand for an architecture, the baseline first: the order of colours and markers."""
    return [c.name for c in study.setup.networks if c.kind in COMPARED]


def profile_map(study: Study) -> Figure:
    """Return the part of the way that each contestant goes on each subject of known truth, and accuracy elsewhere."""
    known = [c.name for c in study.setup.contestants if c.kind in COMPARED]
    names = [name for name in study.ranking(study.subjects[0]) if name in known]
    subjects = study.subjects
    figure = Figure(figsize=(WIDTH_INCHES, 1.6 + 0.27 * len(subjects)), layout="constrained")
    axes = figure.subplots()
    values = np.full((len(subjects), len(names)), np.nan)
    for row, subject in enumerate(subjects):
        for column, name in enumerate(names):
            found = study.figure(subject, name, figure_of(subject))
            values[row, column] = np.nan if found is None else found.whole.mean()
    ways = np.array([figure_of(subject) == WAY for subject in subjects])
    axes.imshow(np.where(ways[:, None], values, np.nan), vmin=0, vmax=1, cmap="Blues", aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        if not np.isnan(value):
            colour = "white" if ways[row] and value > 0.6 else COLOURS[0]
            text = f"{100 * value:z.0f}".replace("-", "−")
            axes.text(column, row, text, ha="center", va="center", fontsize=8.5, color=colour)
    labels = [
        subject if way else f"{Path(subject).stem}, accuracy" for subject, way in zip(subjects, ways, strict=True)
    ]
    axes.set_yticks(range(len(subjects)), labels)
    axes.set_xticks(
        range(len(names)), [shortened(name) for name in names], rotation=55, ha="left", rotation_mode="anchor"
    )
    axes.xaxis.tick_top()
    axes.tick_params(labelsize=9, length=0)
    axes.spines[:].set_visible(False)
    return figure


def forest(study: Study) -> Figure:
    """Return differences to the baseline with intervals and a tick for each seed; filled: resolved in its family."""
    shown = [subject for subject in study.subjects if not is_skill(subject)] or study.subjects
    families = {subject: _compared_differences(study, subject) for subject in shown}
    families = {subject: found for subject, found in families.items() if found}
    rows = [max(1, len(found)) for found in families.values()] or [1]
    figure = Figure(figsize=(WIDTH_INCHES, 0.5 + sum(0.55 + 0.24 * n for n in rows)), layout="constrained")
    panels = figure.subplots(len(rows), 1, squeeze=False, height_ratios=[1.4 + n for n in rows])[:, 0]
    for axes, (subject, found) in zip(panels, families.items(), strict=False):
        for row, one in enumerate(found):
            low, high = one.interval.low, one.interval.high
            axes.plot([low, high], [row, row], color=COLOURS[1], linewidth=1.4)
            axes.plot(one.by_seed, [row] * len(one.by_seed), "|", color=GREY, markersize=7)
            face = COLOURS[1] if one.is_resolved else "white"
            axes.plot(one.interval.estimate, row, "o", color=COLOURS[1], markerfacecolor=face, markersize=6)
        axes.axvline(0, color=GREY, linewidth=1)
        axes.set_yticks(range(len(found)), [shortened(one.first) for one in found])
        axes.set_ylim(len(found) - 0.4, -0.6)
        what = "part of the way" if figure_of(subject) == WAY else "accuracy"
        axes.set_title(f"{Path(subject).stem}: {what}, minus {shortened(study.baseline)}", fontsize=9.5, loc="left")
        _plain(axes)
        axes.tick_params(labelsize=9)
    return figure


def _compared_differences(study: Study, subject: str) -> list[Difference]:
    known = {*compared(study), *(c.name for c in study.setup.contestants if not c.is_network)}
    return [one for one in against_baseline(study, subject) if one.first in known]


def accuracy_against_cost(study: Study) -> Figure:
    """Return each network's accuracy over its seconds of training, with intervals."""
    figure, axes = _figure(4.2)
    for n, name in enumerate(compared(study)):
        accuracy = study.interval(study.main, name, ACCURACY)
        taken = seconds(study, name) if name in study.costs else None
        if accuracy is not None and taken is not None:
            _point(axes, taken.whole, accuracy, n, name)
    axes.set(xlabel=f"seconds of training on {Path(study.main).stem}", ylabel="accuracy")
    _logarithmic(axes)
    _legend(figure)
    return figure


def curves(points: Mapping[str, Mapping[object, Interval]], names: Sequence[str], xlabel: str) -> Figure:
    """Return accuracies over places, with intervals; contestants that are no network are grey."""
    figure, axes = _figure(4.4)
    places = list(dict.fromkeys(place for line in points.values() for place in line))
    for name, line in points.items():
        n = names.index(name) if name in names else None
        mean, low, high = np.array([list(interval) for interval in line.values()]).T
        style = _style(n) if n is not None else {"color": GREY, "linestyle": ":"}
        at = [places.index(place) for place in line]
        axes.plot(at, mean, label=name, linewidth=1.6, markersize=5, **style)
        axes.fill_between(at, low, high, color=style["color"], alpha=0.1, linewidth=0)
    axes.set(xlabel=xlabel, ylabel="accuracy")
    axes.set_xticks(range(len(places)), [named_point(place) for place in places])
    _legend(figure)
    return figure


def named_point(point: object) -> str:
    """Return "1,000" comparisons, or "2 × 64" layers and width, or what else a point of a curve is."""
    return (
        " × ".join(map(str, point)) if isinstance(point, tuple) else f"{point:,}" if isinstance(point, int) else point
    )


def accuracy_over_seconds(study: Study) -> Figure:
    """Return validation accuracy over seconds of training, mean over seeds."""
    figure, axes = _figure(4.2)
    for n, name in enumerate(compared(study)):
        if name in study.costs and histories(study, name):
            taken, accuracy = (mean_history(study, name, field) for field in ("seconds", "accuracy"))
            axes.plot(taken, accuracy, label=name, linewidth=1.6, markersize=4, **_style(n))
    axes.set(xlabel="seconds of training", ylabel="accuracy on validation")
    _logarithmic(axes)
    _legend(figure)
    return figure


def reliability(study: Study) -> Figure:
    """Return confidence against accuracy for each network, all seeds together, before temperature."""
    figure, axes = _figure(4.6)
    axes.plot([0.5, 1], [0.5, 1], color=GREY, linestyle="--", linewidth=1)
    for n, name in enumerate(compared(study)):
        if (study.main, name) in study.scored:
            difference = study.scored[study.main, name][AS_TRAINED].difference.ravel()
            bins = metrics.calibration_bins(*metrics.winner_confidence(difference, np.zeros(len(difference))), bins=10)
            seen = bins.weight > 0.01  # of fewer pairs the accuracy says little
            axes.plot(bins.probability[seen], bins.outcome[seen], label=name, linewidth=1.6, markersize=5, **_style(n))
    axes.set(xlabel="confidence, σ(|difference of rewards|)", ylabel="accuracy")
    _legend(figure)
    return figure


def reward_against_utility(study: Study) -> Figure:
    """Return the reward of each response over its true utility, seed 0, one panel for each network."""
    names = [name for name in compared(study) if (study.main, name) in study.scored]
    rows = -(-len(names) // 2)
    figure = Figure(figsize=(WIDTH_INCHES, 0.5 + 1.9 * rows), layout="constrained")
    panels = figure.subplots(rows, 2, squeeze=False, sharex=True)
    for axes in panels.flat[len(names) :]:
        axes.remove()
    for n, (axes, name) in enumerate(zip(panels.flat, names, strict=False)):
        scored = study.scored[study.main, name][AS_TRAINED]
        utilities = np.concatenate([one.utilities for one in scored.test.judged])
        rewards = np.concatenate(scored.rewards[0])
        axes.scatter(utilities, rewards, s=3, alpha=0.15, color=COLOURS[n % len(COLOURS)], linewidths=0)
        axes.set_title(name, fontsize=10)
        _plain(axes)
    figure.supxlabel("true utility", fontsize=11)
    figure.supylabel("reward, in logits", fontsize=11)
    return figure


def risk_over_coverage(scored: Scored, name: str) -> Figure:
    """Return the share of mistakes among the judgements of least doubt, by each measure of doubt."""
    figure, axes = _figure(3.8)
    right = (np.sign(scored.difference.mean(0)) + 1) / 2
    for n, (doubt, measure) in enumerate(DOUBTS.items()):
        risk = risk_coverage(measure(scored.difference), 1 - right)
        coverage = np.arange(1, len(risk) + 1) / len(risk)
        shown = coverage > 0.02  # the first few judgements say little and jump about
        axes.plot(coverage[shown], risk[shown], label=doubt, linewidth=1.6, color=COLOURS[n])
    axes.set(xlabel="share of the pairs that are judged", ylabel="mistakes among them", title=f"mean reward of {name}")
    axes.title.set_size(10)
    _legend(figure, columns=1)
    return figure


def _point(axes: Axes, x: float, value: Interval, n: int, name: str) -> None:
    bars = [[value.estimate - value.low], [value.high - value.estimate]]
    axes.errorbar([x], [value.estimate], yerr=bars, label=name, capsize=3, markersize=7, linewidth=1.2, **_style(n))


def _style(n: int) -> dict[str, str]:
    return {"color": COLOURS[n % len(COLOURS)], "marker": MARKERS[n % len(MARKERS)]}


def _figure(height_inches: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH_INCHES, height_inches), layout="constrained")
    axes = figure.subplots()
    _plain(axes)
    return figure, axes


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.tick_params(labelsize=9.5, color=GREY)
    axes.grid(color=PALE, linewidth=0.8)
    axes.set_axisbelow(True)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_size(11)


def _logarithmic(axes: Axes) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())


def _legend(figure: Figure, columns: int = 2) -> None:
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=9.5)
