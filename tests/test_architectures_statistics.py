"""The statistics of the bench of architectures against brute force, simulation and values worked by hand."""

import itertools

import numpy as np
import pytest

from bench.architectures import statistics
from bench.architectures.scaling import amount, exponent
from bench.architectures.statistics import (
    Resampled,
    area_under_risk_coverage,
    groups_not_told_apart,
    holm,
    mean_of,
    p_value,
    resample,
    risk_coverage,
    smallest_detectable,
    two_way_interval,
)
from minirm.metrics import fit_temperature, negative_log_likelihood

# ── Intervals ─────────────────────────────────────────────────────────────────────────────────────────────────────────


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
    assert p_value(one - other) < 1e-9
    assert p_value(one) > 0.05


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


# ── Families ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_p_value_is_below_a_twentieth_exactly_where_the_interval_excludes_0():
    rng = np.random.default_rng(1)
    for _ in range(200):
        figure = drawn_figure(rng, 3, 0.1)
        low, high = two_way_interval(figure)[1:]
        assert (p_value(figure) < 0.05) == (low > 0 or high < 0)


def test_without_any_effect_one_p_value_in_twenty_is_below_a_twentieth():
    rng = np.random.default_rng(2)
    found = np.mean([p_value(drawn_figure(rng, 4, 0.2)) < 0.05 for _ in range(1500)])
    assert 0.015 < found < 0.08


def test_holms_correction_is_that_worked_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_holms_correction_keeps_families_without_any_effect_clean():
    rng = np.random.default_rng(3)
    clean = np.mean([min(holm(rng.random(10))) >= 0.05 for _ in range(4000)])
    assert clean == pytest.approx(0.95, abs=0.012)


def test_the_smallest_detectable_difference_is_found_four_times_in_five():
    rng = np.random.default_rng(4)
    size = np.mean([smallest_detectable(drawn_figure(rng, 5, 0.1)) for _ in range(200)])
    found = []
    for _ in range(1000):
        drawn = drawn_figure(rng, 5, 0.1)
        found.append(p_value(Resampled(drawn.whole + size, drawn.without + size)) < 0.05)
    assert np.mean(found) == pytest.approx(0.8, abs=0.06)


def test_the_mean_over_skills_has_the_interval_of_all_their_prompts_together():
    rng = np.random.default_rng(5)
    held = []
    for _ in range(600):
        level = 0.3 * rng.normal(size=5)  # a seed is good at every skill, or at none
        skills = [drawn_figure(rng, 5, 0.0) for _ in range(4)]
        shifted = [Resampled(one.whole + level, one.without + level) for one in skills]
        together = mean_of(shifted)
        assert together.whole == pytest.approx(np.mean([one.whole for one in shifted], axis=0))
        interval = two_way_interval(together)
        held.append(interval.low <= 0 <= interval.high)
    assert 0.92 < np.mean(held) < 0.99


def test_an_interval_ends_where_the_figure_does():
    figure = Resampled(np.array([0.01, 0.03, 0.02]), np.tile([0.01, 0.03, 0.02], (20, 1)))
    assert two_way_interval(figure).low < 0
    assert two_way_interval(figure, bounds=(0, 1)).low == 0
    assert two_way_interval(figure, bounds=(0, 1)).high == two_way_interval(figure).high


def test_groups_are_the_longest_runs_of_which_no_two_are_told_apart():
    apart = {("a", "c"), ("a", "d"), ("b", "d"), ("a", "e"), ("b", "e")}
    groups = groups_not_told_apart("abcde", lambda one, other: (one, other) in apart)
    assert groups == [["a", "b"], ["b", "c"], ["c", "d", "e"]]
    assert groups_not_told_apart(["a"], lambda one, other: True) == [["a"]]
    assert groups_not_told_apart("ab", lambda one, other: True) == [["a"], ["b"]]


def test_the_exponent_is_that_of_the_law_which_made_the_gaps_and_a_closed_gap_has_one_too():
    amounts = [500, 1000, 2000, 4000]
    assert exponent(amounts, [0.3 * n**-0.4 for n in amounts]) == pytest.approx(0.4)
    assert exponent(amounts, [0.3, 0.1, 0.0, -0.01]) > 0
    assert amount((2, 64)) == 12 * 2 * 64**2 and amount(500) == 500
