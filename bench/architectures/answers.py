"""A study's findings in words: differences with intervals, the verdict, the questions that two contestants answer."""

import re
from pathlib import Path

from bench.architectures.contestants import APART, AS_GPT2, GPT2, HEADS, OWN_GPT2, PREFIX
from bench.architectures.differences import Difference, against_baseline, at_convergence, difference, family, told_apart
from bench.architectures.figures import WAY
from bench.architectures.prices import seconds
from bench.architectures.study import ALL_SKILLS, Study, figure_of
from bench.architectures.subjects import is_known_truth
from minirm.metrics import Interval

FEW = 3
"""So many names still read well in a sentence."""
CEILING = 0.97
"""Part of the way from chance to the best possible, from which on a skill has no room left that a test would show."""


def shortened(name: str) -> str:
    """Return a contestant's name without what its place in a picture or sentence makes clear."""
    return name.replace(" (Hugging Face)", "").replace(" + logistic regression", "")


def with_interval(value: Interval | None, sign: str = "") -> str:
    """Return ".812 [.797, .827]"."""
    if value is None:
        return "–"
    return _short(f"{value[0]:{sign}.3f} [{value[1]:{sign}.3f}, {value[2]:{sign}.3f}]")


def against_zero(value: Interval) -> str:
    """Return "+.082 [+.063, +.101]", and "not resolved" if the interval does not tell it from 0."""
    return with_interval(value, "+") + ("" if value.low > 0 or value.high < 0 else ", not resolved")


def _short(numbers: str) -> str:
    """Return numbers without the 0 before their point."""
    return re.sub(r"(?<!\d)0\.", ".", numbers).replace("-", "−")


def difference_words(value: Difference | None) -> str:
    """Return a difference with its interval, and a star if the data tell it from 0, its family being considered."""
    if value is None:
        return "–"
    return with_interval(value.interval, "+") + (" *" if value.is_resolved else "")


def verdict(study: Study) -> str:
    """Return who leads on the skills, on the main subject, and on people's judgements, and at what price."""
    first, *others = study.subjects
    more = [subject for subject in others if subject == study.main or not is_known_truth(subject)]
    said = [leader(study, subject) for subject in (first, *more) if study.networks(subject)]
    if not said:
        return "Every training failed; see who took part."
    missing = f"Unfinished: without {', '.join(map(_file_name, study.missing))}." if study.missing else ""
    return " ".join(filter(None, [missing, *said, _to_convergence(study), _price(study)]))


def _to_convergence(study: Study) -> str:
    """Return who is most accurate where trainings end by validation, and who is told from the baseline there."""
    networks = {contestant.name for contestant in study.setup.networks}
    reached = {name: line["converged"][0] for name, line in study.points(study.converged).items() if name in networks}
    if len(reached) < 2:
        return ""
    best, found = max(reached, key=reached.get), at_convergence(study)
    baseline = shortened(study.baseline)
    value = _short(f"{reached[best]:.3f}")
    said = f"Trained to convergence on {Path(study.main).name}, {shortened(best)} is most accurate ({value}"
    if best in found:
        said += f", {difference_words(found[best])} against {baseline}"
    told = [one.interval[0] > 0 for name, one in found.items() if name in networks and one.is_resolved]
    others = (
        f"{sum(told)} of the {len(reached) - (study.baseline in reached)} other networks are resolved above {baseline}"
    )
    return f"{said}); {others}" + (f", {len(told) - sum(told)} below." if not all(told) else ".")


def _file_name(subject: str) -> str:
    return Path(subject).name


def leader(study: Study, subject: str) -> str:
    """Return in a sentence or two who leads on a subject, who is not told apart from it, and what needs no network."""
    best, *others = study.networks(subject)
    figure = figure_of(subject)
    value = with_interval(study.interval(subject, best, figure))
    known = subject == ALL_SKILLS or is_known_truth(subject)
    what = "of the way from chance to the best possible" if known else "right"
    where = _skills(study) if subject == ALL_SKILLS else Path(subject).name
    said = f"On {where}, {shortened(best)} leads the networks: {value} {what}"
    apart = told_apart(study, subject, [best, *others])
    alike = [name for name in others if not apart[best, name]]
    if best != study.baseline:
        against = next((one for one in against_baseline(study, subject) if one.first == best), None)
        said += f", {difference_words(against)} against {shortened(study.baseline)}"
        if against is not None and against.is_resolved:  # by its own, smaller family: it is said, and not said again
            alike, others = ([name for name in names if name != study.baseline] for names in (alike, others))
    return f"{said}{_alike(alike, others)}. {_plain(study, subject)}".strip()


def _skills(study: Study) -> str:
    """Return how many skills there are, and which of them say nothing any more: every network can do them."""
    skills = study.setup.skills
    least = {s: min((study.figure(s, n, WAY).whole.mean() for n in study.networks(s)), default=0.0) for s in skills}
    full = [skill for skill, way in least.items() if way >= CEILING]
    done = f" ({', '.join(full)}: every network {CEILING:.0%} of the way or more)" if full else ""
    return f"{len(skills)} skills{done}"


