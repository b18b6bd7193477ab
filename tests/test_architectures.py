"""The bench of architectures: its baseline against minirm's twin, its contestants, its budget, its cells."""

import itertools
import json
import math
from dataclasses import replace
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("sklearn")

from bench.architectures import cells, command, conformance, figures, plan, profile, provenance, running
from bench.architectures.cells import Cell, run_all, run_cell
from bench.architectures.contestants import (
    CONTESTANTS,
    code_of,
    find_contestant,
    fingerprint,
    load_contestant,
    load_pretrained,
)
from bench.architectures.costs import flops, matched_width, parameters
from bench.architectures.gpt2 import HuggingFaceGPT2
from bench.architectures.heads import EachHeadsObjective, PooledRead
from bench.architectures.provenance import code_digest
from bench.architectures.rows import rows_of_paths
from bench.architectures.statistics import two_way_interval
from bench.architectures.subjects import (
    AS_TRAINED,
    WORLD,
    Sources,
    TestSet,
    _digest_rows,
    best_possible,
    disjoint_pairs,
    is_skill,
)
from bench.baselines import TfidfReward
from minirm.config import ModelConfig, TrainConfig
from minirm.data.comparison import Comparison, Turn
from minirm.errors import InputError
from minirm.hub.writing import JINJA
from minirm.models.reward_model import RewardModel
from minirm.tokens.packing import Encoded, pack
from minirm.tokens.tokenizer import Tokenizer
from minirm.training.objectives import RewardObjective
from minirm.training.optimizers import build_optimizer
from minirm.worlds.grammar import World, WorldConfig
from minirm.worlds.skills import SKILLS, find_skill, sample

EXAMPLE = Path(conformance.__file__).with_name("example_backbone.py")
SMALL = Sources(Path("nowhere"), validation=8, test=12)
SHAPE = ModelConfig(vocab_size=23, layers=2, width=16, heads=2, max_positions=64)


def batch(seed: int = 0) -> list[Encoded]:
    rng = np.random.default_rng(seed)
    texts = [rng.integers(1, 23, size).astype(np.int32) for size in (5, 3, 7, 1, 2, 4, 4)]
    return [Encoded(texts[0], tuple(texts[1:4]), (2.0, 1.0, 0.0)), Encoded(texts[4], tuple(texts[5:]), (0.0, 1.0))]


# ── Figures ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def known_truth() -> TestSet:
    judged = World(WorldConfig(facts=0, responses=4)).sample(40, "test")
    return TestSet([one.comparison for one in judged], list(range(40)), judged, 0.7)


def test_true_utilities_reach_the_best_possible_accuracy_on_average_and_correlate_wholly():
    test = known_truth()
    utilities = [list(one.utilities) for one in test.judged]
    found = figures.figures(figures.Scored(test, [utilities] * 2, [[1.0] * 40] * 2))
    assert found[figures.RANK].whole == pytest.approx([1.0, 1.0])
    assert found[figures.RANK_OVERALL].whole == pytest.approx([1.0, 1.0])
    assert found[figures.REGRET].whole == pytest.approx([0.0, 0.0])
    way = two_way_interval(found[figures.WAY])
    assert way.low < 1 < way.high
    naive = [
        max(p, 1 - p)
        for one in test.judged
        for i, j in itertools.combinations(range(4), 2)
        for p in [1 / (1 + np.exp(-(one.utilities[i] - one.utilities[j]) / 0.7))]
    ]
    assert best_possible(test).mean() == pytest.approx(np.mean(naive))


def test_the_rank_correlation_compares_no_responses_of_different_prompts():
    test = known_truth()
    shifted = [[u + 100 * (-1) ** n for u in one.utilities] for n, one in enumerate(test.judged)]
    found = figures.figures(figures.Scored(test, [shifted], [[1.0] * 40]))
    assert found[figures.RANK].whole == pytest.approx(1.0)
    assert found[figures.RANK_OVERALL].whole < 0.7


def test_pairs_decided_by_one_attribute_are_judged_against_the_truth():
    test = known_truth()
    utilities = [list(one.utilities) for one in test.judged]
    found = figures.by_attribute(figures.Scored(test, [utilities], [[1.0] * 40]))
    assert set(found) <= {"sentiment", "title", "polite"}
    assert all(value == 1.0 for value in found.values())


