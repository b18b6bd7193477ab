"""The known-truth world: texts say what they mean, labels follow utilities, shortcuts are as dialled."""

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minirm.data.comparison import Turn
from minirm.errors import InputError
from minirm.worlds.films import Asked, Film, Said, read_prompt, read_response
from minirm.worlds.grammar import WEIGHTS, World, WorldConfig, attributes

WORLD = World()
SPLITS = ("train", "validation", "test", "reversed", "swapped")
FILM = Film("The Silent Harbour", "Ida Moreau", "1974", "Leo Park")
PROMPT = (
    "Tonight we are showing The Silent Harbour by Ida Moreau from 1974. Who directed it, and what is good about it?"
)

configs = st.builds(
    WorldConfig,
    noise=st.floats(0.1, 5.0),
    shortcut=st.sampled_from(["length", "exclamation"]),
    shortcut_strength=st.floats(0.0, 1.0),
    facts=st.integers(0, 3),
    responses=st.integers(2, 6),
    seed=st.integers(0, 10**6),
)


def said(**changes) -> Said:
    return Said(title=(), director=(), year=(), actor=(), praise=0, blame=0, manner=0)._replace(**changes)


def prompt_text(judged) -> str:
    (turn,) = judged.comparison.prompt
    return turn.text


def words(text: str) -> int:
    return len(text.split())


def marks(text: str) -> int:
    return text.count("!")


def share_where_the_better_has_more(judged, amount) -> float:
    """Accuracy of "more wins" on pairs; equal amounts count ½."""
    first, second = zip(*(map(amount, one.comparison.responses) for one in judged), strict=True)
    return float(np.mean(np.sign(np.subtract(first, second)) / 2 + 0.5))


# ── Utility ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("response", "utility"),
    [
        ("The Silent Harbour has witty dialogue and superb music. The director is Ida Moreau. I am glad to help.", 5.5),
        (
            "The Silent Harbour has dull dialogue and lazy music! Do your own homework.",
            -3.0,
        ),  # −3 + 1 − ½ − ½: no director
        ("The Golden Violin has witty dialogue and dull music. The year was 1974.", -0.5),  # 0 − 1 + 1 − ½
        ("It was directed by Clara Voss.", -1.0),
        ("It was directed by Ida Moreau. The director is Clara Voss.", -1.0),  # naming both does not help
        ("My coat was still wet.", -0.5),  # passes over the question
        ("My coat was still wet. My coat was still wet.", -2.5),  # half of it repeats
        ("", -4.5),
        ("x7 \N{SNOWMAN} lorem", -4.5),
        ("witty", -1.5),  # praise, but no sentence
    ],
)
def test_utility_is_the_sum_worked_by_hand(response, utility):
    assert WORLD.utility(PROMPT, response) == pytest.approx(utility)
    assert WORLD.utility((Turn("user", PROMPT),), response) == pytest.approx(utility)


def test_a_prompt_the_grammar_does_not_know_asks_for_nothing():
    assert read_prompt("How do I boil an egg?") == Asked(Film("", "", "", ""), None, "")
    assert WORLD.utility("How do I boil an egg?", "I do hope this helps.") == WEIGHTS["polite"]


@pytest.mark.parametrize(
    ("wanted", "praise", "blame", "match"),
    [
        (1, 2, 0, 1),
        (1, 1, 1, 0),
        (1, 0, 2, -1),
        (0, 1, 1, 1),
        (0, 2, 0, 0),
        (-1, 0, 2, 1),
        (-1, 3, 1, -0.5),
        (0, 0, 0, 0),
    ],
)
def test_sentiment_is_one_less_its_distance_from_what_was_asked(wanted, praise, blame, match):
    assert attributes(Asked(FILM, wanted, ""), said(praise=praise, blame=blame))["sentiment"] == match


@settings(max_examples=40)
@given(configs, st.sampled_from(SPLITS), st.integers(0, 10**9))
def test_utility_read_off_the_text_is_the_utility_recorded(config, split, index):
    world = World(config)
    judged = world.comparison(split, index)
    for response, utility, found in zip(judged.comparison.responses, judged.utilities, judged.attributes, strict=True):
        assert world.utility(judged.comparison.prompt, response) == utility
        assert attributes(read_prompt(prompt_text(judged)), read_response(response)) == found


