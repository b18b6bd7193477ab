"""What the page of the bench of architectures says, on figures that are made up."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("transformers")
pytest.importorskip("sklearn")

from bench.architectures import answers, differences, words
from bench.architectures.figures import ACCURACY, WAY
from bench.architectures.plan import PLANS
from bench.architectures.statistics import Resampled
from bench.architectures.study import ALL_SKILLS, Study, bounds_of
from bench.written import folded

BASELINE = "GPT-2 (Hugging Face)"


class MadeUp(Study):
    """A study whose figures are given: by subject and contestant a mean, over four seeds and twenty groups."""

    def __init__(
        self,
        means: dict[str, dict[str, float]],
        plain: tuple[str, ...] = (),
        converged: dict[str, float] | None = None,
    ) -> None:
        names = list(dict.fromkeys(name for found in means.values() for name in found))
        contestants = [SimpleNamespace(name=name, kind="own", is_network=name not in plain) for name in names]
        object.__setattr__(self, "missing", {})
        networks = [contestant for contestant in contestants if contestant.is_network]
        skills = ["match:1", "recall:4"]
        setup = SimpleNamespace(
            contestants=contestants,
            networks=networks,
            skills=skills,
            subjects=list(means)[1:],
            main="world",
            plan=PLANS["default"],
        )
        object.__setattr__(self, "setup", setup)
        object.__setattr__(self, "costs", {})
        object.__setattr__(self, "converged", converged or {})
        self.__dict__["resampled"] = {
            (subject, name): {figure: self.drawn(name, mean) for figure in (WAY, ACCURACY)}
            for subject, found in means.items()
            for name, mean in found.items()
        }

    def accuracies(self, cells: dict[str, float]) -> dict[str, dict[object, Resampled]]:
        return {name: {"converged": self.drawn(name, mean)} for name, mean in cells.items()}

    def best_possible(self, subject: str) -> float:
        return 0.9

    @staticmethod
    def drawn(name: str, mean: float) -> Resampled:
        rng = np.random.default_rng(len(name))
        whole = mean + (0.4 if name.startswith("noisy") else 0.004) * rng.normal(size=4)
        return Resampled(whole, whole + 0.001 * rng.normal(size=(20, 4)))


def study() -> MadeUp:
    skills = {BASELINE: 0.5, "Llama style": 0.8, "GRU": 0.8, "longer wins": 0.0}
    people = {BASELINE: 0.57, "Llama style": 0.58, "GRU": 0.54, "longer wins": 0.61}
    return MadeUp({ALL_SKILLS: skills, "people.jsonl": people}, plain=("longer wins",))


def test_the_verdict_names_who_leads_who_is_not_told_apart_and_what_needs_no_network():
    first, second = (answers.leader(study(), subject) for subject in (ALL_SKILLS, "people.jsonl"))
    assert first.startswith("On 2 skills, ") and "leads the networks: .8" in first
    assert "not told apart from it: " in first and ", +." in first and "* against " in first
    assert "longer wins gets .00" in first.replace("−", "") and first.endswith("resolved below 3 of 3.")
    assert second.startswith("On people.jsonl, Llama style leads the networks: .5")
    assert "longer wins gets .61" in second and second.endswith("resolved above 3 of 3 networks.")
    assert answers.verdict(study()).startswith(first)


def test_the_verdict_names_the_skills_that_have_no_room_left_and_speaks_of_the_main_subject_too():
    ways = {BASELINE: 0.5, "Llama style": 0.8}
    done, open_ = {BASELINE: 0.98, "Llama style": 0.99}, {BASELINE: 0.1, "Llama style": 0.99}
    said = answers.verdict(MadeUp({ALL_SKILLS: ways, "match:1": done, "recall:4": open_, "world": ways}))
    assert "On 2 skills (match:1: every network 97% of the way or more), Llama style leads" in said
    assert "On world, Llama style leads" in said


def test_what_needs_no_network_is_above_those_alone_from_which_it_is_told_apart():
    made = MadeUp({ALL_SKILLS: {BASELINE: 0.5, "noisy GRU": 0.3, "longer wins": 0.6}}, plain=("longer wins",))
    assert "longer wins gets .60" in answers.leader(made, ALL_SKILLS)
    assert answers.leader(made, ALL_SKILLS).endswith("resolved above 1 of 2 networks.")
    alike = MadeUp({ALL_SKILLS: {"noisy GRU": 0.3, "longer wins": 0.6}}, plain=("longer wins",))
    assert answers.leader(alike, ALL_SKILLS).endswith("told apart from none.")


def test_the_verdict_calls_resolved_what_the_forest_fills():
    others, seen = {f"other {n}": 0.497 for n in range(9)}, set()
    for lead in np.linspace(0.001, 0.02, 20):
        made = MadeUp({ALL_SKILLS: {BASELINE: 0.5, "Llama style": 0.5 + lead, **others}})
        if made.networks(ALL_SKILLS)[0] == "Llama style":
            [one] = [d for d in differences.against_baseline(made, ALL_SKILLS) if d.first == "Llama style"]
            assert ("* against" in answers.leader(made, ALL_SKILLS)) == one.is_resolved
            alone = differences.difference(made, ALL_SKILLS, one.first, one.second)
            seen.add((one.is_resolved, alone.is_resolved))
    assert (False, True) in seen  # alone it would be resolved


def test_the_verdict_names_one_that_is_not_told_apart_though_one_between_is():
    made = MadeUp({ALL_SKILLS: {BASELINE: 0.5, "Llama style": 0.8, "noisy GRU": 0.3}})
    assert made.networks(ALL_SKILLS) == ["Llama style", BASELINE, "noisy GRU"]
    assert "* against GPT-2; not told apart from it: noisy GRU." in answers.leader(made, ALL_SKILLS)


def test_the_verdict_does_not_call_the_baseline_both_resolved_and_not_told_apart():
    """By the family of differences to it, it may be; by the larger one of all pairs it may not."""
    others, seen = {f"noisy {n}": 0.497 for n in range(6)}, set()
    for lead in np.linspace(0.004, 0.012, 20):
        made = MadeUp({ALL_SKILLS: {BASELINE: 0.5, "Llama style": 0.5 + lead, **others}})
        apart = differences.told_apart(made, ALL_SKILLS, made.networks(ALL_SKILLS))
        [one] = [d for d in differences.against_baseline(made, ALL_SKILLS) if d.first == "Llama style"]
        if made.networks(ALL_SKILLS)[0] == "Llama style":
            seen.add((one.is_resolved, apart["Llama style", BASELINE]))
            if one.is_resolved:
                assert "of the 6 others it is told apart from none" in answers.leader(made, ALL_SKILLS)
    assert (True, False) in seen


def test_the_part_of_the_way_ends_where_accuracy_does():
    made = MadeUp({ALL_SKILLS: {"noisy GRU": 1.0}, "match:1": {"noisy GRU": 1.0}})
    for subject in (ALL_SKILLS, "match:1"):
        value, low, high = made.interval(subject, "noisy GRU", WAY)
        assert -1.25 <= low < value < high == pytest.approx(1.25)  # 0 and 1, where the best possible is .9


def test_differences_of_a_subject_are_one_family_and_groups_all_pairs():
    found = {one.first: one for one in differences.against_baseline(study(), ALL_SKILLS)}
    assert set(found) == {"Llama style", "GRU", "longer wins"}
    assert all(one.is_resolved for one in found.values())
    alone = differences.difference(study(), ALL_SKILLS, "GRU", BASELINE)
    assert alone.p <= found["GRU"].p <= 3 * alone.p
    assert len(alone.by_seed) == 4
    names = [contestant.name for contestant in study().setup.networks]
    groups = differences.groups(study(), ALL_SKILLS, names)
    assert [set(group) for group in groups] == [{"Llama style", "GRU"}, {BASELINE}]


def test_the_verdict_says_who_is_told_from_the_baseline_where_trainings_end_by_validation():
    ways = {BASELINE: 0.5, "Llama style": 0.8, "noisy GRU": 0.9, "state space": 0.2, "longer wins": 0.3}
    made = MadeUp({ALL_SKILLS: ways, "world": ways}, ("longer wins",), {**ways, "noisy GRU": 0.5})
    found = differences.at_convergence(made)
    assert set(found) == {*ways} - {BASELINE}  # one family, what needs no network in it
    assert {name for name, one in found.items() if one.is_resolved} == {"Llama style", "state space", "longer wins"}
    said = answers.verdict(made)
    assert "Trained to convergence on world, Llama style is most accurate (.8" in said
    assert "; 1 of the 3 other networks are resolved above GPT-2, 1 below." in said
    assert "convergence" not in answers.verdict(study())


def test_numbers_of_a_table_are_short_and_a_star_marks_what_is_resolved():
    assert answers.with_interval((0.812, -0.05, 10.5), "+") == "+.812 [−.050, +10.500]"
    assert answers.with_interval(None) == "–"
    found = differences.difference(study(), ALL_SKILLS, "GRU", BASELINE)
    assert answers.difference_words(found).endswith("] *")


def test_one_seed_claims_no_interval_over_seeds():
    plans = [replace(PLANS["default"], seeds=seeds) for seeds in (3, 1)]
    several, one = (
        SimpleNamespace(setup=SimpleNamespace(plan=plan, subjects=["match:1", "a.jsonl"], match="shape"))
        for plan in plans
    )
    assert "over prompts and seeds" in words.intervals(several)
    assert "over prompts alone where there is one seed" in words.intervals(one)
    assert "1 on skills, 3 on people's judgements" in words.comparison(one)


def test_a_figure_ends_where_it_must_in_every_view():
    assert (
        bounds_of("ECE")
        == bounds_of("ECE, tempered")
        == bounds_of("accuracy")
        == bounds_of("prompts swapped")
        == (0, 1)
    )
    assert bounds_of("best-of-K regret, shortcut reversed") == (0, np.inf)
    assert bounds_of("rank correlation over all prompts, prompts swapped") == (-1, 1)
    assert bounds_of("part of the way") == (-np.inf, np.inf)


def test_all_but_the_first_sections_are_folded():
    sections = "".join(f"<section>\n<h2>{n}</h2>\n<p>{n}</p></section>" for n in range(4))
    page = folded(f"<style></style>{sections}")
    assert page.count("<section>") == 2
    assert "<details>\n<summary><h2>2</h2></summary>\n<p>2</p></details>" in page
