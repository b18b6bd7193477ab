"""A world of preferences whose truth is known.

Prompts and responses are written by the grammar of `films`. A response's utility u is the weighted sum of its
`attributes`, and responses are ranked by u + τ·Gumbel noise, so that for every pair, whatever K,

    P(i ≻ j) = σ((u_i − u_j) / τ)      and the best possible accuracy is the mean of max(P, 1 − P)

The grammar reads as well as it writes, so `World.utility` is also the gold reward for texts that nobody has judged,
such as a policy's.

A shortcut (more words, or more exclamation marks) goes along with utility without being part of it. The test sets are
three views of the same comparisons: "test" as trained, "reversed" with the shortcut against utility, and "swapped",
where the responses stay and the prompt becomes one that suits the worst of them, so that the truth mostly turns round.

Default dials, 12,000 pairs a set:        test  reversed  swapped
    best possible accuracy                .884      .884     .927
    the longer one wins                   .634      .397     .375
    logistic regression, prompt unseen    .68       .48      .35    (8,000 pairs, 1- and 2-grams; at strength 0.55)
"""

import math
from bisect import bisect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Literal, get_args

import numpy as np

from minirm.data.comparison import Comparison, Turn
from minirm.errors import InputError
from minirm.worlds.films import (
    ADJECTIVES,
    FACTS,
    NOUNS,
    Asked,
    Film,
    Said,
    read_prompt,
    read_response,
    write_prompt,
    write_response,
)

WEIGHTS = {"sentiment": 3.0, "title": 1.0} | dict.fromkeys(FACTS, 1.0) | {"answer": 0.5, "polite": 0.5, "form": 4.0}
"""What each attribute adds to the utility."""

_WISHES = (1, 1, 1, 0, -1)  # of five requests, three want what is good
_LEANINGS = (1, 1, 0, -1, -1)  # of five responses that pay no heed, two praise
_TITLE_CLASSES = {"train": (0, 1, 2, 3, 4, 5), "validation": (6,), "test": (7,)}  # (adjective + noun) mod 8
_VIEWS = {"train": "train", "validation": "validation", "test": "test", "reversed": "test", "swapped": "test"}
_QUARTILES = (-0.6745, 0.0, 0.6745)  # of N(0, 1)

Shortcut = Literal["length", "exclamation"]


@dataclass(frozen=True, slots=True)
class WorldConfig:
    """The dials of a world."""

    noise: float = 0.7
    """τ: how far apart two utilities must be for the better response to win with σ(1) = 73%."""
    shortcut: Shortcut = "length"
    """What goes along with utility without being part of it: "length" or "exclamation"."""
    shortcut_strength: float = 0.5
    """Correlation of utility with the normal variable that decides the amount of the shortcut; 0 to 1."""
    facts: int = 1
    """How many of (director, year, actor) the prompt states and the responses repeat, in this order; 0 to 3."""
    responses: int = 2
    """K, responses per prompt; 2 to 64."""
    titles: int = 8
    """Adjectives, and nouns, of which titles are made: 8, and so 8 films in a test, or 16, and so 32."""
    seed: int = 0
    """Another seed is another draw from the same world."""

    def __post_init__(self):
        rules = (
            ("noise", 0 < self.noise < math.inf, "must be above 0 and finite"),
            ("shortcut", self.shortcut in get_args(Shortcut), f"must be one of {', '.join(get_args(Shortcut))}"),
            ("shortcut_strength", 0 <= self.shortcut_strength <= 1, "must be in [0, 1]"),
            ("facts", self.facts in range(4), "must be 0, 1, 2 or 3"),
            ("responses", self.responses in range(2, 65), "must be a whole number from 2 to 64"),
            ("titles", self.titles in (8, 16), "must be 8 or 16"),
            ("seed", isinstance(self.seed, int), "must be a whole number"),
        )
        for name, holds, rule in rules:
            if not holds:
                raise InputError(f"{name}={getattr(self, name)!r} {rule}")


@dataclass(frozen=True, slots=True)
class Judged:
    """A comparison and the truth about each of its K responses, in the same order."""

    comparison: Comparison
    utilities: tuple[float, ...]
    attributes: tuple[dict[str, float], ...]


