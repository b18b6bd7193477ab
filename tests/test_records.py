"""Every accepted format gives the same comparisons; what does not fit is named."""

import csv
import gzip
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from minirm.data.comparison import Comparison, Turn
from minirm.errors import InputError
from minirm.files.records import read_comparisons, to_json
from minirm.files.shapes import SHAPES
from tests.conftest import write_lines

DATA = Path(__file__).parent.parent / "data"
SAME_SIX = [
    "hh_dialogues.jsonl",
    "prompt_pairs.jsonl.gz",
    "message_pairs.jsonl",
    "prompt_message_pairs.json",
    "lmflow_paired_conversation.json",
    "lmflow_paired_text_to_text.json",
    "lmflow_positive_negative.json",
    "rewardbench.jsonl",
    "pairs.csv",
]
ROWS = {
    "completions.jsonl": 3,
    "stepwise.jsonl": 2,
    "conversations.jsonl": 4,
    "graded_pairs.jsonl": 6,
    "instructions.jsonl": 3,
    "kway_ranks.jsonl": 6,
    "kway_scores.jsonl": 3,
    "lmflow_conversation.json": 4,
    "lmflow_text2text.json": 3,
    "lmflow_text_to_scored_textlist.json": 3,
    "openai_summaries.jsonl": 3,
    "plain_pairs.jsonl": 3,
    "ranking.csv": 20,
    "rewardbench_2.jsonl": 4,
    "arena.jsonl": 4,
    "arena_kaggle.csv": 3,
    "columns.json": 2,
    "data_key.json": 1,
    "helpsteer.jsonl": 2,
    "helpsteer2_preference.jsonl": 3,
    "integer_choices.jsonl": 2,
    "kto.jsonl": 2,
    "llamafactory_ranking.jsonl": 2,
    "messages_rejected.jsonl": 1,
    "nectar.jsonl": 1,
    "oasst_trees.jsonl": 2,
    "pku_saferlhf.jsonl": 2,
    "prompt_completion.jsonl": 2,
    "reasoning_pairs.jsonl": 1,
    "sharegpt_pairs.jsonl": 2,
    "shp.jsonl": 2,
    "stack_exchange.jsonl": 1,
    "summarize_axis.jsonl": 1,
    "text_scores.jsonl": 2,
    "ultrafeedback.jsonl": 2,
    "ultrafeedback_binarized.jsonl": 2,
    "webgpt.jsonl": 2,
} | dict.fromkeys(SAME_SIX, 6)

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
NUMBER = st.floats(-1e6, 1e6)
TURN = st.builds(Turn, st.sampled_from(["system", "user", "assistant", "tool"]), TEXT, st.just(""))


def sample(name):
    return list(read_comparisons(DATA / name))


def without_place(comparisons, **changes):
    return [replace(comparison, source="", **changes) for comparison in comparisons]


def read_records(folder, *records, name="x.jsonl", format=None):
    """Return the comparisons in a file of these records."""
    path = folder / name
    path.write_text("\n".join(json.dumps(record) for record in records))
    return list(read_comparisons(path, format=format))


def user(text):
    return (Turn("user", text),)


@pytest.mark.parametrize("name", SAME_SIX)
def test_six_comparisons_are_the_same_in_every_format_of_pairs(name):
    assert without_place(sample(name), subset="", id=None) == without_place(sample("message_pairs.jsonl"))


def test_the_six_are_what_they_look_like():
    first, second, *_ = sample("hh_dialogues.jsonl")
    assert first == Comparison(
        prompt=user("How do I keep the basil in my pesto from turning black?"),
        responses=(
            "Dip the leaves in boiling water for ten seconds, then in ice water, and dry them well before blending. "
            "The heat stops the enzyme that browns them.",
            "Basil is a herb that many people like to use in pesto.",
        ),
        scores=(1.0, 0.0),
        source=f"{DATA / 'hh_dialogues.jsonl'}:1",
    )
    assert [turn.role for turn in second.prompt] == ["user", "assistant", "user"]
    assert second.responses[1].startswith("Go to Kinkaku-ji")


def test_every_sample_is_read_whole():
    assert {path.name: len(sample(path.name)) for path in DATA.iterdir() if path.suffix != ".md"} == ROWS


def test_a_folder_is_its_files_in_order():
    in_folder = [Path(re.split(r":| \(", comparison.source)[0]).name for comparison in read_comparisons([DATA])]
    assert in_folder == [name for name in sorted(ROWS) for _ in range(ROWS[name])]


