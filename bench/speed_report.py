"""What the speed bench found, as a table and a picture."""

from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.timing import Spread

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#9aa0ac"
GROWING = {"T": "T, tokens in a row", "K": "K, responses", "D": "D, width", "L": "L, layers"}


@dataclass(frozen=True)
class Aim:
    """What was to be reached."""

    bound: float
    at_least: bool = True

    def __str__(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {self.bound:g}"

    def is_reached(self, value: float) -> bool:
        """Whether a value reaches it."""
        return value >= self.bound if self.at_least else value <= self.bound


@dataclass(frozen=True)
class Row:
    """One figure of one section."""

    setting: str
    """Texts, precision and whatever else the rows of a group share."""
    name: str
    value: Spread
    unit: str
    times: Spread | None = None
    """How it stands to minirm; see `relation`."""
    aim: Aim | None = None
    """For `times`, or for `value` where there is none."""
    relation: str = "× as fast is minirm"

    def __str__(self) -> str:
        judged = self.times or self.value
        aim = "" if self.aim is None else f" (aim {self.aim}: {'yes' if self.aim.is_reached(judged.median) else 'no'})"
        times = "" if self.times is None else f"; {with_quartiles(self.times)} {self.relation}"
        return f"{self.setting}: {self.name}: {with_quartiles(self.value)} {self.unit}{times}{aim}"


def row_from_json(fields: dict) -> Row:
    """Return a row as `dataclasses.asdict` wrote it."""
    times, aim = fields["times"], fields["aim"]
    return Row(
        **{
            **fields,
            "value": Spread(*fields["value"]),
            "times": None if times is None else Spread(*times),
            "aim": None if aim is None else Aim(**aim),
        }
    )


def with_quartiles(value: Spread) -> str:
    """Return a median with its quartiles, or alone where it was measured once."""
    median = _number(value.median)
    return median if value.low == value.high else f"{median} [{_number(value.low)}, {_number(value.high)}]"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


COMPARED = ("training", "ranking", "scoring")
PICTURED = (*COMPARED, "growth")
"""Sections of which the picture shows something."""


def markdown(sections: dict[str, dict], titles: dict[str, str], *, pictured: bool = True) -> str:
    """Return all sections as Markdown, what was aimed at first.

    Args:
        sections: by name: "rows", "command", "machine", "seconds".
        titles: of the sections.
        pictured: a picture stands beside it.
    """
    lines = ["# Speed", "", "Medians [quartiles] over rounds in which everyone runs once; × is the median ratio within"]
    lines += ["a round. What exactly is timed stands at the head of the bench's file.", ""]
    aims = []
    for section in sections.values():
        for row in map(row_from_json, section["rows"]):
            if row.aim is not None:
                judged = row.times or row.value
                reached = "reached" if row.aim.is_reached(judged.median) else "**not reached**"
                relation = f", {row.relation}" if row.times else ""
                aims.append(
                    f"| {row.setting}: {row.name}{relation} | {with_quartiles(judged)} | {row.aim} | {reached} |"
                )
    if aims:
        lines += ["| aimed at | measured | aim | |", "|---|---|---|---|", *aims]
    if pictured and not sections.keys().isdisjoint(PICTURED):
        lines += ["", "![how many times as fast, and growth](speed.png)"]
    for name, section in sections.items():
        lines += ["", f"## {titles[name].rstrip('.')}", "", *_table(list(map(row_from_json, section["rows"])))]
        facts = ", ".join(f"{key} {value}" for key, value in section["machine"].items())
        lines += ["", f"`{section['command']}`, {section['seconds']:.0f} seconds; {facts}."]
    return "\n".join(lines) + "\n"


def _table(rows: list[Row]) -> list[str]:
    lines = ["| | | | |", "|---|---|---|---|"]
    last = ""
    for row in rows:
        setting, last = "" if row.setting == last else row.setting, row.setting
        times = "" if row.times is None else f"{with_quartiles(row.times)} {row.relation}"
        lines.append(f"| {setting} | {row.name} | {with_quartiles(row.value)} {row.unit} | {times} |")
    return lines


def picture(sections: dict[str, dict]) -> Figure:
    """Return the ratios to the peers with what was aimed at, and below them how time and memory grow."""
    rows = {name: list(map(row_from_json, section["rows"])) for name, section in sections.items()}
    compared = [row for name in COMPARED for row in rows.get(name, []) if row.times]
    heights = [0.8 + 0.26 * len(compared), 3.4 if "growth" in rows else 0.1]
    figure = Figure(figsize=(8.5, sum(heights)), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=heights)
    _draw_ratios(above.subplots(), compared)
    if "growth" in rows:
        for axes, letter in zip(below.subplots(1, 4, sharey=True), GROWING, strict=True):
            _draw_growth(axes, letter, [row for row in rows["growth"] if row.setting.startswith(f"{letter} = ")])
        below.supylabel("ms a step, MB at the peak", fontsize=9)
        below.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=4, fontsize=7, frameon=False)
    return figure


def _draw_ratios(axes: Axes, rows: list[Row]) -> None:
    for place, row in enumerate(rows):
        median, low, high = row.times
        axes.barh(place, median, color=BLUE, xerr=[[median - low], [high - median]], ecolor=GREY)
        if row.aim is not None:
            axes.plot([row.aim.bound] * 2, [place - 0.45, place + 0.45], color=ORANGE, linewidth=2)
    axes.set_yticks(range(len(rows)), [f"{row.setting}: {row.name}" for row in rows], fontsize=6)
    axes.invert_yaxis()
    axes.axvline(1, color=GREY, linewidth=1)
    axes.set(xscale="log", xlabel="so many times as fast is minirm (orange: aim)")
    axes.set_xticks([1, 2, 5, 10, 20, 50], ["1", "2", "5", "10", "20", "50"])


def _draw_growth(axes: Axes, letter: str, rows: list[Row]) -> None:
    sizes = sorted({int(row.setting.split(" = ")[1]) for row in rows})
    for name, color in (("minirm", BLUE), ("padded loop, each response once", GREY)):
        for unit, style in (("ms", "-"), ("MB", "--")):
            line = [row.value.median for row in rows if (row.name, row.unit) == (name, unit)]
            axes.plot(sizes, line, color=color, linestyle=style, marker=".", label=f"{name}, {unit}")
    axes.set(xscale="log", yscale="log", xlabel=GROWING[letter])
    axes.minorticks_off()
    axes.set_xticks(sizes, [str(size) for size in sizes], fontsize=7)
