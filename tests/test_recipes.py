"""The documents' recipes: their pieces by hand, and each of them at toy size on the known-truth world."""

import csv
import io
import json
from collections import Counter
from dataclasses import replace
from itertools import combinations
from math import comb
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("transformers")
pytest.importorskip("sklearn")

from safetensors.torch import load_file, save_file

from bench.architectures.statistics import Resampled, two_way_interval
from bench.recipes import main, s0, s1, s2, s3, s4
from bench.recipes.common import Setting, at_most, mean_of, measured, pairs_file, read_usable, told_apart
from minirm.config import PackingConfig, TrainConfig, sized
from minirm.data.comparison import Comparison, Turn
from minirm.files.records import read_comparisons
from minirm.files.splits import prompt_key
from minirm.metrics import negative_log_likelihood, pairwise_accuracy
from minirm.runs.job import train_run
from minirm.runs.run_config import DataConfig, RunConfig
from minirm.worlds.films import praise
from minirm.worlds.grammar import World, WorldConfig
from tests import pretrained_folders as made
from tests.test_pretrained import bert_folder


def pairs(count: int) -> list[Comparison]:
    return [one.comparison for one in World().sample(count, "train")]


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Run a recipe at toy size, without real data, and return its page and its numbers."""
    folder = tmp_path_factory.mktemp("recipes")

    def run(name: str, start: Path | None = None) -> tuple[str, dict]:
        places = ["--shared", str(folder / "nowhere"), "--cache", str(folder / "cache"), "--out", str(folder)]
        assert main([name, "--quick", *places, *([] if start is None else ["--from", str(start)])]) == 0
        written = f"recipe-{name}" + ("" if start is None else "-pretrained")
        record = json.loads((folder / f"{written}.json").read_text(encoding="utf-8"))
        return (folder / f"{written}.md").read_text(encoding="utf-8"), record["figures"]

    return run


# ── Each recipe, end to end ───────────────────────────────────────────────────────────────────────────────────────────


def test_s0_shows_what_was_written_before_and_after(pages):
    page, figures = pages("s0")
    assert set(figures) == {f"{name}, {when}" for name in (s0.JUDGE, s0.TRUTH) for when in ("before", "after")}
    assert all(0 <= value <= 1 for value, _, _ in figures.values())
    assert page.split("first seed's policy writes\n")[1].count("\n| ") == 2 + 2 * s0.SHOWN


def test_s1_shows_every_epoch_and_scores_pairs(pages):
    page, figures = pages("s1")
    epochs = page.split("## Each epoch, first seed")[1].split("##")[0]
    assert epochs.count("\n| ") == 2 + s1.QUICK.epochs
    assert page.split("by the first seed\n")[1].count("\n| ") == 2 + s1.QUICK.shown
    assert set(figures) >= {f"{s1.BEST}, test accuracy", f"{s1.BEGINNING}, test accuracy", "longer wins, test accuracy"}


def test_s2_measures_every_margin_on_the_same_pairs(pages):
    page, figures = pages("s2")
    assert {f"{margin}, all, accuracy" for margin in s2.MARGINS} <= set(figures)
    assert "large minus no margin" in page


def test_s3_fills_every_cell_of_its_table(pages):
    page, figures = pages("s3")
    assert len(figures) == len(s3.QUICK.sizes) * 2 * len(s3.QUICK.epochs)
    assert all(0 <= value <= 1 for value, _, _ in figures.values())
    assert "1 minus 0" in page and "one seed" in page


def test_s4_compares_arms_and_optimizers(pages):
    page, figures = pages("s4")
    rows = page.split("## Optimizers")[1]
    assert all(f"| {optimizer} |" in rows for optimizer in s4.RATES)
    assert all(any(name.startswith(f"{arm}, rate") for name in figures) for arm in s4.ARMS)


@pytest.mark.parametrize("name", ["s0", "s1", "s2", "s3", "s4"])
def test_a_pretrained_folder_takes_the_place_of_what_a_recipe_trains_first(pages, name, tmp_path_factory, monkeypatch):
    """Adapters learn of it, and nothing is trained before them; s0 asks it as it is."""
    folder, begun = tmp_path_factory.mktemp("pretrained") / "little", []
    if name == "s1":
        bert_folder(folder)
    else:
        made.save(folder, made.byte_level(), made.TEMPLATES["ChatML"], kind="LlamaForCausalLM")

    def noted(config: RunConfig, *places: object, **how: object) -> object:
        begun.append(config)
        return train_run(config, *places, **how)

    monkeypatch.setattr("bench.recipes.common.train_run", noted)
    page, figures = pages(name, folder)
    assert "little" in page and all(np.isfinite(value) for value, _, _ in figures.values())
    adapted = [config for config in begun if config.lora is not None and config.start is not None]
    nothing = [config for config in begun if config.start is None]
    assert begun == (nothing if name == "s0" else adapted)  # s0's policies learn to write from nothing


def test_a_second_call_trains_nothing_and_finds_the_same(pages, monkeypatch):
    first = pages("s2")[1]
    monkeypatch.setattr("bench.recipes.common.train_run", lambda *_, **__: pytest.fail("trained again"))
    assert pages("s2")[1] == first


def test_s0s_policy_and_judge_learn_from_balanced_and_different_reviews():
    reviews = list(s0.reviews({1.0: 20, 0.0: 20}, "train"))
    assert Counter(praise(text) for _, text in reviews) == {0.0: 20, 1.0: 20}
    assert all(request.startswith("Please review The ") and request.endswith(".") for request, _ in reviews)
    asked = json.loads(s0.questions(40))["instances"]
    answers = Counter(one["messages"][1]["content"] for one in asked)
    assert answers == {"yes": 20, "no": 20}
    for one in asked:
        question, answer = (turn["content"] for turn in one["messages"])
        review = question.removeprefix("Review: ").removesuffix(" Is this movie review positive?")
        assert (praise(review) == 1) == (answer == "yes") and review not in {text for _, text in reviews}


def test_scale_multiplies_comparisons_and_width():
    plan = s3.PLAN.scaled(3)
    assert plan.pairs == 3 * s3.PLAN.pairs and plan.sizes[0] == (s3.PLAN.sizes[0][0], 3 * s3.PLAN.sizes[0][1])
    assert s4.PLAN.scaled(2).width == 2 * s4.PLAN.width and s4.PLAN.scaled(2).prompts == 2 * s4.PLAN.prompts


# ── What they share ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_measured_is_accuracy_and_likelihood_of_each_seed():
    rng, rows = np.random.default_rng(0), pairs(40)
    rewards = [rng.normal(size=(40, 2)).tolist() for _ in range(2)]
    found = measured(rows, rewards)
    for seed, values in enumerate(map(np.array, rewards)):
        assert found["accuracy"].whole[seed] == pytest.approx(pairwise_accuracy(*values.T))
        assert found["NLL"].whole[seed] == pytest.approx(
            negative_log_likelihood(values[:, 0] - values[:, 1], np.ones(40))
        )


def test_the_mean_of_equal_figures_is_that_figure():
    rng = np.random.default_rng(0)
    figure = Resampled(rng.normal(size=3), rng.normal(size=(20, 3)))
    assert two_way_interval(mean_of([figure, figure])) == two_way_interval(figure)


def test_at_most_keeps_so_many_of_a_prompt_and_all_where_there_are_fewer():
    rows = [Comparison((Turn("user", f"{n % 3}"),), (f"a{n}", "b"), (1.0, 0.0)) for n in range(10)]
    assert Counter(row.prompt for row in at_most(rows, 2)) == {row.prompt: 2 for row in rows}
    assert Counter(map(id, at_most(rows, 99))) == Counter(map(id, rows))


def test_pairs_come_back_from_their_file_with_their_margins(tmp_path):
    rows = [s2._rated(one) for one in World().sample(5, "train")]
    back = read_usable(Setting(tmp_path, tmp_path).keep("pairs.jsonl", pairs_file(rows)))
    assert [(r.prompt, r.responses, r.margin) for r in back] == [(r.prompt, r.responses, r.margin) for r in rows]


def test_another_text_is_kept_under_another_name(tmp_path):
    setting = Setting(tmp_path, tmp_path)
    assert setting.keep("a.txt", "one") == setting.keep("a.txt", "one") != setting.keep("a.txt", "two")


def test_what_is_kept_of_a_pretrained_folder_is_not_taken_for_another_in_its_place(tmp_path):
    """Whether it is asked or learned from, its weights count and its tokenizer's files, not its name alone."""
    start, setting, names = bert_folder(tmp_path / "start"), Setting(tmp_path, tmp_path), []
    config = RunConfig(DataConfig((tmp_path,)), sized("tiny"), PackingConfig(), TrainConfig(), TrainConfig())

    def keep() -> None:
        names.append((told_apart(start), setting.folder(replace(config, start=start), "run").name))

    keep()
    weights = load_file(start / "model.safetensors")
    save_file({name: 2 * tensor for name, tensor in weights.items()}, start / "model.safetensors")
    keep()
    settings = start / "tokenizer_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"model_max_length": 99}))
    keep()
    assert all(len(set(each)) == 3 for each in zip(*names, strict=True))


