"""Supervised fine-tuning: a language model alone, on what assistants said, and reward models that go on from it."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import minirm
from minirm.cli.main import main
from minirm.config import LoraConfig, PackingConfig, TrainConfig
from minirm.data.comparison import Comparison, Turn
from minirm.errors import InputError
from minirm.evaluation.evaluate import Surprise
from minirm.files import disk
from minirm.files.records import read_comparisons
from minirm.hub.load import load
from minirm.models.language_model import LanguageModel
from minirm.models.reward_model import RewardModel
from minirm.runs import run_folder
from minirm.runs.job import read_config, train_run
from minirm.runs.journal import Observer
from minirm.runs.prepare import prepare
from minirm.runs.run_config import LANGUAGE_MODEL, REWARD
from minirm.runs.run_folder import load_language_model, read_prompts, read_start
from minirm.tokens.packing import Encoded, fit, pack, tokenize
from minirm.tokens.stream import TokenStore
from minirm.tokens.tokenizer import Tokenizer
from tests.conftest import QUICK, kind_and_rude, last_state, sealed, write_lines
from tests.oracles import hidden_states
from tests.strategies import ARCHITECTURES, randomised
from tests.test_run import StopAt, a_config

DATA = Path(__file__).parent.parent / "data"
DIALOGUE = Comparison(
    (
        Turn("system", "Be brief."),
        Turn("user", "Hi <|end|> there"),
        Turn("assistant", "Hello!"),
        Turn("tool", "12 °C"),
        Turn("assistant", ""),
        Turn("user", "Warm?"),
    ),
    ("No, cold.",),
    (0.0,),
)
BARE = Tokenizer.train([], 262)  # one token per byte


def chats(count: int) -> list[dict]:
    """Return conversations of two turns each."""
    turns = ("user", "Question {}?"), ("assistant", "Gladly."), ("user", "And {}?"), ("assistant", "Answer {}.")
    return [
        {"messages": [{"role": role, "content": text.format(n)} for role, text in turns[: 2 + 2 * (n % 2)]]}
        for n in range(count)
    ]


@pytest.fixture(scope="module")
def chat_file(tmp_path_factory) -> Path:
    return write_lines(tmp_path_factory.mktemp("data") / "chats.jsonl", chats(40))


@pytest.fixture(scope="module")
def pair_file(tmp_path_factory) -> Path:
    return write_lines(tmp_path_factory.mktemp("data") / "pairs.jsonl", kind_and_rude(40))


@pytest.fixture(scope="module")
def tuned(tmp_path_factory, chat_file) -> Path:
    """A fine-tuned language model; tests must leave it as it is."""
    folder = tmp_path_factory.mktemp("runs") / "tuned"
    assert isinstance(train_run(sft_config(chat_file), folder, Observer()), Surprise)
    return folder


@pytest.fixture(scope="module")
def rewarded(tmp_path_factory, pair_file) -> Path:
    """A reward model; tests must leave it as it is."""
    folder = tmp_path_factory.mktemp("runs") / "rewarded"
    assert train_run(a_config(pair_file), folder, Observer()) is not None
    return folder


def sft_config(*files: Path):
    return replace(a_config(*files), stage="lm")


def from_run(folder: Path, *files: Path, **fields: object):
    """Return a reward run that goes on from another."""
    model = read_start(folder).model
    return replace(a_config(*files), **{"model": model, "stage": "reward", "start": folder, **fields})


def part(tensors: dict, prefix: str) -> dict:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


# What is learned


def test_what_assistants_wrote_is_marked_token_by_token():
    [(ids, _, by_assistant, _)] = BARE.encode_comparisons([DIALOGUE])
    expected = []
    for role, text, _ in DIALOGUE.prompt:
        letters = len(text.encode())
        expected += [False] + ([True] * (letters + 1) if role == "assistant" else [False] * letters)
    assert by_assistant == [*expected, False] and len(ids) == len(expected) + 1
    assert BARE.decode([i for i, mine in zip(ids, by_assistant, strict=True) if mine]) == "Hello!"


@pytest.mark.parametrize("name", ["gpt2", "llama", "gru"])
def test_the_loss_is_that_of_the_assistants_tokens_alone(name):
    """Against a loop in float64 that writes the dialogue turn by turn and asks the slow twin for every next token."""
    model = randomised(LanguageModel(replace(ARCHITECTURES[name], vocab_size=262, max_positions=128)))
    short = Comparison((Turn("user", "Hm?"),), ("Yes.", "No"), (1.0, 0.0))
    fast = model(pack(list(tokenize([DIALOGUE, short], BARE))))
    surprises = []
    for row in (DIALOGUE, short):
        for k, response in enumerate(row.responses):
            ids, learned = [], []
            for n, (role, text, _) in enumerate((*row.prompt, Turn("assistant", response))):
                own = role == "assistant" and (k == 0 or n == len(row.prompt))  # a shared prompt is learned once
                words = BARE.encode([text])[0] + ([BARE.end_id] if role == "assistant" else [])
                ids += [BARE.special[f"<|{role}|>"], *words]
                learned += [False, *[own] * len(words)]
            logits = hidden_states(model.backbone, torch.tensor(ids)) @ model.backbone.embedding.weight.T
            log_p = logits.log_softmax(-1)
            surprises += [-log_p[i - 1, ids[i]] for i in range(1, len(ids)) if learned[i]]
    assert len(fast) == len(surprises) == len("Hello!") + 1 + 1 + len("No, cold.") + 1 + len("Yes.") + 1 + len("No") + 1
    torch.testing.assert_close(fast.sum(), torch.stack(surprises).sum(), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("max_tokens", range(12, 48, 5))
def test_the_marks_are_cut_with_the_prompt_and_kept_in_the_store(tmp_path, max_tokens):
    [whole] = tokenize([DIALOGUE], BARE)
    [cut] = fit([whole], PackingConfig(max_tokens=max_tokens), Counter())
    assert len(cut.learned) == len(cut.prompt) < len(whole.prompt)
    assert cut.learned.tolist() == whole.learned[-len(cut.prompt) :].tolist()
    everything = Encoded(whole.prompt, whole.responses, whole.scores)
    store = TokenStore.write([cut, everything, cut], tmp_path / "store")
    assert [store[n].learned.tolist() for n in range(3)] == [
        cut.learned.tolist(), [True] * len(whole.prompt), cut.learned.tolist(),
    ]  # fmt: skip
    assert np.array_equal(store[2].prompt, cut.prompt)


def test_a_run_learns_assistants_alone_or_every_token(chat_file, pair_file, tmp_path):
    def targets(config, name: str) -> int:
        store = prepare(config, tmp_path / name).stores["training language model"]
        return len(pack([store[row] for row in range(len(store))]).targets)

    config = sft_config(chat_file)
    every = replace(config, data=replace(config.data, language_model_tokens="all"))
    tokens = targets(every, "all")
    assert targets(config, "assistant") < tokens / 2
    both = a_config(chat_file, pair_file)
    only = replace(both, data=replace(both.data, language_model_tokens="assistant"))
    assert targets(only, "only") < targets(both, "both") * 0.6


# A language model alone


def test_a_fine_tuned_run_holds_what_is_needed_to_go_on(tuned):
    surprise = json.loads((tuned / "metrics.json").read_text())["validation"]
    assert surprise["perplexity"] == pytest.approx(np.exp(surprise["nats_per_token"]))
    assert read_config(tuned).stages == (LANGUAGE_MODEL,)
    model, tokenizer = load_language_model(tuned)
    prompt = tokenizer.encode_prompts([(Turn("user", "Question 3?"),)])
    assert isinstance(tokenizer.decode(model.generate(prompt, max_new_tokens=3, end_id=tokenizer.end_id)[0]), str)
    steps = [json.loads(line) for line in (tuned / "log.jsonl").read_text().splitlines()]
    assert {step["stage"] for step in steps} == {LANGUAGE_MODEL}
    assert surprise["nats_per_token"] == min(step["loss"] for step in steps if step["kind"] == "evaluation")


def test_a_language_model_gives_no_rewards_and_a_reward_model_no_words(tuned, rewarded):
    with pytest.raises(InputError, match=r"a language model: must be a reward model; train one .* --from .*tuned$"):
        load(tuned)
    with pytest.raises(InputError, match="a reward model: must be a language model, of minirm train --stage lm"):
        load_language_model(rewarded)


def test_a_resumed_fine_tuning_ends_as_the_uninterrupted_one_did(tuned, chat_file, tmp_path):
    folder = tmp_path / "run"
    assert train_run(sft_config(chat_file), folder, StopAt(LANGUAGE_MODEL, 5)) is None
    assert train_run(read_config(folder), folder, Observer()) is not None
    for name in ("model.safetensors", "metrics.json", "data.json"):
        assert (folder / name).read_bytes() == (tuned / name).read_bytes(), name


def test_every_sample_without_a_judgement_can_be_fine_tuned_on(tmp_path):
    names = ["conversations.jsonl", "lmflow_conversation.json", "completions.jsonl", "lmflow_text2text.json"]
    files = [DATA / name for name in [*names, "instructions.jsonl"]]
    rows = len(list(read_comparisons(files)))
    config = replace(sft_config(*files), model=replace(a_config(*files).model, max_positions=256))
    prepared = prepare(replace(config, packing=PackingConfig(max_tokens=256)), tmp_path)
    assert sum(len(store) for store in prepared.stores.values()) == rows == 17
    assert prepared.stores.keys() == {"training language model", "validation language model"}


# From one run to another


def test_a_reward_model_starts_from_the_language_models_weights_and_tokenizer(tuned, pair_file, tmp_path):
    assert train_run(from_run(tuned, pair_file), tmp_path / "run", StopAt(REWARD, 1)) is None
    config = from_run(tuned, pair_file)
    model = RewardModel(config.model)
    read_start(tuned).take_over(model)
    weights = load_file(tuned / run_folder.WEIGHTS)
    assert all(torch.equal(t, weights[f"backbone.{name}"]) for name, t in model.backbone.state_dict().items())
    assert (tmp_path / "run" / "begun" / "tokenizer.json").read_bytes() == (tuned / "tokenizer.json").read_bytes()
    moved = part(load_file(last_state(tmp_path / "run")), "model.backbone.")
    largest_step = 0.01 * 1.3  # Adam's first is the learning rate, and some weight decays
    assert all((t - weights[f"backbone.{name}"]).abs().max() <= largest_step for name, t in moved.items())


def test_a_reward_run_goes_on_from_another_with_its_head(rewarded, pair_file, tmp_path):
    config = from_run(rewarded, pair_file, reward=replace(a_config(pair_file).reward, epochs=0.0))
    assert train_run(config, tmp_path / "run", Observer()) is not None
    texts = ["Gladly, here is answer 3.", "No, go away 3."]
    assert load(tmp_path / "run").score("Question 3?", texts) == load(rewarded).score("Question 3?", texts)


def test_prompts_that_the_start_was_trained_on_are_remembered(rewarded, tmp_path):
    new = write_lines(tmp_path / "new.jsonl", [{**row, "prompt": "new " + row["prompt"]} for row in kind_and_rude(12)])
    prepared = prepare(from_run(rewarded, new), tmp_path / "work", read_start(rewarded))
    before = {bytes(key) for key in read_prompts(rewarded / run_folder.PROMPTS)}
    assert len(before) == 30 and before < {bytes(key) for key in prepared.training_prompts}
    assert len(prepared.training_prompts) == 30 + 9


@pytest.mark.parametrize("stage", ["both", "lm"])
def test_adapters_go_through_both_stages_from_another_run(tuned, chat_file, pair_file, tmp_path, monkeypatch, stage):
    """The frozen weights come out as the start's, bit by bit, under weight decay; the merged ones differ."""
    lora, file = LoraConfig(rank=2, alpha=8.0), pair_file if stage == "both" else chat_file
    config = from_run(tuned, file, lora=lora, stage=stage)
    monkeypatch.setattr("minirm.runs.claim._clear", lambda folder: None)  # the last state stays
    assert train_run(config, tmp_path / "run", Observer()) is not None
    state = part(load_file(last_state(tmp_path / "run")), "model.backbone.")
    start = part(load_file(tuned / run_folder.WEIGHTS), "backbone.")
    merged = part(load_file(tmp_path / "run" / run_folder.WEIGHTS), "backbone.")
    frozen = {name.replace(".linear.", "."): t for name, t in state.items() if ".adapters." not in name}
    assert frozen.keys() == start.keys() == merged.keys()
    assert all(torch.equal(frozen[name], start[name]) for name in start)
    changed = {name for name in start if not torch.equal(merged[name], start[name])}
    assert changed == {"blocks.0.attention.qkv.weight"}


