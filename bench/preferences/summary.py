"""All sets of people's judgements in one table and one picture."""

from collections.abc import Mapping

from matplotlib.figure import Figure

from bench.architectures.answers import with_interval
from bench.architectures.pictures import COLOURS, GREY, MARKERS, PALE, WIDTH_INCHES
from bench.preferences.learning import ASKED
from bench.preferences.table import SetPage, beside_words, together
from bench.recipes.common import Page, table

STRONGEST = "the strongest without a network"
ABOVE, BELOW = "▲", "▼"
ACCURACY = ": accuracy"


def summary(pages: Mapping[str, SetPage]) -> Page:
    """Return the table of what each method reaches on each set."""
    rows = {STRONGEST: {name: page.figures[page.strongest + ACCURACY] for name, page in pages.items()}}
    for name, page in pages.items():
        for method in networks(page):
            rows.setdefault(method, {})[name] = page.figures[method + ACCURACY]
    header = ["accuracy", *pages]
    cells = [[method, *(_cell(method, name, pages) for name in pages)] for method in rows]
    named = "; ".join(f"{name}: {page.strongest}" for name, page in pages.items())
    about = (
        f"95% intervals over groups, and over seeds where a row has several. {ABOVE} and {BELOW}: above and below the "
        f"strongest without a network, by a paired difference that is resolved; no mark: not resolved. Strongest: "
        f"{named}."
    )
    figures = {f"{method}: {name}": interval for method, of in rows.items() for name, interval in of.items()}
    return Page("People's judgements", [about, "", *table(header, cells)], figures, _picture(rows, list(pages)))


def networks(page: SetPage) -> list[str]:
    """Return the networks of a page, those that were only asked too, without what was made of several."""
    methods = [key.removesuffix(ACCURACY) for key in page.figures if key.endswith(ACCURACY)]
    made = {other(method) for method in methods for other in (together, beside_words)}
    learned = [one for one in methods if f"{one}: minus {page.strongest}" in page.figures and one not in made]
    return [one for one in methods if one.endswith(ASKED)] + learned


def _cell(method: str, name: str, pages: Mapping[str, SetPage]) -> str:
    page = pages[name]
    if method == STRONGEST:
        return with_interval(page.figures[page.strongest + ACCURACY])
    if method + ACCURACY not in page.figures:
        return ""
    if method.endswith(ASKED):
        return with_interval(page.figures[method + ACCURACY])
    _, low, high = page.figures[f"{method}: minus {page.strongest}"]
    mark = f" {ABOVE}" if low > 0 else f" {BELOW}" if high < 0 else ""
    return with_interval(page.figures[method + ACCURACY]) + mark


def _picture(rows: Mapping[str, Mapping], names: list[str]) -> Figure:
    """Return the sets one below the other, every method as a point with its interval."""
    figure = Figure(figsize=(WIDTH_INCHES, (0.2 * len(rows) + 0.3) * len(names) + 1.2), layout="constrained")
    axes = figure.subplots()
    for n, (method, of) in enumerate(rows.items()):
        style = {"color": COLOURS[n % len(COLOURS)] if n else GREY, "marker": MARKERS[n % len(MARKERS)]}
        for name, (value, low, high) in of.items():
            place = names.index(name) + (n - (len(rows) - 1) / 2) * 0.8 / len(rows)
            reach = [[value - low], [high - value]]
            axes.errorbar(value, place, xerr=reach, linestyle="", capsize=2, markersize=5, **style)
        axes.plot([], [], linestyle="", label=method, **style)
    axes.axvline(0.5, color=PALE, linewidth=1)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlabel("accuracy")
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9.5, color=GREY)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure
