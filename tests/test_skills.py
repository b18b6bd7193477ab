"""Single skills: labels follow the utility that an independent reader finds, ceilings, dials, disjoint names, bags."""

import re
from itertools import combinations, pairwise

import numpy as np
import pytest

from minirm.errors import InputError
from minirm.worlds.films import BLAME, PRAISE
from minirm.worlds.skills import NOISE, POLITE, SKILLS, ceiling, find_skill, sample

EVERY = [(name, dial) for name, skill in SKILLS.items() for dial in skill.dials]
NAME = re.compile(r"[A-Z][a-z]+ [A-Z][a-z]+")
BEATS = re.compile(rf"({NAME.pattern}) (beat|lost to|won against|fell to) ({NAME.pattern})")


# ── An independent reader: prompt and response → utility ──────────────────────────────────────────────────────────────


def praise_wins(prompt: str, response: str) -> float:
    said = re.findall(r"\w+", response)
    return float(sum(word in PRAISE for word in said) > sum(word in BLAME for word in said))


def what_is_said_is_praise(prompt: str, response: str) -> float:
    said = [(word, word in PRAISE) for word in re.findall(r"\w+", response) if word in PRAISE + BLAME]
    denied = re.search(r"not (?:\w+ )*?(\w+)(?: but|\.)", response).group(1)
    return float(all(is_praise != (word == denied) for word, is_praise in said))


def winners(text: str) -> set[tuple[str, str]]:
    return {(a, b) if how in ("beat", "won against") else (b, a) for a, how, b in BEATS.findall(text)}


def asked_for(prompt: str) -> str:
    return re.search(rf"(?:Tell me about|The password is) ({NAME.pattern})\.", prompt).group(1)


def hops(prompt: str, response: str) -> float:
    has = dict(re.findall(rf"({NAME.pattern}) has the (\w+)\.", prompt))
    lies = dict(re.findall(r"The (\w+) is in (\w+)\.", prompt))
    return float(lies[has[re.search(rf"Where is what ({NAME.pattern}) has", prompt).group(1)]] in response)


def adds_up(prompt: str, response: str) -> float:
    return float(sum(map(int, re.findall(r"\d+", prompt))) == int(re.search(r"\d+", response).group()))


def closes(prompt: str, response: str) -> float:
    rest = response.replace(" ", "")
    for _ in response:
        rest = rest.replace("()", "").replace("[]", "").replace("{}", "")
    return float(not rest)


def agrees(prompt: str, response: str) -> float:
    return float((" he sat" in response) == ("Then his " in response))


def right_name(prompt: str, response: str) -> float:
    return float(asked_for(prompt) in response)


READERS = {
    "words": praise_wins,
    "negation": what_is_said_is_praise,
    "order": lambda prompt, response: float(winners(response) <= winners(prompt)),
    "match": right_name,
    "recall": right_name,
    "two-hop": hops,
    "arithmetic": adds_up,
    "counting": lambda p, r: float(int(re.search(r"\d+", p).group()) == len(NAME.findall(r))),
    "nesting": closes,
    "agreement": agrees,
    "style": lambda p, r: right_name(p, r) + 0.5 * any(manner in r for manner in POLITE),
    "shortcut": right_name,
}


def prompt_of(judged) -> str:
    return judged.comparison.prompt[0].text


@pytest.mark.parametrize(("name", "dial"), EVERY)
def test_utilities_are_those_that_an_independent_reader_finds(name, dial):
    for split in ("train", "validation", "test"):
        for judged in sample(name, dial, 40, split):
            found = [READERS[name](prompt_of(judged), response) for response in judged.comparison.responses]
            assert found == list(judged.utilities), judged
            assert len(set(judged.comparison.responses)) == 4
            assert sorted(found) == ([0, 0.5, 1, 1.5] if name == "style" else [0, 0, 0, 1])


# ── Labels and ceilings ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", SKILLS)
def test_without_noise_the_best_response_is_preferred(name):
    for judged in sample(name, SKILLS[name].dials[0], 100, "train", noise=0.0):
        assert judged.utilities[0] == max(judged.utilities)
        assert judged.comparison.scores == (1.0, 0.0, 0.0, 0.0)


@pytest.mark.parametrize("noise", [0.25, 0.7])
@pytest.mark.parametrize("name", ["match", "style"])
def test_of_any_two_the_better_is_preferred_as_bradley_and_terry_say(name, noise):
    utilities = [j.utilities for j in sample(name, SKILLS[name].dials[0], 6000, "train", noise=noise)]
    met = {}
    for preferred, *others in utilities:
        for other in others:
            if preferred != other:
                met.setdefault(abs(preferred - other), []).append(preferred > other)
    for gap, right in met.items():
        deviation = 0.5 / len(right) ** 0.5
        assert np.mean(right) == pytest.approx(1 / (1 + np.exp(-gap / noise)), abs=4 * deviation)


def test_the_ceiling_of_one_right_and_three_wrong_is_that_worked_by_hand():
    q = np.exp(1 / 0.25) / (np.exp(1 / 0.25) + 3)  # the right one is preferred: all three pairs are right
    assert ceiling((1, 0, 0, 0), 0.25) == pytest.approx(q + (1 - q) / 3)  # else one is wrong, and two are even
    assert ceiling((1, 0, 0, 0), 0.0) == 1.0


@pytest.mark.parametrize("name", SKILLS)
def test_one_who_knows_the_utilities_reaches_the_ceiling(name):
    drawn = [j.utilities for j in sample(name, SKILLS[name].dials[0], 4000, "train")]
    accuracy = [np.mean([(np.sign(u[0] - other) + 1) / 2 for other in u[1:]]) for u in drawn]
    assert np.mean(accuracy) == pytest.approx(ceiling(drawn[0]), abs=4 * np.std(accuracy) / 4000**0.5)


def test_the_ceiling_is_what_pairs_drawn_by_luces_choice_give():
    rng, utilities = np.random.default_rng(0), np.array([1.5, 1.0, 0.5, 0.0])
    best = (utilities / NOISE + rng.gumbel(size=(100_000, 4))).argmax(1)
    right = [np.mean(utilities[winner] > np.delete(utilities, winner)) for winner in range(4)]
    assert np.array(right)[best].mean() == pytest.approx(ceiling(utilities), abs=0.002)


# ── Dials ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

COUNTS = {
    "words": lambda p, r: len(re.findall("|".join(PRAISE + BLAME), r)),
    "negation": lambda p, r: len(re.search(r"not ((?:\w+ )*?)\w+(?: but|\.)", r).group(1).split()),
    "order": lambda p, r: len(BEATS.findall(p)),
    "match": lambda p, r: p.count("Leave out"),
    "recall": lambda p, r: p.count(".") - 1,
    "two-hop": lambda p, r: p.count("has the"),
    "nesting": lambda p, r: len(r.split()) / 2,
    "agreement": lambda p, r: r.count(".") - 2,
    "style": lambda p, r: len(re.findall(r"[.?!]", r)) - 1,
}


@pytest.mark.parametrize(("name", "dial"), [pair for pair in EVERY if pair[0] in COUNTS])
def test_the_dial_says_how_many_there_are(name, dial):
    for judged in sample(name, dial, 30, "test"):
        assert {COUNTS[name](prompt_of(judged), response) for response in judged.comparison.responses} == {dial}


@pytest.mark.parametrize("name", ["arithmetic", "counting"])
def test_the_dial_is_the_largest_number_of_a_prompt(name):
    for dial in SKILLS[name].dials:
        numbers = [int(n) for judged in sample(name, dial, 800, "train") for n in re.findall(r"\d+", prompt_of(judged))]
        assert max(numbers) == dial


@pytest.mark.parametrize("strength", SKILLS["shortcut"].dials)
def test_politeness_goes_along_with_the_right_name_in_training_and_against_it_in_the_test(strength):
    for split, expected in {"train": strength, "validation": strength, "test": 1 - strength}.items():
        drawn = sample("shortcut", strength, 2000, split)
        polite = {0.0: [], 1.0: []}
        for judged in drawn:
            for response, utility in zip(judged.comparison.responses, judged.utilities, strict=True):
                polite[utility].append(any(manner in response for manner in POLITE))
        assert np.mean(polite[1.0]) == pytest.approx(expected, abs=0.05)
        assert np.mean(polite[0.0]) == pytest.approx(1 - expected, abs=0.05)


