"""How an evaluation is told: the rows of a table, and one HTML page that is self-contained, to send, open and keep.

page      title, verdict, sections; `report.html.jinja` is what it looks like
section   heading, then any of: a paragraph (str), Table, Picture, Example
"""

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, PackageLoader
from matplotlib.figure import Figure
from PIL import Image

from minirm.data.comparison import Comparison
from minirm.errors import InputError
from minirm.evaluation.evaluate import Calibration, Estimate, Evaluation, Ranking
from minirm.evaluation.pairs import Rewards, pair_table
from minirm.evaluation.pictures import learning_curve, reliability_diagram, reward_histogram
from minirm.files.dialogue import render_dialogue
from minirm.files.disk import read_json, write_json, write_whole

CONFIG, METRICS = "config.json", "metrics.json"
"""Files of a folder: a run has both, an evaluation the second."""
SHOWN = 5
"""Examples of each kind on a page."""
PIXELS_PER_INCH = 160
"""A picture of 4.6 inches is then 736 px wide: two for each px of a phone."""
COLOURS = 32
"""Of a picture's palette: a quarter of the bytes, and the same to the eye."""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text and numbers; floats are shown with three decimals."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str | int | float | None]]
    caption: str = ""

    @property
    def number_columns(self) -> set[int]:
        """Which columns hold a number, and so are aligned to the right."""
        columns = zip(self.columns, *self.rows, strict=True)
        return {c for c, (_, *cells) in enumerate(columns) if any(isinstance(cell, int | float) for cell in cells)}


@dataclass(frozen=True, slots=True)
class Picture:
    """A figure and the sentence under it, which also says what it shows to those who cannot see it."""

    figure: Figure
    caption: str

    @property
    def pixels(self) -> tuple[int, int]:
        """Width and height."""
        width, height = self.figure.get_size_inches() * PIXELS_PER_INCH
        return round(width), round(height)

    @property
    def base64(self) -> str:
        """The picture as PNG with a palette."""
        drawn, small = io.BytesIO(), io.BytesIO()
        self.figure.savefig(drawn, format="png", dpi=PIXELS_PER_INCH)
        Image.open(drawn).convert("RGB").quantize(COLOURS).save(small, format="png", optimize=True)
        return base64.b64encode(small.getvalue()).decode()


