"""Dialogues in text and in messages are read alike, and lose nothing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minirm.data.comparison import Turn
from minirm.errors import InputError
from minirm.files.dialogue import (
    parse_dialogue,
    parse_prompt,
    parse_response,
    render_dialogue,
    split_dialogues,
    split_turns,
)

GREETING = (Turn("user", "Hi"), Turn("assistant", "Hello!"), Turn("user", "A riddle?"))
PIECES = ("\n\nHuman: ", "\n\nAssistant: ", "\n\nHuman:", "\n\nAssistant:", "Human: ", "\n", " ", "yes", "é", "")
MARKED_TEXT = st.lists(st.sampled_from(PIECES), max_size=8).map("".join)
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20).filter(
    lambda text: not any(f"\n\n{speaker}:" in text for speaker in ("Human", "Assistant"))
)
TURNS = st.lists(st.builds(Turn, st.sampled_from(["user", "assistant"]), TEXT, st.just("")), min_size=1, max_size=5)


def test_a_plain_prompt_is_one_turn_of_the_user():
    assert parse_prompt(" What is 2+2?\n") == (Turn("user", " What is 2+2?\n"),)


@pytest.mark.parametrize("nothing", ["", None, []])
def test_no_prompt_is_no_turn(nothing):
    assert parse_prompt(nothing) == ()


@pytest.mark.parametrize("start", ["", "\n\n"])
@pytest.mark.parametrize("end", ["", " "])
def test_a_prompt_that_leads_in_the_assistant_is_a_dialogue(start, end):
    prompt = f"{start}Human: Hi\n\nAssistant: Hello!\n\nHuman: A riddle?\n\nAssistant:{end}"
    assert parse_prompt(prompt) == GREETING


def test_a_prompt_that_does_not_lead_in_the_assistant_stays_text():
    assert parse_prompt("\n\nHuman: Hi") == (Turn("user", "\n\nHuman: Hi"),)


def test_text_before_the_first_marker_is_a_system_turn():
    turns = (Turn("system", "Be brief."), Turn("user", "Hi"))
    assert parse_prompt("Be brief.\n\nHuman: Hi\n\nAssistant:") == turns
    assert render_dialogue(turns) == "Be brief.\n\nHuman: Hi"


def test_messages_may_name_their_roles_in_other_words():
    messages = [{"role": role, "content": "x"} for role in ("system", "human", "GPT", "bot", "tool")]
    assert [turn.role for turn in parse_prompt(messages)] == ["system", "user", "assistant", "assistant", "tool"]


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (7, 'field "prompt": 7: must be text or a list of messages'),
        (["Hi"], """field "prompt[0]": 'Hi': must be a message {"role", "content"}"""),
        ([{"role": "user", "content": None}], 'field "prompt[0].content": null: must be text'),
        ([{"content": "Hi"}], 'field "prompt[0].role": null: must be one of system, developer, user, '),
        ("a\0b", "field \"prompt\": 'a\\x00b': must be text without NUL"),
        ("\ud83d", "field \"prompt\": '\\ud83d': must be Unicode text, without half a surrogate pair"),
    ],
)
def test_a_prompt_of_another_kind_is_refused_by_name(prompt, message):
    with pytest.raises(InputError) as caught:
        parse_prompt(prompt)
    assert str(caught.value).startswith(message)


def test_the_space_after_the_lead_in_belongs_to_the_marker_wherever_it_stands():
    assert parse_response(" Yes", "\n\nHuman: Hi\n\nAssistant:") == "Yes"
    assert parse_response(" Yes", "\n\nHuman: Hi\n\nAssistant: ") == " Yes"
    assert parse_response(" Yes", "Hi") == " Yes"
    assert parse_response(" Yes", None) == " Yes"


@given(TURNS)
def test_a_rendered_dialogue_is_parsed_back(turns):
    assert parse_dialogue(render_dialogue(turns)) == tuple(turns)


@given(MARKED_TEXT)
def test_a_parsed_dialogue_is_rendered_back(text):
    assert render_dialogue(parse_dialogue(text)) == ("\n\n" + text if text.startswith("Human: ") else text)


@given(MARKED_TEXT, MARKED_TEXT, MARKED_TEXT)
def test_whole_dialogues_are_split_without_loss(opening, chosen, rejected):
    for whole in (texts := [opening + chosen, opening + rejected]):
        prompt, responses = split_dialogues(*texts)
        response = responses[texts.index(whole)]
        whole = "\n\n" + whole if prompt and whole.startswith("Human: ") else whole
        lead_ins = ("\n\nAssistant: ", "\n\nAssistant:") if prompt else ("",)
        assert whole in [render_dialogue(prompt) + lead_in + response for lead_in in lead_ins]


def test_the_prompt_ends_at_the_last_shared_turn_of_the_assistant():
    shared = "\n\nHuman: Hi\n\nAssistant: Hello!\n\nHuman: A riddle?\n\nAssistant:"
    assert split_dialogues(shared + " What has keys?", shared + " No.") == (GREETING, ("What has keys?", "No."))


def test_an_empty_response_after_the_lead_in_is_a_response():
    assert split_dialogues("Human: Hi\n\nAssistant: Ho", "Human: Hi\n\nAssistant:") == (
        (Turn("user", "Hi"),),
        ("Ho", ""),
    )


def test_texts_without_a_shared_turn_have_no_prompt():
    texts = ("\n\nHuman: A\n\nAssistant: x", "\n\nHuman: B\n\nAssistant: x")
    assert split_dialogues(*texts) == ((), texts)
    assert split_dialogues("one\n\nAssistant: a", "one\n\nAssistant: b")[0] == ()


DIVERGING = [
    [*GREETING[:2], Turn("user", "A joke?"), Turn("assistant", "Knock, knock.")],
    [*GREETING[:2], Turn("user", "A poem?"), Turn("assistant", "No.")],
]


def test_dialogues_that_part_early_keep_their_later_turns_as_text_of_the_response():
    prompt, (chosen, rejected) = split_dialogues(*map(render_dialogue, DIVERGING))
    assert prompt == GREETING[:1]
    assert chosen == "Hello!\n\nHuman: A joke?\n\nAssistant: Knock, knock."
    assert rejected == "Hello!\n\nHuman: A poem?\n\nAssistant: No."


def test_messages_are_split_where_the_same_dialogues_in_text_are():
    for turns in (
        DIVERGING,
        [[Turn("user", "A"), Turn("assistant", "x")], [Turn("user", "B"), Turn("assistant", "x")]],
    ):
        assert split_turns((), list(map(tuple, turns))) == split_dialogues(*map(render_dialogue, turns))


def test_messages_may_repeat_the_prompt_or_leave_it_out():
    answers = (Turn("assistant", "Yes"),), (Turn("assistant", "No"),)
    assert split_turns(GREETING, answers) == (GREETING, ("Yes", "No"))
    assert split_turns(GREETING, [GREETING + answer for answer in answers]) == (GREETING, ("Yes", "No"))


def test_identical_dialogues_still_have_a_response():
    whole = (*GREETING, Turn("assistant", "Yes"))
    assert split_turns((), [whole, whole]) == (GREETING, ("Yes", "Yes"))
