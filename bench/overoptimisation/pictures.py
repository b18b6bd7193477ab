"""The bench's pictures, as matplotlib figures that read at phone width."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.architectures.pictures import COLOURS, GREY, MARKERS, PALE, WIDTH_INCHES
from bench.overoptimisation.curves import Curve, fitted
from bench.overoptimisation.plan import TRUTH, Followed
from minirm.metrics import Interval


def against_distance(curves: Mapping[Followed, Curve], form: str) -> Figure:
    """Return gold above and proxy below against √KL, a line for each reward that is followed; dotted: the formula."""
    figure = Figure(figsize=(WIDTH_INCHES, 6.4), layout="constrained")
    gold, proxy = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    for n, (followed, curve) in enumerate(curves.items()):
        style = {"color": "black", "marker": ""} if followed == TRUTH else _style(n + 1)
        d = curve.distance.mean(0)
        line = curve.line(curve.gained)
        gold.plot(d, [one.estimate for one in line], label=followed.name, linewidth=1.6, markersize=3.5, **style)
        low, high = ([getattr(one, end) for one in line] for end in ("low", "high"))
        gold.fill_between(d, low, high, color=style["color"], alpha=0.08, linewidth=0)
        gold.plot(d, fitted(curve, form), color=style["color"], linewidth=1, linestyle=":")
        turn = curve.turn
        gold.plot(d[turn], line[turn].estimate, "o", color=style["color"], markersize=8, markerfacecolor="none")
        proxy.plot(d, curve.proxy.mean((0, 2)), linewidth=1.6, markersize=3.5, **style)
    gold.set_ylabel("true utility gained")
    proxy.set(ylabel="reward gained, in sd", xlabel="√KL from the first policy, √nats")
    for axes in (gold, proxy):
        axes.axhline(0, color=GREY, linewidth=1)
        _plain(axes)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure


def by_data(points: Mapping[str, Mapping[int, Interval]], ylabel: str) -> Figure:
    """Return something of the proxies against how many comparisons they learned from, a line for each method."""
    figure = Figure(figsize=(WIDTH_INCHES, 3.8), layout="constrained")
    axes = figure.subplots()
    for n, (name, line) in enumerate(points.items()):
        sizes = np.array(list(line)) * 1.06 ** (n - (len(points) - 1) / 2)  # side by side, so that all are seen
        middle = np.array([one.estimate for one in line.values()])
        reach = [middle - [one.low for one in line.values()], [one.high for one in line.values()] - middle]
        axes.errorbar(sizes, middle, yerr=reach, label=name, capsize=2, linewidth=1.4, markersize=5, **_style(n))
    axes.set_xscale("log")
    sizes = list(next(iter(points.values())))
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.minorticks_off()
    axes.axhline(0, color=GREY, linewidth=1)
    axes.set(xlabel="comparisons that the proxy learned from", ylabel=ylabel)
    _plain(axes)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure


def scatter(measure: np.ndarray, reached: Mapping[str, np.ndarray], xlabel: str) -> Figure:
    """Return the gold that is reached against a measure of the proxy, a mark for each proxy and seed."""
    figure = Figure(figsize=(WIDTH_INCHES, 3.8), layout="constrained")
    axes = figure.subplots()
    for n, (name, gold) in enumerate(reached.items()):
        axes.plot(measure.ravel(), gold.ravel(), label=name, linestyle="", markersize=6, alpha=0.8, **_style(n))
    axes.axhline(0, color=GREY, linewidth=1)
    axes.set(xlabel=xlabel, ylabel="true utility gained")
    _plain(axes)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure


def _style(n: int) -> dict[str, str]:
    return {"color": COLOURS[n % len(COLOURS)], "marker": MARKERS[n % len(MARKERS)]}


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9.5, color=GREY)
    axes.grid(color=PALE, linewidth=0.8)
    axes.set_axisbelow(True)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_size(11)
