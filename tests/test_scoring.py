"""A reward depends on its prompt and its response: not on the batch, the order, or what is scored beside them."""

import copy
import dataclasses
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import minirm
from minirm.data.comparison import Comparison, Turn
from minirm.errors import InputError
from minirm.evaluation import scoring
from minirm.evaluation.report import as_table
from minirm.evaluation.scoring import RECORDS_AT_ONCE, RewardScorer, swap_prompts
from minirm.files.tables import RawRecord
from minirm.tokens.packing import pack, tokenize, truncate
from tests.oracles import rewards_one_by_one

WORDS = ["gladly", "here", "is", "answer", "no", "go", "away", "question", "seven", "?", ",", "."]
SAME = {"abs": 2e-5, "rel": 2e-5}  # float32, added up in another order


@pytest.fixture(scope="module")
def scorer(trained) -> RewardScorer:
    return minirm.load(trained)


def with_packing(scorer: RewardScorer, **changes: object) -> RewardScorer:
    packing = dataclasses.replace(scorer.run.packing, **changes)
    return RewardScorer(dataclasses.replace(scorer.run, packing=packing))


def drawn_texts(count: int, most_words: int = 12) -> list[str]:
    draw = random.Random(0)
    return [" ".join(draw.choices(WORDS, k=draw.randint(0, most_words))) for _ in range(count)]


def test_rewards_are_those_of_each_sequence_read_alone(scorer):
    prompts, responses = drawn_texts(20), drawn_texts(20)
    expected = []
    for prompt, response in zip(prompts, responses, strict=True):
        turns = (Turn("user", prompt),) if prompt else ()
        [encoded] = tokenize([Comparison(turns, (response,), (0.0,))], scorer.run.tokenizer)
        with torch.no_grad():
            [[reward]] = rewards_one_by_one(scorer.run.model, [truncate(encoded, 64)])
        expected.append(reward.item())
    assert scorer.score(prompts, responses) == pytest.approx(expected, **SAME)


@pytest.mark.parametrize("tokens_per_batch", [1, 40, 100, 10_000])
@pytest.mark.parametrize("share_prompt", [True, False])
def test_rewards_do_not_depend_on_the_batch(scorer, tokens_per_batch, share_prompt):
    prompts, responses = drawn_texts(4) * 5, drawn_texts(20)
    other = with_packing(scorer, tokens_per_batch=tokens_per_batch, share_prompt=share_prompt)
    assert other.score(prompts, responses) == pytest.approx(scorer.score(prompts, responses), **SAME)


@pytest.mark.parametrize("tokens_at_once", [1, 60])
def test_small_batches_on_a_cpu_change_no_reward_and_split_no_comparison_within_the_budget(
    scorer, monkeypatch, tokens_at_once
):
    prompts, responses = [text for text in drawn_texts(5) for _ in range(4)], drawn_texts(20)
    expected, packed = scorer.score(prompts, responses), []
    monkeypatch.setattr(scoring, "TOKENS_AT_ONCE", tokens_at_once)
    monkeypatch.setattr(scoring, "pack", lambda batch, **how: packed.append(batch) or pack(batch, **how))
    assert scorer.score(prompts, responses) == pytest.approx(expected, **SAME)
    assert all(len(batch) == 1 or sum(item.tokens for item in batch) <= tokens_at_once for batch in packed)
    assert sorted(len(item.responses) for batch in packed for item in batch) == [4] * 5  # each prompt is read once


def test_rewards_follow_their_responses_into_any_order(scorer):
    pairs = list(zip(drawn_texts(5) * 6, drawn_texts(30), strict=True))
    rewards = scorer.score(*zip(*pairs, strict=True))
    order = random.Random(1).sample(range(30), 30)
    shuffled = scorer.score(*zip(*(pairs[n] for n in order), strict=True))
    assert shuffled == pytest.approx([rewards[n] for n in order], **SAME)


def test_many_responses_to_one_prompt_score_as_each_alone(scorer):
    responses = drawn_texts(40)
    together = scorer.score("Question seven?", responses)
    assert together == pytest.approx([scorer.score("Question seven?", [text])[0] for text in responses], **SAME)


def test_a_long_response_beside_it_does_not_cut_the_prompt_of_a_short_one(scorer):
    prompt = "question " * 25 + "seven?"  # cut where a response is long: 64 tokens are the most
    responses = ["Gladly.", "No, " * 20, "go away " * 200, "Here is answer 7."]
    alone = [scorer.score(prompt, [text])[0] for text in responses]
    assert scorer.score(prompt, responses) == pytest.approx(alone, **SAME)
    [rewards] = scorer.score_comparisons([Comparison((Turn("user", prompt),), tuple(responses), (0.0,) * 4)])
    assert rewards == pytest.approx(alone, **SAME)


