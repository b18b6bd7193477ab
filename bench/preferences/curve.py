"""What reading other texts first gave, on all sets: a table and a picture of pages that `--language` wrote.

python -m bench.preferences.curve PAGE.json … --out FOLDER
"""

import argparse
import re
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.architectures.answers import against_zero
from bench.architectures.pictures import COLOURS, GREY, MARKERS, PALE, WIDTH_INCHES
from bench.preferences.language import MODELS
from bench.preferences.table import WITHOUT
from bench.recipes.common import Page, table, write_page
from minirm.errors import InputError
from minirm.files.disk import read_json
from minirm.metrics import Interval

GAIN = re.compile(rf"(\w+), ([\d.]+) M tokens first: {WITHOUT}")
Gains = Mapping[str, Mapping[str, Mapping[float, Interval]]]
"""By set, by model and by millions of tokens: accuracy minus that of the same model with 0 tokens first, paired."""
COLUMNS = 2


def main(argv: Sequence[str]) -> int:
    """Read pages of several sets, and write one of them all."""
    options = argparse.ArgumentParser(prog="python -m bench.preferences.curve", description=__doc__)
    options.add_argument("pages", nargs="+", type=Path)
    options.add_argument("--out", type=Path, required=True, help="folder")
    chosen = options.parse_args(argv)
    command = " ".join(["python -m bench.preferences.curve", *argv])
    try:
        print(write_page(page(chosen.pages), "tokens", {"command": command}, chosen.out))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def page(paths: Sequence[Path]) -> Page:
    """Return the page of all sets; the same cell of two pages is the later one's."""
    gains: dict[str, dict[str, dict[float, Interval]]] = defaultdict(lambda: defaultdict(dict))
    for path in paths:
        for model, millions, interval in _read(path):
            gains[path.stem][model][millions] = interval
    cells = sorted({(model, amount) for lines in gains.values() for model, line in lines.items() for amount in line})
    rows = [
        [f"{_size(model)}, {amount:g} M tokens", *(_cell(gains[name][model].get(amount)) for name in gains)]
        for model, amount in cells
    ]
    all_of_them = [one for lines in gains.values() for line in lines.values() for one in line.values()]
    told = sum(one.low > 0 or one.high < 0 for one in all_of_them)
    about = (
        "Accuracy minus that of the same model with 0 tokens first: paired, 95% intervals over groups, not corrected "
        f"for their number. {told} of {len(all_of_them)} are resolved."
    )
    lines = [about, "", *table(["minus 0 tokens first", *gains], rows)]
    figures = {
        f"{name}: {model}, {amount:g}": one
        for name, of in gains.items()
        for model, line in of.items()
        for amount, one in line.items()
    }
    return Page("What reading other texts first gave", lines, figures, _picture(gains))


def _read(path: Path) -> Iterator[tuple[str, float, Interval]]:
    figures = read_json(path).get("figures", {})
    gains = {found: values for key, values in figures.items() if (found := GAIN.fullmatch(key))}
    if not gains:
        raise InputError(f"{path}: must be a page that --language wrote, with some tokens and with 0")
    for found, values in gains.items():
        yield found[1], float(found[2]), Interval(*values)


def _size(model: str) -> str:
    return f"{MODELS[model].layers} layers, D = {MODELS[model].width}"


def _cell(gain: Interval | None) -> str:
    return "" if gain is None else against_zero(gain)


def _picture(gains: Gains) -> Figure:
    """Return a small plot for each set, all on one scale: a line for each model, 0 tokens at 0."""
    rows = -(-len(gains) // COLUMNS)
    figure = Figure(figsize=(WIDTH_INCHES, 1.9 * rows + 0.8), layout="constrained")
    plots = figure.subplots(rows, COLUMNS, sharex=True, sharey=True, squeeze=False)
    models = [model for model in MODELS if any(model in lines for lines in gains.values())]
    for axes, (name, lines) in zip(plots.flat, gains.items(), strict=False):
        axes.axhline(0, color=GREY, linewidth=1)
        for n, model in enumerate(models):
            _draw(axes, n, _size(model), lines.get(model, {}))
        axes.set_title(name, fontsize=9.5)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8.5, color=GREY)
        axes.grid(color=PALE, linewidth=0.8)
    amounts = {amount for lines in gains.values() for line in lines.values() for amount in line}
    plots[0, 0].set_xticks(sorted({0.0, *amounts}))
    for axes in plots[-1]:
        axes.set_xlabel("million tokens, read first", fontsize=9.5)
    figure.supylabel("accuracy gained over 0 tokens", fontsize=9.5)
    figure.legend(*plots[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return figure


def _draw(axes: Axes, n: int, label: str, line: Mapping[float, Interval]) -> None:
    line = {0.0: Interval(0.0, 0.0, 0.0), **dict(sorted(line.items()))}
    middle = [one.estimate for one in line.values()]
    reach = [[v.estimate - v.low for v in line.values()], [v.high - v.estimate for v in line.values()]]
    places = [amount + n - 0.5 for amount in line]  # side by side, so that both are seen
    style = {"color": COLOURS[n % len(COLOURS)], "marker": MARKERS[n % len(MARKERS)]}
    axes.errorbar(places, middle, yerr=reach, label=label, capsize=2, linewidth=1.4, markersize=4, **style)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