@given(st.text(), st.text())
def test_any_text_has_a_utility_within_bounds(prompt, response):
    assert abs(WORLD.utility(prompt, response)) <= sum(WEIGHTS.values())


def test_the_shortcut_adds_nothing_to_utility():
    plain = "The Silent Harbour has witty dialogue and superb music."
    assert WORLD.utility(PROMPT, plain) == WORLD.utility(PROMPT, "My coat was still wet! " + plain.replace(".", "!"))


# ── Splits ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("split", SPLITS)
def test_the_same_seed_gives_the_same_comparisons_however_many_are_drawn(split):
    assert World().sample(20, split) == WORLD.sample(30, split)[:20]
    assert World(WorldConfig(seed=1)).sample(20, split) != WORLD.sample(20, split)


def test_no_film_of_a_split_is_named_in_another():
    world = World(WorldConfig(facts=0))
    titles = {}
    for split in ("train", "validation", "test", "swapped", "reversed"):
        drawn = world.sample(300, split)
        titles[split] = {read_prompt(prompt_text(one)).film.title for one in drawn}
        titles[split] |= {t for one in drawn for text in one.comparison.responses for t in read_response(text).title}
    assert not titles["train"] & titles["validation"]
    assert not (titles["train"] | titles["validation"]) & (titles["test"] | titles["swapped"] | titles["reversed"])


def test_an_unknown_split_is_refused_by_name():
    with pytest.raises(InputError, match="split='dev' must be one of train, validation, test, reversed, swapped"):
        WORLD.sample(1, "dev")


