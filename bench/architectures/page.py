"""Every number of a study → sections of tables and pictures; the same as HTML, Markdown, JSON and TensorBoard."""

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from bench.architectures import pictures, words
from bench.architectures.answers import difference_words, statements, verdict, with_interval
from bench.architectures.figures import (
    ACCURACY,
    ECE,
    ECE_TEMPERED,
    NLL,
    RANK,
    RANK_OVERALL,
    REGRET,
    WAY,
)
from bench.architectures.plan import tuned_on
from bench.architectures.study import Study, figure_in
from bench.architectures.subjects import AS_TRAINED, REVERSED, SWAPPED
from bench.timing import Spread
from minirm.evaluation.report import PIXELS_PER_INCH, Picture, Section, Table, write_report
from minirm.files.disk import write_whole

TITLE = "Which architecture makes a better reward model"
FIGURES = (WAY, RANK, RANK_OVERALL, NLL, ECE, ECE_TEMPERED, REGRET)


def sections(study: Study, facts: dict) -> list[Section]:
    """Return the report, from the table to everything that is needed to repeat it."""
    return [
        Section(
            f"How good: {study.main}",
            [
                words.comparison(study),
                words.subject(study, study.main),
                _views(study, study.main),
                words.INTERVALS,
                words.QUALITY,
                *(_quality(study, study.main, view) for view in study.views(study.main)),
                *_truth_pictures(study),
            ],
        ),
        Section("At what price", [words.costs(study), _costs(study), *_cost_pictures(study)]),
        *([Section("Questions and answers", [_statements(study)])] if statements(study) else []),
        Section("Curves", _curves(study)),
        *(
            Section(
                f"How good: {subject}",
                [words.subject(study, subject), _views(study, subject), _quality(study, subject)],
            )
            for subject in study.setup.subjects
            if subject != study.main
        ),
        Section("Who is wrong where", _mistakes(study)),
        Section("Ensembles and doubt", _doubt(study)),
        Section("Who took part, and how they were tuned", _contestants(study)),
        Section("To repeat it", _repeat(study, facts)),
    ]


def _contestants(study: Study) -> list[str | Table]:
    about = [(contestant.name, contestant.about or contestant.kind) for contestant in study.setup.contestants]
    return [
        Table(("contestant", "what it is"), about),
        words.tuning(study),
        Table(("contestant", "tuned on", "learning rate", ""), _rates(study), "Learning rates that validation chose."),
        *(f"Failed: {line}" for line in study.failures()),
    ]


def _rates(study: Study) -> list[tuple[str, str, str, str]]:
    edges = {min(study.setup.plan.rates): "the lowest tried", max(study.setup.plan.rates): "the highest tried"}
    return [(name, subject, f"{rate:g}", edges.get(rate, "")) for (name, subject), rate in study.rates.items()]


def _names(study: Study, subject: str) -> list[str]:
    """Return who was measured on a subject, the most accurate first."""
    names = [name for where, name in study.resampled if where == subject]
    return sorted(names, key=lambda name: -study.resampled[subject, name][ACCURACY].whole.mean())


def _views(study: Study, subject: str) -> Table:
    """Return accuracies on the views of a subject, with the paired difference to the baseline."""
    rows = []
    for name in _names(study, subject):
        difference = study.difference(subject, name, study.baseline)
        against = "the baseline" if name == study.baseline else difference_words(difference)
        views = [with_interval(study.interval(subject, name, view)) for view in (ACCURACY, REVERSED, SWAPPED)]
        rows.append((name, views[0], against, *views[1:]))
    columns = ("contestant", AS_TRAINED, f"minus {study.baseline}", REVERSED, SWAPPED)
    return Table(columns, rows, "Accuracy on held-out pairs.")


def _quality(study: Study, subject: str, view: str = AS_TRAINED) -> Table:
    names = _names(study, subject)
    called = {figure: figure_in(view, figure) for figure in FIGURES}
    measured = [f for f in FIGURES if any(called[f] in study.resampled[subject, name] for name in names)]
    rows = [(name, *(with_interval(study.interval(subject, name, called[f])) for f in measured)) for name in names]
    return Table(("contestant", *measured), rows, f"{view[0].upper()}{view[1:]}.")


