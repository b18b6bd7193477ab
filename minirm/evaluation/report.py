"""One HTML page that shows what a run did: self-contained, so that the file can be sent, opened anywhere and kept.

page      title, verdict, sections
section   heading, then any of: a paragraph (str), Table, Picture, Example
"""

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from minirm.files.disk import write_whole

PIXELS_PER_INCH = 220  # a picture of 4.6 inches is then 1,012 px wide: sharp on a phone
LONG_CELL = 40  # characters, from which on a cell of a table may break into lines


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text and numbers; floats are shown with three decimals."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str | int | float | None]]
    caption: str = ""


@dataclass(frozen=True, slots=True)
class Picture:
    """A figure and the sentence under it, which also says what it shows to those who cannot see it."""

    figure: Figure
    caption: str


@dataclass(frozen=True, slots=True)
class Judged:
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
    responses: Sequence[Judged]
    note: str = ""


Block = str | Table | Picture | Example


@dataclass(frozen=True, slots=True)
class Section:
    """A heading and what stands under it."""

    heading: str
    blocks: Sequence[Block]


def write_report(path: str | Path, *, title: str, verdict: str, sections: Sequence[Section]) -> None:
    """Write the page; what stood at `path` before stays whole until the new page is.

    Args:
        verdict: one or two sentences, shown large at the top.
    """
    page = render_page(title, verdict, sections).encode()
    write_whole(Path(path), lambda unfinished: unfinished.write_bytes(page))