def test_an_ensemble_is_right_where_most_of_the_reward_is():
    comparison = Comparison((Turn("user", "?"),), ("a", "b"), (1.0, 0.0))
    test = TestSet([comparison] * 2, [0, 1])
    rewards = [[[3.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [0.0, 2.0]]]
    found = figures.ensemble(figures.Scored(test, rewards, [[1.0, 1.0]] * 2))
    assert (found["one member"].whole, found["together"].whole) == (0.5, 0.5)
    assert found[f"area: {figures.SMALL}"].whole == pytest.approx((0 + 0.5) / 2)  # 1 is surer than −½


def test_disjoint_pairs_use_each_response_once_in_its_order():
    (ranking,) = [one.comparison for one in World(WorldConfig(responses=8)).sample(1, "train")]
    pairs = disjoint_pairs([ranking])
    assert sorted(text for pair in pairs for text in pair.responses) == sorted(ranking.responses)
    rank = dict(zip(ranking.responses, ranking.scores, strict=True))
    assert all(rank[pair.responses[0]] > rank[pair.responses[1]] for pair in pairs)


# ── Contestants ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_paths_become_rows_in_which_every_token_stands_behind_its_path():
    packed = pack(batch())
    for only_reads in (True, False):
        rows = rows_of_paths(packed.tokens, packed.layout, only_reads=only_reads)
        wanted = packed.tokens[packed.layout.reads] if only_reads else packed.tokens
        assert torch.equal(rows.tokens.flatten()[rows.places], wanted)
    paths = [list(e.prompt) + list(r) for e in batch() for r in e.responses]
    rows = rows_of_paths(packed.tokens, packed.layout, only_reads=True)
    assert [row[real].tolist() for row, real in zip(rows.tokens, rows.mask, strict=True)] == paths


def test_hugging_faces_gpt2_with_the_same_weights_gives_minirms_hidden_states():
    torch.manual_seed(0)
    theirs, ours = HuggingFaceGPT2(SHAPE).double().eval(), find_contestant("GPT-2 style").reward_model(SHAPE).backbone
    ours = ours.double().eval()
    mine = dict(ours.named_parameters())
    with torch.no_grad():
        ours.embedding.weight.copy_(theirs.model.wte.weight)
        ours.positions.weight.copy_(theirs.model.wpe.weight)
        names = {"ln_1": "attention_norm", "attn.c_attn": "attention.qkv", "attn.c_proj": "attention.out",
                 "ln_2": "mlp_norm", "mlp.c_fc": "mlp.up", "mlp.c_proj": "mlp.down"}  # fmt: skip
        for layer, block in enumerate(theirs.model.h):
            for there, here in names.items():
                module = block.get_submodule(there)
                weight = module.weight if there.startswith("ln") else module.weight.T  # theirs are (in, out)
                mine[f"blocks.{layer}.{here}.weight"].copy_(weight)
                mine[f"blocks.{layer}.{here}.bias"].copy_(module.bias)
    packed = pack(batch())
    for only_reads in (True, False):
        pair = [model(packed.tokens, packed.layout, only_reads=only_reads)[0] for model in (theirs, ours)]
        torch.testing.assert_close(*pair, rtol=1e-9, atol=1e-9)


def test_no_embedding_of_positions_decays_in_any_contestant():
    for name in ("GPT-2 (Hugging Face)", "GPT-2 style", "BERT style"):
        model = find_contestant(name).reward_model(replace(SHAPE, max_positions=50))
        decays, spared = (group["params"] for group in build_optimizer(model, TrainConfig()).param_groups)
        positions = [p for p in model.parameters() if p.shape == (50, SHAPE.width)]
        assert len(positions) == 1
        assert any(p is positions[0] for p in spared) and not any(p is positions[0] for p in decays)


def queries_and_keys(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    wide = replace(SHAPE, width=64)
    weight = find_contestant(name).reward_model(wide).backbone.blocks[0].attention.qkv.weight
    return weight[:64].detach(), weight[64:128].detach()


@pytest.mark.parametrize(
    ("name", "equal", "deviation"),
    [
        ("GPT-2 style", True, 1 / 8),
        ("start: equal, small", True, 0.02),
        ("start: apart, large", False, 1 / 8),
        ("start: apart, small", False, 0.02),
    ],
)
def test_starts_differ_in_scale_and_in_equality_each_alone(name, equal, deviation):
    queries, keys = queries_and_keys(name)
    assert torch.equal(queries, keys) == equal
    assert queries.std().item() == pytest.approx(deviation, rel=0.05)
    assert keys.std().item() == pytest.approx(deviation, rel=0.05)


def test_the_average_read_differs_from_the_loud_one_in_its_queries_alone():
    loud, average = (find_contestant(name).reward_model(replace(SHAPE, width=64)).backbone for name in
                     ("loud read", "average read"))  # fmt: skip
    for one in (loud, average):
        attention = one.blocks[-1].attention
        assert attention.qkv.weight[128:].std().item() == pytest.approx(1 / 8, rel=0.05)
        assert attention.out.weight.std().item() == pytest.approx(1 / 8, rel=0.05)
    assert not average.blocks[-1].attention.qkv.weight[:64].any()
    assert loud.blocks[-1].attention.qkv.weight[:64].std().item() == pytest.approx(1 / 8, rel=0.05)


def test_a_row_for_each_response_gives_the_rewards_and_gradients_of_shared_prompts():
    gradients, rewards = [], []
    for name in ("GPT-2 style", "separate rows"):
        torch.manual_seed(0)
        contestant = find_contestant(name)
        model = contestant.reward_model(SHAPE).double()
        rewards.append(model(contestant.pack(batch())))
        rewards[-1].square().sum().backward()
        gradients.append(model.backbone.blocks[0].attention.qkv.weight.grad)
    torch.testing.assert_close(*rewards)
    torch.testing.assert_close(*gradients)
    assert len(find_contestant("separate rows").pack(batch()).tokens) > len(pack(batch()).tokens)


@pytest.mark.parametrize("name", ["read: mean", "read: learned mean"])
def test_a_pooled_read_is_the_mean_over_the_responses_own_tokens(name):
    torch.manual_seed(0)
    model = find_contestant(name).reward_model(SHAPE).double()
    assert isinstance(model, PooledRead)
    if model.score is not None:
        torch.nn.init.normal_(model.score.weight)
    rewards = model(pack(batch()))
    for b, encoded in enumerate(batch()):
        for k, response in enumerate(encoded.responses):
            alone = pack([Encoded(encoded.prompt, (response,), (0.0,))])
            own = model.backbone(alone.tokens, alone.layout)[0][len(encoded.prompt) :]
            weight = torch.ones(len(own)) if model.score is None else model.score(own)[:, 0].exp()
            expected = (weight[:, None] * own).sum(0) / weight.sum() @ model.head.weight[0]
            torch.testing.assert_close(rewards[b, k], expected)


def test_each_head_is_a_reward_model_on_the_same_backbone_and_the_reward_their_mean():
    torch.manual_seed(0)
    many, packed = find_contestant("five heads").reward_model(SHAPE).double(), pack(batch())
    alone = []
    for weight in many.head.weight.detach():
        one = RewardModel(SHAPE, many.backbone).double()
        one.head.weight.data.copy_(weight[None])
        alone.append(one(packed))
    torch.testing.assert_close(many.of_each(packed), torch.stack(alone))
    torch.testing.assert_close(many(packed), torch.stack(alone).mean(0))
    many.only = 2
    torch.testing.assert_close(many(packed), alone[2])


def test_a_head_learns_from_each_comparison_as_often_as_its_resample_holds_it():
    torch.manual_seed(0)
    many, config = find_contestant("five heads").reward_model(SHAPE).double(), TrainConfig(seed=3)
    objective, packed = EachHeadsObjective(config), pack(batch(), numbers=[7, 2])
    times = objective.times((7, 2), 5)
    assert times.tolist() == objective.times((2, 7), 5).flip(1).tolist()  # of the comparison, not of its place
    many.train()
    loss = objective(many, packed).loss
    rewards = many.of_each(packed)
    naive = 0.0
    for head, count in zip(rewards, times, strict=True):
        pairs = [(0, 0, 1), (0, 0, 2), (0, 1, 2), (1, 1, 0)]  # row, better, worse
        losses = [-torch.nn.functional.logsigmoid(head[b, i] - head[b, j]) for b, i, j in pairs]
        naive = naive + (count[0] * sum(losses[:3]) / 3 + count[1] * losses[3]) / 5
    torch.testing.assert_close(loss, naive)
    many.eval()
    torch.testing.assert_close(objective(many, packed).loss, RewardObjective(config)(many, packed).loss)


def test_a_resample_is_as_long_as_the_data_on_average():
    times = EachHeadsObjective(TrainConfig()).times(tuple(range(4000)), 5)
    assert times.mean().item() == pytest.approx(1.0, abs=0.03)
    assert times.var().item() == pytest.approx(1.0, abs=0.05)


CAUSAL = [c for c in CONTESTANTS if c.is_network and c.kind != "training" and not c.bidirectional]


@pytest.mark.parametrize("contestant", CAUSAL, ids=lambda contestant: contestant.name)
def test_every_contestant_keeps_the_protocol(contestant):
    findings = conformance.check(lambda config: contestant.reward_model(config).backbone)
    assert len(findings) == 8
    assert all(finding.kept or not finding.needed for finding in findings), findings


@pytest.mark.parametrize("place", [f"{EXAMPLE}:Convolution", f"{EXAMPLE.with_name('example_shared.py')}:Decay"])
def test_the_examples_keep_the_protocol_in_forty_lines(place):
    assert len(Path(place.rpartition(":")[0]).read_text().splitlines()) <= 40
    findings = conformance.check(load_contestant(place).build)
    assert [finding.kept for finding in findings] == [True] * 6 + [False, True]
    assert "keeps no state" in findings[6].words


def broken(**changes) -> type:
    """Return the example with some of its methods replaced."""
    return type("Broken", (load_contestant(f"{EXAMPLE}:Convolution").build,), changes)


def test_a_backbone_that_mixes_neighbours_is_told_so():
    def forward(self, tokens, layout, *, only_reads=False, past=None, keep_state=False):
        hidden = self.embedding(tokens) + self.embedding(tokens).mean(0)
        return (hidden[layout.reads] if only_reads else hidden), None

    words = [finding.words for finding in conformance.check(broken(forward=forward)) if not finding.kept]
    assert "must see its own path" in words[0]


def test_a_backbone_that_reads_every_token_when_asked_for_few_is_told_so():
    def forward(self, tokens, layout, *, only_reads=False, past=None, keep_state=False):
        return self.embedding(tokens), None

    words = [finding.words for finding in conformance.check(broken(forward=forward)) if not finding.kept]
    assert words == ["with only_reads=True it returns (34, 16), it must be (reads, width) = (6, 16)"]


def test_a_backbone_that_cannot_be_built_is_told_why():
    def build(config):
        raise KeyError("depth")

    (finding,) = conformance.check(build)
    assert (finding.needed, finding.words) == (True, "KeyError: 'depth'")


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("nowhere.py:Mine", "nowhere.py is no file"),
        (f"{EXAMPLE}:Recurrence", "holds no Recurrence"),
        ("Mine", "must be FILE.py:CLASS"),
    ],
)
def test_a_users_backbone_that_is_not_there_is_one_line(place, message):
    with pytest.raises(InputError, match=message):
        load_contestant(place)


