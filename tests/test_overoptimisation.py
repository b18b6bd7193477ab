"""Truth and proxy against √KL: what is said of curves whose truth is known, and a tiny study from end to end."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from bench.architectures.statistics import error_of
from bench.overoptimisation import command
from bench.overoptimisation.curves import FORMS, Curve, at_distance, fit, fitted, lost, raised
from bench.overoptimisation.page import record, sections
from bench.overoptimisation.plan import DEFAULT, QUICK, TRUTH, Followed, Plan, Proxy
from bench.overoptimisation.ranking import Ranking
from bench.overoptimisation.study import Study
from bench.overoptimisation.work import Work, combined
from bench.recipes.common import Setting
from minirm.evaluation.report import Picture
from minirm.policies.trainer import PolicyConfig


def a_curve(
    gold: np.ndarray, distance: np.ndarray, *, noise: float = 0.0, luck: float = 0.0, seeds: int = 3, draw: int = 0
) -> Curve:
    """Return a curve whose gold is known, with noise in every response and luck that those of a seed's point share."""
    rng = np.random.default_rng(draw)
    values = gold[None, :, None] + noise * rng.normal(size=(seeds, len(gold), 40))
    values += luck * rng.normal(size=(seeds, len(gold), 1))
    kl = np.tile(distance**2, (seeds, 1))
    return Curve(list(range(len(gold))), kl, values, values, np.zeros_like(kl))


@pytest.mark.parametrize("form", FORMS)
def test_a_fit_finds_what_made_the_curve(form):
    d = np.linspace(0, 6, 12)
    gold = d * (1.5 - 0.2 * d) if form == "d(α − βd)" else d * (1.5 - 0.8 * np.log(np.maximum(d, 1e-9)))
    curve = a_curve(gold, d)
    found = fit(curve, form)
    assert found.alpha.whole == pytest.approx([1.5] * 3)
    assert found.beta.whole == pytest.approx([0.2 if form == "d(α − βd)" else 0.8] * 3)
    assert found.explained == pytest.approx(1) and found.error == pytest.approx(0, abs=1e-9)
    assert fitted(curve, form) == pytest.approx(gold, abs=1e-9)
    [other] = FORMS.keys() - {form}
    assert fit(curve, other).error > 0.01


def test_what_was_lost_is_the_fall_from_the_highest_and_nothing_where_there_is_none():
    d = np.linspace(0, 4, 9)
    tent = 2 - np.abs(d - 2)
    assert lost(a_curve(tent, d)).whole == pytest.approx([2.0] * 3)
    assert a_curve(tent, d).turn == 4
    assert lost(a_curve(d, d)).whole == pytest.approx([0.0] * 3)


@pytest.mark.parametrize("kind", ["noise", "luck"])
def test_the_luck_of_the_highest_point_is_no_loss_and_no_gain(kind):
    """Of 30 points that differ by chance alone the highest lies far above the others, and nothing was gained there."""
    curves = [a_curve(np.zeros(30), np.linspace(0, 4, 30), **{kind: 1.0}, draw=draw) for draw in range(60)]
    assert np.mean([curve.gold.mean((0, 2)).max() for curve in curves]) > 0.15
    for figure in (lost, lambda curve: raised(curve)[0]):
        found = [figure(curve).whole.mean() for curve in curves]
        assert abs(np.mean(found)) < 3 * np.std(found) / len(found) ** 0.5


def test_what_is_not_known_of_the_start_is_in_every_gain_and_in_no_loss():
    """The start is one mean for all seeds and points: its variance adds to a gain's, and cancels in a difference."""
    first = np.random.default_rng(0).normal(size=200)
    without = [first[np.arange(200) % 20 != group].mean() for group in range(20)]
    known = a_curve(np.linspace(0, 1, 9), np.linspace(0, 2, 9), noise=1.0)
    curve = replace(known, start=np.array(without) - first.mean())
    gains = [error_of(one.gained(-1)).deviation ** 2 for one in (known, curve)]
    assert gains[1] - gains[0] == pytest.approx(first.var(ddof=1) / 200, rel=0.3)
    assert error_of(raised(curve)[0]).deviation > error_of(raised(known)[0]).deviation
    assert error_of(fit(curve, "d(α − βd)").alpha).deviation > error_of(fit(known, "d(α − βd)").alpha).deviation
    assert error_of(lost(curve)).deviation == pytest.approx(error_of(lost(known)).deviation, rel=0.05)


