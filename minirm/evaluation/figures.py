"""What was measured of a set of rewards, and how it is told: as JSON and as the rows of a table."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean with its 95% interval."""

    value: float
    low: float | None
    """Lower end of the interval; None for fewer prompts than `minirm.intervals.FEWEST_PROMPTS`, too few for any."""
    high: float | None
    count: int
    """How many pairs, comparisons or prompts the mean is over."""
    chance: float = 0.5
    """The value that says nothing: what rewards drawn at random reach, or no difference."""

    @property
    def is_resolved(self) -> bool:
        """Whether the interval excludes chance; an estimate without an interval is not resolved."""
        return self.low is not None and not self.low <= self.chance <= self.high


@dataclass(frozen=True, slots=True)
class Surprise:
    """How well a language model foresees what it is to learn."""

    nats_per_token: float
    """Mean of −log p(token)."""
    perplexity: float
    """Its exponential: among how many equally likely tokens it would be as unsure."""


@dataclass(frozen=True, slots=True)
class Fit:
    """How well rewards fit labels of single responses or steps, where no two responses can be compared."""

    loss: float
    """Mean of the loss that was trained on."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """How well σ(reward difference) serves as the probability that the better response is better."""

    nll_nats: float
    """Mean of −log probability of the label; knowing nothing gives ln 2 = 0.693."""
    brier: float
    """Mean of (1 − probability)², for hard labels; knowing nothing gives 0.25."""
    ece: float
    """Expected calibration error of the confidence max(p, 1 − p) in the response that the model prefers."""
    ece_of_noise: float
    """About what that would be if the same confidences were perfectly calibrated."""
    debiased: float | None
    """Root mean square of the same gaps, less what noise adds to it; None when no bin has two pairs."""
    temperature: float | None
    """By what the rewards should be divided for the least NLL on these pairs; above 1 the model is too sure. None when
    no pair has two different rewards."""
    bins: tuple["ReliabilityBin", ...]
    """The reliability diagram of that confidence, empty bins left out."""


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """Pairs about which the model is equally sure."""

    confidence: float
    """Mean of σ(|reward difference|)."""
    accuracy: float
    """How often the preferred response was the better one."""
    pairs: int


@dataclass(frozen=True, slots=True)
class Ranking:
    """Rankings of more than two responses."""

    kendall_tau: Estimate
    """Mean of Kendall's tau-b between rewards and scores."""
    best_of_k: Estimate
    """How often the response with the highest reward has the highest score."""


@dataclass(frozen=True, slots=True)
class LengthBias:
    """How much of the judgement, and of the reward, is length in characters."""

    longer_wins: Estimate
    """Accuracy of choosing the longer response."""
    gain: Estimate
    """Accuracy of the rewards minus that, over the same pairs."""
    better_is_shorter: Estimate | None
    """Accuracy of the rewards on the pairs whose better response is the shorter one; None when there are none."""
    correlation: float | None
    """Spearman's correlation of reward with length over all responses; None when either is constant."""
    correlation_within: Estimate | None
    """Mean of the same within the responses to each prompt."""


@dataclass(frozen=True, slots=True)
class Leakage:
    """Test prompts that also stand in training; where there is no prompt, responses that do."""

    prompts: int
    """How many distinct prompts do."""
    leaked: Estimate | None
    """Accuracy on their pairs; None when there are none."""
    clean: Estimate | None
    """Accuracy on the other pairs."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What one set of rewards is worth on one set of comparisons."""

    comparisons: int
    prompts: int
    """Different prompts; comparisons without a prompt count one each."""
    pairs: int
    """Strictly ordered pairs: the two scores differ."""
    label_ties: int
    """Pairs left out because their scores are equal, or their label as probably false as true."""
    reward_ties: int
    """Strictly ordered pairs with equal rewards; each counts one half."""
    length_ties: int
    """Strictly ordered pairs of equal length."""
    accuracy: Estimate
    calibration: Calibration
    length: LengthBias
    ranking: Ranking | None
    """None when no comparison has more than two responses."""
    swapped: Estimate | None
    """Accuracy of the rewards that the same responses get under another prompt; None: not measured."""
    leakage: Leakage | None
    """None: not measured."""
    subsets: dict[str, Estimate]
    """Accuracy per named part of a benchmark."""
    cut: dict[str, int] | None
    """Responses that were scored behind a cut prompt ("prompts"), or cut themselves ("responses"); None: not known."""
    dropped: dict[str, int] | None
    """Rows of the data that were left out, and responses that were merged, by reason; None: not known."""
    resamples: int
    seed: int

    def to_json(self) -> dict:
        """Return the same as dicts, lists, numbers and None."""
        return asdict(self)


class TableRow(NamedTuple):
    """One line for the command line or the report; every field is text."""

    name: str
    value: str
    interval: str
    explanation: str


def as_table(evaluation: Evaluation) -> list[TableRow]:
    """Return the evaluation as rows to print, the accuracy first and what could explain it away right behind."""
    return [
        *_accuracy_rows(evaluation),
        *_leakage_rows(evaluation),
        *_calibration_rows(evaluation.calibration),
        *_ranking_rows(evaluation.ranking),
        *_cut_rows(evaluation.cut or {}),
        TableRow("equal rewards", f"{evaluation.reward_ties:,}", "", "pairs with equal rewards, each counted one half"),
        TableRow("equal scores", f"{evaluation.label_ties:,}", "", "pairs without a better response, left out"),
        *(TableRow("left out", f"{count:,}", "", why) for why, count in sorted((evaluation.dropped or {}).items())),
        *(_row(f"subset {name}", part, _count(part.count, "pair")) for name, part in evaluation.subsets.items()),
    ]