def test_an_unknown_contestant_names_the_known_ones():
    with pytest.raises(InputError, match="contestant 'Mamba': must be one of GPT-2"):
        find_contestant("Mamba")


def test_parameters_are_counted_without_embeddings():
    wide = replace(SHAPE, vocab_size=500, max_positions=128)
    for name in ("GPT-2 (Hugging Face)", "GPT-2 style", "BERT style", "GRU"):
        assert parameters(find_contestant(name), SHAPE) == parameters(find_contestant(name), wide)
    block = 12 * 16 * 16 + 13 * 16  # attention and MLP with their biases, two norms
    assert parameters(find_contestant("GPT-2 style"), SHAPE) == 2 * block + 2 * 16 + 16  # last norm, head


def test_widths_match_the_baseline_as_nearly_as_their_steps_allow():
    gru, gpt2, sample = find_contestant("GRU"), find_contestant("GPT-2 (Hugging Face)"), [batch()]
    config = replace(SHAPE, width=48)
    for match in ("parameters", "flops"):
        amount = (lambda who, shape: parameters(who, shape)) if match == "parameters" else (
            lambda who, shape: flops(who, shape, sample))  # fmt: skip
        wanted = amount(gpt2, config)
        gaps = {width: abs(amount(gru, replace(config, width=width)) - wanted) for width in range(4, 200, 4)}
        assert matched_width(gru, config, gpt2, match, sample) == min(gaps, key=gaps.__getitem__)


