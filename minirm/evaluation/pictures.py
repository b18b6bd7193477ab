"""Pictures of a run and of its evaluation, as matplotlib figures that read at phone width.

Every function returns a `Figure` of its own, without pyplot and so without a global list of figures; nothing is shown
or saved here. The two colours differ in lightness as well as in hue (Okabe and Ito's palette), and what is told by
colour is told by shape or by word too.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from minirm.evaluation.evaluate import ReliabilityBin

BLUE, ORANGE, INK, GREY, PALE = "#0072B2", "#D55E00", "#1f2430", "#697080", "#e3e6eb"
WIDTH_INCHES = 4.6  # shown at about 360 px on a phone: 11 points are then 12 px
SMOOTHED_FROM = 60  # points of a curve, from which on a running mean is drawn over it


class Bar(NamedTuple):
    """One test set in `accuracy_bars`."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    best: float | None = None
    """The best possible accuracy, where it is known."""


def reliability_diagram(bins: Sequence[ReliabilityBin]) -> Figure:
    """Return confidence against accuracy, above the number of pairs at each confidence."""
    figure = Figure(figsize=(WIDTH_INCHES, 4.4), layout="constrained")
    accuracy, counts = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    confidences, accuracies = [one.confidence for one in bins], [one.accuracy for one in bins]
    accuracy.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1.2, label="confidence = accuracy")
    accuracy.plot(confidences, accuracies, color=BLUE, marker="o", linewidth=1.8, label="this model")
    accuracy.set(ylabel="accuracy", xlim=(0.49, 1.01), ylim=(min([0.45, *accuracies]) - 0.03, 1.03))
    counts.bar(confidences, [one.pairs for one in bins], width=0.03, color=BLUE)
    counts.set(ylabel="pairs", xlabel="confidence, σ(|difference of rewards|)")
    _style(accuracy)
    _style(counts)
    _legend(accuracy, "upper left")
    return figure


def reward_histogram(better: Sequence[float], worse: Sequence[float]) -> Figure:
    """Return the rewards of the better and of the worse responses of all pairs, over each other."""
    better, worse = np.asarray(better, float), np.asarray(worse, float)
    edges = np.histogram_bin_edges(np.concatenate([better, worse]), bins=40)
    figure, axes = _figure(3.2)
    for rewards, colour, line, name in ((worse, ORANGE, "--", "worse"), (better, BLUE, "-", "better")):
        axes.hist(rewards, edges, color=colour, alpha=0.3)
        axes.hist(rewards, edges, histtype="step", color=colour, ls=line, lw=1.6, label=f"{name} response")
    axes.set(xlabel="reward, in logits", ylabel="pairs")
    _legend(axes, "best")
    return figure


def learning_curve(history: Sequence[Mapping[str, float]]) -> Figure:
    """Return loss, and accuracy if there is any, against the step.

    Args:
        history: entries of log.jsonl: "kind" ("step" or "evaluation"), "step", "loss", and maybe "accuracy".
    """
    panels = [name for name in ("loss", "accuracy") if any(name in entry for entry in history)] or ["loss"]
    figure, rows = _panels(len(panels))
    kinds = (("step", "training", BLUE, ""), ("evaluation", "validation", ORANGE, "o"))
    for axes, name in zip(rows, panels, strict=True):
        for kind, label, colour, marker in kinds:
            _curve(axes, [entry for entry in history if entry["kind"] == kind], name, label, colour, marker)
        axes.set_ylabel("loss, in nats" if name == "loss" else name)
        _legend(axes, "best")
    rows[-1].set_xlabel("step")
    return figure


def curves(steps: Sequence[float], series: Mapping[str, Sequence[float | None]]) -> Figure:
    """Return one panel for each series, by its name, against the step or iteration."""
    figure, panels = _panels(len(series))
    for axes, (name, values) in zip(panels, series.items(), strict=True):
        entries = [{"step": step, name: value} for step, value in zip(steps, values, strict=True)]
        _curve(axes, entries, name, name, BLUE, marker="")
        axes.set_ylabel(name.replace("_", " "))
    panels[-1].set_xlabel("iteration")
    return figure


def reward_against_utility(utilities: Sequence[float], rewards: Sequence[float]) -> Figure:
    """Return a scatter of each response's reward against its true utility."""
    figure, axes = _figure(3.6)
    opacity = float(np.clip(150 / max(len(rewards), 1), 0.08, 0.7))
    axes.scatter(utilities, rewards, s=14, color=BLUE, alpha=opacity, linewidths=0)
    axes.set(xlabel="true utility", ylabel="reward, in logits")
    return figure


def accuracy_bars(bars: Sequence[Bar]) -> Figure:
    """Return one bar per test set, with its interval, the best possible accuracy and the line of chance."""
    figure, axes = _figure(0.8 + 0.62 * max(len(bars), 1))
    for y, bar in enumerate(bars):
        axes.barh(y, bar.value, height=0.42, color=BLUE)
        if bar.low is not None and bar.high is not None:
            axes.plot([bar.low, bar.high], [y, y], color=INK, linewidth=2, solid_capstyle="butt")
        axes.text(0, y - 0.27, bar.name, ha="left", va="bottom", fontsize=10.5, color=INK)
        axes.text(1, y - 0.27, f"{bar.value:.3f}", ha="right", va="bottom", fontsize=10.5, color=INK)
    best = [(bar.best, y) for y, bar in enumerate(bars) if bar.best is not None]
    if best:
        axes.plot(
            *zip(*best, strict=True), "D", color=ORANGE, markersize=7, markeredgecolor="white", label="best possible"
        )
    axes.axvline(0.5, color=GREY, linestyle="--", linewidth=1.2, label="chance")
    axes.set(xlim=(0, 1), ylim=(len(bars) - 0.6, -0.75), xlabel="accuracy", yticks=[])
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=10, labelcolor=INK)
    return figure


def _curve(axes: Axes, entries: Sequence[Mapping], name: str, label: str, colour: str, marker: str) -> None:
    """Draw one series, and over a long one its running mean."""
    points = [(entry["step"], entry[name]) for entry in entries if entry.get(name) is not None]
    if not points:
        return
    steps, values = np.array(points, dtype=float).T
    if len(points) < SMOOTHED_FROM:
        axes.plot(steps, values, color=colour, linewidth=1.8, marker=marker, markersize=4, label=label)
        return
    width = max(len(points) // 30, 2)
    mean = np.convolve(values, np.ones(width) / width, mode="valid")
    axes.plot(steps, values, color=colour, linewidth=0.8, alpha=0.3)
    axes.plot(steps[width - 1 :], mean, color=colour, linewidth=1.8, label=f"{label}, mean of {width} entries")


def _figure(height_inches: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH_INCHES, height_inches), layout="constrained")
    axes = figure.subplots()
    _style(axes)
    return figure, axes


def _panels(count: int) -> tuple[Figure, Sequence[Axes]]:
    """Return a figure of panels below each other, over one axis of steps."""
    figure = Figure(figsize=(WIDTH_INCHES, 0.6 + 2.3 * count), layout="constrained")
    rows = figure.subplots(count, 1, sharex=True, squeeze=False)[:, 0]
    for axes in rows:
        _style(axes)
    return figure, rows


def _style(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.tick_params(colors=INK, labelsize=10, color=GREY)
    axes.grid(color=PALE, linewidth=0.8)
    axes.set_axisbelow(True)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set(size=11, color=INK)


def _legend(axes: Axes, where: str) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc=where, frameon=False, fontsize=10, labelcolor=INK)