def test_a_prompt_beyond_the_limit_is_cut_from_its_left(scorer):
    prompt, response = "question " * 500 + "seven?", "Gladly."
    assert scorer.score("answer " * 300 + prompt, [response]) == pytest.approx(scorer.score(prompt, [response]), **SAME)


def test_what_is_cut_is_counted_for_each_response(trained):
    scorer = minirm.load(trained)
    scorer.score("Question seven?", ["Gladly."])
    assert scorer.cut == {"prompts": 0, "responses": 0}
    prompt, responses = "Question seven? " * 5, ["1" * n for n in range(1, 99, 7)]
    scorer.score(prompt, responses)
    [start] = scorer.run.tokenizer.encode_prompts([[Turn("user", prompt)]])
    lengths = [len(response) for response in scorer.run.tokenizer.encode_responses(responses)]
    prompts = sum(len(start) + length > 64 for length in lengths)  # 64 tokens are the most
    assert scorer.cut == {"prompts": prompts, "responses": sum(length > 63 for length in lengths)}
    assert len(responses) > scorer.cut["prompts"] > scorer.cut["responses"] > 0
    scorer.reward_fn(prompts=["go " * 99], outputs=["away"])
    assert scorer.cut["prompts"] == prompts + 1  # all that it has cut so far


def test_a_prompt_may_be_text_or_messages_or_a_dialogue_in_text_or_nothing(scorer):
    messages = [{"role": "user", "content": "Question 1?"}]
    dialogue = "\n\nHuman: Question 1?\n\nAssistant:"
    forms = ["Question 1?", messages, dialogue, dialogue + " "]
    rewards = scorer.score(forms, ["Gladly.", "Gladly.", " Gladly.", "Gladly."])
    assert rewards == pytest.approx([rewards[0]] * 4, **SAME)
    nothing = scorer.score([None, "", []], ["Gladly."] * 3)
    assert nothing == pytest.approx([nothing[0]] * 3, **SAME)
    assert abs(nothing[0] - rewards[0]) > 1e-3
    assert scorer.score([], []) == scorer.score("p", []) == []


def test_a_single_prompt_in_any_form_serves_all_responses(scorer):
    responses = ["Gladly.", "No."]
    expected = scorer.score(["Question 1?"] * 2, responses)
    assert scorer.score([{"role": "user", "content": "Question 1?"}], responses) == pytest.approx(expected, **SAME)
    assert scorer.score(None, responses) == scorer.score([None, None], responses)


def test_the_tiny_model_learned_what_is_better(scorer):
    prompts = [f"Question {n}?" for n in range(100, 120)]
    kind = scorer.score(prompts, [f"Gladly, here is answer {n}." for n in range(100, 120)])
    rude = scorer.score(prompts, [f"No, go away {n}." for n in range(100, 120)])
    assert all(k > r for k, r in zip(kind, rude, strict=True))


def test_normalised_rewards_use_the_mean_and_spread_of_the_validation_part(scorer):
    texts = drawn_texts(5)
    mean, spread = scorer.run.reward_mean, scorer.run.reward_std
    expected = [(reward - mean) / spread for reward in scorer.score("p", texts)]
    assert spread > 0.01
    assert scorer.score("p", texts, normalise=True) == pytest.approx(expected, **SAME)
    [row] = scorer.score_records([RawRecord("x:1", {"prompt": "p", "responses": texts})], normalise=True)
    assert row["rewards"] == pytest.approx(expected, **SAME)


@pytest.mark.parametrize(
    ("prompts", "responses", "message"),
    [
        (["a", "b"], ["c"], r"prompts \(2\) and responses \(1\) must be equally many"),
        ([], ["c"], r"prompts \(0\) and responses \(1\) must be equally many"),
        (["a", 3], ["c", "d"], r'field "prompts\[1\]": 3: must be text or a list of messages'),
        (["a"], [None], r'field "responses\[0\]": null: must be text'),
        ("a", "c", "field \"responses\": 'c': must be a list of texts"),
        ([[{"role": "user", "content": None}]], ["c"], r'field "prompts\[0\]\[0\].content": null: must be text'),
    ],
)
def test_what_is_no_text_is_refused(scorer, prompts, responses, message):
    with pytest.raises(InputError, match=message):
        scorer.score(prompts, responses)


# As trlx and TRL call it