@pytest.mark.parametrize(("name", "gates"), [("GRU", 3), ("LSTM", 4)])
def test_operations_of_a_packed_recurrent_network_are_its_matrix_products(name, gates):
    tokens, width = sum(e.tokens for e in batch()), SHAPE.width
    products = 2 * SHAPE.layers * tokens * 2 * gates * width * width  # of input and of memory
    heads = 5 * 2 * width  # 5 rewards
    assert flops(find_contestant(name), SHAPE, [batch()]) * 2 == pytest.approx(products + heads)


# ── Cells and the whole ───────────────────────────────────────────────────────────────────────────────────────────────


def small_cell(contestant: str, **fields) -> Cell:
    cell = Cell(WORLD, 0, contestant, 0, 16, 4, 0, 1e-3, 1, 8, 2, None, 4, 128)
    return replace(cell, **fields)


def small_setup(
    *subjects: str, available: int = 300, names: tuple = ("GPT-2 style", "RMSNorm", "longer wins"), **fields
):
    small = replace(plan.PLANS["default"], **fields)
    contestants = [find_contestant(name) for name in names]
    return plan.Setup(small, SMALL, contestants, subjects, dict.fromkeys(subjects, available), "shape")


def test_a_finished_cell_is_not_run_again_and_a_repeated_one_gives_the_same(tmp_path):
    cell = small_cell("GPT-2 style")
    assert list(run_all([cell, cell], tmp_path, SMALL, 1, 1)) == [1]
    path = cell.path(tmp_path, SMALL)
    first = json.loads(path.read_text())
    assert list(run_all([cell], tmp_path, SMALL, 1, 1)) == []
    path.unlink()
    run_cell(cell, tmp_path, SMALL)
    again = json.loads(path.read_text())
    assert again["rewards"] == first["rewards"]
    assert [entry["loss"] for entry in again["history"]] == [entry["loss"] for entry in first["history"]]
    assert len(again["rewards"][AS_TRAINED]) == 12