# ── Vocabularies ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["order", "match", "recall", "two-hop", "counting", "style", "shortcut"])
def test_no_name_of_one_split_stands_in_another(name):
    seen = {}
    for split in ("train", "validation", "test"):
        drawn = sample(name, SKILLS[name].dials[1], 400, split, seed=3)
        texts = [text for judged in drawn for text in (prompt_of(judged), *judged.comparison.responses)]
        known = [found for text in texts for found in NAME.findall(text)]
        seen[split] = {found for found in known if found.split()[0] not in ("Surely", "Where", "The", "I")}
        assert len(seen[split]) >= 30
    assert all(not seen[a] & seen[b] for a, b in combinations(seen, 2))


def test_no_sum_of_one_split_stands_in_another():
    for dial in SKILLS["arithmetic"].dials:
        splits = [{prompt_of(j) for j in sample("arithmetic", dial, 2000, s)} for s in ("train", "validation", "test")]
        assert all(not a & b for a, b in combinations(splits, 2))


def test_a_wrong_name_shares_each_word_with_the_right_one():
    for judged in sample("recall", 0, 100, "test", noise=0.0):
        right, *wrong = (NAME.search(r.removeprefix("Surely ")).group().split() for r in judged.comparison.responses)
        shared = sorted((right[0] == first, right[1] == last) for first, last in wrong)
        assert shared == [(False, False), (False, True), (True, False)]


# ── Bags of words ─────────────────────────────────────────────────────────────────────────────────────────────────────


def bag_accuracy(name: str, dial: float) -> float:
    """Return the test accuracy of logistic regression on counts of words and marks, and on the length."""
    linear_model, text = (
        pytest.importorskip("sklearn.linear_model"),
        pytest.importorskip("sklearn.feature_extraction.text"),
    )
    counter = text.CountVectorizer(token_pattern=r"\w+|[^\w\s]")
    responses = {
        split: [j.comparison.responses for j in sample(name, dial, 1000, split)] for split in ("train", "test")
    }
    counter.fit([one for row in responses["train"] for one in row])
    differences = {}
    for split, rows in responses.items():
        counts = counter.transform([one for row in rows for one in row]).toarray()
        counts = np.c_[counts, [len(one) for row in rows for one in row]].reshape(len(rows), 4, -1)
        differences[split] = (counts[:, :1] - counts[:, 1:]).reshape(3 * len(rows), -1)
    both = np.r_[differences["train"], -differences["train"]]
    model = linear_model.LogisticRegression(fit_intercept=False, C=0.1, max_iter=300)
    model.fit(both, np.repeat([1, 0], len(both) // 2))
    return float(((np.sign(differences["test"] @ model.coef_[0]) + 1) / 2).mean())


@pytest.mark.parametrize("name", [name for name in SKILLS if name not in ("words", "style", "shortcut")])
def test_a_bag_of_words_is_at_chance(name):
    assert bag_accuracy(name, SKILLS[name].dials[1]) == pytest.approx(0.5, abs=0.04)  # 3,000 pairs, three to a prompt


def test_a_bag_of_words_learns_words_and_style_and_what_the_shortcut_turns_round():
    assert bag_accuracy("words", 5) == pytest.approx(ceiling((1, 0, 0, 0)), abs=0.02)
    assert bag_accuracy("style", 2) > 0.6
    assert bag_accuracy("shortcut", 0.8) < 0.45


# ── Draws ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_comparison_depends_on_skill_dial_seed_split_and_number_alone():
    first = sample("match", 1, 5, "train")
    assert sample("match", 1, 3, "train") == first[:3]
    draws = [
        first,
        sample("match", 4, 5, "train"),
        sample("match", 1, 5, "test"),
        sample("match", 1, 5, "train", seed=1),
    ]
    assert all(one != other for one, other in pairwise(draws))


@pytest.mark.parametrize(
    ("text", "message"),
    [("juggling", "skill 'juggling': must be one of words, negation"), ("recall:5", "dial must be one of 0, 4, 14")],
)
def test_an_unknown_skill_or_dial_names_the_known_ones(text, message):
    with pytest.raises(InputError, match=message):
        find_skill(text)


def test_a_skill_without_a_dial_has_the_middle_one():
    assert find_skill("recall") == ("recall", 4)
    assert find_skill("recall:14") == ("recall", 14)
    with pytest.raises(InputError, match="split='exam' must be one of train"):
        sample("recall", 4, 1, "exam")