def test_a_ranking_table_scores_its_columns_from_best_to_worst():
    egg = sample("ranking.csv")[0]
    assert egg.prompt == user("How long should I boil an egg so that the yolk stays soft?")
    assert egg.responses[1:] == ("About six minutes.", "Until it is done.")
    assert egg.scores == (-1.0, -2.0, -3.0)


def test_ranks_are_read_like_the_columns_of_a_ranking_table():
    for by_rank, by_column in zip(sample("kway_ranks.jsonl"), sample("ranking.csv"), strict=False):
        assert by_rank.prompt == by_column.prompt
        assert dict(zip(by_rank.responses, by_rank.scores, strict=True)) == dict(
            zip(by_column.responses, by_column.scores, strict=True)
        )


def test_scores_of_k_responses_are_kept_ties_included():
    assert [comparison.scores for comparison in sample("kway_scores.jsonl")] == [
        (9.5, 6.0, 6.0, 1.0),
        (2.0, 9.0, 5.5, 7.0, 0.0),
        (5.0, 0.5),
    ]
    assert sample("lmflow_text_to_scored_textlist.json")[0].scores == (1.0, 0.4, -1.0)


def test_lists_of_good_and_bad_responses_score_1_and_0():
    comparison = sample("rewardbench_2.jsonl")[1]
    assert comparison.responses == ("Red", "Green", "Violet", "Brown", "Pink")
    assert comparison.scores == (1.0, 1.0, 1.0, 0.0, 0.0)
    assert comparison.subset == "ties"


def test_summaries_stand_behind_their_post():
    by_title, second, article = sample("openai_summaries.jsonl")
    assert by_title.prompt[0].text.startswith("SUBREDDIT: r/relationships\n\nTITLE: How do we tell a kind baker")
    assert by_title.prompt[0].text.endswith("how to bring it up.\n\nTL;DR:")
    assert second.responses[second.scores.index(0.0)] == " Languages have words."
    assert article.prompt[0].text.startswith("ARTICLE: The town library of Harrow Mill")


def test_a_conversation_is_one_response_without_a_judgement():
    lesson = sample("lmflow_conversation.json")[0]
    assert lesson.prompt[0] == Turn("system", "You are a patient cooking teacher.")
    assert lesson.responses[0].startswith("Lift the batter")
    assert lesson.scores == (0.0,)
    assert without_place(sample("conversations.jsonl")) == without_place(sample("lmflow_conversation.json"))
    assert without_place(sample("completions.jsonl")) == without_place(sample("conversations.jsonl")[1:])
    assert without_place(sample("lmflow_text2text.json")) == without_place(sample("completions.jsonl"))


def test_an_instruction_is_followed_by_its_input_where_there_is_one():
    plain, without_input, _ = sample("instructions.jsonl")
    given = "Passengers are requested to refrain from the consumption of beverages."
    assert plain.prompt == user(f"Please rewrite in plain English.\n\n{given}")
    assert plain.responses == ("Please do not drink on the train.",) and plain.scores == (0.0,)
    assert without_input.prompt == user("Name three uses for a paper clip besides holding paper.")


@pytest.mark.parametrize("choice", [0, 1, 0.0, 1.0])
def test_the_choice_between_summaries_may_be_written_with_a_point(tmp_path, choice):
    fields = {"info": {"post": "a"}, "summaries": [{"text": "b"}, {"text": "c"}], "choice": choice}
    [comparison] = read_records(tmp_path, fields)
    assert comparison.responses == ("b", "c") and comparison.scores == ((1.0, 0.0) if choice == 0 else (0.0, 1.0))


def test_margin_weight_and_probability_are_read():
    graded = [(row.margin, row.weight, row.probability) for row in sample("graded_pairs.jsonl")]
    assert graded == [(1, 1, 1), (0.25, 1, 0.6), (0, 1, 0.5), (0, 2, 1), (0.75, 1.5, 1), (0, 0.5, 0.9)]


def test_numbers_of_a_table_are_read_and_may_be_left_out(tmp_path):
    (tmp_path / "x.csv").write_text("prompt;chosen;rejected;margin;weight\na;b;c;0.5;\nd;;f;;2\n")
    first, second = without_place(read_comparisons(tmp_path / "x.csv"))
    assert first == Comparison(user("a"), ("b", "c"), (1.0, 0.0), margin=0.5)
    assert second == Comparison(user("d"), ("", "f"), (1.0, 0.0), weight=2.0)


def test_a_table_may_rank_unequal_numbers_of_responses(tmp_path):
    (tmp_path / "x.csv").write_text("prompt,1st,2nd,3rd,4th\na,b,c,d,e\nf,g,h,,\n")
    assert [row.scores for row in read_comparisons(tmp_path / "x.csv", format="ranking")] == [
        (-1.0, -2.0, -3.0, -4.0),
        (-1.0, -2.0),
    ]


def test_optional_fields_may_be_null_and_unknown_ones_are_ignored(tmp_path):
    record = {"chosen": "a", "rejected": "b", "prompt": None, "margin": None, "subset": None, "id": 7, "model": {}}
    assert without_place(read_records(tmp_path, record)) == [Comparison((), ("a", "b"), (1.0, 0.0), id=7)]


def test_empty_prompts_and_responses_are_texts(tmp_path):
    read = read_records(tmp_path, {"prompt": "", "chosen": "", "rejected": "b"})
    assert without_place(read) == [Comparison((), ("", "b"), (1.0, 0.0))]


def test_a_text_prompt_may_be_repeated_in_the_messages(tmp_path):
    question, *answers = ({"role": role, "content": text} for role, text in (("user", "Q"), *[("assistant", "A")] * 2))
    read = read_records(tmp_path, {"prompt": "Q", "chosen": [question, answers[0]], "rejected": [question, answers[1]]})
    assert without_place(read) == [Comparison(user("Q"), ("A", "A"), (1.0, 0.0))]


def test_a_format_can_be_named_where_a_record_fits_several(tmp_path):
    messages = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
    record = {"prompt": "Q", "chosen": "A", "rejected": "B", "messages": messages}
    assert read_records(tmp_path, record)[0].scores == (1.0, 0.0)
    assert read_records(tmp_path, record, format="conversation")[0].scores == (0.0,)


def test_each_file_has_its_own_format():
    pairs, ranking = DATA / "pairs.csv", DATA / "ranking.csv"
    assert [len(row.responses) for row in read_comparisons([pairs, ranking])] == [2] * 6 + [3] * 20


MESSAGES = [{"role": "user", "content": "Q"}]
BAD_RECORDS = [
    ({"chosen": "a", "rejected": None}, 'field "rejected": null: must be text'),
    ({"chosen": 3, "rejected": "b"}, 'field "chosen": 3: must be text'),
    ({"chosen": {"x": 1}, "rejected": "b"}, 'field "chosen[0].role": null: must be one of system, developer, user'),
    ({"chosen": "a", "rejected": "\ud800"}, "half a surrogate pair"),
    ({"chosen": "a", "rejected": "b\0"}, "field \"rejected\": 'b\\x00': must be text without NUL"),
    ({"prompt": True, "chosen": "a", "rejected": "b"}, 'field "prompt": true: must be text or a list of messages'),
    ({"chosen": "a", "rejected": "b", "weight": 0}, 'field "weight": 0.0: must be above 0'),
    (
        {"chosen": "a", "rejected": "b", "weight": 1e-46},
        'field "weight": 1e-46: must be above 0, and lie between 1e-18',
    ),
    ({"chosen": "a", "rejected": "b", "weight": 3e38}, 'field "weight": 3e+38: must be above 0, and lie between 1e-18'),
    ({"chosen": "a", "rejected": "b", "margin": -3e38}, 'field "margin": -3e+38: must lie between -1e+18 and 1e+18'),
    ({"chosen": "a", "rejected": "b", "margin": float("inf")}, 'field "margin": inf: must be a finite number'),
    ({"chosen": "a", "rejected": "b", "margin": 10**400}, 'field "margin": 1'),
    ({"chosen": "a", "rejected": "b", "margin": "1"}, "field \"margin\": '1': must be a finite number"),
    ({"chosen": "a", "rejected": "b", "probability": 1.5}, 'field "probability": 1.5: must lie between 0 and 1'),
    ({"chosen": "a", "rejected": "b", "subset": 3}, 'field "subset": 3: must be text'),
    ({"chosen": [], "rejected": []}, 'field "chosen": an empty list: must be a list with at least one item'),
    ({"chosen": ["a"], "rejected": []}, 'field "rejected": an empty list: must be a list with at least one item'),
    ({"chosen": ["a", None], "rejected": ["b"]}, 'field "chosen[1]": null: must be text'),
    ({"chosen": MESSAGES, "rejected": MESSAGES}, "field \"chosen[0].role\": 'user': the last message must be the "),
    ({"prompt": "a", "responses": []}, 'field "responses": an empty list: must be a list with at least one item'),
    ({"prompt": "a", "responses": ["b"]}, "nothing says which response is better: a score, a rank or a choice must"),
    ({"prompt": "a", "responses": [{"text": "b"}]}, "found keys 'prompt', 'responses': nothing says which response is"),
    ({"prompt": "a", "responses": [{"score": 1}]}, 'field "responses[0].text": null: must be text'),
    ({"prompt": "a", "responses": ["b", "c"], "scores": [1]}, 'field "scores": a list of 1: must be as many as the '),
    (
        {"prompt": "a", "responses": ["b", "c"], "chosen": 0, "rejected": 2},
        'field "rejected": 2: must be the number of',
    ),
    ({"prompt": "a", "responses": ["b", {"text": "c", "score": 1}]}, "nothing says which response is better"),
    (
        {"prompt": "a", "responses": [{"text": "b", "score": 1}, {"text": "c", "score": float("nan")}]},
        'field "responses[1].score": nan: must be a finite number',
    ),
    (
        {"prompt": "a", "responses": [{"text": "b", "rank": 1}, {"text": "c", "score": 1}]},
        'field "responses[1].rank": null: must be a finite number',
    ),
    (
        {"responses": [{"text": str(i), "score": i} for i in range(3)], "probability": 0.5},
        'field "probability": 0.5: must be 1 unless the record is a pair',
    ),
    ({"input": "a", "output": 3}, 'field "output": 3: must be text or a list of messages'),
    ({"messages": MESSAGES}, "field \"messages[0].role\": 'user': the last message must be the assistant's"),
    (
        {"info": {"title": "a"}, "summaries": [{"text": "b"}, {"text": "c"}], "choice": 0},
        "field \"info\": an object with keys 'title': no prompt is read, and this may be it: --fields prompt=",
    ),
    ({"info": {"post": "a"}, "summaries": [{}, {}], "choice": 0}, 'field "summaries[0].text": null: must be text'),
    (
        {"info": {"post": "a"}, "summaries": [{"text": "b"}] * 2, "choice": 2},
        'field "choice": 2: must be one of 0, 1, or tie',
    ),
    ({"prompt": "a", "response": None}, 'field "response": null: must be text'),
    ({"ask": "a", "reply": "b"}, "found keys 'ask', 'reply': no accepted format: a record holds prompt with repl"),
    ({}, "found keys none: no accepted format"),
]


@pytest.mark.parametrize(("record", "message"), BAD_RECORDS)
def test_a_bad_record_is_refused_in_one_short_line_with_its_place(tmp_path, record, message):
    with pytest.raises(InputError) as caught:
        read_records(tmp_path, record)
    refusal = str(caught.value)
    assert refusal.startswith(f"{tmp_path / 'x.jsonl'}:1: ")
    assert message in refusal
    assert len(refusal.splitlines()) == 1
    refusal.encode()


def test_a_record_unlike_the_first_is_refused(tmp_path):
    with pytest.raises(InputError) as caught:
        read_records(tmp_path, {"chosen": "a", "rejected": "b"}, {"chosen": "a", "text": "b"})
    assert str(caught.value) == (
        f"{tmp_path / 'x.jsonl'}:2: field \"rejected\": missing: format pairs needs it; found keys 'chosen', 'text'"
    )


def test_a_bad_value_of_a_megabyte_gives_a_short_message(tmp_path):
    with pytest.raises(InputError, match="must be text or a list") as caught:
        read_records(tmp_path, {"prompt": {"x" * 10**6: "y"}, "chosen": "a", "rejected": "b"})
    assert len(str(caught.value)) < 300
    (tmp_path / "y.jsonl").write_text('{"chosen": "' + "a" * 10**6)
    with pytest.raises(InputError, match="Unterminated") as caught:
        list(read_comparisons(tmp_path / "y.jsonl"))
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("prompt,chosen\na,b\n", "x.csv:2: found keys 'prompt', 'chosen': no accepted format"),
        (
            "prompt,response_a,response_b,winner\na,b,c,d\n",
            "x.csv:2: field \"winner\": 'd': must be one of a, b, or tie",
        ),
        (
            "prompt,least preferred,most preferred\na,b,c\n",
            "x.csv:2: columns 'least preferred', 'most preferred': must",
        ),
        ("prompt,most preferred,preferred,least preferred\na,b,,c\n", "x.csv:2: field \"preferred\": '': is empty"),
        ("prompt,chosen,rejected,weight\na,b,c,heavy\n", "x.csv:2: field \"weight\": 'heavy': must be a finite number"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(tmp_path, table, message):
    (tmp_path / "x.csv").write_text(table)
    with pytest.raises(InputError) as caught:
        list(read_comparisons(tmp_path / "x.csv"))
    assert message in str(caught.value)


def test_an_unknown_format_and_a_missing_file_are_refused_before_the_first_record(tmp_path):
    with pytest.raises(
        InputError, match='format "parquet": unknown: must be one of tree, stepwise, responses, pairs, '
    ):
        read_comparisons(DATA, format="parquet")
    with pytest.raises(InputError, match=r"gone.jsonl: no such file or folder"):
        read_comparisons([DATA, tmp_path / "gone.jsonl"])


def test_a_comparison_has_as_many_scores_as_responses():
    with pytest.raises(ValueError, match="2 responses, 1 scores"):
        Comparison((), ("a", "b"), (1.0,))


@st.composite
def comparisons(draw):
    responses = draw(st.lists(TEXT, min_size=1, max_size=5))
    k = len(responses)
    return Comparison(
        prompt=tuple(draw(st.lists(TURN, max_size=4))),
        responses=tuple(responses),
        scores=(1.0, 0.0) if k == 2 else tuple(draw(st.lists(NUMBER, min_size=k, max_size=k))),
        margin=draw(NUMBER),
        weight=draw(st.floats(1e-3, 1e3)),
        probability=draw(st.floats(0, 1)) if k == 2 else 1.0,
        subset=draw(TEXT),
        id=draw(st.none() | st.integers() | TEXT),
    )


anything_goes = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)


@anything_goes
@given(comparison=comparisons(), name=st.sampled_from(["x.jsonl", "x.json"]))
def test_what_is_written_is_read_back(tmp_path, comparison, name):
    assert without_place(read_records(tmp_path, to_json(comparison), name=name)) == [comparison]


@anything_goes
@given(
    rows=st.lists(st.tuples(TEXT.filter(bool), TEXT, TEXT), min_size=1, max_size=3), delimiter=st.sampled_from(",;\t")
)
def test_a_table_of_any_text_is_read_back(tmp_path, rows, delimiter):
    with gzip.open(tmp_path / "x.csv.gz", "wt", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=delimiter).writerows([("prompt", "chosen", "rejected"), *rows])
    read = without_place(read_comparisons(tmp_path / "x.csv.gz"))
    assert read == [Comparison(user(prompt), (chosen, rejected), (1.0, 0.0)) for prompt, chosen, rejected in rows]


def test_every_format_is_explained_in_the_reference():
    reference = (DATA / "README.md").read_text()
    assert [name for name in SHAPES if f"| `{name}` |" not in reference] == []
    assert [name for name in ROWS if f"`{name}`" not in reference] == []


def test_a_response_in_steps_keeps_their_texts_and_their_labels():
    wrong, right = sample("stepwise.jsonl")
    assert wrong.responses == ("12 times 10 is 120.\n12 times 5 is 50.\n120 and 50 make 170.",)
    assert wrong.steps == (("12 times 10 is 120.", "12 times 5 is 50.", "120 and 50 make 170."),)
    assert wrong.step_labels == ((1.0, 0.0, 0.0),) and right.step_labels == ((1.0, 1.0),)
    assert not wrong.is_judged  # as a whole


@pytest.mark.parametrize(
    ("record", "rule"),
    [
        ({"completions": ["a"], "labels": [True, False]}, 'field "labels": a list of 2: must be as many as there are'),
        ({"completions": ["a"], "labels": [2]}, 'field "labels[0]": 2: must be true or false, or a number from 0 to 1'),
        ({"completions": ["a", 3], "labels": [1, 1]}, 'field "completions[1]": 3: must be text'),
        (
            {"completions": [], "labels": []},
            'field "labels": an empty list: must be as many as there are completions, 0, and at least one',
        ),
    ],
)
def test_steps_that_are_none_are_refused_with_their_field(tmp_path, record, rule):
    path = write_lines(tmp_path / "steps.jsonl", [{"prompt": "Q", **record}])
    with pytest.raises(InputError, match=re.escape(rule)):
        list(read_comparisons([path]))