@dataclass(frozen=True, slots=True)
class Shown:
    """One response of an example."""

    text: str
    reward: float
    is_preferred: bool
    """Whether the label calls it the best."""
    utility: float | None = None
    """Its true utility, where that is known."""


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt and its responses, as the model and the label judge them."""

    prompt: str
    responses: Sequence[Shown]
    note: str = ""

    @property
    def highest(self) -> float | None:
        """The highest reward; None where there is no response."""
        return max((response.reward for response in self.responses), default=None)


Block = str | Table | Picture | Example


@dataclass(frozen=True, slots=True)
class Section:
    """A heading and what stands under it."""

    heading: str
    blocks: Sequence[Block]

    @property
    def neighbours(self) -> list[tuple[str, list[Block]]]:
        """Blocks of one kind that follow one another, and the kind; pictures then stand side by side."""
        for block in self.blocks:
            if not isinstance(block, Block):
                raise TypeError(f"{type(block).__name__} must be a str, Table, Picture or Example")
        return [(kind, list(blocks)) for kind, blocks in groupby(self.blocks, lambda block: type(block).__name__)]


# control characters may not stand in HTML, lone surrogates not in UTF-8
_UNPRINTABLE = dict.fromkeys((*range(9), 11, 12, *range(14, 32), *range(127, 160), *range(0xD800, 0xE000)), "\ufffd")


def _as_text(value: object) -> object:
    """Return what the template writes for a value."""
    if isinstance(value, float):
        return _signed(value)
    if type(value) is int:
        return f"{value:,}"
    if type(value) is str:  # no Markup, which the template has made
        return value.translate(_UNPRINTABLE)
    return "–" if value is None else value


def render_page(title: str, verdict: str, sections: Sequence[Section]) -> str:
    """Return the page as HTML, every text in it escaped."""
    environment = Environment(
        loader=PackageLoader("minirm.evaluation", ""), autoescape=True, finalize=_as_text, trim_blocks=True
    )
    return environment.get_template("report.html.jinja").render(title=title, verdict=verdict, sections=sections)


def write_report(path: str | Path, *, title: str, verdict: str, sections: Sequence[Section]) -> None:
    """Write the page; what stood at `path` before stays whole until the new page is.

    Args:
        verdict: one or two sentences, shown large at the top.
    """
    page = render_page(title, verdict, sections).encode()
    write_whole(Path(path), lambda unfinished: unfinished.write_bytes(page))


# An evaluation as rows, and as a page


class TableRow(NamedTuple):
    """One line for the command line or the report; every field is text."""

    name: str
    value: str
    interval: str
    explanation: str


def as_table(evaluation: Evaluation) -> list[TableRow]:
    """Return the evaluation as rows to print, the accuracy first and what could explain it away right behind."""
    e, cut = evaluation, evaluation.cut or {}
    return [
        *_accuracy_rows(e),
        *_leakage_rows(e),
        *_calibration_rows(e.calibration),
        *_ranking_rows(e.ranking),
        *_if_any("cut prompts", cut.get("prompts"), "responses scored behind a prompt cut from its left"),
        *_if_any("cut responses", cut.get("responses"), "responses cut before their end token"),
        _row("equal rewards", e.reward_ties, "pairs with equal rewards, each counted one half"),
        _row("equal scores", e.label_ties, "pairs without a better response, left out"),
        *(_row("left out", count, why) for why, count in sorted((e.dropped or {}).items())),
        *(_row(f"subset {name}", its, _count(its.count, "pair")) for name, its in e.subsets.items()),
    ]


def _accuracy_rows(e: Evaluation) -> Iterator[TableRow]:
    length, ties = e.length, _count(e.length_ties, "pair")
    equal = f"; {ties} of equal length at one half each" if e.length_ties else ""
    shorter, where = length.better_is_shorter, "no pair has a better response that is the shorter one"
    if shorter:
        where = f"accuracy on {_count(shorter.count, 'pair')} whose better response is shorter"
    swapped = "accuracy behind other prompts: what needs no prompt" if e.swapped else "not measured"
    yield _row(
        "accuracy", e.accuracy, f"in the right order, of {_count(e.pairs, 'pair')} of {_count(e.prompts, 'prompt')}"
    )
    yield _row("longer wins", length.longer_wins, f"choosing the longer response, without a model{equal}")
    yield _row("gain over longer wins", length.gain, "the first row minus the second, on the same pairs", "+")
    yield _row("better is shorter", shorter, where)
    yield _row("reward and length", length.correlation, "Spearman's correlation over all responses", "+")
    yield from _if_any("… within a prompt", length.correlation_within, "mean over the prompts", "+")
    yield _row("prompts swapped", e.swapped, swapped)


def _leakage_rows(e: Evaluation) -> Iterator[TableRow]:
    if e.leakage is None:
        yield _row("leaked prompts", None, "not measured: the training prompts are not known")
        return
    leaked, clean = e.leakage.leaked, e.leakage.clean if e.leakage.prompts else None
    of = f"of {_count(e.prompts, 'prompt')}: those that also stand in training"
    yield _row("leaked prompts", e.leakage.prompts, of)
    for name, its in (("… accuracy on them", leaked), ("… on the others", clean)):
        yield from _if_any(name, its, _count(its.count, "pair") if its else "")


def _calibration_rows(calibration: Calibration) -> Iterator[TableRow]:
    yield _row("NLL, in nats", calibration.nll_nats, "−log probability of the label; 0.693 knows nothing")
    yield _row("Brier score", calibration.brier, "squared error of the probability; 0.25 knows nothing")
    noise = f"of perfect ones chance alone makes {calibration.ece_of_noise:.3f}"
    yield _row("ECE", calibration.ece, f"mean gap between confidence and accuracy; {noise}")
    yield _row("… without chance", calibration.debiased, "root mean square of the gaps, less what chance adds to it")
    temperature = calibration.temperature
    sure = "undefined: no pair has two different rewards"
    if temperature is not None:
        sure = f"divides the rewards best; they are {'too sure' if temperature > 1 else 'not sure enough'}"
    yield _row("temperature", None if temperature is None else f"{temperature:.3g}", sure)


def _ranking_rows(ranking: Ranking | None) -> Iterator[TableRow]:
    if ranking is not None:
        rankings = f"{_count(ranking.kendall_tau.count, 'ranking')} of more than two responses"
        hit = f"highest reward has the highest score; {ranking.best_of_k.chance:.3f} by chance"
        yield _row("Kendall's tau-b", ranking.kendall_tau, f"mean over {rankings}", "+")
        yield _row("best of K", ranking.best_of_k, hit)


def _row(name: str, found: Estimate | float | int | str | None, explanation: str, sign: str = "") -> TableRow:
    """Return the row of a figure; an estimate with its interval, and whether that is resolved."""
    if not isinstance(found, Estimate):
        return TableRow(name, _signed(found, sign) if isinstance(found, float) else _as_text(found), "", explanation)
    interval = "" if found.low is None else f"[{_signed(found.low, sign)}, {_signed(found.high, sign)}]"
    if found.low is None:
        explanation += "; too few prompts for an interval"
    elif not found.is_resolved:
        explanation += "; not resolved from " + (f"chance ({found.chance:.3g})" if found.chance else "0")
    return TableRow(name, _signed(found.value, sign), interval, explanation)


def _if_any(name: str, found: Estimate | int | None, explanation: str, sign: str = "") -> list[TableRow]:
    return [_row(name, found, explanation, sign)] if found else []


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _signed(value: float, sign: str = "") -> str:
    return f"{value:{sign}.3f}".replace("-", "−")


def check_evaluation_folder(folder: Path) -> None:
    """Refuse a folder in which an evaluation would overwrite something else than an earlier evaluation.

    Raises:
        InputError: it is a run's, or is neither empty nor has the metrics.json of an evaluation.
    """
    if (folder / CONFIG).exists():
        raise InputError(f"{folder}: is a run folder, whose own report would be lost; name another folder")
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    if not (folder / METRICS).is_file() or not {"accuracy", "calibration"} <= read_json(folder / METRICS).keys():
        raise InputError(f"{folder}: is not empty and holds no earlier evaluation; name another folder")


def write_evaluation(
    folder: Path,
    comparisons: Sequence[Comparison],
    rewards: Rewards,
    evaluation: Evaluation,
    *,
    title: str,
    history: Sequence[Mapping] | None = None,
) -> None:
    """Write report.html, and metrics.json unless a run has its own there.

    Args:
        history: a run's own entries of log.jsonl, for the learning curve of its reward stage. None: not a run's folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if history is None:
        write_json(folder / METRICS, evaluation.to_json())  # first: by it the folder is known again
    accuracy = as_table(evaluation)[0]
    verdict = f"Accuracy {accuracy.value} {accuracy.interval}: {accuracy.explanation}."
    sections = [evaluation_section(comparisons, rewards, evaluation)]
    if history:
        curve = Picture(learning_curve(history), "Loss and accuracy while the reward stage ran.")
        sections.append(Section("How it was learned", [curve]))
    wrong = most_wrong(comparisons, rewards) or ["No pair is in the wrong order."]
    sections.append(Section("Where it is most wrong", wrong))
    write_report(folder / "report.html", title=title, verdict=verdict, sections=sections)


