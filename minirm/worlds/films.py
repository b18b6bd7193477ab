"""Requests for film reviews and their answers: one grammar, by which texts are written and read.

    prompt    Tonight we are showing The Silent Harbour by Ida Moreau from 1974. Tell me what is good about it.
    response  The Silent Harbour has witty dialogue and graceful editing. We sat in the third row.
              It was directed by Ida Moreau. Thank you for asking.

`Asked` is what a prompt asks for, `Said` what a response says. What is written reads back as it was meant; any other
text reads as far as the grammar knows it.
"""

import re
from random import Random
from typing import NamedTuple

# ── What can be named ─────────────────────────────────────────────────────────────────────────────────────────────────


def _list(text: str, separator: str = "|") -> tuple[str, ...]:
    """Return the entries of "one | two | three"."""
    return tuple(entry.strip() for entry in text.split(separator) if entry.strip())


ADJECTIVES = _list("""
    Silent | Crimson | Hidden | Golden | Restless | Velvet | Broken | Midnight |
    Distant | Scarlet | Wandering | Frozen | Gentle | Painted | Secret | Winter""")
NOUNS = _list("""
    Harbour | Orchard | Lantern | Garden | Letter | Mirror | Carousel | Violin |
    Bridge | Castle | Compass | Feather | Island | Theatre | Shadow | Voyage""")
FACTS = {  # in the order in which `WorldConfig.facts` counts them
    "director": _list("""
        Ida Moreau | Otto Lindqvist | Clara Voss | Emil Tanaka |
        Rosa Quintero | Hugo Bellamy | Nina Kowalski | Samuel Adeyemi"""),
    "year": tuple(str(year) for year in range(1971, 1979)),
    "actor": _list("""
        Leo Park | Marta Silva | Jonas Weber | Priya Nair |
        Oscar Dunne | Vera Novak | Kofi Mensah | Alice Hartley"""),
}
ASPECTS = _list("acting | music | dialogue | photography | editing | storytelling")
PRAISE = _list("brilliant | tender | witty | graceful | gripping | honest | superb | delightful")
BLAME = _list("dull | clumsy | lazy | wooden | shallow | dreary | muddled | tedious")

# ── How it is said ────────────────────────────────────────────────────────────────────────────────────────────────────
# No text begins with a name or a year: behind a space a byte-level tokenizer gives a word the same tokens everywhere.

INTRODUCTIONS = _list("Tonight we are showing {film}. | My friends talk about {film}. | Last week I heard of {film}.")
STATEMENTS = {"title": "{title}", "director": "by {director}", "year": "from {year}", "actor": "with {actor}"}
WISHES = {1: "what is good about it", 0: "what is good and what is bad about it", -1: "what is bad about it"}
REQUESTS = {
    "": _list("Tell me {wish}. | Write a review of {wish}. | Please say {wish}. | I wonder {wish}."),
    "director": _list("Who directed it, and {wish}?"),
    "year": _list("When did it come out, and {wish}?"),
    "actor": _list("Who plays the lead, and {wish}?"),
}
_MEANINGS = {
    request.format(wish=wish): (sentiment, question)
    for question, requests in REQUESTS.items()
    for request in requests
    for sentiment, wish in WISHES.items()
}
"""Every request → the sentiment that it asks for, and the fact that it asks for, or ""."""

OPINIONS = _list("""
    {title} has {quality1} {aspect1} and {quality2} {aspect2} |
    In {title} the {aspect1} is {quality1} and the {aspect2} is {quality2} |
    I found {quality1} {aspect1} and {quality2} {aspect2} in {title}""")
MENTIONS = {
    "director": _list("It was directed by {director} | The director is {director}"),
    "year": _list("It came out in {year} | The year was {year}"),
    "actor": _list("It stars {actor} | The lead is played by {actor}"),
}
MANNERS = {
    1: _list("Thank you for asking | I am glad to help | I do hope this helps"),
    -1: _list("What a silly request | Do your own homework | I have no time for this"),
}
FILLERS = _list("""
    I saw it on a rainy Tuesday | The cinema was half full | We sat in the third row | My sister came along |
    I had a bag of popcorn | The lights went down at eight | My coat was still wet | We met an old neighbour there""")

_GRAMMAR = frozenset(
    re.sub(r"\d", "", sentence)
    for sentences in (OPINIONS, FILLERS, *MENTIONS.values(), *MANNERS.values())
    for sentence in sentences
)
_WORDS = re.compile(
    rf"\b(?:(?P<title>The (?:{'|'.join(ADJECTIVES)}) (?:{'|'.join(NOUNS)}))|(?P<unnamed>[Tt]his film)"
    rf"|(?P<director>{'|'.join(FACTS['director'])})|(?P<actor>{'|'.join(FACTS['actor'])})|(?P<year>(?:18|19|20)\d\d)"
    rf"|(?P<praise>(?i:{'|'.join(PRAISE)}))|(?P<blame>(?i:{'|'.join(BLAME)}))|(?P<aspect>{'|'.join(ASPECTS)})"
    rf"|(?P<polite>{'|'.join(MANNERS[1])})|(?P<rude>{'|'.join(MANNERS[-1])}))\b"
)
_SLOTS = {"unnamed": "{title}", "praise": "{quality}", "blame": "{quality}"} | {
    name: f"{{{name}}}" for name in ("title", "director", "year", "actor", "aspect")
}