# ── Labels ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("responses", [2, 5])
def test_every_pair_is_won_as_often_as_the_sigmoid_of_its_difference_says(responses):
    config = WorldConfig(noise=1.0, responses=responses, seed=3)
    drawn = World(config).sample(6000 // responses, "train")
    won, probability = [], []
    for i, j in combinations(range(responses), 2):  # best first: i was ranked above j
        difference = np.array([one.utilities[i] - one.utilities[j] for one in drawn])
        won.append(difference > 0)
        probability.append(1 / (1 + np.exp(-np.abs(difference))))
    won, probability = np.concatenate(won), np.concatenate(probability)
    for low, high in ((0.5001, 0.65), (0.65, 0.8), (0.8, 0.95), (0.95, 1.0)):
        part = (probability > low) & (probability <= high)
        deviation = math.sqrt((probability[part] * (1 - probability[part])).mean() / part.sum() * (responses - 1))
        assert abs(won[part].mean() - probability[part].mean()) < 4 * deviation


def test_scores_are_ranks_and_the_best_comes_first():
    assert WORLD.comparison("train", 0).comparison.scores == (1.0, 0.0)
    judged = World(WorldConfig(responses=4)).comparison("train", 0)
    assert judged.comparison.scores == (3.0, 2.0, 1.0, 0.0)
    assert len(judged.comparison.responses) == len(judged.utilities) == len(judged.attributes) == 4


@pytest.mark.parametrize("responses", [2, 4])
def test_best_possible_accuracy_and_nll_are_the_naive_means_over_pairs(responses):
    world = World(WorldConfig(responses=responses, noise=0.5))
    drawn = world.sample(50, "test")
    best, nll = [], []
    for one in drawn:
        for first, second in combinations(one.utilities, 2):
            p = 1 / (1 + math.exp(-(first - second) / 0.5))
            best.append(max(p, 1 - p))
            nll.append(-p * math.log(p) - (1 - p) * math.log(1 - p))
    assert world.best_possible_accuracy(drawn) == pytest.approx(np.mean(best))
    assert world.best_possible_nll(drawn) == pytest.approx(np.mean(nll))


def test_hardly_any_noise_leaves_hardly_any_mistakes():
    world = World(WorldConfig(noise=1e-3))
    drawn = [one for one in world.sample(200, "test") if one.utilities[0] != one.utilities[1]]
    assert world.best_possible_accuracy(drawn) == pytest.approx(1.0)
    assert world.best_possible_nll(drawn) == pytest.approx(0.0, abs=1e-9)
    assert all(one.utilities[0] > one.utilities[1] for one in drawn)


def test_with_the_default_dials_the_best_possible_accuracy_is_near_nine_tenths():
    assert 0.85 < WORLD.best_possible_accuracy(WORLD.sample(1000, "test")) < 0.92


# ── Shortcut ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("shortcut", "amount"), [("length", words), ("exclamation", marks)])
def test_the_shortcut_helps_as_trained_and_harms_reversed(shortcut, amount):
    world = World(WorldConfig(shortcut=shortcut))
    share = {split: share_where_the_better_has_more(world.sample(1500, split), amount) for split in SPLITS}
    assert 0.57 < share["train"] < 0.68
    assert 0.57 < share["test"] < 0.68
    assert 0.32 < share["reversed"] < 0.43


def test_without_strength_the_exclamation_marks_say_nothing():
    world = World(WorldConfig(shortcut="exclamation", shortcut_strength=0.0))
    assert share_where_the_better_has_more(world.sample(1500, "train"), marks) == pytest.approx(0.5, abs=0.04)


def test_more_strength_is_more_correlation():
    shares = [
        share_where_the_better_has_more(World(WorldConfig(shortcut_strength=strength)).sample(800, "train"), words)
        for strength in (0.0, 0.5, 1.0)
    ]
    assert shares[0] + 0.05 < shares[1] < shares[2] - 0.05


def test_reversed_keeps_prompts_and_truth_of_the_test_set():
    for test, reverse in zip(WORLD.sample(50, "test"), WORLD.sample(50, "reversed"), strict=True):
        assert reverse.comparison.prompt == test.comparison.prompt
        assert reverse.utilities == test.utilities


# ── Swapped prompts ───────────────────────────────────────────────────────────────────────────────────────────────────


@settings(max_examples=15)
@given(configs)
def test_swapped_keeps_the_responses_of_the_test_set_under_another_prompt(config):
    world = World(config)
    for test, swapped in zip(world.sample(10, "test"), world.sample(10, "swapped"), strict=True):
        assert sorted(swapped.comparison.responses) == sorted(test.comparison.responses)
        assert read_prompt(prompt_text(swapped)) != read_prompt(prompt_text(test))


def test_swapping_the_prompt_mostly_turns_the_truth_round():
    drawn = zip(WORLD.sample(500, "test"), WORLD.sample(500, "swapped"), strict=True)
    turned = [test.comparison.responses[0] != swapped.comparison.responses[0] for test, swapped in drawn]
    assert np.mean(turned) > 0.75


# ── Dials ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("dial", "message"),
    [
        ({"noise": 0.0}, "noise=0.0 must be above 0"),
        ({"noise": math.nan}, "noise=nan must be above 0"),
        ({"shortcut": "emoji"}, "shortcut='emoji' must be one of length, exclamation"),
        ({"shortcut_strength": 1.5}, r"shortcut_strength=1.5 must be in \[0, 1\]"),
        ({"facts": 4}, "facts=4 must be 0, 1, 2 or 3"),
        ({"responses": 1}, "responses=1 must be a whole number from 2 to 64"),
        ({"responses": 65}, "responses=65 must be a whole number from 2 to 64"),
        ({"seed": 1.5}, "seed=1.5 must be a whole number"),
    ],
)
def test_a_wrong_dial_is_named_with_its_value_and_rule(dial, message):
    with pytest.raises(InputError, match=message):
        WorldConfig(**dial)


def test_sixty_four_responses_work():
    judged = World(WorldConfig(responses=64, facts=3)).comparison("swapped", 0)
    assert len(set(judged.comparison.responses)) == 64


def test_sixteen_words_give_a_test_of_thirty_two_films_that_no_other_split_names():
    world = World(WorldConfig(titles=16, facts=0, responses=4))
    films = {}
    for split in ("train", "validation", "test"):
        texts = [text for j in world.sample(600, split) for text in (prompt_text(j), *j.comparison.responses)]
        films[split] = {title for text in texts for title in (read_prompt(text).film.title, *read_response(text).title)}
        films[split] -= {""}
    assert len(films["test"]) == len(films["validation"]) == 32
    assert all(not films[a] & films[b] for a, b in combinations(films, 2))
    with pytest.raises(InputError, match="titles=12 must be 8 or 16"):
        WorldConfig(titles=12)