def _accuracy_rows(evaluation: Evaluation) -> Iterator[TableRow]:
    length = evaluation.length
    ties = _count(evaluation.length_ties, "pair")
    equal = f"; {ties} of equal length at one half each" if evaluation.length_ties else ""
    of = f"of {_count(evaluation.pairs, 'pair')} of {_count(evaluation.prompts, 'prompt')}"
    yield _row("accuracy", evaluation.accuracy, f"in the right order, {of}")
    yield _row("longer wins", length.longer_wins, f"choosing the longer response, without a model{equal}")
    yield _row("gain over longer wins", length.gain, "the first row minus the second, on the same pairs", sign="+")
    if length.better_is_shorter is None:
        yield TableRow("better is shorter", "–", "", "no pair has a better response that is the shorter one")
    else:
        shorter = f"accuracy on {_count(length.better_is_shorter.count, 'pair')} whose better response is shorter"
        yield _row("better is shorter", length.better_is_shorter, shorter)
    correlation = "–" if length.correlation is None else _signed(length.correlation, "+")
    yield TableRow("reward and length", correlation, "", "Spearman's correlation over all responses")
    if length.correlation_within is not None:
        yield _row("… within a prompt", length.correlation_within, "mean over the prompts", sign="+")
    if evaluation.swapped is None:
        yield TableRow("prompts swapped", "–", "", "not measured")
    else:
        yield _row("prompts swapped", evaluation.swapped, "accuracy behind other prompts: what needs no prompt")


def _cut_rows(cut: Mapping[str, int]) -> Iterator[TableRow]:
    """Yield what was cut, and nothing where nothing was."""
    if cut.get("prompts"):
        yield TableRow("cut prompts", f"{cut['prompts']:,}", "", "responses scored behind a prompt cut from its left")
    if cut.get("responses"):
        yield TableRow("cut responses", f"{cut['responses']:,}", "", "responses cut before their end token")


def _leakage_rows(evaluation: Evaluation) -> Iterator[TableRow]:
    leakage = evaluation.leakage
    if leakage is None:
        yield TableRow("leaked prompts", "–", "", "not measured: the training prompts are not known")
        return
    of = f"of {_count(evaluation.prompts, 'prompt')}: those that also stand in training"
    yield TableRow("leaked prompts", f"{leakage.prompts:,}", "", of)
    if leakage.leaked is not None:
        yield _row("… accuracy on them", leakage.leaked, _count(leakage.leaked.count, "pair"))
    if leakage.prompts and leakage.clean is not None:
        yield _row("… on the others", leakage.clean, _count(leakage.clean.count, "pair"))


def _calibration_rows(calibration: Calibration) -> Iterator[TableRow]:
    yield TableRow(
        "NLL, in nats", f"{calibration.nll_nats:.3f}", "", "−log probability of the label; 0.693 knows nothing"
    )
    yield TableRow(
        "Brier score", f"{calibration.brier:.3f}", "", "squared error of the probability; 0.25 knows nothing"
    )
    noise = (
        f"mean gap between confidence and accuracy; of perfect ones chance alone makes {calibration.ece_of_noise:.3f}"
    )
    yield TableRow("ECE", f"{calibration.ece:.3f}", "", noise)
    debiased = "–" if calibration.debiased is None else f"{calibration.debiased:.3f}"
    yield TableRow("… without chance", debiased, "", "root mean square of the gaps, less what chance adds to it")
    if calibration.temperature is None:
        yield TableRow("temperature", "–", "", "undefined: no pair has two different rewards")
        return
    sure = "too sure" if calibration.temperature > 1 else "not sure enough"
    yield TableRow("temperature", f"{calibration.temperature:.3g}", "", f"divides the rewards best; they are {sure}")


def _ranking_rows(ranking: Ranking | None) -> Iterator[TableRow]:
    if ranking is not None:
        rankings = f"{_count(ranking.kendall_tau.count, 'ranking')} of more than two responses"
        yield _row("Kendall's tau-b", ranking.kendall_tau, f"mean over {rankings}", sign="+")
        hit = f"highest reward has the highest score; {ranking.best_of_k.chance:.3f} by chance"
        yield _row("best of K", ranking.best_of_k, hit)


def _row(name: str, estimate: Estimate, explanation: str, sign: str = "") -> TableRow:
    interval = "" if estimate.low is None else f"[{_signed(estimate.low, sign)}, {_signed(estimate.high, sign)}]"
    if estimate.low is None:
        explanation += "; too few prompts for an interval"
    elif not estimate.is_resolved:
        explanation += "; not resolved from " + (f"chance ({estimate.chance:.3g})" if estimate.chance else "0")
    return TableRow(name, _signed(estimate.value, sign), interval, explanation)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _signed(value: float, sign: str) -> str:
    return f"{value:{sign}.3f}".replace("-", "−")