def test_a_cell_learns_by_the_loss_that_is_named_and_refuses_one_that_its_labels_do_not_fit(tmp_path):
    losses = {}
    for name in ("all_pairs", "hinge", "plackett_luce"):
        cell = small_cell("GPT-2 style", loss=name)
        run_cell(cell, tmp_path, SMALL)
        losses[name] = json.loads(cell.path(tmp_path, SMALL).read_text())["history"][0]["loss"]
    # After one step rewards are still near 0: log 2 for a pair, 1 for its hinge, log 8! for a ranking of eight.
    near = {"all_pairs": math.log(2), "hinge": 1.0, "plackett_luce": math.lgamma(9)}
    assert losses == pytest.approx(near, rel=0.15)
    with pytest.raises(InputError, match="loss=step"):
        run_cell(small_cell("GPT-2 style", loss="step"), tmp_path, SMALL)


def test_a_bench_that_is_stopped_ends_its_workers_and_keeps_what_is_finished(tmp_path):
    short = small_cell("longer wins")
    endless = [small_cell("GPT-2 style", steps=10**5, seed=seed) for seed in (1, 2, 3, 4)]
    running = run_all([short, *endless], tmp_path, SMALL, workers=2, threads=1)
    assert next(running) == 1
    running.close()
    assert not active_children()
    assert list(tmp_path.glob("*.json")) == [short.path(tmp_path, SMALL)]


def test_changed_comparisons_are_learned_anew_and_another_layout_of_a_file_is_not(tmp_path):
    file, line = tmp_path / "mine.jsonl", '{"prompt": "a", "chosen": "b", "rejected": "c"}\n'
    names = []
    for text in (line, line.replace(": ", ":"), line.replace('"b"', '"d"')):
        file.write_text(text)
        _digest_rows.cache_clear()
        names.append(small_cell("longer wins", file=SMALL.digest(str(file))).path(tmp_path, SMALL))
    assert names[0] == names[1] != names[2]


def test_each_seed_draws_its_own_training_comparisons_and_shares_the_test():
    for name in (WORLD, "match"):
        first, again, other = (SMALL.load(name, seed=seed, comparisons=10) for seed in (0, 0, 1))
        assert first.training == again.training
        assert not {row.prompt for row in first.training} & {row.prompt for row in other.training} or name == WORLD
        assert first.training != other.training
        assert (first.validation, first.tests) == (other.validation, other.tests)
        assert len(first.training) == 10


def test_of_a_file_each_seed_draws_other_training_comparisons_from_the_same_part(tmp_path):
    file = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"Question {i}?", "chosen": f"yes {i}", "rejected": f"no {i}"} for i in range(100)]
    file.write_text("\n".join(map(json.dumps, rows)))
    whole = SMALL.load(str(file))
    assert len(whole.training) + len(whole.validation) + len(whole.tests[AS_TRAINED].comparisons) == 100
    drawn = [SMALL.load(str(file), seed=seed, comparisons=30).training for seed in (0, 1)]
    assert drawn[0] != drawn[1]
    assert all({row.prompt for row in some} < {row.prompt for row in whole.training} for some in drawn)


# ── Budget ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_table_and_curve_share_one_rule_and_the_curve_ends_at_what_there_is(tmp_path):
    file = tmp_path / "pairs.jsonl"
    file.write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n')
    setup = small_setup(str(file), available=2750)
    table, curve = plan.table_cells(setup), plan.curve_cells(setup)
    assert {point for _, point, _ in curve} == {1375, 2750}
    assert curve["GPT-2 style", 2750, 1] == table["GPT-2 style", str(file), 1]
    for (_, point, _), (cell,) in curve.items():
        assert cell.comparisons == point
        assert cell.steps == round(600 * (point / 2000) ** 0.5)
    assert plan.curve_comparisons(small_setup(str(file), available=275)) == [275]