@pytest.mark.parametrize(("stage", "step"), [(LANGUAGE_MODEL, 5), (REWARD, 2)])
def test_a_resumed_run_from_another_ends_as_the_uninterrupted_one_did(tuned, pair_file, tmp_path, stage, step):
    config = from_run(tuned, pair_file, stage="both", lora=LoraConfig(rank=2, dropout=0.1))
    whole, folder = tmp_path / "whole", tmp_path / "run"
    assert train_run(config, whole, Observer()) is not None
    assert train_run(config, folder, StopAt(stage, step)) is None
    assert train_run(read_config(folder), folder, Observer()) is not None
    for name in (run_folder.WEIGHTS, run_folder.METRICS, run_folder.DATA):
        assert (folder / name).read_bytes() == (whole / name).read_bytes(), name


def test_a_run_does_not_go_on_when_its_start_has_changed(tuned, pair_file, tmp_path, chat_file):
    start, folder = tmp_path / "start", tmp_path / "run"
    assert train_run(sft_config(chat_file), start, Observer()) is not None
    assert train_run(from_run(start, pair_file), folder, StopAt(REWARD, 1)) is None
    weights = load_file(start / run_folder.WEIGHTS)
    disk.write_tensors(start / run_folder.WEIGHTS, {name: t * 2 for name, t in weights.items()})
    with pytest.raises(InputError, match=f"^{start}/model.safetensors: is damaged: it is not as it was written"):
        train_run(read_config(folder), folder, Observer())
    sealed(start)
    with pytest.raises(InputError, match=rf"the data changed since this run began \({start}\): train anew"):
        train_run(read_config(folder), folder, Observer())


