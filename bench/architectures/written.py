"""The report as a page in which details are folded, as Markdown with its pictures, and as JSON."""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from bench.architectures import pictures
from bench.architectures.answers import statements, verdict
from bench.architectures.differences import against_baseline, groups
from bench.architectures.page import computed_when, sections
from bench.architectures.prices import histories, seconds
from bench.architectures.profile import profile
from bench.architectures.study import Study
from minirm.evaluation.report import PIXELS_PER_INCH, Picture, Section, Table, render_page
from minirm.files.disk import write_whole

TITLE = "Which architecture makes a better reward model"
OPEN = 2
"""Sections that stand open; the others are unfolded by a click."""


def write(study: Study, folder: Path, name: str, facts: dict) -> str:
    """Write NAME.html, NAME.md with its pictures, and NAME.json; return the verdict."""
    said, parts = verdict(study), sections(study, facts)
    page = folded(render_page(TITLE, said, parts))
    write_whole(folder / f"{name}.html", lambda path: path.write_text(page, encoding="utf-8"))
    text = as_markdown(said, parts, folder, name)
    write_whole(folder / f"{name}.md", lambda path: path.write_text(text, encoding="utf-8"))
    record = json.dumps(as_json(study, said, facts), indent=1, ensure_ascii=False)
    write_whole(folder / f"{name}.json", lambda path: path.write_text(record + "\n", encoding="utf-8"))
    return said


STYLE = """
details { margin: 1rem 0; border-top: 1px solid var(--line); }
summary { cursor: pointer; padding: .6rem 0; }
summary h2 { display: inline; margin: 0; }
details p, details .scroll, details .pictures { margin-top: .5rem; }
td:first-child, th { white-space: normal; }
td.long { min-width: 0; }
@media (max-width: 40rem) { td { white-space: normal; } table { font-size: .75rem; } th, td { padding-right: .4rem; } }
"""


def folded(page: str) -> str:
    """Return a page of which only the first `OPEN` sections stand open."""
    opened = 0

    def fold(match: re.Match) -> str:
        nonlocal opened
        opened += 1
        if opened <= OPEN:
            return match.group()
        return f"<details>\n<summary>{match.group(1)}</summary>{match.group(2)}</details>"

    page = re.sub(r"<section>\n(<h2>.*?</h2>)(.*?)</section>", fold, page, flags=re.DOTALL)
    return page.replace("</style>", f"{STYLE}</style>", 1)


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
    lines += [f"| {' | '.join(cell(value).replace('|', '·') for value in row)} |" for row in table.rows]
    return [*lines, "", *([table.caption, ""] if table.caption else [])]


def as_json(study: Study, said: str, facts: dict) -> dict:
    """Return every number of the report, and every figure of each seed."""
    table: dict[str, dict] = {}
    for (subject, name), found in study.resampled.items():
        figures = {
            figure: {"interval": study.interval(subject, name, figure), "by seed": value.whole.tolist()}
            for figure, value in found.items()
        }
        table.setdefault(subject, {})[name] = figures
    points = lambda cells: {  # noqa: E731
        name: {pictures.named_point(point): interval for point, interval in line.items()}
        for name, line in study.points(cells).items()
    }
    return {
        "verdict": said,
        "facts": facts,
        "computed": computed_when(study),
        "plan": asdict(study.setup.plan),
        "match": study.setup.match,
        "training comparisons": study.setup.available,
        "table": table,
        f"minus {study.baseline}": {s: [asdict(d) for d in against_baseline(study, s)] for s in study.subjects},
        "groups": {subject: groups(study, subject, pictures.compared(study)) for subject in study.subjects},
        "profile": {f"{name}, {subject}": found._asdict() for (name, subject), found in profile(study).items()},
        "questions": {s: {q: asdict(one) for q, one in statements(study, s)} for s in study.setup.subjects},
        "costs": {name: asdict(cost) for name, cost in study.costs.items()},
        "seconds": {name: taken._asdict() for name in study.costs if (taken := seconds(study, name)) is not None},
        "by comparisons": points(study.curve),
        "by size": points(study.sizes),
        "converged": points(study.converged),
        "histories": {name: histories(study, name) for name in study.costs},
        "by attribute": study.attributes(),
        "ensembles": study.ensembles(),
        "failures": study.failures(),
    }