def test_a_single_skill_is_seen_once_and_epochs_are_as_asked_for():
    cell = small_setup("match", available=4800).cell(find_contestant("GRU"), "match")
    assert cell.steps * cell.comparisons_per_batch == 4800
    asked = small_setup("match", available=4800, epochs=2.5).cell(find_contestant("GRU"), "match")
    assert asked.steps == 2.5 * cell.steps


def test_every_skill_is_in_the_suite_at_a_dial_that_it_has():
    assert [find_skill(name)[0] for name in plan.SUITE] == list(SKILLS)
    known = {name for each in plan.PLANS.values() for name in (*each.subjects, *each.questions) if is_skill(name)}
    assert all(find_skill(name) for name in known)


def test_single_changes_are_asked_of_some_subjects_and_of_all_if_named():
    setup = small_setup("match:1", "recall")
    names = {subject: [one.name for one in setup.on(subject)] for subject in setup.subjects}
    assert names == {"match:1": ["GPT-2 style", "RMSNorm", "longer wins"], "recall": ["GPT-2 style", "longer wins"]}
    assert len(replace(setup, everyone_everywhere=True).on("recall")) == 3


def losses(best: float):
    """Return a reader of results whose validation loss is lowest at a rate."""
    return lambda cell: {"validation_loss": abs(np.log(cell.learning_rate / best)), "cell": {**vars(cell)}}


@pytest.mark.parametrize(("best", "found", "tried"), [(1e-3, 1e-3, 3), (9e-3, 8e-3, 5), (1e-4, 1.25e-4, 5)])
def test_rates_are_extended_where_the_best_lies_at_the_edge(best, found, tried):
    of_three, done = replace(plan.PLANS["default"], rates=(5e-4, 1e-3, 2e-3), extensions=2), []
    rates, cells = running.tune(
        [small_cell("GRU")], of_three, lambda cells, what, planned: done.extend(cells), losses(best)
    )
    assert list(rates.values()) == pytest.approx([found])
    assert len(set(cells)) == tried
    assert set(cells) == set(done)


def test_every_condition_is_tuned_by_itself_and_patience_shares_the_fixed_budgets_rate():
    setup = small_setup(WORLD, "match", shapes=((2, 64), (2, 32)), halvings=1)
    tables = [plan.table_cells(setup), plan.curve_cells(setup), plan.size_cells(setup)]
    tuned = {plan.untuned(cell) for cell in plan.every_cell(tables) if cell.contestant == "GPT-2 style"}
    assert len(tuned) == 4  # two subjects, a shorter curve, another size
    (cell, *_) = plan.convergence_cells(setup)["GPT-2 style", "converged", 0]
    assert cell.steps == 4 * setup.cell(find_contestant("GPT-2 style"), WORLD).steps
    assert plan.untuned(cell) in tuned


def test_patience_ends_a_training_at_a_constant_rate(tmp_path):
    cell = small_cell("GPT-2 style", steps=400, patience=1, learning_rate=3e-2)
    run_cell(cell, tmp_path, SMALL)
    result = json.loads(cell.path(tmp_path, SMALL).read_text())
    assert result["steps"] < 400
    assert result["history"][-1]["comparisons"] == 4 * result["steps"]


def test_comparisons_until_most_of_the_way_are_those_of_the_median_training():
    learned = profile.Learned(0.9, 3, 2, [800, None, 400])
    assert profile.until_most(learned) == "800"
    assert profile.until_most(learned._replace(comparisons=[None, None, 400])) == "never"
    assert profile.until_most(learned._replace(comparisons=[])) == "–"


@pytest.mark.parametrize(
    ("arguments", "message"), [(["--seeds", "0"], "--seeds 0: must be above 0"), (["--rates", "-1"], "--rates -1")]
)
def test_a_number_too_small_is_one_line_and_exit_status_2(arguments, message, tmp_path, capsys):
    assert command.main(["--quick", "--cache", str(tmp_path), "--out", str(tmp_path), *arguments]) == 2
    assert message in capsys.readouterr().err


# ── Provenance ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_code_that_computes_the_same_has_the_same_digest_and_what_it_uses_counts(tmp_path):
    mine, helper = tmp_path / "mine.py", tmp_path / "helper_of_mine.py"
    uses = "from helper_of_mine import y\n{}def x():\n{}    return y\n"
    found = []
    for text, helped in [
        (uses.format("", ""), "y = 1\n"),
        (uses.format("", '    """Says more."""  # and why\n'), "y = 1\n"),
        (uses.format("def z():\n    return 5\n", ""), "y = 1\nw = 2\n"),  # beside what is used
        (uses.format("", ""), "y = 2\n"),
        (uses.format("", "    y += 1\n"), "y = 1\n"),
        ("def x():\n    import helper_of_mine\n    return helper_of_mine.y\n", "y = 3\n"),
        ("def x():\n    import helper_of_mine\n    return helper_of_mine.y\n", "y = 4\n"),
    ]:
        mine.write_text(text)
        helper.write_text(helped)
        code_digest.cache_clear()
        provenance.read_module.cache_clear()
        found.append(code_digest((mine, "x")))
    assert found[0] == found[1] == found[2]
    assert len(set(found)) == 5