def _truth_pictures(study: Study) -> list[Picture]:
    shown = [
        Picture(
            pictures.reliability(study),
            "Reliability, before temperature: on the dashed line it is right as often as it claims to be.",
        )
    ]
    if any(views[AS_TRAINED].test.judged for (subject, _), views in study.scored.items() if subject == study.main):
        shown.append(Picture(pictures.reward_against_utility(study), "Reward against true utility, seed 0."))
    return shown


def _costs(study: Study) -> Table:
    rows = []
    shortest = study.shortest_training()
    for name, cost in study.costs.items():
        trained = study.histories(name)
        seconds = [f"{value:.1f}" for value in study.seconds_to_most(name)] if trained else ["–"] * 3
        rows.append(
            (
                name,
                cost.width,
                cost.parameters,
                f"{cost.flops / 1e6:.1f} M",
                _per_second(study.pairs_trained_on(name), cost.training),
                _per_second(study.pairs_per_comparison, cost.scoring),
                f"{cost.peak_bytes / 1e6:.1f} MB",
                *seconds,
                with_interval(study.accuracy_after(name, shortest) if trained else None),
            )
        )
    columns = ("contestant", "width", "parameters", "operations", "pairs/s training", "pairs/s scoring", "peak memory",
               "s to 90%", "s to 90% of the way", "s in all", f"accuracy after {shortest:.1f} s")  # fmt: skip
    return Table(columns, rows)


def _per_second(pairs: float, seconds: Spread) -> str:
    return f"{pairs / seconds.median:,.0f} [{pairs / seconds.high:,.0f}, {pairs / seconds.low:,.0f}]"


def _cost_pictures(study: Study) -> list[Picture]:
    return [
        Picture(
            pictures.accuracy_against_cost(study), "Accuracy on test, with its interval, against the training's price."
        ),
        Picture(
            pictures.accuracy_over_seconds(study), "Accuracy on validation while training goes on, mean over seeds."
        ),
    ]


def _statements(study: Study) -> Table:
    columns = (
        "question",
        "first − second",
        "difference in accuracy",
        "with prompts swapped",
        "seconds, first / second",
    )
    return Table(columns, statements(study), f"On {study.main}; seconds are those of a whole training.")


def _curves(study: Study) -> list[Picture | Table]:
    names = pictures.compared(study)
    by_comparisons, by_width = study.points(study.curve), study.points(study.sizes)
    shown: list[Picture | Table] = []
    if len(study.setup.plan.curve) > 1:
        figure = pictures.curves(by_comparisons, names, "training comparisons")
        caption = f"Accuracy on {study.main} against the number n of comparisons, in steps that grow as √n."
        shown.append(Picture(figure, caption))
    if len(study.setup.plan.widths) > 1:
        figure = pictures.curves(by_width, names, f"width of {study.baseline}")
        shown.append(
            Picture(figure, "Accuracy against the size of the model; the others have the size that matches it.")
        )
    for points, columns in ((by_comparisons, study.setup.plan.curve), (by_width, study.setup.plan.widths)):
        if len(columns) > 1:
            rows = [(name, *(with_interval(line.get(place)) for place in columns)) for name, line in points.items()]
            shown.append(Table(("contestant", *(f"{place:,}" for place in columns)), rows))
    return shown


def _mistakes(study: Study) -> list[Table | Picture]:
    rows = [(name, f"{wrong:.2%}", f"{right:.2%}") for name, (wrong, right) in study.mistakes().items()]
    alone = Table(
        ("contestant", "it alone is wrong", "it alone is right"),
        rows,
        "Share of the pairs that this one gets wrong (right), and every other here right (wrong), by most seeds.",
    )
    found = [alone, Picture(pictures.alone(study), alone.caption)]
    by_attribute = study.attributes()
    if not by_attribute:
        return found
    attributes = sorted({attribute for found in by_attribute.values() for attribute in found})
    rows = [(name, *(found.get(attribute) for attribute in attributes)) for name, found in by_attribute.items()]
    caption = "Accuracy against the truth on pairs of which one attribute alone decides which response is better."
    return [*found, Table(("contestant", *attributes), rows, caption)]


def _doubt(study: Study) -> list[Table | Picture | str]:
    found = study.ensembles()
    columns = list(next(iter(found.values())))
    shown = lambda column, value: (difference_words if "−" in column else with_interval)(value)  # noqa: E731
    rows = [(name, *(shown(column, values[column]) for column in columns)) for name, values in found.items()]
    best = study.ranking()[0]
    curve = pictures.risk_over_coverage(study.scored[study.main, best][AS_TRAINED], best)
    return [
        words.doubt(study),
        Table(("contestant", *columns), rows),
        Picture(curve, "Mistakes left when the doubtful pairs are set aside."),
    ]