def test_what_was_raised_is_the_highest_of_a_curve():
    d = np.linspace(0, 4, 9)
    gained, points = raised(a_curve(2 - np.abs(d - 2), d))
    assert gained.whole == pytest.approx([2.0] * 3) and (points == 4).all()


def test_responses_to_one_prompt_are_left_out_together():
    curve = replace(a_curve(np.zeros(2), np.arange(2.0)), together=4)
    assert curve.group.tolist() == [n // 4 for n in range(40)]


def test_gold_between_two_points_lies_on_a_line_and_beyond_the_last_nowhere():
    curve = a_curve(np.array([0.0, 1.0, 0.5]), np.array([0.0, 1.0, 2.0]))
    assert at_distance(curve, 1.5) == pytest.approx(0.75)
    assert np.isnan(at_distance(curve, 2.5))


def test_an_ensemble_is_its_mean_and_its_lower_bound_is_less_by_the_spread():
    several = np.array([[1.0, 5.0], [3.0, 5.0]])
    assert combined(several, Followed("", 9, 2)).tolist() == [2.0, 5.0]
    assert combined(several, Followed("", 9, 2, lower=True)).tolist() == [1.0, 5.0]


@pytest.mark.parametrize("plan", [DEFAULT, QUICK], ids=["default", "quick"])
def test_every_way_follows_every_reward_with_as_many_responses(plan):
    for way, _, seed in plan.learned:
        dials = plan.dials(way, seed)
        assert dials.prompts_per_iteration * dials.samples_per_prompt == plan.policy.prompts_per_iteration
        assert way.method.least_samples <= dials.samples_per_prompt
    assert len(plan.learned) == (3 * len(plan.followed) + 2) * plan.seeds
    assert TRUTH.proxies(0) == [] and plan.followed[0].proxies(1) == [Proxy(250, 1)]
    assert len(plan.epochs) == len(plan.sizes) and plan.ensemble_comparisons in plan.sizes


def test_a_rank_correlation_is_that_of_the_ranks_with_an_interval_around_it():
    """Over the proxies of a seed: that every proxy of one seed is better than all of another says nothing."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(6, 3))
    reached = {"same": values**3 + [0, 50, -50], "other": rng.normal(size=(6, 3))}
    found = Ranking({"m": values}, {"end": reached})
    assert found.correlation("m", "end", "same") == pytest.approx((1, 1, 1))
    other = found.correlation("m", "end", "other")
    expected = [spearmanr(values[:, seed], reached["other"][:, seed]).statistic for seed in range(3)]
    assert other.estimate == pytest.approx(np.mean(expected)) and other.low < 0 < other.high
    assert other.low >= -1 and other.high <= 1


TINY = Plan(
    sizes=(20,), epochs=(1.0,), validation=10, ensemble=2, ensemble_comparisons=20, seeds=1, layers=1, width=16,
    reviews=20, review_epochs=1.0, test=20, prompts=4, draws=4, first=8, window=1, shown=2,
    policy=PolicyConfig(iterations=2, prompts_per_iteration=8, max_new_tokens=6, learning_rate=1e-3),
)  # fmt: skip


def test_a_study_tells_every_curve_and_is_not_computed_again(tmp_path, monkeypatch):
    monkeypatch.setattr("minirm.runs.job.write_evaluation", lambda folder, *_, **__: None)
    work = Work(Setting(Path(), tmp_path), TINY)
    for _, pieces in command.stages(work):
        for piece in pieces:
            piece()
    study = Study(work)
    parts, found = sections(study, {}), record(study, {})
    assert sum(isinstance(block, Picture) for part in parts for block in part.blocks) == 8
    assert "not resolved" in json.dumps(found["shapes"])
    assert len(found["curves"]) == 4 * 4 + 2 and len(found["fits"]) == 4 * 4 * 2
    for curve in found["curves"]:
        assert len(curve["gold"]) == len(curve["proxy"]) == len(curve["steps"])
    for where in ("highest", "end"):
        assert set(found["rank correlations"][where]) == {"accuracy", "NLL", "ECE", "best-of-K regret"}
    assert len(found["gained"]) == len(found["curves"])
    again, result = Work(replace(work.setting), replace(TINY)), Setting.result

    def refuse(*_):
        raise AssertionError("computed again")

    for method in (Work.policy, Work.proxy, Work.drawn, Work.judged):
        method.cache_clear()
    monkeypatch.setattr(Setting, "result", lambda self, name, identity, _: result(self, name, identity, refuse))
    monkeypatch.setattr("bench.recipes.common.train_run", refuse)
    assert json.dumps(record(Study(again), {})["curves"]) == json.dumps(found["curves"])  # NaN where responses are few
