"""The report page: self-contained, valid, safe with any text; and the pictures in it."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from minirm.evaluation.evaluate import ReliabilityBin
from minirm.evaluation.pictures import (
    Bar,
    accuracy_bars,
    learning_curve,
    reliability_diagram,
    reward_against_utility,
    reward_histogram,
)
from minirm.evaluation.report import Example, Picture, Section, Shown, Table, render_page, write_report

HISTORY = [{"kind": "step", "step": 1, "loss": 0.7}, {"kind": "evaluation", "step": 2, "loss": 0.65, "accuracy": 0.6}]
BINS = (ReliabilityBin(0.55, 0.5, 10), ReliabilityBin(0.9, 0.95, 4))


class Outline(HTMLParser):
    """What a page holds: its text, its tags, and whether every tag is closed in order."""

    VOID = ("meta", "link", "img")

    def __init__(self, page: str):
        super().__init__()
        self.open, self.tags, self.text = [], [], ""
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text += data


def page(*blocks) -> str:
    return render_page("A title", "A verdict.", [Section("A heading", blocks)])


def everything() -> list:
    return [
        "A paragraph.",
        Table(("name", "value"), [("accuracy", 0.5), ("pairs", 1234), ("none", None)], "A caption"),
        Picture(reliability_diagram(BINS), "How sure, how right."),
        Picture(learning_curve(HISTORY), "Learning."),
        Example("A prompt", [Shown("good", 1.5, True, utility=2.0), Shown("bad", -0.25, False)], note="A note."),
    ]


@pytest.fixture(scope="module")
def full_page() -> str:
    return page(*everything())


def test_every_tag_is_closed_and_every_text_is_there(full_page):
    outline = Outline(full_page)
    for text in ("A title", "A verdict.", "A heading", "A paragraph.", "A caption", "How sure, how right.", "A prompt",
                 "A note.", "good", "bad", "1.500", "−0.250", "2.000", "1,234", "–"):  # fmt: skip
        assert text in outline.text


def test_the_page_refers_to_nothing_outside_itself(full_page):
    for tag, attributes in Outline(full_page).tags:
        for key in ("src", "href"):
            assert attributes.get(key, "data:").startswith("data:"), tag
    assert not re.search(r"url\(|@import|<script|https?:", full_page)


def test_it_is_made_for_phones_too(full_page):
    tags = Outline(full_page).tags
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in tags
    assert any(tag == "div" and attributes.get("class") == "scroll" for tag, attributes in tags)
    assert all(attributes["alt"] for tag, attributes in tags if tag == "img")


@pytest.mark.parametrize("hostile", ["<script>alert(1)</script>", '" onload="x', "</style>", "a & b", "&lt;"])
def test_every_text_is_escaped(hostile):
    figure = reward_histogram([1.0], [0.0])
    blocks = (
        hostile,
        Table((hostile,), [(hostile,)], hostile),
        Picture(figure, hostile),
        Example(hostile, [Shown(hostile, 0.0, True)], note=hostile),
    )
    outline = Outline(render_page(hostile, hostile, [Section(hostile, blocks)]))
    assert outline.text.count(hostile) == 12  # the title twice
    assert not any(tag == "script" or "onload" in attributes for tag, attributes in outline.tags)


def test_control_characters_and_lone_surrogates_become_replacement_marks():
    text = Outline(page("a\x00b\ud800c\x1b\td\ne مرحبا 🙂")).text
    assert "a\ufffdb\ufffdc\ufffd\td\ne مرحبا 🙂" in text
    page("\ud800").encode()


def test_numbers_stand_to_the_right_and_long_texts_may_break():
    html = page(Table(("measure", "value", "why"), [("accuracy", 0.5, "x" * 60)]))
    assert '<th class="number">value</th>' in html
    assert '<td class="number">0.500</td>' in html
    assert f'<td class="long">{"x" * 60}</td>' in html


def test_a_table_without_rows_shows_its_columns():
    assert "<th>measure</th>" in page(Table(("measure", "value"), []))


def test_a_row_must_have_a_cell_for_each_column():
    with pytest.raises(ValueError, match="zip"):
        page(Table(("measure", "value"), [("accuracy",)]))


def test_neighbouring_pictures_share_one_row():
    picture = Picture(reward_histogram([1.0, 2.0], [0.0]), "c")
    assert page(picture, picture, "between", picture).count('<div class="pictures">') == 2


def test_the_highest_reward_is_marked_right_only_where_the_label_agrees():
    agreed = page(Example("p", [Shown("a", 2.0, True), Shown("b", 1.0, False)]))
    mistaken = page(Example("p", [Shown("a", 1.0, True), Shown("b", 2.0, False)]))
    assert 'class="tag right"' in agreed and 'class="tag wrong"' not in agreed
    assert 'class="tag wrong"' in mistaken and 'class="tag right"' not in mistaken


def test_an_example_needs_neither_prompt_nor_responses():
    assert "No prompt." in page(Example("", []))


def test_an_unknown_block_is_named():
    with pytest.raises(TypeError, match="int must be a str, Table, Picture or Example"):
        page(3)


def test_a_page_that_cannot_be_made_leaves_the_old_one_whole(tmp_path):
    path = tmp_path / "report.html"
    write_report(path, title="one", verdict="v", sections=[])
    with pytest.raises(TypeError):
        write_report(path, title="two", verdict="v", sections=[Section("s", [3])])
    assert "<h1>one</h1>" in path.read_text(encoding="utf-8")
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


def test_a_page_is_the_same_each_time(full_page):
    assert page(*everything()) == full_page


# ── Pictures ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def labels(figure) -> set[str]:
    return {text for axes in figure.axes for text in axes.get_legend_handles_labels()[1]}


def test_a_learning_curve_leaves_out_what_was_not_recorded():
    assert [axes.get_ylabel() for axes in learning_curve(HISTORY).axes] == ["loss, in nats", "accuracy"]
    assert labels(learning_curve(HISTORY)) == {"training", "validation"}
    assert [axes.get_ylabel() for axes in learning_curve(HISTORY[:1]).axes] == ["loss, in nats"]
    assert labels(learning_curve(HISTORY[:1])) == {"training"}
    assert len(learning_curve([]).axes) == 1


def test_a_long_learning_curve_has_its_running_mean():
    history = [{"kind": "step", "step": i, "loss": float(i % 2)} for i in range(300)]
    raw, mean = learning_curve(history).axes[0].lines
    assert raw.get_ydata().std() == pytest.approx(0.5)
    assert np.allclose(mean.get_ydata(), 0.5)
    assert mean.get_xdata()[-1] == 299
    assert mean.get_label() == "training, mean of 10 entries"


def test_the_reliability_diagram_shows_every_bin_and_its_pairs():
    accuracy, counts = reliability_diagram(BINS).axes
    assert accuracy.lines[1].get_xydata().tolist() == [[0.55, 0.5], [0.9, 0.95]]
    assert [bar.get_height() for bar in counts.patches] == [10, 4]


def test_accuracy_bars_show_interval_and_best_where_known():
    figure = accuracy_bars([Bar("as trained", 0.9, 0.88, 0.92, 0.95), Bar("reversed", 0.7)])
    axes = figure.axes[0]
    assert [bar.get_width() for bar in axes.patches] == [0.9, 0.7]
    assert labels(figure) == {"best possible", "chance"}
    assert {"as trained", "reversed", "0.900", "0.700"} <= {text.get_text() for text in axes.texts}


@pytest.mark.parametrize(
    "figure",
    [
        reward_histogram([1.0], [1.0]),
        reward_histogram([1e4, -1e4], [0.0, 0.0]),
        reward_against_utility([0.0], [0.0]),
        reward_against_utility(np.zeros(5000), np.arange(5000)),
        accuracy_bars([]),
        reliability_diagram(()),
    ],
)
def test_extreme_data_can_be_drawn(figure):
    assert "data:image/png" in page(Picture(figure, "c"))


def test_no_picture_is_kept_by_pyplot():
    import matplotlib.pyplot as plt

    reward_histogram([1.0], [0.0])
    assert plt.get_fignums() == []