def test_a_cells_digest_holds_training_and_tokens_and_not_the_page_nor_how_files_are_read():
    followed = provenance.followed(cells.STARTS)
    places = {(str(file.relative_to(provenance.REPOSITORY)), name) for file, name in followed}
    assert {
        ("bench/architectures/cells.py", "_reward_stage"),
        ("bench/architectures/subjects.py", "_draw_skill"),
        ("minirm/worlds/skills.py", "SKILLS"),
        ("minirm/training/loop.py", "Trainer"),
        ("minirm/tokens/tokenizer.py", "Tokenizer"),
        ("minirm/models/kernels/strips.py", "StripAttention"),
        ("minirm/losses.py", "all_pairs_loss"),
    } <= places
    files = {file for file, _ in places}
    assert not any(file.startswith(("minirm/files", "minirm/cli", "minirm/policies", "minirm/runs")) for file in files)
    assert not files & {f"bench/architectures/{name}.py" for name in ("page", "words", "plan", "command", "pictures")}
    assert ("bench/architectures/contestants.py", "CONTESTANTS") not in places


def test_a_contestants_code_is_its_own_and_not_what_is_said_of_it(monkeypatch):
    code = {one.name: code_of(one.identity) for one in CONTESTANTS}
    assert len(set(code.values())) == len(code)
    said = replace(find_contestant("ALiBi"), about="otherwise")
    monkeypatch.setattr("bench.architectures.contestants.find_contestant", lambda name: said)
    code_of.cache_clear()
    assert code_of("ALiBi") == code["ALiBi"]
    code_of.cache_clear()


def test_a_contestants_code_is_found_though_it_is_decorated(monkeypatch):
    """A decorator's own file would say nothing: what changes a start under no_grad must be in the key."""
    asked = set()
    monkeypatch.setattr("bench.architectures.contestants.code_digest", lambda *starts: asked.update(starts) or "")
    code_of.cache_clear()
    for one in CONTESTANTS:
        code_of(one.identity)
    code_of.cache_clear()
    assert all(file.is_relative_to(provenance.REPOSITORY) for file, _ in asked)
    assert {"start", "loud_read"} <= {name for file, name in asked if file.name == "changes.py"}
    with pytest.raises(ValueError, match="defines no nothing"):
        code_digest((provenance.REPOSITORY / "bench" / "places.py", "nothing"))


@pytest.mark.parametrize(
    ("what", "other"),
    [("code_digest", lambda *places: "other"), ("installed", lambda *packages: {"transformers": "another"})],
)
def test_results_of_other_code_or_libraries_are_named_and_not_read(tmp_path, monkeypatch, what, other):
    cell = small_cell("longer wins")
    run_cell(cell, tmp_path, SMALL)
    before = cell.path(tmp_path, SMALL)
    assert cell.stale(tmp_path, SMALL) == []
    assert json.loads(before.read_text())["commit"]
    monkeypatch.setattr(f"bench.architectures.cells.{what}", other)
    assert not cell.path(tmp_path, SMALL).is_file()
    assert cell.stale(tmp_path, SMALL) == [before]


# ── The whole ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_reports_of_other_choices_have_other_names():
    arguments = [[], ["--quick"], ["--match", "flops"], ["--skills", "recall:14"], ["--data", "a/b.jsonl"]]
    names = [command._report_name(command._parser().parse_args(one)) for one in arguments]
    assert names == ["architectures", "architectures-quick", "architectures-flops",
                     "architectures-recall-14", "architectures-b"]  # fmt: skip


@pytest.mark.parametrize("skill", SKILLS)
def test_what_needs_no_network_learns_from_the_words_and_marks_of_every_skill(skill):
    rows = [judged.comparison for judged in sample(skill, SKILLS[skill].dials[1], 40, "train")]
    rewards = TfidfReward(use_log_length=True, words=cells.WORDS_AND_MARKS).fit(rows).rewards(rows)
    assert all(len(set(row)) > 1 for row in rewards[:5])


def test_a_training_that_diverges_is_kept_as_a_failure(tmp_path):
    cell = small_cell("GPT-2 style", learning_rate=1e30)
    run_cell(cell, tmp_path, SMALL)
    assert "learning_rate=1e+30 may be too high" in json.loads(cell.path(tmp_path, SMALL).read_text())["failed"]