# ── Their own pieces ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_s1_splits_prompts_80_10_10_and_no_prompt_is_in_two_parts():
    parts = s1._split(pairs(200))
    keys = [{prompt_key(row) for row in part} for part in parts]
    assert [len(part) / sum(map(len, keys)) for part in keys] == pytest.approx([0.8, 0.1, 0.1], abs=0.01)
    assert all(first.isdisjoint(second) for first, second in combinations(keys, 2))


def test_s2_puts_a_quarter_of_the_training_pairs_in_each_grade():
    rows = [Comparison((), ("a", "b"), (1.0, 0.0), margin=float(n)) for n in range(100)]
    data = s2.Data("", rows, rows[:3])
    assert np.bincount(data.grades(rows)).tolist() == [25, 25, 25, 25]
    assert data.grades(data.test).tolist() == [0, 0, 0]


def test_s3_cuts_its_last_part_off_as_lmflow_does():
    rows = pairs(10)
    training, test = s3.split_from_end(rows, 30)
    assert training == rows[:7] and test == rows[7:]


def test_s3_files_are_lmflows_and_say_what_the_comparisons_said(tmp_path):
    rows, setting = pairs(4), Setting(tmp_path, tmp_path)
    back = read_usable(setting.keep("pairs.json", s3.positive_negative(rows)))
    assert [(r.prompt, r.responses) for r in back] == [(r.prompt, r.responses) for r in rows]
    text = s3.conversations(rows, every_response=False)
    assert json.loads(text)["type"] == "conversation"
    chosen = list(read_comparisons([setting.keep("chosen.json", text)]))
    assert [(r.prompt, r.responses) for r in chosen] == [(r.prompt, r.responses[:1]) for r in rows]