def test_reward_fn_as_trlx_calls_it(scorer):
    prompts, outputs = ["Question 1?", "Question 2?"], ["Gladly.", "No."]
    samples = [p + o for p, o in zip(prompts, outputs, strict=True)]
    rewards = scorer.reward_fn(samples=samples, prompts=prompts, outputs=outputs, tokenizer=None, original=["a", "b"])
    assert rewards == scorer.score(prompts, outputs)
    assert all(type(reward) is float for reward in rewards)


def test_reward_fn_as_trl_calls_it(scorer):
    expected = scorer.score(["Question 1?", "Question 2?"], ["Gladly.", "No."])
    plain = {"prompts": ["Question 1?", "Question 2?"], "completions": ["Gladly.", "No."]}
    assert scorer.reward_fn(**plain, completion_ids=[[1], [2]], trainer_state=None) == expected
    messages = {
        "prompts": [[{"role": "user", "content": text}] for text in plain["prompts"]],
        "completions": [[{"role": "assistant", "content": text}] for text in plain["completions"]],
    }
    assert scorer.reward_fn(**messages) == expected


def test_reward_fn_splits_a_sample_before_its_last_response(scorer):
    sample = "\n\nHuman: Question 1?\n\nAssistant: No.\n\nHuman: Please.\n\nAssistant: Gladly."
    turns = [("user", "Question 1?"), ("assistant", "No."), ("user", "Please.")]
    messages = [{"role": role, "content": text} for role, text in turns]
    expected = scorer.score([messages, None], ["Gladly.", "only a response"])
    assert scorer.reward_fn([sample, "only a response"]) == pytest.approx(expected, **SAME)


def test_a_sample_in_which_no_human_speaks_is_a_response_without_a_prompt(scorer):
    for sample in ("Answer:\n\nAssistant: Gladly.", "\n\nAssistant: Gladly."):
        assert scorer.reward_fn([sample]) == pytest.approx(scorer.score(None, [sample]), **SAME)


@pytest.mark.parametrize("completion", [[], [{"role": "assistant", "content": None}], 3, None])
def test_reward_fn_refuses_a_completion_without_text(scorer, completion):
    with pytest.raises(
        InputError, match=r'field "(responses|completions)\[0\].*": .* must be (text|a list with at leas)'
    ):
        scorer.reward_fn(prompts=["a"], completions=[completion])
    with pytest.raises(InputError, match="reward_fn needs samples, or prompts with outputs"):
        scorer.reward_fn(prompts=["a"])


# Records, as they come


def test_rows_keep_their_order_and_their_other_fields(scorer):
    rows = [RawRecord(f"x:{n}", {"id": n, "prompt": f"p{n % 3}", "response": f"r{n}", "z": [n]}) for n in range(300)]
    scored = list(scorer.score_records(rows))
    assert [list(row) for row in scored] == [["id", "prompt", "response", "z", "reward"]] * 300
    assert [{k: v for k, v in row.items() if k != "reward"} for row in scored] == [row.fields for row in rows]
    expected = scorer.score([row.fields["prompt"] for row in rows], [row.fields["response"] for row in rows])
    assert [row["reward"] for row in scored] == pytest.approx(expected, **SAME)


def test_any_record_that_training_accepts_can_be_scored(scorer):
    kind, rude = scorer.score("Question 1?", ["Gladly.", "No."])
    several = {
        "texts": {"prompt": "Question 1?", "responses": ["Gladly.", "No."]},
        "pair": {"prompt": "Question 1?", "chosen": "Gladly.", "rejected": "No."},
        "ranked": {"prompt": "Question 1?", "responses": [{"text": "Gladly.", "rank": 1}, {"text": "No.", "rank": 2}]},
        "dialogues": {
            "chosen": "\n\nHuman: Question 1?\n\nAssistant: Gladly.",
            "rejected": "\n\nHuman: Question 1?\n\nAssistant: No.",
        },
    }
    for name, row in zip(several, scorer.score_records(RawRecord(n, f) for n, f in several.items()), strict=True):
        assert row["rewards"] == pytest.approx([kind, rude], **SAME), name
    singles = [RawRecord("x", {"prompt": "Question 1?", key: "Gladly."}) for key in ("response", "completion")]
    assert [row["reward"] for row in scorer.score_records(singles)] == pytest.approx([kind, kind], **SAME)


@pytest.mark.parametrize("completion", [None, "x"])
def test_a_record_that_has_a_completion_beside_its_responses_keeps_all_rewards(scorer, completion):
    records = [
        {"prompt": "Question 1?", "chosen": "Gladly.", "rejected": "No.", "completion": completion},
        {"prompt": "Question 1?", "responses": ["Gladly.", "No."], "completion": completion},
    ]
    expected = scorer.score("Question 1?", ["Gladly.", "No."])
    for row in scorer.score_records(RawRecord("x", fields) for fields in records):
        assert row["rewards"] == pytest.approx(expected, **SAME) and "reward" not in row


