"""A study's findings in words: differences with intervals, the verdict, the questions that two contestants answer."""

from bench.architectures.contestants import GPT2, HEADS, OWN_GPT2
from bench.architectures.figures import ACCURACY
from bench.architectures.statistics import is_resolved
from bench.architectures.study import Study
from bench.architectures.subjects import SWAPPED
from minirm.metrics import Interval


def with_interval(value: Interval | None, sign: str = "") -> str:
    """Return "0.812 [0.797, 0.827]"."""
    if value is None:
        return "–"
    return f"{value[0]:{sign}.3f} [{value[1]:{sign}.3f}, {value[2]:{sign}.3f}]".replace("-", "−")


def difference_words(value: Interval | None) -> str:
    """Return a difference with its interval, and whether the data tell it from 0."""
    if value is None:
        return "–"
    return with_interval(value, "+") + ("" if is_resolved(value) else ", not resolved")


def verdict(study: Study) -> str:
    """Return what was found in three sentences."""
    best, *others = study.ranking()
    accuracy, baseline = study.interval(study.main, best, ACCURACY), study.baseline
    seconds = {name: study.seconds_to_most(name).whole for name in (best, *others)}
    alike = [other for other in others if not is_resolved(study.difference(study.main, best, other))]
    lead = f"not told apart from it: {', '.join(alike)}" if alike else "it is told apart from every other"
    first = f"On {study.main}, {best} orders most pairs rightly, {with_interval(accuracy)}{_plain(study)}; {lead}."
    second = _against_baseline(study, best, baseline)
    fastest = min(seconds, key=seconds.__getitem__)
    price = f"{seconds[best]:.3g} s of training against {seconds[fastest]:.3g} s for the fastest, {fastest}"
    third = f"Its price is {price}." if fastest != best else f"It is also the fastest to train, {seconds[best]:.3g} s."
    return " ".join([first, second, third])


def _plain(study: Study) -> str:
    """Return what the best method without a network reaches, in brackets; "" if none was run."""
    names = [contestant.name for contestant in study.setup.contestants if not contestant.is_network]
    if not names:
        return ""
    accuracy = {name: study.interval(study.main, name, ACCURACY).estimate for name in names}
    best = max(accuracy, key=accuracy.__getitem__)
    return f" ({best}, without a network: {accuracy[best]:.3f})"


def _against_baseline(study: Study, best: str, baseline: str) -> str:
    shown = OWN_GPT2 if best == baseline and (study.main, OWN_GPT2) in study.resampled else best
    if shown == baseline:
        return "It is the baseline itself."
    return f"{shown} minus {baseline} is {difference_words(study.difference(study.main, shown, baseline))}."


STATEMENTS = [
    ("minirm's decoder with GPT-2's start of queries and keys, against GPT-2", "plain start", GPT2),
    ("minirm's GPT-2 style, whose queries start equal to keys, against GPT-2", OWN_GPT2, GPT2),
    ("The start with queries equal to keys, against GPT-2's own start", OWN_GPT2, "plain start"),
    ("A last layer that begins as the mean of all it sees", "average read", OWN_GPT2),
    ("RMSNorm instead of LayerNorm", "RMSNorm", OWN_GPT2),
    ("Rotary instead of learned positions", "rotary positions", OWN_GPT2),
    ("SwiGLU instead of GELU", "SwiGLU", OWN_GPT2),
    ("All of Llama style", "Llama style", OWN_GPT2),
    ("An encoder that looks twice, once per response", "BERT style", OWN_GPT2),
    ("PyTorch's TransformerDecoder, the prompt being its memory", "PyTorch decoder", OWN_GPT2),
    ("GRU instead of attention", "GRU", OWN_GPT2),
    ("LSTM instead of attention", "LSTM", OWN_GPT2),
    ("A language-model stage first", "language model first", OWN_GPT2),
    ("Five heads on one backbone, each on its own resample, instead of one head", HEADS, OWN_GPT2),
    ("Rankings of all K responses, against disjoint pairs of the same responses", OWN_GPT2, "pairs"),
]
"""A question, and the two contestants whose difference answers it."""


def statements(study: Study) -> list[tuple[str, ...]]:
    """Return each question that was measured, who was compared, and by how much they differ: see the page's columns."""
    rows = []
    for question, first, second in STATEMENTS:
        difference = study.difference(study.main, first, second)
        if difference is None:
            continue
        swapped = study.difference(study.main, first, second, SWAPPED)
        seconds = [study.seconds_to_most(name).whole for name in (first, second)]
        words = difference_words(difference), difference_words(swapped), f"{seconds[0] / seconds[1]:.2f} ×"
        rows.append((question, f"{first} − {second}", *words))
    return rows