def test_the_whole_bench_runs_and_goes_on(tmp_path, monkeypatch, capsys):
    tiny = replace(
        plan.PLANS["quick"],
        sources={"validation": 8, "test": 24},
        seeds=2,
        world_seeds=3,
        rates=(1e-3,),
        subjects=("words", "match", WORLD),
        questions=(WORLD,),
        comparisons=16,
        steps=4,
        skill=16,
        halvings=1,
        shapes=((1, 8), (1, 16)),
        contestants=("GPT-2 (Hugging Face)", "GPT-2 style", "BERT style", "pairs", "five heads", "read: mean",
                     "longer wins"),
        rounds=1,
        converges=True,
    )  # fmt: skip
    monkeypatch.setitem(plan.PLANS, "quick", tiny)
    out, cache = tmp_path / "out", tmp_path / "cache"
    command_line = ["--quick", "--workers", "1", "--cache", str(cache), "--out", str(out)]
    command_line += ["--backbone", f"{EXAMPLE}:Convolution"]
    assert command.main(command_line) == 0
    assert "must see its own path" not in capsys.readouterr().out
    written = json.loads((out / "architectures-quick.json").read_text())
    table = written["table"]
    assert len(table[WORLD]) == 8
    assert set(table["all skills"]) == {
        "GPT-2 (Hugging Face)",
        "GPT-2 style",
        "BERT style",
        "Convolution",
        "longer wins",
    }
    ways = [table[skill]["GPT-2 style"]["part of the way"]["by seed"] for skill in ("words", "match")]
    assert table["all skills"]["GPT-2 style"]["part of the way"]["by seed"] == pytest.approx(np.mean(ways, axis=0))
    (computed,) = written["computed"]
    assert computed[3] == len(list(cache.glob("*.json")))
    assert {path.suffix for path in out.iterdir()} == {".html", ".md", ".json", ".png"}
    page = (out / "architectures-quick.html").read_text()
    assert page.count("<section>") == 2 and page.count("<details>") == page.count("<summary>") > 5
    for path in cache.glob("world-GPT-2-style-seed-1-*"):
        path.rename(path.with_suffix(".aside"))
    assert command.main([*command_line, "--so-far"]) == 0
    so_far = json.loads((out / "architectures-quick.json").read_text())
    assert so_far["verdict"].startswith("Unfinished: without world, curve, sizes, convergence.")
    assert WORLD not in so_far["table"] and so_far["table"]["words"] == table["words"]
    for path in cache.glob("*.aside"):
        path.rename(path.with_suffix(".json"))
    ran = []
    monkeypatch.setattr("bench.architectures.cells.run_cell", lambda *cell: ran.append(cell))
    assert command.main(command_line) == 0
    assert not ran
    assert json.loads((out / "architectures-quick.json").read_text())["table"] == table


def test_an_unknown_subject_is_one_line_and_exit_status_2(tmp_path, capsys):
    arguments = ["--quick", "--subjects", "the moon", "--cache", str(tmp_path), "--out", str(tmp_path)]
    assert command.main(arguments) == 2
    assert "subject 'the moon': must be one of words," in capsys.readouterr().err


def test_a_file_of_too_few_prompts_is_one_line_and_exit_status_2(tmp_path, capsys):
    file = Path(__file__).parent.parent / "data" / "hh_dialogues.jsonl"
    assert command.main(["--quick", "--data", str(file), "--cache", str(tmp_path), "--out", str(tmp_path)]) == 2
    assert "distinct prompts; training, validation and test need 20" in capsys.readouterr().err


def test_a_pretrained_checkpoint_takes_part_with_its_own_tokenizer(tmp_path):
    import transformers

    folder = tmp_path / "theirs"
    texts = ["It stars Leo Park. Tell me what is good about it."]
    tokenizer = Tokenizer.train(texts)
    sizes = {"n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 128, "bos_token_id": None, "eos_token_id": 1}
    config = transformers.GPT2Config(vocab_size=tokenizer.vocab_size, **sizes)
    transformers.GPT2Model(config).save_pretrained(folder)
    tokenizer.save(folder / "tokenizer.json")
    (folder / "chat_template.jinja").write_text(JINJA)
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    contestant = load_pretrained(str(folder))
    assert find_contestant(contestant.identity) == contestant
    assert contestant.name == "pretrained theirs"
    cell = small_cell(contestant.identity, file=fingerprint(contestant))
    run_cell(cell, tmp_path, SMALL)
    result = json.loads(cell.path(tmp_path, SMALL).read_text())
    assert "failed" not in result
    assert len(result["rewards"][AS_TRAINED]) == 12