def attributes(asked: Asked, said: Said) -> dict[str, float]:
    """Return how well the response does what was asked, by the names of `WEIGHTS`.

    "title" and the facts: 1 what it names is so, −1 it is not, 0 not named. "sentiment": 1 as asked, −1 the opposite.
    "answer": −1 if the fact that was asked for is passed over. "polite": 1, or −1 if rude. "form": −1 if no sentence of
    it is the grammar's, 0 if every one is.
    """
    film = asked.film
    agreement = {
        "title": _agreement(said.title, film.title),
        "director": _agreement(said.director, film.director),
        "year": _agreement(said.year, film.year),
        "actor": _agreement(said.actor, film.actor),
    }
    return {
        "sentiment": _sentiment_match(asked.sentiment, said.praise, said.blame),
        **agreement,
        "answer": -1.0 if asked.question and not getattr(said, asked.question) else 0.0,
        "polite": float(said.manner),
        "form": -said.odd,
    }


def _agreement(mentioned: tuple[str, ...], true: str) -> float:
    """Return 1 if all that is mentioned is true, −1 if anything is not, 0 if nothing is mentioned."""
    if not mentioned:
        return 0.0
    return 1.0 if all(value == true for value in mentioned) else -1.0


def _sentiment_match(wanted: int | None, praise: int, blame: int) -> float:
    """Return 1 − |shown − wanted|, where the sentiment shown is (praise − blame) / (praise + blame)."""
    if wanted is None or praise + blame == 0:
        return 0.0
    return 1.0 - abs((praise - blame) / (praise + blame) - wanted)


def _other(rng: Random, values: tuple[str, ...], than: str) -> str:
    """Return one of the values, but not the one given."""
    while (value := rng.choice(values)) == than:
        pass
    return value


def _draw_title(rng: Random, split: str, titles: int, other_than: str = "") -> str:
    """Return a title of a split, of so many adjectives and nouns, that shares neither word with the one given."""
    classes = [again + number for again in range(0, titles, 8) for number in _TITLE_CLASSES[split]]
    while True:
        adjective = rng.randrange(titles)
        noun = (rng.choice(classes) - adjective) % titles
        if ADJECTIVES[adjective] not in other_than and NOUNS[noun] not in other_than:
            return f"The {ADJECTIVES[adjective]} {NOUNS[noun]}"


def _draw_said(rng: Random, asked: Asked, draw_other: Callable[[], str]) -> Said:
    """Return a response to the request: like people's, it is right more often than wrong.

    Args:
        draw_other: returns the title of another film.
    """
    film = asked.film
    leaning = asked.sentiment if rng.random() < 0.5 else rng.choice(_LEANINGS)
    other = draw_other()
    facts = {"director": (), "year": (), "actor": ()}
    stated = [fact for fact in FACTS if getattr(film, fact)]
    for fact in stated:
        true = getattr(film, fact)
        value = true if rng.random() < 0.7 else _other(rng, FACTS[fact], true)
        facts[fact] = (value,) if rng.random() < 0.75 else ()
    return Said(
        title=rng.choices(((film.title,), (other,), ()), cum_weights=(0.55, 0.8, 1.0))[0],
        **facts,
        praise=1 + leaning,
        blame=1 - leaning,
        manner=rng.choice((1, 0, -1)),
    )


