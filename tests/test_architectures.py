"""The bench of architectures: its statistics against brute force, its baseline against minirm's twin, its cells."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.architectures import statistics
from bench.architectures.statistics import (
    Resampled,
    area_under_risk_coverage,
    is_resolved,
    resample,
    risk_coverage,
    two_way_interval,
)
from minirm.metrics import fit_temperature, negative_log_likelihood

pytest.importorskip("transformers")
pytest.importorskip("sklearn")

from bench.architectures import command, conformance, figures, plan
from bench.architectures.cells import Cell, run_all, run_cell
from bench.architectures.contestants import (
    CONTESTANTS,
    find_contestant,
    fingerprint,
    load_contestant,
    load_pretrained,
)
from bench.architectures.costs import flops, matched_width, parameters
from bench.architectures.gpt2 import HuggingFaceGPT2
from bench.architectures.heads import EachHeadsObjective
from bench.architectures.rows import rows_of_paths
from bench.architectures.subjects import AS_TRAINED, WORLD, Sources, TestSet, best_possible, digest, disjoint_pairs
from minirm.config import ModelConfig, TrainConfig
from minirm.data.records import Comparison, Turn
from minirm.errors import InputError
from minirm.hub.writing import JINJA
from minirm.models.reward_model import RewardModel
from minirm.tokens.packing import Encoded, pack
from minirm.tokens.tokenizer import Tokenizer
from minirm.training.objectives import RewardObjective
from minirm.worlds.grammar import World, WorldConfig

EXAMPLE = Path(conformance.__file__).with_name("example_backbone.py")
SMALL = Sources(Path("nowhere"), world_training=24, world_validation=8, world_test=12)
SHAPE = ModelConfig(vocab_size=23, layers=2, width=16, heads=2, max_positions=64)


def batch(seed: int = 0) -> list[Encoded]:
    rng = np.random.default_rng(seed)
    texts = [rng.integers(1, 23, size).astype(np.int32) for size in (5, 3, 7, 1, 2, 4, 4)]
    return [Encoded(texts[0], tuple(texts[1:4]), (2.0, 1.0, 0.0)), Encoded(texts[4], tuple(texts[5:]), (0.0, 1.0))]


# ── Statistics ────────────────────────────────────────────────────────────────────────────────────────────────────────


def drawn_figure(rng: np.random.Generator, seeds: int, between_seeds: float) -> Resampled:
    """Return a mean over 60 prompts of values whose true mean is 0, with an effect of each prompt and each seed."""
    values = rng.normal(size=(1, 60)) + between_seeds * rng.normal(size=(seeds, 1)) + 0.3 * rng.normal(size=(seeds, 60))
    return resample(lambda keep: values[:, keep].mean(1), np.arange(60) % statistics.GROUPS)


@pytest.mark.parametrize(("seeds", "between_seeds"), [(1, 0.0), (3, 0.0), (3, 0.2), (3, 1.0), (5, 0.3)])
def test_an_interval_holds_the_truth_nineteen_times_in_twenty(seeds, between_seeds):
    rng = np.random.default_rng(0)
    intervals = [two_way_interval(drawn_figure(rng, seeds, between_seeds)) for _ in range(1000)]
    held = np.mean([interval.low <= 0 <= interval.high for interval in intervals])
    assert 0.92 < held < 0.985


def test_the_jackknife_of_a_mean_is_its_standard_error():
    values = np.random.default_rng(0).normal(size=(1, 20))
    figure = resample(lambda keep: values[:, keep].mean(1), np.arange(20))
    interval = two_way_interval(figure)
    expected = 2.093 * values.std(ddof=1) / np.sqrt(20)  # Student's t with 19 degrees of freedom
    assert interval.high - interval.estimate == pytest.approx(expected, rel=1e-3)
    assert interval.estimate == pytest.approx(values.mean())


def test_what_two_contestants_share_cancels_in_their_difference():
    rng = np.random.default_rng(0)
    hard, group = rng.normal(size=(3, 200)), np.arange(200) % 20
    one, other = (resample(lambda keep, v=hard + gain: v[:, keep].mean(1), group) for gain in (0.1, 0.0))
    difference = two_way_interval(one - other)
    assert difference.estimate == pytest.approx(0.1)
    assert difference.high - difference.low < 1e-12
    assert is_resolved(difference)
    assert not is_resolved(two_way_interval(one))


def test_risk_coverage_is_the_mean_over_all_orders_of_equal_doubts():
    doubt, wrong = np.array([1, 0, 1, 2, 0, 1]), np.array([1.0, 0.0, 0.0, 1.0, 0.5, 1.0])
    risks = []
    for order in itertools.permutations(range(6)):
        if all(doubt[a] <= doubt[b] for a, b in itertools.pairwise(order)):
            risks.append([np.mean([wrong[i] for i in order[: n + 1]]) for n in range(6)])
    np.testing.assert_allclose(risk_coverage(doubt, wrong), np.mean(risks, axis=0))
    assert area_under_risk_coverage(doubt, wrong) == pytest.approx(np.mean(risks))


def test_a_doubt_that_knows_nothing_gives_the_share_of_mistakes_and_one_that_knows_all_gives_least():
    wrong = (np.arange(50) % 4 == 0).astype(float)
    assert area_under_risk_coverage(np.zeros(50), wrong) == pytest.approx(wrong.mean())
    rng = np.random.default_rng(0)
    assert all(
        area_under_risk_coverage(wrong, wrong) <= area_under_risk_coverage(rng.random(50), wrong) for _ in range(20)
    )


def test_the_temperature_is_the_best_of_a_fine_grid():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=500)
    outcome = (rng.random(500) < 1 / (1 + np.exp(-truth))).astype(float)
    difference = 3 * truth  # three times too sure
    grid = np.exp(np.linspace(np.log(0.1), np.log(20), 4001))
    best = grid[np.argmin([negative_log_likelihood(difference / t, outcome) for t in grid])]
    assert fit_temperature(difference, outcome) == pytest.approx(best, rel=2e-3)


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


def test_alone_right_and_alone_wrong_are_counted_by_pair():
    right = {"a": np.array([1, 1, 0, 0]), "b": np.array([1, 0, 1, 0]), "c": np.array([1, 0, 1, 0])}
    assert figures.only_this_one(right) == {"a": (0.25, 0.25), "b": (0.0, 0.0), "c": (0.0, 0.0)}


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
    objective, packed = EachHeadsObjective(config), pack(batch(), rows=[7, 2])
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
    assert len(findings) == 7
    assert all(finding.kept or not finding.needed for finding in findings), findings


def test_the_example_of_the_readme_keeps_the_protocol_in_forty_lines():
    assert len(EXAMPLE.read_text().splitlines()) <= 40
    findings = conformance.check(load_contestant(f"{EXAMPLE}:Convolution").build)
    assert [finding.kept for finding in findings] == [True] * 6 + [False]
    assert "keeps no state" in findings[-1].words


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
    cell = Cell(WORLD, 0, contestant, 0, 16, 1.0, 1e-3, 1, 8, 2, None, 4, 128)
    return replace(cell, **fields)


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


def test_changed_comparisons_are_learned_anew(tmp_path):
    file = tmp_path / "mine.jsonl"
    paths = set()
    for text in ("one", "one", "two"):
        file.write_text(text)
        digest.cache_clear()
        setup = plan.Setup(plan.PLANS["quick"], SMALL, [], [str(file)], {}, {}, "shape")
        cell = setup.cell(find_contestant("GPT-2 style"), str(file), learning_rate=1e-3)
        paths.add(cell.path(tmp_path, SMALL))
    assert len(paths) == 2
    world = setup.cell(find_contestant("GPT-2 style"), WORLD, learning_rate=1e-3)
    assert world.file == ""


def test_reports_of_other_choices_have_other_names():
    arguments = [[], ["--quick"], ["--match", "flops"], ["--subjects", "world, much noise"], ["--data", "a/b.jsonl"]]
    names = [command._report_name(command._parser().parse_args(one)) for one in arguments]
    assert names == ["architectures", "architectures-quick", "architectures-flops",
                     "architectures-world-much-noise", "architectures-b"]  # fmt: skip


def test_a_training_that_diverges_is_kept_as_a_failure(tmp_path):
    cell = small_cell("GPT-2 style", learning_rate=1e30)
    run_cell(cell, tmp_path, SMALL)
    assert "learning_rate=1e+30 may be too high" in json.loads(cell.path(tmp_path, SMALL).read_text())["failed"]


def test_the_whole_bench_runs_and_goes_on(tmp_path, monkeypatch, capsys):
    tiny = replace(
        plan.PLANS["quick"],
        sources={"world_training": 24, "world_validation": 8, "world_test": 12},
        seeds=2,
        main_seeds=3,
        rates=(1e-3,),
        comparisons=16,
        epochs=1.0,
        curve=(8, 16),
        width=8,
        widths=(8, 16),
        contestants=("GPT-2 (Hugging Face)", "GPT-2 style", "BERT style", "pairs", "five heads", "longer wins"),
        rounds=1,
    )
    monkeypatch.setitem(plan.PLANS, "quick", tiny)
    out, cache = tmp_path / "out", tmp_path / "cache"
    command_line = ["--quick", "--workers", "1", "--cache", str(cache), "--out", str(out)]
    command_line += ["--backbone", f"{EXAMPLE}:Convolution"]
    assert command.main(command_line) == 0
    assert "must see its own path" not in capsys.readouterr().out
    written = json.loads((out / "architectures-quick.json").read_text())
    table = written["table"]
    assert len(table[WORLD]) == 7
    assert set(written["ensembles"]) == set(table[WORLD]) - {"longer wins"}
    assert {path.suffix for path in out.iterdir()} == {".html", ".md", ".json", ".png"}
    assert "not resolved" in (out / "architectures-quick.md").read_text()
    assert list((cache / "tensorboard").rglob("events*"))
    monkeypatch.setattr(
        command.page, "write", lambda study, *_: json.dumps(study.interval(WORLD, "GPT-2 style", figures.ACCURACY))
    )
    assert command.main(command_line) == 0
    printed = capsys.readouterr().out
    assert printed.count(": 0 of") == 3  # trainings to do
    assert json.dumps(table[WORLD]["GPT-2 style"]["figures"][figures.ACCURACY]) in printed


def test_an_unknown_subject_is_one_line_and_exit_status_2(tmp_path, capsys):
    arguments = ["--quick", "--subjects", "the moon", "--cache", str(tmp_path), "--out", str(tmp_path)]
    assert command.main(arguments) == 2
    assert "subject 'the moon': must be one of world," in capsys.readouterr().err


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
    assert find_contestant(contestant.name) == contestant
    cell = small_cell(contestant.name, file=fingerprint(contestant))
    run_cell(cell, tmp_path, SMALL)
    result = json.loads(cell.path(tmp_path, SMALL).read_text())
    assert result["parameters"] == sum(p.numel() for p in contestant.reward_model(SHAPE).parameters())
    assert len(result["rewards"][AS_TRAINED]) == 12
