"""The speed bench compares like with like: the same arithmetic, the same rewards, the same gradients."""

import ast
import importlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings

pytest.importorskip("transformers")

from bench.__main__ import main as bench_main
from bench.contenders import (
    MINIRM,
    NO_PADDING_ALONE,
    TRAINING,
    Ideas,
    InItsOwnProcess,
    MinirmTraining,
    Work,
    attending_by_kernel,
    making_keys_at_reads,
)
from bench.earlier import ITS_OWN, PASSES
from bench.flops import flops_of_rows, useful_flops
from bench.peers import (
    each_pair,
    fast_tokenizer,
    hugging_face_twin,
    pipeline_scoring,
    random_steps,
    score_in_batches,
    separate_steps,
    sorted_steps,
    together_steps,
    training_loop,
    trl_epoch,
    whole_texts,
)
from bench.places import RESULTS, out_folder
from bench.policy_speed import same_prompts
from bench.speed_report import Aim, Row, markdown, row_from_json
from bench.speed_setup import check_twin
from bench.texts import longest, made_of_noise, read_corpus, sequences
from bench.timing import Spread, interleaved
from minirm.config import ModelConfig
from minirm.data.comparison import Comparison, Turn
from minirm.errors import InputError
from minirm.models import attention
from minirm.models.reward_model import RewardModel
from minirm.tokens.packing import Encoded, pack
from tests.strategies import ARCHITECTURES, encoded_batches

TINY = ModelConfig(layers=2, width=16, heads=2, vocab_size=300)


@pytest.fixture(scope="module")
def world():
    return read_corpus("hh-harmless", Path("absent"), vocab_size=300, max_tokens=1024).spread(2, 4)


def work_of(lengths: list[tuple[int, list[int]]], corpus, per_step: int) -> Work:
    return Work(made_of_noise(lengths, TINY.vocab_size), corpus.tokenizer, TINY, per_step)


# ── Useful arithmetic ─────────────────────────────────────────────────────────────────────────────────────────────────


def flops_on_demand(config: ModelConfig, encoded: Encoded, *, everywhere: bool = False) -> int:
    """Count what the rewards ask for, token by token, each hidden state and each key and value once.

    Everywhere: the last layer is asked at every token, not only where a reward is read.
    """
    paths = [
        [("prompt", i) for i in range(len(encoded.prompt))] + [(k, i) for i in range(len(response))]
        for k, response in enumerate(encoded.responses)
    ]
    path_to = {path[end]: path[: end + 1] for path in paths for end in range(len(path))}
    D, heads, groups, C = config.width, config.heads, config.key_value_heads, config.head_width
    done, total = set(), 0

    def ask_for(kind: str, layer: int, token) -> None:
        nonlocal total
        if (kind, layer, token) in done or layer < 0:
            return
        done.add((kind, layer, token))
        ask_for("hidden", layer - 1, token)
        if kind == "key and value":
            total += 2 * D * groups * C * 2
            return
        total += 2 * D * heads * C  # query
        at_states = config.style == "gpt2" and layer == config.layers - 1 and not everywhere
        width = D if at_states else C  # of what a head looks at
        total += 2 * heads * 2 * C * D if at_states else 0  # W_kᵀ · query, and W_v · mean
        for other in path_to[token]:
            ask_for("hidden" if at_states else "key and value", layer - at_states, other)
            total += heads * 2 * width  # query · key
            total += heads * 2 * width  # weight · value
        total += 2 * heads * C * D  # output
        total += (2 if config.style == "gpt2" else 3) * 2 * D * config.inner_width

    for path in paths:
        for token in path if everywhere else path[-1:]:
            ask_for("hidden", config.layers - 1, token)
        total += 2 * D
    return total


@settings(max_examples=30)
@given(batch=encoded_batches())
@pytest.mark.parametrize("style", ["gpt2", "llama"])
def test_useful_flops_are_what_the_rewards_ask_for(style, batch):
    expected = sum(flops_on_demand(ARCHITECTURES[style], encoded) for encoded in batch)
    assert useful_flops(ARCHITECTURES[style], batch, backward=False) == expected
    assert useful_flops(ARCHITECTURES[style], batch) == 3 * expected


