"""Single skills: preferences in each of which one thing alone decides, with the best possible accuracy known exactly.

A comparison has K = 4 responses. One does what the prompt asks, utility 1, three do not, utility 0; all four are alike
otherwise. The preferred one is drawn by Luce's choice, P(i) = exp(u_i/τ) / Σ_k exp(u_k/τ), so that of any two of
which one was preferred

    P(i ≻ j) = σ((u_i − u_j) / τ)        and `ceiling` is the accuracy of one who knows every utility

A dial makes a skill harder. Where a skill does not need to know its words, those of the test are others: names are two
words, no name of one split stands in another, and a wrong name shares a word with the right one. Words that must be
known (praise and blame, digits, pronouns, brackets) are the same everywhere.

A linear function of the words and marks of a response, and of its length, is at chance in every skill but "words"
and "style", which it may learn, and "shortcut", where it learns what the test turns round.

Source: one skill at a time, with a dial, for language models: MAD, arXiv:2403.17844; Zoology, arXiv:2312.04927; the
Long Range Arena, arXiv:2011.04006. The last two skills: RewardBench, arXiv:2403.13787; RM-Bench, arXiv:2410.16184.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from random import Random
from typing import NamedTuple

from minirm.data.comparison import Comparison, Turn
from minirm.errors import InputError
from minirm.worlds.films import BLAME, FILLERS, PRAISE
from minirm.worlds.grammar import Judged

NOISE = 0.25
"""τ: a right response beats a wrong one with σ(4) = 98%."""
CLASSES = {"train": (0, 1, 2, 3, 4, 5), "validation": (6,), "test": (7,)}
"""Of names and of sums, by split; eight in all."""


class Written(NamedTuple):
    """A response and its utility."""

    text: str
    utility: float


Draw = tuple[str, list[Written]]
"""A prompt and its responses."""


@dataclass(frozen=True)
class Skill:
    """One thing that a reward model may be able to do."""

    about: str
    dial: str
    """What the dial counts …"""
    dials: tuple[float, float, float]
    """… easy, middling, hard."""
    write: Callable[[Random, "Names", float], Draw]


def find_skill(text: str) -> tuple[str, float]:
    """Return the skill and the dial that "recall" (the middle one) or "recall:16" name.

    Raises:
        InputError: there is no such skill, or the dial is none of its three.
    """
    name, _, dial = text.partition(":")
    if name not in SKILLS:
        raise InputError(f"skill {name!r}: must be one of {', '.join(SKILLS)}")
    dials = {f"{value:g}": value for value in SKILLS[name].dials}
    if dial and dial not in dials:
        raise InputError(f"skill {text!r}: the dial must be one of {', '.join(dials)}")
    return name, dials[dial] if dial else SKILLS[name].dials[1]


def sample(name: str, dial: float, n: int, split: str, *, noise: float = NOISE, seed: int = 0) -> list[Judged]:
    """Return the first n comparisons of a split, the preferred response first.

    Args:
        split: "train", "validation" or "test".
        noise: τ; 0: the best response is always preferred.
        seed: another one is another draw of the same skill.
    """
    return [_comparison(name, dial, split, noise, Random(f"{name} {dial} {seed} {split} {i}")) for i in range(n)]


def _comparison(name: str, dial: float, split: str, noise: float, rng: Random) -> Judged:
    names = Names(rng, split)
    prompt, written = SKILLS[name].write(rng, names, dial)
    while len({one.text for one in written}) < len(written):  # two responses alike would be no comparison
        prompt, written = SKILLS[name].write(rng, names, dial)
    rng.shuffle(written)
    value = [one.utility - (noise and noise * math.log(rng.expovariate(1.0))) for one in written]  # + τ·Gumbel
    written.insert(0, written.pop(value.index(max(value))))
    comparison = Comparison(
        prompt=(Turn("user", prompt),),
        responses=tuple(one.text for one in written),
        scores=(1.0, *[0.0] * (len(written) - 1)),
        subset=split,
    )
    return Judged(comparison, tuple(one.utility for one in written), tuple({} for _ in written))


def ceiling(utilities: Sequence[float], noise: float = NOISE) -> float:
    """Return the expected accuracy, over pairs of a preferred response and another, of one who knows the utilities.

    By enumeration: a pair is there if either of it is preferred, and is then ordered rightly with max(p, 1 − p).
    """
    if not noise:
        return 1.0
    weight = [math.exp(u / noise) for u in utilities]
    right = sum(max(first, second) for first, second in combinations(weight, 2))
    return right / (sum(weight) * (len(weight) - 1))


# ── Words ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _list(text: str) -> tuple[str, ...]:
    return tuple(text.split())


FIRST = _list("Ada Boris Clara Dario Elena Felix Greta Hugo Ines Jonas Karin Leon Marta Nils Olga Pavel")
LAST = _list("Adler Bellamy Costa Dunne Ekman Fabri Garnier Holm Ibsen Jansen Keller Lindt Moreau Novak Otero Park")
FORMS = ("It is {}.", "I say {}.", "That would be {}.", "The answer is {}.", "Surely {}.", "I think of {}.")
OBJECTS = _list("lamp drum kite vase coin rope bell mask")
TOWNS = _list("Oslo Lima Cairo Perth Quito Turin Lagos Kyoto")
DEGREES = _list("really quite rather truly most fairly")
GUESTS = _list("guest singer doctor writer baker pilot farmer judge")
BRACKETS = ("()", "[]", "{}")
POLITE = ("Thank you for asking.", "I am glad to help.", "I do hope this helps.", "What a fine question.")
PLAIN = ("That is all I know.", "There is no more.", "I looked it up.", "This took a while.")


class Names:
    """Draws names of one split, of which there are 32 to each class of (first + last) mod 8."""

    def __init__(self, rng: Random, split: str) -> None:
        if split not in CLASSES:
            raise InputError(f"split={split!r} must be one of {', '.join(CLASSES)}")
        self.rng, self.classes = rng, CLASSES[split]

    def several(self, n: int) -> list[str]:
        """Return n different names."""
        return self.rng.sample(_names_of(self.classes), n)

    def wrong_for(self, name: str) -> list[str]:
        """Return three others: one of the same first word, one of the same last word, one that shares neither."""
        return [self.rng.choice(others) for others in _others(self.classes, name)]


@lru_cache
def _names_of(classes: tuple[int, ...]) -> list[str]:
    places = [(a, b) for a in range(16) for b in range(16) if (a + b) % 8 in classes]
    return [f"{FIRST[a]} {LAST[b]}" for a, b in places]


@lru_cache(maxsize=512)
def _others(classes: tuple[int, ...], name: str) -> tuple[list[str], list[str], list[str]]:
    """Return the names that share the first word of one alone, those that share the last, and those that share none."""
    first, last = name.split()
    found = {(True, False): [], (False, True): [], (False, False): [], (True, True): []}
    for other in _names_of(classes):
        words = other.split()
        found[words[0] == first, words[1] == last].append(other)
    return tuple(found.values())[:3]


def _answers(rng: Random, right: str, wrong: Sequence[str]) -> list[Written]:
    """Return the right answer and the wrong ones, each in a form of its own."""
    forms = rng.sample(FORMS, 1 + len(wrong))
    return [Written(forms[0].format(right), 1.0)] + [
        Written(form.format(answer), 0.0) for form, answer in zip(forms[1:], wrong, strict=True)
    ]


# ── Skills ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _words(rng: Random, names: Names, dial: float) -> Draw:
    n = int(dial)

    def said(praise: int) -> str:
        words = rng.sample(PRAISE, praise) + rng.sample(BLAME, n - praise)
        rng.shuffle(words)
        return f"It was {', '.join(words)}."

    more, fewer = n // 2 + 1, n // 2
    return "Praise the evening.", [Written(said(more), 1.0), *(Written(said(fewer), 0.0) for _ in range(3))]


def _negation(rng: Random, names: Names, dial: float) -> Draw:
    def said(is_so: str, is_not: str) -> str:
        one, other = (" ".join([*rng.choices(DEGREES, k=int(dial)), word]) for word in (is_so, is_not))
        return rng.choice((f"It was {one}, not {other}.", f"It was not {other} but {one}."))

    praise, blame = rng.sample(PRAISE, 4), rng.sample(BLAME, 4)
    wrong = [Written(said(bad, good), 0.0) for good, bad in zip(praise[1:], blame[1:], strict=True)]
    return "Praise the evening.", [Written(said(praise[0], blame[0]), 1.0), *wrong]


BEAT = ("{0} beat {1}.", "{1} lost to {0}.", "{0} won against {1}.", "{1} fell to {0}.")


def _order(rng: Random, names: Names, dial: float) -> Draw:
    people = names.several(2 * int(dial))
    games = list(zip(people[::2], people[1::2], strict=True))
    prompt = " ".join(rng.choice(BEAT).format(*game) for game in games)
    forms = rng.sample(BEAT, 4)
    wrong = [Written(form.format(*reversed(rng.choice(games))), 0.0) for form in forms[1:]]
    return f"{prompt} Who beat whom?", [Written(forms[0].format(*rng.choice(games)), 1.0), *wrong]


def _match(rng: Random, names: Names, dial: float) -> Draw:
    wanted, *others = names.several(1 + int(dial))
    sentences = [f"Tell me about {wanted}.", *(f"Leave out {other}." for other in others)]
    rng.shuffle(sentences)
    wrong = names.wrong_for(wanted)
    return " ".join(sentences), _answers(rng, wanted, [*others[:1], *wrong][:3])


def _recall(rng: Random, names: Names, dial: float) -> Draw:
    (wanted,) = names.several(1)
    between = " ".join(f"{sentence}." for sentence in rng.choices(FILLERS, k=int(dial)))
    prompt = f"The password is {wanted}. {between} What is the password?"
    return prompt, _answers(rng, wanted, names.wrong_for(wanted))


def _two_hop(rng: Random, names: Names, dial: float) -> Draw:
    n = int(dial)
    people, things, towns = names.several(n), rng.sample(OBJECTS, n), rng.sample(TOWNS, n)
    facts = [f"{person} has the {thing}." for person, thing in zip(people, things, strict=True)]
    facts += [f"The {thing} is in {town}." for thing, town in zip(things, towns, strict=True)]
    rng.shuffle(facts)
    prompt = f"{' '.join(facts)} Where is what {people[0]} has?"
    return prompt, _answers(rng, towns[0], [towns[1 + i % (n - 1)] for i in range(3)])


def _arithmetic(rng: Random, names: Names, dial: float) -> Draw:
    n = int(dial)
    sums = range(n // 2, 3 * n // 2 + 1)  # each with at least 8 pairs of summands up to n, so that every class has one
    total, *wrong = rng.sample(sums, 4)
    first = rng.choice([a for a in range(max(0, total - n), min(n, total) + 1) if (a + total) % 8 in names.classes])
    return f"What is {first} plus {total - first}?", _answers(rng, str(total), [str(one) for one in wrong])


def _counting(rng: Random, names: Names, dial: float) -> Draw:
    wanted, *others = rng.sample(range(1, int(dial) + 1), 4)
    said = [", ".join(names.several(n)) + "." for n in (wanted, *others)]
    return f"How about {wanted}? Name so many.", [Written(said[0], 1.0), *(Written(one, 0.0) for one in said[1:])]


def _nesting(rng: Random, names: Names, dial: float) -> Draw:
    def said(is_nested: bool) -> str:
        marks, kinds = _nested(rng, int(dial))
        if not is_nested:
            closed = [place for place, kind in enumerate(kinds) if marks[place] == kind[1]]
            one, other = rng.choice([pair for pair in combinations(closed, 2) if kinds[pair[0]] != kinds[pair[1]]])
            marks[one], marks[other] = marks[other], marks[one]
        return " ".join(marks)

    prompt = "Write brackets that close in the right order."
    return prompt, [Written(said(True), 1.0), *(Written(said(False), 0.0) for _ in range(3))]


def _nested(rng: Random, pairs: int) -> tuple[list[str], list[str]]:
    """Return marks that are nested well, and of each the kind of its brackets, of which there are at least two."""
    while True:
        marks, kinds, waiting, left = [], [], [], pairs
        while left or waiting:
            opens = left and (not waiting or rng.random() < 0.5)
            kind = rng.choice(BRACKETS) if opens else waiting.pop()
            if opens:
                waiting.append(kind)
            left -= bool(opens)
            marks.append(kind[0] if opens else kind[1])
            kinds.append(kind)
        if len(set(kinds)) > 1:
            return marks, kinds


def _agreement(rng: Random, names: Names, dial: float) -> Draw:
    def said(agrees: bool) -> str:
        subject, own = rng.choice((("he", "his"), ("she", "her")))
        own = own if agrees else {"his": "her", "her": "his"}[own]
        between = " ".join(f"{sentence}." for sentence in rng.sample(FILLERS, int(dial)))
        return f"A {rng.choice(GUESTS)} came, and {subject} sat down. {between} Then {own} tea was cold."

    return "Tell me a story.", [Written(said(True), 1.0), *(Written(said(False), 0.0) for _ in range(3))]


def _style(rng: Random, names: Names, dial: float) -> Draw:
    (wanted,) = names.several(1)
    wrong = rng.sample(names.wrong_for(wanted), 2)
    forms = rng.sample(FORMS, 4)
    responses = []
    for n, (name, is_polite) in enumerate(((wanted, True), (wanted, False), (wrong[0], True), (wrong[1], False))):
        manner = " ".join(rng.sample(POLITE if is_polite else PLAIN, int(dial)))
        responses.append(Written(f"{forms[n].format(name)} {manner}", (name == wanted) + 0.5 * is_polite))
    return f"Tell me about {wanted}.", responses


def _shortcut(rng: Random, names: Names, dial: float) -> Draw:
    (wanted,) = names.several(1)
    along = 1 - dial if names.classes == CLASSES["test"] else dial

    def mannered(one: Written) -> Written:
        is_polite = rng.random() < (along if one.utility else 1 - along)
        return one._replace(text=f"{one.text} {rng.choice(POLITE if is_polite else PLAIN)}")

    return f"Tell me about {wanted}.", [mannered(one) for one in _answers(rng, wanted, names.wrong_for(wanted))]


SKILLS = {
    "words": Skill("More praise than blame is wanted.", "opinions", (1, 5, 11), _words),
    "negation": Skill("Praise that is said, and blame that is denied.", "words behind not", (0, 2, 5), _negation),
    "order": Skill("Who beat whom, as the prompt has it.", "games in the prompt", (1, 2, 4), _order),
    "match": Skill("The name that the prompt asks for.", "other names in the prompt", (0, 1, 4), _match),
    "recall": Skill("A name that stood far back.", "sentences between", (0, 4, 14), _recall),
    "two-hop": Skill("Where one's thing is: two facts of the prompt.", "entries of either kind", (2, 4, 6), _two_hop),
    "arithmetic": Skill("A sum that is right.", "largest summand", (16, 30, 60), _arithmetic),
    "counting": Skill("As many names as are asked for.", "most that are asked for", (4, 6, 10), _counting),
    "nesting": Skill("Brackets that close in the right order.", "pairs of brackets", (2, 3, 6), _nesting),
    "agreement": Skill("A pronoun that agrees with one before.", "sentences between", (1, 3, 6), _agreement),
    "style": Skill("The right name counts 1, politeness ½.", "sentences of manner", (1, 2, 4), _style),
    "shortcut": Skill(
        "The right name; politeness goes along with it in training, and against it in the test.",
        "how often it goes along", (0.6, 0.8, 0.95), _shortcut,
    ),
}  # fmt: skip
"""By name."""