def _alike(alike: list[str], others: list[str]) -> str:
    """Return who of the others is not told apart from the best."""
    if not others:
        return ""
    if not alike:
        return "; it is told apart from every other"
    if len(alike) <= FEW:
        return f"; not told apart from it: {', '.join(map(shortened, alike))}"
    told = [shortened(name) for name in others if name not in alike]
    if len(told) > FEW:
        return f"; {len(alike)} of the {len(others)} others are not told apart from it"
    return f"; of the {len(others)} others it is told apart from {' and '.join(told) or 'none'}"


def _plain(study: Study, subject: str) -> str:
    """Return how the best without a network compares with the networks; "" if none was run."""
    networks, ranked = study.networks(subject), study.ranking(subject)
    plain = [name for name in ranked if name not in networks]
    if not plain:
        return ""
    value = _short(f"{study.figure(subject, plain[0], figure_of(subject)).whole.mean():.3f}")
    apart = told_apart(study, subject, [plain[0], *networks])
    above = sum(apart.get((plain[0], name), False) for name in networks)
    below = sum(apart.get((name, plain[0]), False) for name in networks)
    found = [f"resolved above {above} of {len(networks)} networks"] * (above > 0)
    found += [f"resolved below {below} of {len(networks)}"] * (below > 0)
    return f"Without a network, {shortened(plain[0])} gets {value}, {' and '.join(found) or 'told apart from none'}."


def _price(study: Study) -> str:
    taken = {name: found.whole for name in study.costs if (found := seconds(study, name)) is not None}
    if not taken:
        return ""
    fastest, best = min(taken, key=taken.__getitem__), study.networks(study.main)[0]
    where, price = Path(study.main).name, f"{taken[best]:.3g} s"
    if fastest == best:
        return f"On {where}, {shortened(best)} is also the fastest to train: {price}."
    return (
        f"A training on {where} takes {shortened(best)} {price}, and the fastest, {shortened(fastest)}, "
        f"{taken[fastest]:.3g} s."
    )


STATEMENTS = [
    ("minirm's decoder with GPT-2's start, against GPT-2", AS_GPT2, GPT2),
    ("minirm's GPT-2 style, against GPT-2", OWN_GPT2, GPT2),
    ("Queries that start equal to keys, at one scale: large", OWN_GPT2, "start: apart, large"),
    ("… at one scale: small", "start: equal, small", APART),
    ("Queries and keys that start large, apart", "start: apart, large", APART),
    ("A last layer whose values start loud", "loud read", OWN_GPT2),
    ("… and that begins as the mean of all it sees", "average read", "loud read"),
    ("Read as the mean of the response, not at its last token", "read: mean", OWN_GPT2),
    ("… as a learned mean", "read: learned mean", OWN_GPT2),
    ("A prefix encoder instead of a decoder", PREFIX, OWN_GPT2),
    ("… read at its response's first token, not its last", "prefix, read: first", PREFIX),
    (
        "An encoder–decoder instead of a decoder that shares a memory of embeddings",
        "encoder–decoder",
        "PyTorch decoder",
    ),
    ("A row for each response (batches then hold other comparisons)", "separate rows", OWN_GPT2),
    ("RMSNorm instead of LayerNorm", "RMSNorm", OWN_GPT2),
    ("Rotary instead of learned positions", "rotary positions", OWN_GPT2),
    ("No positions instead of learned ones", "no positions", OWN_GPT2),
    ("ALiBi instead of learned positions", "ALiBi", OWN_GPT2),
    ("SwiGLU instead of GELU, without its biases", "SwiGLU", OWN_GPT2),
    ("All of Llama style", "Llama style", OWN_GPT2),
    ("All of BERT style, which reads a prompt anew for each response", "BERT style", OWN_GPT2),
    ("PyTorch's TransformerDecoder, the prompt being its memory", "PyTorch decoder", OWN_GPT2),
    ("A GRU instead of attention, MLP and positions", "GRU", OWN_GPT2),
    ("… an LSTM instead of the GRU", "LSTM", "GRU"),
    ("A selective state space instead of attention, MLP and positions", "state space", OWN_GPT2),
    ("A language-model stage first", "language model first", OWN_GPT2),
    ("Five heads, each on its own resample, instead of one", HEADS, OWN_GPT2),
    ("Rankings of all K responses, against disjoint pairs of them", OWN_GPT2, "pairs"),
]
"""A question, and the two contestants whose difference answers it."""


def statements(study: Study, subject: str) -> list[tuple[str, Difference]]:
    """Return each question that was measured on a subject, with its answer; all of them are one family."""
    asked = [(question, difference(study, subject, *pair)) for question, *pair in STATEMENTS]
    asked = [(question, answer) for question, answer in asked if answer is not None]
    return list(zip((q for q, _ in asked), family([answer for _, answer in asked]), strict=True))