def test_useful_flops_outside_attention_by_hand():
    """Two layers, a prompt of two tokens, a response of one: first 1 + 2 + 3 keys are seen, last 3 states a head."""
    batch = made_of_noise([(2, [1])], TINY.vocab_size)
    inside = useful_flops(TINY, batch, backward=False) - useful_flops(TINY, batch, backward=False, attention=False)
    assert inside == 4 * TINY.width * (1 + 2 + 3 + 3 * TINY.heads)


@settings(max_examples=20)
@given(batch=encoded_batches())
def test_flops_of_rows_are_those_of_each_sequence_alone_with_no_layer_cut_short(batch):
    config, rows = ARCHITECTURES["gpt2"], [row for encoded in batch for row in sequences(encoded)]
    alone = [Encoded(row[:1], (row[1:],), (0.0,)) for row in rows]
    expected = sum(flops_on_demand(config, encoded, everywhere=True) for encoded in alone)
    assert flops_of_rows(config, map(len, rows), backward=False) == expected
    assert flops_of_rows(config, map(len, rows)) == 3 * expected


# ── The same rewards ──────────────────────────────────────────────────────────────────────────────────────────────────


@torch.no_grad()
def test_hugging_face_twin_gives_the_same_rewards():
    torch.manual_seed(0)
    model = RewardModel(TINY)
    for parameter in model.parameters():  # biases too, which start at zero
        parameter.normal_(std=0.2)
    batch = made_of_noise([(3, [4, 1]), (1, [7, 5]), (9, [2, 2])], TINY.vocab_size)
    rows = [row for item in batch for row in sequences(item)]
    theirs = score_in_batches(hugging_face_twin(model, pad_id=0), rows, batch_size=4)
    torch.testing.assert_close(model(pack(batch)).flatten(), torch.tensor(theirs), rtol=1e-4, atol=1e-4)


def test_pipeline_reads_the_same_ids_and_gives_the_same_rewards(world):
    torch.manual_seed(0)
    model = RewardModel(TINY)
    check_twin(world, TINY)
    twin = hugging_face_twin(model, world.tokenizer.pad_id).eval()
    texts = [text for comparison in world.comparisons for text in whole_texts(comparison)]
    with torch.no_grad():
        ours = model(pack(world.encoded)).flatten()
    theirs = pipeline_scoring(twin, fast_tokenizer(world.tokenizer), texts)(4)
    torch.testing.assert_close(ours, torch.tensor(theirs), rtol=1e-4, atol=1e-4)


def test_trl_reads_the_prompts_that_minirm_reads_or_no_times_are_compared(world):
    """Dialogues of several turns too."""
    several = (Turn("user", "Is it good?"), Turn("assistant", "What?"), Turn("user", "The film."))
    prompts = [*world.comparisons, Comparison(several, ("Yes", "No"), (1.0, 0.0))]
    texts = same_prompts([one.prompt for one in prompts], world.tokenizer)
    assert [text + one.responses[0] + "<|end|>" for text, one in zip(texts, prompts, strict=True)] == [
        whole_texts(one)[0] for one in prompts
    ]
    with pytest.raises(InputError, match="TRL's tokenizer reads other prompts"):
        same_prompts([(Turn("user", "<|end|>"),)], world.tokenizer)


def test_no_times_are_compared_when_the_rewards_differ(world, monkeypatch):
    monkeypatch.setattr("bench.speed_setup.score_in_batches", lambda twin, rows, size: [0.5] * len(rows))
    with pytest.raises(InputError, match="known-truth world: with the same weights the peers' rewards differ by"):
        check_twin(world, TINY)


# ── The same gradients ────────────────────────────────────────────────────────────────────────────────────────────────


def gradients(call, model: torch.nn.Module, monkeypatch) -> dict[str, torch.Tensor]:
    """Return the gradients that the optimizer meets in the only step of a call."""
    found = []
    monkeypatch.setattr(
        torch.optim.AdamW,
        "step",
        lambda *_, **__: found.append({name: p.grad.clone() for name, p in model.named_parameters()}),
    )
    call()
    (only,) = found
    return only


