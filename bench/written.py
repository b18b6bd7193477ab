"""A report as a page in which details are folded, as Markdown with its pictures, and as JSON."""

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path

from minirm.evaluation.report import PIXELS_PER_INCH, Picture, Section, Table, render_page
from minirm.files.disk import write_whole

OPEN = 2
"""Sections that stand open; the others are unfolded by a click."""
STYLE = """
details { margin: 1rem 0; border-top: 1px solid var(--line); }
summary { cursor: pointer; padding: .6rem 0; }
summary h2 { display: inline; margin: 0; }
details p, details .scroll, details .pictures { margin-top: .5rem; }
td:first-child, th { white-space: normal; }
td.long { min-width: 0; }
@media (max-width: 40rem) {
  h1 { font-size: 1.3rem; }
  .verdict { font-size: .8rem; line-height: 1.4; }
  td { white-space: normal; }
  table { font-size: .75rem; }
  th, td { padding-right: .4rem; }
}
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


def as_markdown(title: str, said: str, parts: Sequence[Section], folder: Path, name: str) -> str:
    """Return the report as Markdown, its pictures written beside it."""
    lines, number = [f"# {title}", "", said, ""], 0
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


def write_pages(place: Path, title: str, said: str, parts: Sequence[Section], record: dict) -> None:
    """Write PLACE.html, PLACE.md with its pictures, and PLACE.json.

    Args:
        said: the verdict, at the top.
        record: every number of the report, as JSON types.
    """
    folder, name = place.parent, place.name
    texts = {
        "html": folded(render_page(title, said, parts)),
        "md": as_markdown(title, said, parts, folder, name),
        "json": json.dumps(_without_nan(record), indent=1, ensure_ascii=False, allow_nan=False) + "\n",
    }
    for ending, text in texts.items():
        write_whole(folder / f"{name}.{ending}", lambda path, text=text: path.write_text(text, encoding="utf-8"))


def _without_nan(value: object) -> object:
    """Return what JSON can say: null where a number is not finite."""
    if isinstance(value, dict):
        return {name: _without_nan(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
