"""What the field writes is read as it is meant, or refused by name; nothing is passed over in silence."""

import contextlib
import copy
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from minirm.data.comparison import Turn
from minirm.errors import InputError
from minirm.files.fields import NAMES, Names, Record, Usage, parse_fields, tell_unread
from minirm.files.reading import read_file
from minirm.files.records import MOST_RESPONSES, parse_record, parse_records, plain_pair, read_comparisons
from minirm.files.tables import RawRecord

DATA = Path(__file__).parent.parent / "data"
ASK = (Turn("user", "Why is it so?"),)
TIE = 0.5, 0.5


def user(text):
    return {"role": "user", "content": text}


def assistant(text, **more):
    return {"role": "assistant", "content": text, **more}


def read(folder, *records, **how):
    path = folder / "x.jsonl"
    path.write_text("\n".join(json.dumps(record) for record in records))
    return list(read_comparisons(path, **how))


def sample(name, **how):
    return list(read_comparisons(DATA / name, **how))


def scores(name, **how):
    return [comparison.scores for comparison in sample(name, **how)]


# The field's sets


JUDGEMENTS = {
    "ultrafeedback.jsonl": [(9, 2, 2), (8, 3)],
    "ultrafeedback_binarized.jsonl": [(8.5, 3), (8, 8)],
    "helpsteer.jsonl": [(4, 0), (4, 1, 3)],  # the later rating of an earlier prompt stands with the others
    "helpsteer2_preference.jsonl": [(2, 0), (0, 3), (0, 0)],
    "shp.jsonl": [(1, 0), (0, 1)],
    "pku_saferlhf.jsonl": [(1, 0), (0, 1)],
    "nectar.jsonl": [(-1, -2, -3, -4, -5, -6, -6)],
    "arena.jsonl": [(1, 0), (0, 1), TIE, (0, 0)],
    "arena_kaggle.csv": [(1, 0), (0, 1), (0, 0)],
    "oasst_trees.jsonl": [(0, -1), (0,)],
    "webgpt.jsonl": [(0.5, -0.5), (0, 0)],
    "stack_exchange.jsonl": [(6, 0, 2)],
    "summarize_axis.jsonl": [(7, 2)],
    "kto.jsonl": [(1, 0), (1, 0)],
    "prompt_completion.jsonl": [(0,), (0,)],
    "sharegpt_pairs.jsonl": [(1, 0), (1, 0)],
    "llamafactory_ranking.jsonl": [(-1, -2), (-1, -2, -3)],
    "integer_choices.jsonl": [(1, 0), (1, 0)],
    "text_scores.jsonl": [(4.5, 2, 2), (-2, -1)],
    "messages_rejected.jsonl": [(1, 0)],
    "reasoning_pairs.jsonl": [(1, 0)],
    "columns.json": [(1, 0), (1, 0)],
    "data_key.json": [(0, 1)],
}


@pytest.mark.parametrize("name", JUDGEMENTS)
def test_a_set_of_the_field_is_read_with_its_judgement(name):
    assert scores(name) == JUDGEMENTS[name]
    assert all(comparison.prompt for comparison in sample(name))


def test_another_judgement_of_the_same_records_can_be_named():
    assert scores("pku_saferlhf.jsonl", fields=["choice=safer_response_id"]) == [(1, 0), (1, 0)]
    assert scores("helpsteer.jsonl", fields=["score=coherence"]) == [(4, 3), (4, 4, 4)]
    assert scores("ultrafeedback.jsonl", fields=["score=fine-grained_score"]) == [(4.75, 1.5, 2), (4.5, 2)]


def test_the_size_of_a_preference_is_its_weight():
    assert [comparison.weight for comparison in sample("helpsteer2_preference.jsonl")] == [2, 3, 1]


def test_turns_of_both_sides_stand_before_and_in_their_responses():
    dialogue = sample("arena_kaggle.csv")[1]
    assert [turn.text for turn in dialogue.prompt] == ["Hi!", "Hello!", "What is 7 times 8?"]
    assert dialogue.responses == ("54", "56")
    history = sample("llamafactory_ranking.jsonl")[0]
    assert history.prompt == (
        Turn("user", "Hi."),
        Turn("assistant", "Hello!"),
        Turn("user", "Name a fruit\n\nthat is not sweet"),
    )
    system = sample("messages_rejected.jsonl")[0]
    assert [turn.role for turn in system.prompt] == ["system", "user"] and system.responses[1] == "Somewhere."


def test_ratings_of_one_prompt_come_together_wherever_they_stand_and_without_a_prompt_they_stay_alone(tmp_path):
    rated = [
        {"prompt": prompt, "completion": text, "label": text == "yes"} for text in ("yes", "no") for prompt in "QRS"
    ]
    together = read(tmp_path, *rated)
    assert [(c.prompt[0].text, c.responses, c.scores) for c in together] == [(p, ("yes", "no"), (1, 0)) for p in "QRS"]
    assert len(read(tmp_path, *({"response": text, "score": 1} for text in "ab"))) == 2
    lighter = {**rated[0], "weight": 0.5}
    assert len(read(tmp_path, rated[0], lighter)) == 2


# Prompts


RESPONSES = {
    "pair": {"chosen": "Because.", "rejected": "No."},
    "messages": {"chosen": [assistant("Because.")], "rejected": [assistant("No.")]},
    "message": {"chosen": {"from": "gpt", "value": "Because."}, "rejected": {"from": "gpt", "value": "No."}},
    "scores": {"responses": [{"text": "Because.", "score": 1}, {"text": "No.", "score": 0}]},
    "texts": {"completions": ["Because.", "No."], "ratings": [1, 0]},
    "columns": {"answer_1": "Because.", "answer_2": "No.", "winner": 1},
    "one": {"response": "Because."},
}
PROMPTS = [name for name in (*NAMES["prompt"], *NAMES["context"], *NAMES["input"], "Question") if name != "info"]
DIALOGUES = {
    "text": "Why is it so?",
    "messages": [user("Why is it so?")],
    "parts": [{"role": "user", "content": [{"type": "text", "text": "Why is "}, {"type": "text", "text": "it so?"}]}],
    "sharegpt": [{"from": "human", "value": "Why is it so?"}],
    "message": user("Why is it so?"),
    "dialogue": "\n\nHuman: Why is it so?\n\nAssistant:",
}


@pytest.mark.parametrize("kind", RESPONSES)
@pytest.mark.parametrize("name", PROMPTS)
def test_a_prompt_is_read_under_every_name_beside_every_shape(tmp_path, name, kind):
    for prompt in (
        DIALOGUES.values() if name not in ("context", "document", "passage", "article", "input") else ["Why is it so?"]
    ):
        [comparison] = read(tmp_path, {name: prompt, **RESPONSES[kind]})
        assert comparison.prompt == ASK
        assert comparison.responses == ("Because.", "No.")[: len(comparison.responses)]
        assert comparison.scores == ((1, 0) if kind != "one" else (0,))


@pytest.mark.parametrize("kind", RESPONSES)
def test_a_system_text_stands_before_the_prompt_and_once(tmp_path, kind):
    told = Turn("system", "Be kind.")
    for prompt in (
        "Why is it so?",
        [user("Why is it so?")],
        [{"role": "developer", "content": "Be kind."}, user("Why is it so?")],
    ):
        [comparison] = read(tmp_path, {"system": "Be kind.", "question": prompt, **RESPONSES[kind]})
        assert comparison.prompt == (told, *ASK)
    with pytest.raises(InputError, match=r'x\.jsonl:1: field "system": .*the prompt begins with another system turn'):
        read(tmp_path, {"system": "Be rude.", "prompt": [{"role": "system", "content": "Be kind."}], **RESPONSES[kind]})


@pytest.mark.parametrize("kind", RESPONSES)
def test_a_text_of_unknown_name_beside_responses_without_a_prompt_is_refused_by_name(tmp_path, kind):
    record = {"source": "a forum", "model": "m", "n": 3, **RESPONSES[kind]}
    assert read(tmp_path, record)[0].prompt == ()
    for ask in ("Why?", [{"role": "user", "content": "Why?"}], {"text": "Why?"}):
        with pytest.raises(InputError, match=r'x\.jsonl:1: field "ask": .*no prompt is read, and this may be it'):
            read(tmp_path, {"ask": ask, **record})
    assert read(tmp_path, {"ask": "Why is it so?", **record}, fields=["prompt=ask"])[0].prompt == ASK
    assert read(tmp_path, {"ask": "Why?", **record}, fields=["unread=ask"])[0].prompt == ()


@pytest.mark.parametrize("kind", RESPONSES)
def test_one_later_record_that_lost_its_prompt_is_refused_and_one_under_another_name_is_read(tmp_path, kind):
    good = {"prompt": "Why is it so?", **RESPONSES[kind]}
    for name in ("question", "instruction", "Prompt"):
        other = {name: "Why is it so?", **{**RESPONSES[kind], **({"response": "No."} if kind == "one" else {})}}
        assert {comparison.prompt for comparison in read(tmp_path, good, other)} == {ASK}
    with pytest.raises(InputError, match=r'x\.jsonl:2: field "prompt": missing, though records before have one'):
        read(tmp_path, good, RESPONSES[kind])
    with pytest.raises(InputError, match=r'x\.jsonl:2: field "promt"'):
        read(tmp_path, good, {"promt": "Why is it so?", **RESPONSES[kind]})


def test_two_fields_for_a_prompt_are_read_once_if_one_holds_the_other_and_else_refused(tmp_path):
    record = {"prompt": "Q: Why is it so?\nA:", "question": "Why is it so?", **RESPONSES["pair"]}
    assert read(tmp_path, record)[0].prompt == (Turn("user", record["prompt"]),)
    record["question"] = "How?"
    with pytest.raises(InputError, match='field "question": \'How\\?\': stands beside "prompt", and is another prompt'):
        read(tmp_path, record)
    assert read(tmp_path, record, fields=["prompt=question"])[0].prompt == (Turn("user", "How?"),)
    joined = read(tmp_path, record, fields=["prompt=question+prompt"])[0].prompt
    assert joined == (Turn("user", "How?\n\nQ: Why is it so?\nA:"),)
    passage = {"context": "Rivers run.", "question": "Why?", "input": "Briefly.", **RESPONSES["pair"]}
    assert read(tmp_path, passage)[0].prompt == (Turn("user", "Rivers run.\n\nWhy?\n\nBriefly."),)


OPENINGS = [[], [{"role": "system", "content": "Be brief."}], [user("Hi"), assistant("Hello!")]]
ENDS = st.sampled_from(["", " ", "\n", "\n\n"])
anything_goes = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=80)


@anything_goes
@given(st.sampled_from(OPENINGS), ENDS, ENDS, st.booleans(), st.sampled_from(["pair", "responses", "single"]))
def test_a_prompt_given_again_in_the_dialogues_is_read_once(tmp_path, opening, begin, end, is_text, kind):
    question = f"{begin}Why is it so?{end}" if is_text else [user(f"{begin}Why is it so?{end}")]
    whole = [[*opening, user("Why is it so?"), assistant(text)] for text in ("Because.", "No.")]
    record = {
        "pair": {"chosen": whole[0], "rejected": whole[1]},
        "responses": {"responses": whole, "scores": [1, 0]},
        "single": {"completion": whole[0]},
    }[kind]
    [comparison] = read(tmp_path, {"prompt": question, **record})
    assert [turn.text for turn in comparison.prompt] == [*(m["content"] for m in opening), "Why is it so?"]
    assert comparison.responses == ("Because.", "No.")[: len(comparison.responses)]


@pytest.mark.parametrize(
    "prompt", ["Why is it so?", "\n\nHuman: Why is it so?\n\nAssistant:", "Human: Why is it so?\n\nAssistant: "]
)
@pytest.mark.parametrize("start", ["\n\nHuman: Why is it so?\n\nAssistant: ", "Human: Why is it so?\n\nAssistant: "])
def test_a_prompt_given_again_as_text_is_read_once(tmp_path, prompt, start):
    [pair] = read(tmp_path, {"prompt": prompt, "chosen": start + "Because.", "rejected": start + "No."})
    assert (pair.prompt, pair.responses) == (ASK, ("Because.", "No."))
    [single] = read(tmp_path, {"prompt": prompt, "response": start + "Because."})
    assert (single.prompt, single.responses) == (ASK, ("Because.",))


def test_responses_that_all_begin_with_the_text_of_the_prompt_lose_it_and_others_keep_it(tmp_path):
    repeated = {"prompt": "Why is it so?", "chosen": "Why is it so? Because.", "rejected": "Why is it so?\nNo."}
    assert read(tmp_path, repeated)[0].responses == ("Because.", "No.")
    for rejected in ("No.", "Why is it so?", "Why is it so?No."):
        assert read(tmp_path, {**repeated, "rejected": rejected})[0].responses == (repeated["chosen"], rejected)


def test_a_short_prompt_with_which_answers_may_well_begin_stays_in_them(tmp_path):
    greeting = {"prompt": "Hello", "chosen": "Hello there!", "rejected": "Hello you."}
    assert read(tmp_path, greeting)[0].responses == ("Hello there!", "Hello you.")
    for prompt in (greeting["prompt"], [user(greeting["prompt"])]):
        pair = {"prompt": prompt, "chosen": "Hello\nHi!", "rejected": "Hello\nNo."}
        assert read(tmp_path, pair)[0].responses == ("Hi!", "No.")


def test_background_that_the_prompt_holds_is_read_once_and_several_texts_of_it_are_all_read(tmp_path):
    passage, question = "Rivers run downhill.", "Why do they?"
    for prompt in (f"{passage} {question}", [user(passage), assistant("And?"), user(question)]):
        [pair] = read(tmp_path, {"context": passage, "prompt": prompt, **RESPONSES["pair"]})
        assert "".join(turn.text for turn in pair.prompt).count(passage) == 1
    several = {"article": passage, "context": "A stone falls.", "document": passage, "question": question}
    [pair] = read(tmp_path, {**several, **RESPONSES["pair"]})
    assert pair.prompt[0].text == "\n\n".join([several["context"], passage, question])


def test_a_dialogue_that_ends_with_an_answer_that_is_none_of_the_responses_is_refused(tmp_path):
    whole = [user("Why is it so?"), assistant("It is not.")]
    with pytest.raises(InputError, match=r'field "messages": .* ends with an answer that is none'):
        read(tmp_path, {"prompt": "Why is it so?", "messages": whole, **RESPONSES["pair"]})


def test_of_several_texts_that_may_be_the_prompt_the_longest_is_named(tmp_path):
    for name in ("source_text", "model_input", "trajectory"):
        for prompt in ({}, {"prompt": ""}, {"prompt": None}):
            with pytest.raises(InputError, match=f'field "{name}": .*no prompt is read, and this may be it'):
                read(tmp_path, {**prompt, "task": "x", name: "Why is it so?", **RESPONSES["pair"]})


def test_dialogues_that_begin_with_another_prompt_are_refused_by_name(tmp_path):
    record = {"question": "How?", "chosen": [user("Why?"), assistant("A")], "rejected": [user("Why?"), assistant("B")]}
    with pytest.raises(InputError, match=r'x\.jsonl:1: field "question": the responses begin with another prompt'):
        read(tmp_path, record)


def test_the_dialogue_of_the_chosen_response_beside_the_pair_is_no_second_prompt(tmp_path):
    whole = [user("Why is it so?"), assistant("Because.")]
    for record in ({"prompt": "Why is it so?", "messages": whole}, {"messages": whole}):
        [pair] = read(tmp_path, {**record, **RESPONSES["pair"]})
        assert (pair.prompt, pair.responses) == (ASK, ("Because.", "No."))


# Messages


def test_two_answers_that_differ_in_thoughts_or_calls_alone_stay_different(tmp_path):
    call = {"type": "function", "function": {"name": "add", "arguments": '{"a": 2}'}}
    answers = [
        assistant("4", reasoning_content="two and two"),
        assistant("4", thinking="no idea"),
        assistant("4"),
        assistant(None, tool_calls=[call]),
        assistant("", tool_calls=[{**call, "function": {"name": "mul", "arguments": {"a": 2}}}]),
        assistant(None, function_call={"name": "add", "arguments": "{}"}),
        assistant(""),
    ]
    [comparison] = read(
        tmp_path, {"prompt": "2+2?", "responses": [[answer] for answer in answers], "scores": [*range(7)]}
    )
    assert len(set(comparison.responses)) == 7
    assert comparison.responses[0] == "<think>\ntwo and two\n</think>\n\n4"
    assert comparison.responses[3] == '\n<tool_call>\n{"name": "add", "arguments": {"a": 2}}\n</tool_call>'


def test_items_with_thoughts_calls_or_parts_are_read_as_messages(tmp_path):
    calls = [{"id": "c1", "type": "function", "function": {"name": name, "arguments": "{}"}} for name in "fg"]
    items = [
        *({"text": "", "tool_calls": [call]} for call in calls),
        {"text": "4", "reasoning_content": "two and two"},
        {"content": [{"type": "text", "text": "4"}]},
    ]
    usage: dict[str, Usage] = {}
    records = {"prompt": "2+2?", "responses": [{**item, "score": i} for i, item in enumerate(items)]}
    [comparison] = read(tmp_path, records, usage=usage)
    assert comparison.responses == (
        *(f'\n<tool_call>\n{{"name": "{name}", "arguments": {{}}}}\n</tool_call>' for name in "fg"),
        "<think>\ntwo and two\n</think>\n\n4",
        "4",
    )
    assert not next(iter(usage.values())).unread


@pytest.mark.parametrize("key", ["thought", "reasoning_details"])
def test_messages_that_only_an_unread_key_tells_apart_are_refused_by_name(tmp_path, key):
    first, second = (assistant("4", **{key: [{"text": text}], "id": text}) for text in ("one way", "another way"))
    for record in ({"chosen": [first], "rejected": [second]}, {"responses": [[first], [second]], "scores": [1, 0]}):
        with pytest.raises(InputError, match=f'field "{key}": a list of 1: is not read, and nothing else tells'):
            read(tmp_path, {"prompt": "2+2?", **record})
    [same] = read(tmp_path, {"prompt": "2+2?", "chosen": [first], "rejected": [{**first, "id": "other"}]})
    assert same.responses == ("4", "4")  # dropped later, and counted


@pytest.mark.parametrize(
    ("message", "rule"),
    [
        ({"content": None}, r'field "chosen\[0\].content": null: must be text'),
        ({"content": [{"type": "image"}]}, r'"chosen\[0\].content\[0\].type": \'image\': must be text'),
        ({"content": [{"type": "text"}]}, r'"chosen\[0\].content\[0\].text": null: must be text'),
        ({"content": "", "tool_calls": ["add"]}, r'"chosen\[0\].tool_calls": \'add\': must be a list of'),
        ({"content": "", "tool_calls": [{"name": "f", "args": [1]}]}, r'tool_calls.args": a list of 1: is no part'),
        ({"content": "", "reasoning_content": 3}, r'"chosen\[0\].reasoning_content": 3: must be text'),
        ({"role": "critic", "content": "a"}, r'"chosen\[0\].role": \'critic\': must be one of system, developer'),
        ({"role": "tool", "content": "a"}, r'"chosen\[0\].role": \'tool\': the last message must be the assistant'),
    ],
)  # fmt: skip
def test_what_of_a_message_cannot_be_read_is_refused_by_name(tmp_path, message, rule):
    with pytest.raises(InputError, match=rule):
        read(tmp_path, {"prompt": "p", "chosen": [{"role": "assistant", **message}], "rejected": [assistant("b")]})


# Labels


REFUSED = {
    'field "rejected_score": 3.0: the chosen response has 2: must not be higher': {
        **RESPONSES["pair"], "chosen_score": 2, "rejected_score": 3,
    },
    'field "responses[].rank": contradicts "responses[].score": 1 is the best rank': {
        "responses": [{"text": "a", "score": 1, "rank": 1}, {"text": "b", "score": 9, "rank": 2}],
    },
    'field "ranks": contradicts "scores"': {"responses": ["a", "b"], "scores": [1, 2], "ranks": [1, 2]},
    'field "scores": contradicts "responses[].score"': {
        "responses": [{"text": "a", "score": 1}, {"text": "b", "score": 2}], "scores": [2, 1],
    },
    'field "best": contradicts "scores"': {"responses": ["a", "b"], "scores": [1, 2], "best": 0},
    'field "worst": contradicts "best"': {"responses": ["a", "b", "c"], "best": 1, "worst": 1},
    'field "score_a": contradicts "winner"': {
        "answer_a": "a", "answer_b": "b", "winner": "a", "score_a": 1, "score_b": 3,
    },
    'field "ranking": a list of 3: may be ranks or an order': {"responses": ["a", "b", "c"], "ranking": [2, 0, 1]},
    "found keys 'prompt', 'responses': nothing says which response is better": {"responses": ["a", "b"]},
    "found keys 'prompt', 'answer_a', 'answer_b': nothing says which": {"answer_a": "a", "answer_b": "b"},
    'field "overall_preference": 2.0: must judge two responses': {
        "response_1": "a", "response_2": "b", "response_3": "c", "overall_preference": 2,
    },
    'field "winner": \'c\': must be one of a, b, or tie': {"answer_a": "a", "answer_b": "b", "winner": "c"},
    'field "label": 0: must be one of a, b, or tie': {"answer_a": "a", "answer_b": "b", "label": 0},
    'field "label": \'good\': must be true or false': {"response": "a", "label": "good"},
    'field "rejected": 2: must be the number of a response': {"responses": ["a", "b"], "chosen": 0, "rejected": 2},
    "1025 responses to one prompt: must be at most 1024": {"responses": ["a"] * 1025, "scores": [1] * 1025},
    "found keys 'prompt', 'chosen', 'Chosen', 'rejected': two of them differ in the case of letters": {
        "chosen": "a", "Chosen": "b", "rejected": "c",
    },
}  # fmt: skip


@pytest.mark.parametrize("rule", REFUSED)
def test_a_label_that_is_missing_or_contradicts_itself_is_refused(tmp_path, rule):
    assert MOST_RESPONSES == 1024
    with pytest.raises(InputError) as caught:
        read(tmp_path, {"prompt": "Why?", **REFUSED[rule]})
    assert str(caught.value).startswith(f"{tmp_path / 'x.jsonl'}:1: {rule}")


ANYTHING = [None, "", "tie", 0, 1.5, True, float("nan"), [], {}, [None], [[]], ["a", "b"], [1, 2], {"messages": []}]
ANYTHING += [{"text": None}, {"replies": [{}]}, {"replies": 3, "role": "user", "text": "x"}, {"score": 1}, [user("Q")]]
FIELDS = sorted({name for names in NAMES.values() for name in names} | {"response_a", "response_b", "winner_model_a"})


@settings(max_examples=100)
@given(st.sampled_from(sorted(DATA.glob("*.*[!d]"))), st.randoms(use_true_random=False))
def test_a_record_in_which_anything_stands_anywhere_is_read_or_refused_and_never_fails(path, random):
    row = random.choice(list(read_file(path)))
    fields = json.loads(json.dumps(row.fields))
    for _ in range(random.randint(1, 3)):
        holder, key = fields, random.choice([*fields, random.choice(FIELDS)])
        while (
            isinstance(holder.get(key) if isinstance(holder, dict) else holder[key], dict | list)
            and random.random() < 0.7
        ):
            if not holder[key]:
                break
            holder = holder[key]
            key = random.choice(list(holder)) if isinstance(holder, dict) else random.randrange(len(holder))
        holder[key] = copy.deepcopy(random.choice(ANYTHING))
    for names in (None, parse_fields([], ignore_judgements=True)):
        with contextlib.suppress(InputError):
            list(parse_records(iter([RawRecord("x:1", fields)]), names=names, usage=Usage()))


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"responses": [{"text": "a", "score": 9, "rank": 1}, {"text": "b", "score": 1, "rank": 2}]}, (9, 1)),
        ({"responses": ["a", "b"], "choice": 1}, (0, 1)),
        ({"response1": "a", "response2": "b", "preference": 2}, (0, 1)),
        ({"response_0": "a", "response_1": "b", "better": "response_1"}, (0, 1)),
        ({"output_a": "a", "output_b": "b", "winner": "Tie"}, TIE),
        ({"conversation_a": [assistant("a")], "conversation_b": [assistant("b")], "winner": "tie (bothbad)"}, (0, 0)),
        ({"answer_0": "a", "answer_1": "b", "rank_0": 2, "rank_1": 1}, (-2, -1)),
        ({"preferred_output": [assistant("a")], "non_preferred_output": [assistant("b")]}, (1, 0)),
        ({"chosen": "a", "rejected": "b", "chosen-rating": 4, "rejected-rating": 4}, (4, 4)),
        ({"chosen": "a", "rejected": "b", "score_chosen": 4, "score_rejected": None}, (1, 0)),
        ({"chosen": "a", "rejected": "b", "chosen_reward": 1, "rejected_reward": 1}, (1, 1)),
        ({"chosen_response": "a", "rejected_response": "b", "chosen_avg_rating": 5, "rejected_avg_rating": 5}, (5, 5)),
        ({"response": "a", "rejected_response": "b"}, (1, 0)),
        ({"answer_a": "a", "answer_b": "b", "chosen": "answer_b", "rejected": "answer_a"}, (0, 1)),
        ({"responses": ["a", "b"], "best": 1, "worst": 0}, (0, 1)),
        ({"responses": ["a", "b"], "ranking": [2, 1]}, (-2, -1)),
        ({"responses": ["a", "b"], "scores": [2, 1], "label": "helpful", "best": 0}, (2, 1)),
        ({"answer_1": "a", "answer_2": "b", "winner": "llama 2", "model_1": "llama 2", "model_2": "llama 1"}, (1, 0)),
        (
            {"completions": [{"rank": 0, "completion": [assistant("a")]}, {"rank": 1, "completion": [assistant("b")]}]},
            (0, -1),
        ),
        ({"chosen": [{"from": "gpt", "content": "a"}], "rejected": [{"role": "ai", "value": "b"}]}, (1, 0)),
        ({"chosen": json.dumps([assistant("a")]), "rejected": json.dumps([assistant("b")])}, (1, 0)),
    ],
)
def test_other_ways_to_write_a_judgement_are_read(tmp_path, record, expected):
    for prompt in ({"prompt": "Why?"}, {"input": {"messages": [user("Why?")]}}):
        [comparison] = read(tmp_path, {**prompt, **record})
        assert (comparison.prompt, comparison.responses) == ((Turn("user", "Why?"),), ("a", "b"))
        assert comparison.scores == expected


# What was read, and what was not


def test_usage_names_every_field_as_what_it_was_read_or_as_unread(tmp_path):
    usage: dict[str, Usage] = {}
    long = "a long text that nobody reads, of many words"
    records = [
        {"input": {"messages": [user("Q")], "n": 1}, "preferred_output": "a", "rejected": "b", "fine_score": 3},
        {"question": "Q", "chosen": [assistant("a", weight=0)], "rejected": [assistant("b")], "n": 1, "why": long},
        {"prompt": "Q", "chosen": "a", "rejected": "b", "n": 2, "note": "", "why": None},
    ]
    read(tmp_path, *records, usage=usage)
    [(name, file)] = usage.items()
    assert name == str(tmp_path / "x.jsonl") and file.records == 3
    assert file.read == {
        ("input", "prompt"): 1,
        ("question", "prompt"): 1,
        ("prompt", "prompt"): 1,
        ("preferred_output", "chosen"): 1,
        ("chosen", "chosen"): 2,
        ("rejected", "rejected"): 3,
    }
    assert file.unread == {"n": 2, "why": 1, "chosen[].weight": 1, "input[].n": 1, "fine_score": 1}
    told = '"fine_score" (1 records), "why" (1 records); see minirm data'
    assert tell_unread(usage) == f"left unread, though long texts or judgements stand there: {told}"
    assert tell_unread({name: Usage()}) is None


@pytest.mark.parametrize("path", sorted(DATA.glob("*.*[!d]")), ids=lambda path: path.name)
def test_every_field_of_a_sample_is_accounted_for(path):
    usage: dict[str, Usage] = {}
    list(read_comparisons(path, usage=usage))
    [file] = usage.values()
    seen = {name.partition("[")[0].partition(".")[0] for name in (*(name for name, _ in file.read), *file.unread)}
    rows = path.read_text().splitlines() if path.suffix == ".jsonl" else []
    held = {key for row in rows for key, value in json.loads(row).items() if value not in (None, "", [], {})}
    assert held <= seen and file.read


@pytest.mark.parametrize(
    ("fields", "rule"),
    [
        (["prompt"], "fields 'prompt': must be MEANING=FIELD, the meaning one of choice, chosen, "),
        (["colour=red"], "fields 'colour=red': must be MEANING=FIELD"),
        (["prompt=a", "prompt=b"], "fields 'prompt=b': prompt is given twice"),
        (
            ["prompt=ask"],
            "x.jsonl:1: field \"ask\": missing, or unfit for --fields prompt=ask; found keys 'prompt', 'chosen'",
        ),
        (["score=helpful"], 'x.jsonl:1: field "helpful": missing, or unfit for --fields score=helpful'),
    ],
)
def test_fields_that_are_not_there_are_refused_by_name(tmp_path, fields, rule):
    with pytest.raises(InputError) as caught:
        read(tmp_path, {"prompt": "Why?", **RESPONSES["pair"]}, fields=fields)
    assert rule in str(caught.value)


def test_fields_say_what_is_what_where_names_say_nothing(tmp_path):
    record = {"Ask": "Why?", "good one": "a", "bad one": "b", "gap": 0.5}
    [pair] = read(tmp_path, record, fields=["prompt=ask", "chosen=good one", "rejected=bad one", "margin=gap"])
    assert (pair.prompt[0].text, pair.responses, pair.margin) == ("Why?", ("a", "b"), 0.5)


@pytest.mark.parametrize("columns", [{"0": None, "1": None}, [None, None]])
def test_one_object_of_columns_is_as_many_records(tmp_path, columns):
    def column(*values):
        return dict(zip(columns, values, strict=True)) if isinstance(columns, dict) else list(values)

    record = {"prompt": column("p", "q"), "chosen": column("a", [assistant("b")]), "rejected": column("c", "d")}
    for name in ("x.json", "x.jsonl"):
        (tmp_path / name).write_text(json.dumps(record))
        first, second = read_comparisons(tmp_path / name)
        assert (first.prompt[0].text, second.prompt[0].text, second.responses) == ("p", "q", ("b", "d"))


def test_columns_need_no_prompt_and_messages_in_a_cell_are_json(tmp_path):
    (tmp_path / "x.json").write_text(json.dumps({"chosen": ["a", "b"], "rejected": ["c", "d"]}))
    assert [pair.responses for pair in read_comparisons(tmp_path / "x.json")] == [("a", "c"), ("b", "d")]
    for write in (json.dumps, str):
        cells = [write([user("Why is it so?"), assistant(text)]).replace('"', '""') for text in ("Because.", "No.")]
        (tmp_path / "x.csv").write_text('chosen,rejected\n"{}","{}"\n'.format(*cells))
        if write is json.dumps:
            [pair] = read_comparisons(tmp_path / "x.csv")
            assert (pair.prompt, pair.responses) == (ASK, ("Because.", "No."))
        else:
            with pytest.raises(InputError, match=r'x.csv:2: field "chosen": .*must be messages in JSON'):
                list(read_comparisons(tmp_path / "x.csv"))


TEXTS = st.text("ab \n\0HumanAssi:t.é\u3000\x85\ud800", max_size=40) | st.sampled_from(
    ["", " ", "a?", "a?\nb", "Human: a", "\n\nAssistant: x"]
)


@given(prompt=TEXTS, chosen=TEXTS, rejected=TEXTS, repeated=st.sampled_from(["", "prompt", "whole"]))
def test_a_plain_pair_is_read_as_the_long_way_reads_it(prompt, chosen, rejected, repeated):
    """Plain text needs no finding out; whatever may be more is left to the long way."""
    if repeated:
        chosen = prompt + " " + chosen
        rejected = prompt + " " + rejected if repeated == "whole" else rejected
    row = RawRecord("x.jsonl:1", {"prompt": prompt, "chosen": chosen, "rejected": rejected})
    plain = plain_pair(row)
    if plain is not None:
        record, counted, long = Record(row.fields, Names()), Usage(), Usage()
        assert [plain] == parse_record(record, "pairs", row.place).comparisons
        assert [one.comparisons for one in parse_records(iter([row]), usage=counted)] == [[plain]]
        long.add(record)
        assert counted == long


def test_most_plain_pairs_take_the_short_way():
    fields = {"prompt": "Is a tomato a fruit?", "chosen": "Yes.", "rejected": "No.\nIt is not."}
    assert plain_pair(RawRecord("x.jsonl:1", fields)).responses == ("Yes.", "No.\nIt is not.")
    assert plain_pair(RawRecord("x.jsonl:1", fields | {"chosen": "Ja, größtenteils – “Obst”. 果"})) is not None
    assert plain_pair(RawRecord("x.jsonl:1", fields | {"chosen": "Yes \ud800"})) is None