# The command line


def command(*words: object, status: int = 0) -> None:
    assert main([str(word) for word in words]) == status


def test_from_conversations_to_rewards_on_the_command_line(chat_file, pair_file, tmp_path, capsys):
    tuned, run = tmp_path / "tuned", tmp_path / "run"
    command("train", "--stage", "lm", "--data", chat_file, "--out", tuned, *QUICK, "--language-model.epochs", 1)
    assert "validation: " in (said := capsys.readouterr().out) and "nats per token, perplexity" in said
    command("train", "--from", tuned, "--data", pair_file, "--out", run, "--reward.epochs", 1, "--dropout", 0.2)
    said = capsys.readouterr().out
    assert "language model" not in said and "accuracy" in said
    config = read_config(run)
    assert config.packing.max_tokens == 64 and config.model == replace(read_start(tuned).model, dropout=0.2)
    assert len(load(run).score("Question 1?", ["Gladly.", "No."])) == 2


def test_a_language_model_of_ones_own_is_asked_on_the_command_line(tuned, capsys):
    question = "{prompt} Was it said gladly: {response}? Answer:"
    expected = minirm.ZeroShotScorer(*load_language_model(tuned), question).score("Question 1?", ["Gladly."])
    capsys.readouterr()
    command("score", tuned, "--question", question, "--prompt", "Question 1?", "--response", "Gladly.")
    assert float(capsys.readouterr().out) == pytest.approx(expected[0], abs=2e-6)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--size", "small"], "heads=4 does not go with --from {}: its model has heads=2"),
        (["--width", "32"], "width=32 does not go with --from {}: its model has width=16"),
        (["--style", "llama"], "style=llama does not go with --from {}: its model has style=gpt2"),
        (["--backbone", "gru"], "backbone=gru does not go with --from {}: its model has backbone=transformer"),
        (["--vocab-size", "300"], "vocab_size=300 does not go with --from {}: its model has vocab_size="),
        (["--max-tokens", "65"], "max_tokens=65 must not exceed the model's max_positions=64"),
        (["--language-model.epochs", "1"], "--language-model.… goes with --stage both or lm: this run has no such"),
        (["--stage", "lm", "--reward.loss", "plackett_luce"], "--reward.… goes with --stage both or reward: this run"),
        (["--stage", "lm", "--reward.epochs", "9"], "--reward.… goes with --stage both or reward: this run has no"),
        (["--stage", "lm", "--language-model.epochs", "0"], "stage=lm and language_model.epochs=0 leave nothing to"),
    ],
)
def test_what_does_not_go_with_the_start_is_refused_in_one_line(tuned, pair_file, tmp_path, refused, flags, said):
    line = refused("train", "--from", tuned, "--data", pair_file, "--out", tmp_path / "run", *flags)
    assert line.startswith(said.format(tuned)) and not (tmp_path / "run").exists()


def test_the_seed_of_a_language_model_alone_draws_its_weights(chat_file, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        "minirm.runs.job._Stages._train",
        lambda self, model, *_: drawn.append(next(model.parameters()).detach().clone()),
    )
    for number, (seed, unused) in enumerate([(0, 0), (1, 0), (0, 1)]):
        config = sft_config(chat_file)
        stages = {"language_model": replace(config.language_model, seed=seed), "reward": TrainConfig(seed=unused)}
        train_run(replace(config, **stages), tmp_path / str(number), Observer())
    first, other, same = drawn
    assert not torch.equal(first, other) and torch.equal(first, same)


def test_what_is_no_finished_run_is_no_start(pair_file, tmp_path, refused):
    line = refused("train", "--from", tmp_path / "x", "--data", pair_file, "--out", tmp_path / "run")
    assert line == f"{tmp_path / 'x'}: no such run folder"
    assert train_run(a_config(pair_file), tmp_path / "half", StopAt(LANGUAGE_MODEL, 2)) is None
    line = refused("train", "--from", tmp_path / "half", "--data", pair_file, "--out", tmp_path / "run")
    assert line == f"{tmp_path / 'half'}: this run is not finished: go on with: minirm resume {tmp_path / 'half'}"
