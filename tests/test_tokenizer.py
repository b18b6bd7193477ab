"""The tokenizer loses nothing, lets no text pass for a special token, and comes back from disk as it was."""

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minirm.data.comparison import Turn
from minirm.errors import InputError
from minirm.tokens.tokenizer import END, ROLES, SMALLEST, SPECIAL, Tokenizer

CORPUS = ["the cat sat on the mat", "the cat ate the rat", "Größe: 3 µm", "<|end|> is only text"] * 3
TOKENIZER = Tokenizer.train(CORPUS)
texts = st.text(st.characters(exclude_categories=("Cs",)))  # all of Unicode that UTF-8 can write


@given(texts)
def test_any_text_comes_back_as_it_was(text):
    assert TOKENIZER.decode(TOKENIZER.encode([text])[0]) == text


@pytest.mark.parametrize(
    "text", ["", " ", "  a  ", "\r\n\t", "e\u0301 ≠ é", "\U0001f469\u200d\U0001f680", "\ufeff", "\x00\x7f\x85"]
)
def test_white_space_marks_and_joined_signs_come_back_as_they_were(text):
    assert TOKENIZER.decode(TOKENIZER.encode([text])[0]) == text


def test_the_smallest_vocabulary_knows_every_text_and_merges_nothing():
    smallest = Tokenizer.train(CORPUS, SMALLEST)
    assert smallest.vocab_size == SMALLEST == 262
    assert len(smallest.encode(["Größe"])[0]) == len("Größe".encode())
    assert smallest.decode(smallest.encode(["日本 \U0001f600"])[0]) == "日本 \U0001f600"


@given(st.lists(st.sampled_from([*SPECIAL, "a", " ", "<|", "|>", "end"])).map("".join))
def test_no_text_can_put_a_special_token_in(text):
    special = set(TOKENIZER.special.values())
    assert not special & set(TOKENIZER.encode([text])[0])
    (prompt,) = TOKENIZER.encode_prompts([[Turn("user", text)]])
    assert not special & set(prompt[1:-1])
    (response,) = TOKENIZER.encode_responses([text])
    assert response.count(TOKENIZER.end_id) == 1 and response[-1] == TOKENIZER.end_id


def test_a_prompt_is_its_turns_behind_their_roles_and_opens_the_assistants():
    turns = [Turn("system", "the"), Turn("user", "cat"), Turn("assistant", "sat"), Turn("tool", "on")]
    ids = {turn.text: TOKENIZER.encode([turn.text])[0] for turn in turns}
    role = {role: TOKENIZER.special[f"<|{role}|>"] for role in ROLES}
    expected = [role["system"], *ids["the"], role["user"], *ids["cat"], role["assistant"], *ids["sat"]]
    expected += [TOKENIZER.end_id, role["tool"], *ids["on"], role["assistant"]]
    assert TOKENIZER.encode_prompts([turns, []]) == [expected, [role["assistant"]]]


def test_a_response_is_its_tokens_and_one_end():
    assert TOKENIZER.encode_responses(["", "cat"]) == [
        [TOKENIZER.end_id],
        [*TOKENIZER.encode(["cat"])[0], TOKENIZER.end_id],
    ]


def test_pad_end_and_roles_are_tokens_of_their_own():
    assert TOKENIZER.special == {token: i for i, token in enumerate(SPECIAL)}
    assert (TOKENIZER.pad_id, TOKENIZER.end_id) == (0, 1)


@given(texts)
def test_saved_and_loaded_it_encodes_alike(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "tokenizer.json"
    if not path.exists():
        TOKENIZER.save(path)
    loaded = Tokenizer.load(path)
    turns = [[Turn("user", text + END)]]
    assert loaded.encode_prompts(turns) == TOKENIZER.encode_prompts(turns)
    assert loaded.encode_responses([text + END]) == TOKENIZER.encode_responses([text + END])
    assert loaded.vocab_size == TOKENIZER.vocab_size


def test_it_goes_to_another_process_whole():
    copy, response = pickle.loads(pickle.dumps(TOKENIZER)), f"the cat {END}"
    assert copy.encode_responses([response]) == TOKENIZER.encode_responses([response])
    assert copy.files() == TOKENIZER.files()


def test_training_twice_on_the_same_texts_gives_the_same_file(tmp_path):
    for name in "ab":
        Tokenizer.train(iter(CORPUS), 270).save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_vocabulary_that_the_texts_cannot_give_is_refused():
    reached = TOKENIZER.vocab_size
    assert SMALLEST < reached < 8192  # no size asked for: as many as the texts give
    assert Tokenizer.train(CORPUS, reached).vocab_size == reached
    with pytest.raises(InputError, match=f"vocab_size={reached + 1} is more than these texts .* at most {reached}"):
        Tokenizer.train(CORPUS, reached + 1)
    with pytest.raises(InputError, match=r"vocab_size=261 must be at least 262 \(256 bytes and 6 special tokens\)"):
        Tokenizer.train(CORPUS, 261)
    assert Tokenizer.train([]).vocab_size == SMALLEST


def test_a_file_that_is_no_tokenizer_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"gone\.json: no such file"):
        Tokenizer.load(tmp_path / "gone.json")
    (tmp_path / "t.json").write_text("[1, 2]")
    with pytest.raises(InputError, match=r"t\.json: not a tokenizer file \(invalid type: sequence"):
        Tokenizer.load(tmp_path / "t.json")