def render_page(title: str, verdict: str, sections: Sequence[Section]) -> str:
    """Return the page as HTML, every text in it escaped."""
    body = "\n".join(_section(section) for section in sections)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{_escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<main>
<header>
<h1>{_escape(title)}</h1>
<p class="verdict">{_escape(verdict)}</p>
</header>
{body}
</main>
</body>
</html>
"""


def _section(section: Section) -> str:
    """Return the section; pictures that follow one another stand side by side where there is room."""
    parts: list[str] = []
    for block in section.blocks:
        is_picture = isinstance(block, Picture)
        rendered = _block(block)
        if is_picture and parts and parts[-1].endswith("</figure>\n</div>"):
            parts[-1] = parts[-1].removesuffix("</div>") + rendered + "\n</div>"
        else:
            parts.append(f'<div class="pictures">\n{rendered}\n</div>' if is_picture else rendered)
    return "\n".join([f"<section>\n<h2>{_escape(section.heading)}</h2>", *parts, "</section>"])


def _block(block: Block) -> str:
    match block:
        case str():
            return f"<p>{_escape(block)}</p>"
        case Table():
            return _table(block)
        case Picture():
            return _picture(block)
        case Example():
            return _example(block)
    raise TypeError(f"{type(block).__name__} must be a str, Table, Picture or Example")


def _table(table: Table) -> str:
    caption = f"<caption>{_escape(table.caption)}</caption>\n" if table.caption else ""
    columns = zip(*table.rows, strict=True) if table.rows else [()] * len(table.columns)
    is_number = [any(isinstance(cell, int | float) for cell in column) for column in columns]
    head = _row("th", table.columns, is_number)
    rows = "\n".join(_row("td", row, is_number) for row in table.rows)
    name = _escape(table.caption or "table")
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{name}">\n'
        f"<table>\n{caption}<thead>{head}</thead>\n<tbody>\n{rows}\n</tbody>\n</table>\n</div>"
    )


def _row(tag: str, cells: Sequence[str | int | float | None], is_number: Sequence[bool]) -> str:
    """Return a table row; columns of numbers are aligned to the right, only long texts may break."""
    row = ""
    for cell, right in zip(cells, is_number, strict=True):
        text = _cell(cell)
        style = ' class="number"' if right else ' class="long"' if len(text) > LONG_CELL else ""
        row += f"<{tag}{style}>{text}</{tag}>"
    return f"<tr>{row}</tr>"


def _cell(value: str | int | float | None) -> str:
    if isinstance(value, str):
        return _escape(value)
    return "–" if value is None else _number(value)


def _number(value: int | float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}".replace("-", "−")


def _picture(picture: Picture) -> str:
    file = io.BytesIO()
    picture.figure.savefig(file, format="png", dpi=PIXELS_PER_INCH, metadata={"Software": None})
    width, height = (round(inches * PIXELS_PER_INCH) for inches in picture.figure.get_size_inches())
    source = base64.b64encode(file.getvalue()).decode()
    caption = _escape(picture.caption)
    return (
        f'<figure>\n<img alt="{caption}" width="{width}" height="{height}" src="data:image/png;base64,{source}">\n'
        f"<figcaption>{caption}</figcaption>\n</figure>"
    )


def _example(example: Example) -> str:
    highest = max((judged.reward for judged in example.responses), default=0.0)
    responses = "\n".join(_judged(judged, judged.reward == highest) for judged in example.responses)
    note = f'<p class="note">{_escape(example.note)}</p>\n' if example.note else ""
    prompt = f'<p class="text" dir="auto">{_escape(example.prompt)}</p>' if example.prompt else "<p>No prompt.</p>"
    return f'<article class="example">\n{note}<h3>Prompt</h3>\n{prompt}\n<ol>\n{responses}\n</ol>\n</article>'


def _judged(judged: Judged, is_highest: bool) -> str:
    """Return one response, under its numbers and the words for who prefers it."""
    marks = f"<span>reward <b>{_number(float(judged.reward))}</b></span>"
    if judged.utility is not None:
        marks += f" <span>true utility <b>{_number(float(judged.utility))}</b></span>"
    if judged.is_preferred:
        marks += ' <span class="tag">preferred</span>'
    if is_highest:
        marks += f' <span class="tag {"right" if judged.is_preferred else "wrong"}">highest reward</span>'
    return f'<li>\n<p class="marks">{marks}</p>\n<p class="text" dir="auto">{_escape(judged.text)}</p>\n</li>'


# control characters may not stand in HTML, lone surrogates not in UTF-8
_UNPRINTABLE = dict.fromkeys((*range(9), 11, 12, *range(14, 32), *range(127, 160), *range(0xD800, 0xE000)), "\ufffd")


def _escape(text: str) -> str:
    return html.escape(text.translate(_UNPRINTABLE))


STYLE = """
:root { color-scheme: light; --ink: #1f2430; --soft: #5a6273; --line: #dde1e7; --tint: #f5f7fa; --blue: #005c91; }
* { box-sizing: border-box; }
body { margin: 0; background: #fff; color: var(--ink); font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto,
  "Helvetica Neue", "Noto Sans", sans-serif; -webkit-text-size-adjust: 100%; overflow-wrap: break-word; }
main { max-width: 62rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { margin: 0 0 .75rem; font-size: 1.7rem; line-height: 1.2; letter-spacing: -.01em; }
h2 { margin: 2.75rem 0 .75rem; font-size: 1.25rem; line-height: 1.3; }
h3 { margin: 0 0 .25rem; font-size: .8rem; font-weight: 600; color: var(--soft); }
p { margin: 0 0 1rem; max-width: 42rem; }
.verdict { margin: 0; padding: .75rem 1rem; border-left: 4px solid var(--blue); background: var(--tint);
  max-width: none; font-size: 1.1rem; }
.scroll { overflow-x: auto; margin: 0 0 1.25rem; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--soft); padding-bottom: .4rem; }
th, td { padding: .4rem .9rem .4rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
th, td { white-space: nowrap; }
th { color: var(--soft); font-weight: 600; }
tr > :last-child { padding-right: 0; }
td.long { white-space: normal; min-width: 20rem; }
.number { text-align: right; }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); gap: 1.5rem;
  align-items: start; margin: 0 0 1.25rem; }
figure { margin: 0; max-width: 32rem; }
img { display: block; width: 100%; height: auto; }
figcaption { margin-top: .4rem; color: var(--soft); font-size: .9rem; line-height: 1.45; }
.example { margin: 0 0 1.25rem; padding: 1rem; border: 1px solid var(--line); border-radius: 8px; }
.example p { max-width: none; }
.note { color: var(--soft); }
.text { white-space: pre-wrap; overflow-wrap: anywhere; }
ol { margin: 0; padding: 0; list-style: none; }
li { padding: .75rem 0 0; border-top: 1px solid var(--line); }
li + li { margin-top: .75rem; }
li .text { margin: 0; }
.marks { display: flex; flex-wrap: wrap; gap: .15rem .8rem; margin: 0 0 .3rem; color: var(--soft);
  font-size: .9rem; font-variant-numeric: tabular-nums; }
.marks b { color: var(--ink); }
.tag { padding: 0 .5rem; border-radius: 1rem; font-size: .8rem;
  border: 1px solid currentColor; white-space: nowrap; }
.right { color: #005c91; background: #eaf4fa; }
.wrong { color: #a34000; background: #fdf1e9; }
@media (max-width: 40rem) { table { font-size: .84rem; } th, td { padding-right: .6rem; } }
@media print { .example, figure, tr { break-inside: avoid; } }
"""