def gradients_of_minirm(training: MinirmTraining, monkeypatch) -> dict[str, torch.Tensor]:
    """Return minirm's gradients under the names and in the shapes of Hugging Face's GPT-2."""
    found = gradients(training, training.trainer.model, monkeypatch)
    model = RewardModel(TINY)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(
                found[name.replace("backbone.", "backbone.inner.", 1)] if name not in found else found[name]
            )
    return dict(hugging_face_twin(model, pad_id=0).named_parameters())


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name].detach(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("K", [2, 3])
def test_every_plain_loop_takes_the_same_step_as_minirm(K, world, monkeypatch):
    work = work_of([(3, [4, 2, 6][:K]), (5, [1, 7, 3][:K])], world, per_step=2)
    training = MinirmTraining(work)
    expected = gradients_of_minirm(training, monkeypatch)
    pairs = len(each_pair(work.encoded))
    ways = {
        "sorted": lambda: sorted_steps(work.encoded, pairs),
        "random": lambda: random_steps(work.encoded, pairs, np.random.default_rng(0)),
        "each pair": lambda: separate_steps(work.encoded, 2, 1),
        "two pairs at once": lambda: separate_steps(work.encoded, 2, 2),
        "together": lambda: together_steps(work.encoded, 2),
    }
    for steps in ways.values():
        for alone in (False, True):
            twin = hugging_face_twin(training.trainer.model, pad_id=0)
            assert_same(gradients(training_loop(twin, steps, TRAINING, alone=alone), twin, monkeypatch), expected)


@pytest.mark.parametrize("ideas", [NO_PADDING_ALONE, Ideas(fuse=False), Ideas(share=False), Ideas(sort=False)], ids=str)
def test_an_idea_switched_off_changes_no_gradient(ideas, world, monkeypatch):
    work = work_of([(3, [4, 2]), (5, [1, 7])], world, per_step=2)
    expected = gradients_of_minirm(MinirmTraining(work), monkeypatch)
    assert_same(gradients_of_minirm(MinirmTraining(work, ideas), monkeypatch), expected)


@pytest.mark.parametrize(
    ("switched", "least_work", "by_kernel"),
    [(making_keys_at_reads, 1 << 40, (TINY.layers - 1, TINY.layers)), (attending_by_kernel, 0, (0, TINY.layers - 1))],
    ids=["keys and values in the last layer", "attention by the kernel"],
)
def test_another_way_of_attention_changes_no_gradient(switched, least_work, by_kernel, world, monkeypatch):
    """`by_kernel`: how many layers go through PyTorch's kernel before and after."""
    monkeypatch.setattr("minirm.models.kernels.strips.LEAST_WORK", least_work)
    work = work_of([(3, [4, 2]), (5, [1, 7])], world, per_step=2)
    calls, attend = [], attention.segment_attention
    monkeypatch.setattr(attention, "segment_attention", lambda *inputs: calls.append(1) or attend(*inputs))
    training = MinirmTraining(work)
    expected = gradients(training, training.trainer.model, monkeypatch)
    before, training = len(calls), MinirmTraining(work)
    found = gradients(switched(training), training.trainer.model, monkeypatch)
    assert (before, len(calls) - before) == by_kernel
    assert_same(found, expected)


@pytest.mark.peers
@pytest.mark.parametrize("at_once", [2, 1])
def test_trl_takes_the_same_step_as_minirm(world, monkeypatch, at_once):
    pytest.importorskip("trl")
    work = work_of([(3, [4, 2]), (5, [1, 7])], world, per_step=2)
    training = MinirmTraining(work)
    expected = gradients_of_minirm(training, monkeypatch)
    twin = hugging_face_twin(training.trainer.model, pad_id=world.tokenizer.pad_id)
    tokenizer = fast_tokenizer(world.tokenizer)
    epoch = trl_epoch(lambda: twin, work.encoded, tokenizer, TRAINING, 2, at_once=at_once, checkpointing=True)
    assert_same(gradients(epoch, twin, monkeypatch), expected)


# ── The texts, the clock, the report ──────────────────────────────────────────────────────────────────────────────────


def test_less_than_the_whole_bench_is_written_beside_the_committed_results_only_where_asked(tmp_path):
    assert out_folder(None) == RESULTS and (RESULTS / "README.md").is_file()
    assert RESULTS not in (first := out_folder(None, whole=False)).parents and first != out_folder(None, whole=False)
    assert out_folder(tmp_path, whole=False) == out_folder(tmp_path) == tmp_path


def test_spread_takes_whole_batches_of_the_sorted_order():
    corpus = read_corpus("hh-harmless", Path("absent"), vocab_size=300, max_tokens=1024)
    order = sorted(corpus.encoded, key=longest)
    part = corpus.spread(3, 8)
    starts = [next(i for i, item in enumerate(order) if item is batch) for batch in part.encoded[::8]]
    assert [start % 8 for start in starts] == [0, 0, 0]
    assert [3 * start // len(order) for start in starts] == [0, 1, 2]
    assert part.encoded == [item for start in starts for item in order[start : start + 8]]
    assert [c.scores for c in part.comparisons] == [e.scores for e in part.encoded]


def test_k_responses_are_drawn_with_different_scores():
    corpus = read_corpus("alpaca-rankings", Path("absent"), vocab_size=300, max_tokens=1024, responses=9)
    assert all(len(set(item.scores)) == 9 for item in corpus.encoded)


def test_functions_may_bring_their_own_clock():
    clock = iter(range(1, 100))
    seconds = interleaved({"a": lambda: next(clock), "b": lambda: -next(clock)}, 2, warm_ups=1, own_clock=True)
    assert seconds == {"a": [3, 6], "b": [-4, -5]}  # 1 and 2 warmed up; the second round begins with b


def test_the_table_says_what_was_not_reached():
    rows = [
        Row("texts", "a peer", Spread(2, 1, 3), "pairs/s", Spread(5, 4, 6), Aim(7)),
        Row("texts", "memory", Spread(0.4, 0.4, 0.4), "", None, Aim(0.5, at_least=False)),
    ]
    fields = [{**row.__dict__, "aim": row.aim.__dict__} for row in rows]
    assert [row_from_json(row) for row in fields] == rows
    section = {"rows": fields, "command": "python -m bench speed", "machine": {"cores": 2}, "seconds": 1}
    text = markdown({"training": section}, {"training": "Pairs per second."})
    assert "| texts: a peer, × as fast is minirm | 5 [4, 6] | ≥ 7 | **not reached** |" in text
    assert "| texts: memory | 0.4 | ≤ 0.5 | reached |" in text


def test_a_contender_in_its_own_process_runs_there_and_says_there_what_is_wrong(world):
    work = work_of([(20, [9, 7])] * 2, world, 2)
    with InItsOwnProcess(MINIRM, work, keeps_memory=True) as call:
        assert call() > 0
    with pytest.raises(KeyError, match="nobody"):
        InItsOwnProcess("nobody", work, keeps_memory=False)


TWICE_AND_AFRESH = """
import torch
from bench.contenders import meeting_new_shapes

def product():
    print("product", flush=True)
    return (torch.ones(37, 64, dtype=torch.bfloat16) @ torch.ones(64, 64, dtype=torch.bfloat16)).sum().item()

assert product() == product() == meeting_new_shapes(product)() == 37 * 64 * 64
"""


def test_a_shape_met_before_is_met_as_a_new_one():
    """oneDNN itself says whether it still had the product compiled."""
    told = subprocess.run(
        [sys.executable, "-c", TWICE_AND_AFRESH],
        env=os.environ | {"ONEDNN_VERBOSE": "profile_create", "PYTHONPATH": str(Path(__file__).parent.parent)},
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    made = [part.partition("create:")[2].partition(",")[0] for part in told.split("product\n")[1:]]
    if not any(made):
        pytest.skip("bfloat16 products are not oneDNN's on this processor")
    assert made[1:] == ["cache_hit", "cache_miss"]


def test_what_is_asked_of_an_earlier_commit_is_there_in_this_one():
    tree = ast.parse(ITS_OWN)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert all(hasattr(importlib.import_module(node.module), alias.name) for alias in node.names)
    [calls] = [
        node.value for node in ast.walk(tree) if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict)
    ]
    assert tuple(key.value for key in calls.keys) == PASSES


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["earlier", "no-such-commit"], "error: commit 'no-such-commit': "),
        (["earlier", "HEAD", "--rounds", "0"], "error: --rounds 0: must be at least 1"),
        (["defaults", "--set", "hh-harmless", "--data", "absent"], "error: absent/hh-harmless/pairs.jsonl.gz"),
    ],
)
def test_a_bench_refuses_what_it_cannot_measure_in_one_line(arguments, said, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bench", *arguments])
    assert bench_main() == 2
    error = capsys.readouterr().err
    assert error.startswith(said) and error.count("\n") == 1