def test_s4_rankings_come_back_from_their_csv_in_order(tmp_path):
    judged = s4.rankings(12, "train")
    text = s4.ranking_csv(judged)
    header = next(csv.reader(io.StringIO(text), delimiter="|"))
    assert header[:2] == ["Prompt", "Most preferable response"] and header[-1] == "Least preferable response"
    back = read_usable(Setting(tmp_path, tmp_path).keep("ranking.csv", text))
    assert [row.responses for row in back] == [one.comparison.responses for one in judged]
    assert sorted(Counter(len(row.responses) for row in back)) == [4, 5, 6, 7, 8, 9]
    assert all(list(row.scores) == sorted(row.scores, reverse=True) for row in back)


def test_s4_pairs_are_all_k_choose_2_with_the_better_first():
    row = World(WorldConfig(responses=5)).sample(1, "train")[0].comparison
    found = s4.as_pairs([row])
    assert [pair.responses for pair in found] == list(combinations(row.responses, 2))
    assert all(pair.prompt == row.prompt and pair.scores == (1.0, 0.0) for pair in found)


def test_s4_shuffles_as_many_pairs_a_step_as_grouped_has_on_average():
    mean = sum(comb(k, 2) for k in range(4, 10)) / 6
    assert s4._per_batch(s4.PLAN, s4.SAME_PAIRS) == round(s4.PLAN.per_batch * mean)
    assert s4._per_batch(s4.PLAN, s4.GROUPED) == s4._per_batch(s4.PLAN, s4.SAME_ELEMENTS) == s4.PLAN.per_batch