class World:
    """Prompts, responses and labels, of which comparison `index` of a split is always the same."""

    def __init__(self, config: WorldConfig | None = None):
        self.config = config or WorldConfig()
        self._facts = list(FACTS)[: self.config.facts]
        self._questions = [*self._facts, *[""] * max(1, self.config.facts)]  # half of the prompts ask for a fact
        rng = Random(0)
        drawn = [self._draw(rng, "train", responses=1) for _ in range(1000)]
        utilities = [self._utility(attributes(asked, said)) for asked, (said,) in drawn]
        self._mean, self._deviation = float(np.mean(utilities)), float(np.std(utilities))

    def sample(self, n: int, split: str) -> list[Judged]:
        """Return the first n comparisons of a split.

        Args:
            split: "train", "validation" or "test", no film of which is named in another; or "reversed" or "swapped",
                whose i-th comparison is the i-th of "test" with the shortcut reversed, or under another prompt.
        Raises:
            InputError: there is no such split.
        """
        return [self.comparison(split, index) for index in range(n)]

    def comparison(self, split: str, index: int) -> Judged:
        """Return one comparison of a split (see `sample`), best response first."""
        if split not in _VIEWS:
            raise InputError(f"split={split!r} must be one of {', '.join(_VIEWS)}")
        rng = Random(f"{self.config.seed} {_VIEWS[split]} {index}")
        asked, said = self._draw(rng, _VIEWS[split], self.config.responses)
        prompt = write_prompt(rng, asked)
        gumbel = [-self.config.noise * math.log(rng.expovariate(1.0)) for _ in said]  # −log Exp(1) is Gumbel(0, 1)
        found = [attributes(asked, one) for one in said]
        utilities = [self._utility(one) for one in found]
        strength = self.config.shortcut_strength * (-1 if split == "reversed" else 1)
        responses = [self._respond(rng, one, u, strength) for one, u in zip(said, utilities, strict=True)]
        if split == "swapped":
            worst = min(zip(utilities, said, strict=True))[1]
            asked = self._suiting(rng, worst, asked)
            prompt = write_prompt(rng, asked)
            found = [attributes(asked, one) for one in said]
            utilities = [self._utility(one) for one in found]
        order = sorted(range(len(said)), key=lambda i: -utilities[i] - gumbel[i])
        comparison = Comparison(
            prompt=(Turn("user", prompt),),
            responses=tuple(responses[i] for i in order),
            scores=tuple(float(rank) for rank in reversed(range(len(said)))),
            subset=split,
        )
        return Judged(comparison, tuple(utilities[i] for i in order), tuple(found[i] for i in order))

    def utility(self, prompt: str | tuple[Turn, ...], response: str) -> float:
        """Return the true utility of any response to any prompt, read off the texts alone."""
        text = prompt if isinstance(prompt, str) else "\n".join(turn.text for turn in prompt)
        return self._utility(attributes(read_prompt(text), read_response(response)))

    def best_possible_accuracy(self, judged: Iterable[Judged]) -> float:
        """Return E[max(p, 1 − p)] over all pairs: the accuracy of one who knows every utility, but not the draws."""
        probability = self._probabilities(judged)
        return float(np.maximum(probability, 1 - probability).mean())

    def best_possible_nll(self, judged: Iterable[Judged]) -> float:
        """Return E[−p·log p − (1 − p)·log(1 − p)] over all pairs, in nats: no reward can expect less."""
        p = np.clip(self._probabilities(judged), 1e-300, 1 - 1e-16)
        return float(-(p * np.log(p) + (1 - p) * np.log1p(-p)).mean())

    def _probabilities(self, judged: Iterable[Judged]) -> np.ndarray:
        """Return P(i ≻ j) for every pair i < j of every comparison."""
        differences = [np.empty(0)]
        for one in judged:
            u = np.array(one.utilities)
            first, second = np.triu_indices(len(u), 1)
            differences.append(u[first] - u[second])
        return 0.5 * (1 + np.tanh(0.5 * np.concatenate(differences) / self.config.noise))  # σ, without overflow

    def _utility(self, found: dict[str, float]) -> float:
        return sum(weight * found[name] for name, weight in WEIGHTS.items())

    def _draw(self, rng: Random, split: str, responses: int) -> tuple[Asked, list[Said]]:
        """Return a request and so many responses to it."""
        titles = self.config.titles
        facts = {fact: rng.choice(values) for fact, values in FACTS.items()}  # drawn whether they are stated or not
        title = _draw_title(rng, split, titles)
        film = Film(title, **{fact: facts[fact] if fact in self._facts else "" for fact in FACTS})
        asked = Asked(film, rng.choice(_WISHES), rng.choice(self._questions))
        other = partial(_draw_title, rng, split, titles, title)
        return asked, [_draw_said(rng, asked, other) for _ in range(responses)]

    def _respond(self, rng: Random, said: Said, utility: float, strength: float) -> str:
        """Return the response in words, with the shortcut in proportion to its utility."""
        standard = (utility - self._mean) / self._deviation
        amount = bisect(_QUARTILES, strength * standard + math.sqrt(1 - strength**2) * rng.gauss())
        if self.config.shortcut == "length":
            return write_response(rng, said, fillers=amount, exclamations=0)
        return write_response(rng, said, fillers=rng.randrange(4), exclamations=amount)

    def _suiting(self, rng: Random, said: Said, asked: Asked) -> Asked:
        """Return another request, one that the response would have suited; what it does not say is drawn anew."""
        elsewhere = _draw_title(rng, "test", self.config.titles, other_than=asked.film.title)
        film = asked.film._replace(title=said.title[0] if said.title else elsewhere)
        for fact in self._facts:
            mentioned = getattr(said, fact)
            value = mentioned[0] if mentioned else _other(rng, FACTS[fact], than=getattr(asked.film, fact))
            film = film._replace(**{fact: value})
        suiting = Asked(film, (said.praise - said.blame) // 2, rng.choice(self._questions))
        return suiting if suiting != asked else asked._replace(film=film._replace(title=elsewhere))