def evaluation_section(
    comparisons: Sequence[Comparison], rewards: Rewards, evaluation: Evaluation, heading: str = "The figures"
) -> Section:
    """Return the table of an evaluation and its pictures."""
    pairs = pair_table(comparisons, rewards)
    reliability = reliability_diagram(evaluation.calibration.bins)
    histogram = reward_histogram(pairs.better_reward, pairs.worse_reward)
    blocks = [
        Table(("", "value", "95% interval", ""), as_table(evaluation)),
        Picture(reliability, "How often the model is right when it is that sure; on the dashed line it knows itself."),
        Picture(histogram, "Rewards of the better and of the worse response of every pair."),
    ]
    return Section(heading, blocks)


def most_wrong(comparisons: Sequence[Comparison], rewards: Rewards) -> list[Example]:
    """Return the pairs in the wrong order with the largest difference of rewards."""
    pairs = pair_table(comparisons, rewards)
    examples = []
    for n in pairs.reward_difference.argsort()[:SHOWN]:
        if pairs.reward_difference[n] < 0:
            comparison, scored = comparisons[pairs.comparison[n]], rewards[pairs.comparison[n]]
            both = [
                Shown(comparison.responses[k], scored[k], k == pairs.better[n])
                for k in (pairs.better[n], pairs.worse[n])
            ]
            examples.append(Example(render_dialogue(comparison.prompt).strip(), both))
    return examples
