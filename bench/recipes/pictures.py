"""The recipes' pictures, as matplotlib figures that read at phone width."""

import textwrap
from collections.abc import Collection, Mapping

from matplotlib.figure import Figure

from bench.architectures.pictures import COLOURS, GREY, MARKERS, PALE, WIDTH_INCHES
from minirm.metrics import Interval

NAME_CHARACTERS = 28
"""Of a line of a name beside its point."""


def series(points: Mapping[str, Mapping[float, Interval]], xlabel: str, ylabel: str, columns: int = 2) -> Figure:
    """Return a line with intervals for each name, over places that are the same for all."""
    figure = Figure(figsize=(WIDTH_INCHES, 4.4), layout="constrained")
    axes = figure.subplots()
    spread = (max(max(line) for line in points.values()) - min(min(line) for line in points.values())) / 60
    for n, (name, line) in enumerate(points.items()):
        places = [place + (n - (len(points) - 1) / 2) * spread for place in line]  # side by side, so that all are seen
        middle = [value.estimate for value in line.values()]
        reach = [[v.estimate - v.low for v in line.values()], [v.high - v.estimate for v in line.values()]]
        style = {"color": COLOURS[n % len(COLOURS)], "marker": MARKERS[n % len(MARKERS)]}
        axes.errorbar(places, middle, yerr=reach, label=name, capsize=2, linewidth=1.4, markersize=5, **style)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.set_xticks(sorted({place for line in points.values() for place in line}))
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9.5, color=GREY)
    axes.grid(color=PALE, linewidth=0.8)
    figure.legend(loc="outside lower center", ncols=columns, frameon=False, fontsize=9)
    return figure


def beside_each_other(values: Mapping[str, Interval], marked: Collection[str], xlabel: str) -> Figure:
    """Return a point with its interval for each name, one below the other, some in colour."""
    lines = sum(len(textwrap.wrap(name, NAME_CHARACTERS)) for name in values)
    figure = Figure(figsize=(WIDTH_INCHES, 0.16 * (len(values) + lines) + 0.9), layout="constrained")
    axes = figure.subplots()
    for place, (name, (value, low, high)) in enumerate(values.items()):
        colour = COLOURS[1] if name in marked else GREY
        axes.errorbar(
            value, place, xerr=[[value - low], [high - value]], fmt="o", color=colour, capsize=2, markersize=5
        )
    axes.set_yticks(range(len(values)), [textwrap.fill(name, NAME_CHARACTERS) for name in values])
    axes.invert_yaxis()
    axes.set_xlabel(xlabel)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9.5, color=GREY)
    axes.grid(axis="x", color=PALE, linewidth=0.8)
    return figure