def _repeat(study: Study, facts: dict) -> list[str | Table]:
    sources = study.setup.sources
    sources = asdict(sources) | {"data": str(sources.data)}
    plan = {**asdict(study.setup.plan), "sources": sources, "match": study.setup.match}
    return [
        Table(("", ""), [(name, str(value)) for name, value in facts.items()], "Command, machine and versions."),
        Table(("", ""), [(name, str(value)) for name, value in plan.items()], "The plan."),
        "Two runs with the same seeds, versions and threads give the same accuracies; times differ.",
    ]


# ── Written down ──────────────────────────────────────────────────────────────────────────────────────────────────────


def write(study: Study, folder: Path, name: str, facts: dict) -> str:
    """Write NAME.html, NAME.md with its pictures, NAME.json and TensorBoard; return the verdict."""
    said, parts = verdict(study), sections(study, facts)
    write_report(folder / f"{name}.html", title=TITLE, verdict=said, sections=parts)
    text = as_markdown(said, parts, folder, name)
    write_whole(folder / f"{name}.md", lambda path: path.write_text(text, encoding="utf-8"))
    record = json.dumps(as_json(study, said, facts), indent=1, ensure_ascii=False)
    write_whole(folder / f"{name}.json", lambda path: path.write_text(record + "\n", encoding="utf-8"))
    return said


def as_markdown(said: str, parts: Sequence[Section], folder: Path, name: str) -> str:
    """Return the report as Markdown, its pictures written beside it."""
    lines, number = [f"# {TITLE}", "", said, ""], 0
    for section in parts:
        lines += [f"## {section.heading}", ""]
        for block in section.blocks:
            if isinstance(block, Table):
                lines += _markdown_table(block)
            elif isinstance(block, Picture):
                number += 1
                file = f"{name}-{number}.png"
                block.figure.savefig(folder / file, dpi=PIXELS_PER_INCH // 2)
                lines += [f"![{block.caption}]({file})", "", block.caption, ""]
            else:
                lines += [block, ""]
    return "\n".join(lines)


def _markdown_table(table: Table) -> list[str]:
    cell = lambda value: "–" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)  # noqa: E731
    lines = [f"| {' | '.join(table.columns)} |", f"|{'---|' * len(table.columns)}"]
    lines += [f"| {' | '.join(map(cell, row))} |" for row in table.rows]
    return [*lines, "", *([table.caption, ""] if table.caption else [])]


def as_json(study: Study, said: str, facts: dict) -> dict:
    """Return every number of the report."""
    table = {}
    for (subject, name), found in study.resampled.items():
        figures = {figure: study.interval(subject, name, figure) for figure in found}
        against = {figure: study.difference(subject, name, study.baseline, figure) for figure in found}
        table.setdefault(subject, {})[name] = {
            "learning rate": study.rates.get((name, tuned_on(subject))),
            "figures": figures,
            f"minus {study.baseline}": against,
        }
    return {
        "verdict": said,
        "facts": facts,
        "plan": asdict(study.setup.plan),
        "match": study.setup.match,
        "table": table,
        "costs": {name: asdict(cost) for name, cost in study.costs.items()},
        "seconds": {name: study.seconds_to_most(name)._asdict() for name in study.costs if study.histories(name)},
        "statements": statements(study),
        "by comparisons": study.points(study.curve),
        "by width": study.points(study.sizes),
        "histories": {name: study.histories(name) for name in study.costs},
        "alone wrong, alone right": study.mistakes(),
        "by attribute": study.attributes(),
        "ensembles": study.ensembles(),
        "failures": study.failures(),
    }


def write_tensorboard(study: Study, folder: Path) -> None:
    """Write the validation curves of the main subject, a run for each seed; "Relative" shows seconds of training."""
    shutil.rmtree(folder, ignore_errors=True)  # of earlier calls, which may have had other seeds
    begin = time.time()
    for name in study.costs:
        for seed, history in enumerate(study.histories(name)):
            with SummaryWriter(str(folder / name.replace("/", " ") / f"seed {seed}")) as board:
                for entry in history:
                    for figure in ("accuracy", "loss"):
                        place = round(1000 * entry["epoch"])
                        board.add_scalar(f"validation/{figure}", entry[figure], place, begin + entry["seconds"])
