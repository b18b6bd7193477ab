"""What the page of the bench of architectures says, on figures that are made up."""

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

    def __init__(self, means: dict[str, dict[str, float]], plain: tuple[str, ...] = ()) -> None:
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
        self.__dict__["resampled"] = {
            (subject, name): {figure: self.drawn(name, mean) for figure in (WAY, ACCURACY)}
            for subject, found in means.items()
            for name, mean in found.items()
        }

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
    assert "longer wins gets .00" in first.replace("−", "") and first.endswith("below all.")
    assert second.startswith("On people.jsonl, Llama style leads the networks: .5")
    assert "longer wins gets .61" in second and "above every network" in second
    assert answers.verdict(study()).startswith(first)


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


def test_numbers_of_a_table_are_short_and_a_star_marks_what_is_resolved():
    assert answers.with_interval((0.812, -0.05, 10.5), "+") == "+.812 [−.050, +10.500]"
    assert answers.with_interval(None) == "–"
    found = differences.difference(study(), ALL_SKILLS, "GRU", BASELINE)
    assert answers.difference_words(found).endswith("] *")


def test_one_seed_claims_no_interval_over_seeds():
    several = SimpleNamespace(setup=SimpleNamespace(plan=SimpleNamespace(seeds=3, world_seeds=3)))
    one = SimpleNamespace(setup=SimpleNamespace(plan=SimpleNamespace(seeds=1, world_seeds=1)))
    assert "over prompts and seeds" in words.intervals(several)
    assert "over prompts (there is one seed)" in words.intervals(one)


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