class Film(NamedTuple):
    """A film; "" where a text does not say."""

    title: str
    director: str
    year: str
    actor: str


class Asked(NamedTuple):
    """What a prompt asks for."""

    film: Film
    sentiment: int | None
    """1 for, 0 both sides, −1 against; None when the prompt does not say."""
    question: str
    """"director", "year", "actor", or "" when no fact is asked for."""


class Said(NamedTuple):
    """What a response says. Responses of the world name each thing at most once; other texts may do as they like."""

    title: tuple[str, ...]
    director: tuple[str, ...]
    year: tuple[str, ...]
    actor: tuple[str, ...]
    praise: int
    """Number of favourable opinions."""
    blame: int
    """Number of unfavourable opinions."""
    manner: int
    """1 polite, 0 neither, −1 rude (also if polite elsewhere)."""
    odd: float = 0.0
    """Share of its sentences that the grammar cannot say, or that repeat one; an empty text is wholly odd."""


def read_prompt(text: str) -> Asked:
    """Return what any text asks for, as far as the grammar knows it."""
    named = {match.lastgroup: match.group() for match in _WORDS.finditer(text)}
    film = Film(*(named.get(field, "") for field in Film._fields))
    sentiment, question = next((_MEANINGS[request] for request in _MEANINGS if request in text), (None, ""))
    return Asked(film, sentiment, question)


def read_response(text: str) -> Said:
    """Return what any text says, as far as the grammar knows it."""
    found = {name: [] for name in _WORDS.groupindex}
    for match in _WORDS.finditer(text):
        found[match.lastgroup].append(match.group())
    sentences = [sentence for sentence in re.split(r"[.!?]\s*", text) if sentence]
    known = {sentence for sentence in sentences if _template(sentence) in _GRAMMAR}
    return Said(
        *(tuple(found[field]) for field in Film._fields),
        praise=len(found["praise"]),
        blame=len(found["blame"]),
        manner=-1 if found["rude"] else int(bool(found["polite"])),
        odd=1 - len(known) / len(sentences) if sentences else 1.0,
    )


def praise(text: str) -> float:
    """Return the share of favourable opinions among all that a text has: 1 all praise, 0 all blame, ½ without any."""
    said = read_response(text)
    return said.praise / (said.praise + said.blame) if said.praise + said.blame else 0.5


def _template(sentence: str) -> str:
    """Return the sentence with its slots empty, as the grammar writes it."""
    return _WORDS.sub(lambda match: _SLOTS.get(match.lastgroup, match.group()), sentence)


def write_prompt(rng: Random, asked: Asked) -> str:
    """Return the request in words."""
    film = asked.film._asdict()
    stated = " ".join(statement.format(**film) for name, statement in STATEMENTS.items() if film[name])
    introduction = rng.choice(INTRODUCTIONS).format(film=stated)
    request = rng.choice(REQUESTS[asked.question]).format(wish=WISHES[asked.sentiment])
    return f"{introduction} {request}"


def write_response(rng: Random, said: Said, fillers: int, exclamations: int) -> str:
    """Return the response in words, with so many sentences that say nothing, and so many that end in "!"."""
    qualities = rng.sample(PRAISE, said.praise) + rng.sample(BLAME, said.blame)
    rng.shuffle(qualities)
    aspects = rng.sample(ASPECTS, 2)
    title = said.title[0] if said.title else "this film"
    opinion = rng.choice(OPINIONS).format(
        title=title, quality1=qualities[0], quality2=qualities[1], aspect1=aspects[0], aspect2=aspects[1]
    )
    sentences = [opinion[0].upper() + opinion[1:]]
    for fact, ways in MENTIONS.items():
        sentences += [rng.choice(ways).format(**{fact: value}) for value in getattr(said, fact)]
    rng.shuffle(sentences)
    for filler in rng.sample(FILLERS, fillers):
        sentences.insert(rng.randint(0, len(sentences)), filler)
    if said.manner:
        sentences.insert(rng.choice((0, len(sentences))), rng.choice(MANNERS[said.manner]))
    loud = set(rng.sample(range(len(sentences)), min(exclamations, len(sentences))))
    return " ".join(sentence + ("!" if place in loud else ".") for place, sentence in enumerate(sentences))