def test_dialogues_in_text_are_split_whichever_way_a_record_says_that_it_has_no_prompt(scorer):
    pair = {f: f"\n\nHuman: Question 1?\n\nAssistant: {t}" for f, t in (("chosen", "Gladly."), ("rejected", "No."))}
    records = [pair, *({"prompt": prompt, **pair} for prompt in (None, "", []))]
    expected = scorer.score("Question 1?", ["Gladly.", "No."])
    for row in scorer.score_records(RawRecord("x", fields) for fields in records):
        assert row["rewards"] == pytest.approx(expected, **SAME), row


def test_a_field_that_may_hold_a_prompt_is_no_matter_where_there_is_one_or_it_is_empty(scorer):
    records = [
        {"prompt": "Question 1?", "input": "", "question": "Question 1?", "response": "Gladly."},
        {"messages": None, "input": "", "response": "Gladly."},
    ]
    rewards = [row["reward"] for row in scorer.score_records(RawRecord("x", fields) for fields in records)]
    assert rewards == pytest.approx(scorer.score(["Question 1?", None], ["Gladly."] * 2), **SAME)


def test_rows_are_read_only_as_far_as_they_are_needed(scorer):
    read = 0

    def endless():
        nonlocal read
        while True:
            read += 1
            yield RawRecord("x", {"response": "a"})

    scored = scorer.score_records(endless())
    for _ in range(RECORDS_AT_ONCE):
        next(scored)
    assert read == RECORDS_AT_ONCE


def test_rewards_that_overflow_are_refused(scorer):
    model = copy.deepcopy(scorer.run.model)
    with torch.no_grad():
        model.head.weight.fill_(torch.inf)
    with pytest.raises(InputError, match="a reward is not finite: the numbers of this reward model overflow"):
        RewardScorer(dataclasses.replace(scorer.run, model=model)).score("p", ["a"])


def test_an_evaluation_scores_everything_twice_and_counts_what_was_cut_once(scorer):
    rows = [Comparison((Turn("user", f"seven {n}"),), ("gladly " * 90, "no"), (1.0, 0.0)) for n in range(3)]
    told: list[int] = []
    ours = RewardScorer(scorer.run)
    ours.advance = told.append
    rewards, evaluation = ours.evaluate(rows, dropped={"comparisons with a single response": 2})
    assert sum(told) == 2 * 2 * 3
    alone = [pytest.approx(scorer.score([row.prompt[0].text] * 2, row.responses), **SAME) for row in rows]
    assert list(rewards) == alone
    assert evaluation.cut["responses"] == 3 and evaluation.swapped.count == 3 and evaluation.leakage.prompts == 0
    assert evaluation.dropped == {"comparisons with a single response": 2}
    [left_out] = [row for row in as_table(evaluation) if row.name == "left out"]
    assert (left_out.value, left_out.explanation) == ("2", "comparisons with a single response")


def test_swapped_prompts_are_those_of_others():
    rows = [Comparison((Turn("user", prompt),), ("a", "b"), (1.0, 0.0)) for prompt in "xxyz"]
    assert [row.prompt[0].text for row in swap_prompts(rows)] == ["y", "y", "z", "x"]
    assert swap_prompts(rows[:2]) == rows[:2]


def of_prompts(prompts: list) -> list[Comparison]:
    return [Comparison((prompt,), (f"response {n}",), (0.0,)) for n, prompt in enumerate(prompts)]


@given(prompts=st.lists(st.integers(0, 2), max_size=9))
def test_the_swapped_prompt_is_the_next_other_one_all_round(prompts):
    expected = []
    for n, prompt in enumerate(prompts):
        later = prompts[n + 1 :] + prompts[:n]
        expected.append(next((other for other in later if other != prompt), prompt))
    rows = of_prompts(prompts)
    swapped = swap_prompts(rows)
    assert [row.prompt[0] for row in swapped] == expected
    assert [row.responses for row in swapped] == [row.responses for row in rows]


def test_swapping_prompts_reads_each_comparison_as_often_however_many_there_are():
    class Watched(list):
        read = 0

        def __iter__(self):
            for item in super().__iter__():
                self.read += 1
                yield item

    for count in (100, 200, 400):
        rows = Watched(of_prompts(list(range(count))))
        swap_prompts(rows)
        assert rows.read <= 3 * count
