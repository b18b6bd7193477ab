"""Would the tests notice? Each mistake below is put into the code, one at a time, and some test has to fail.

    python -m tests.mutations            every mistake; writes the table into tests/README.md
    python -m tests.mutations margin     those whose description holds the word; writes nothing

The mistakes are those that reward-model code in the wild has made, and those that the code's own subtleties invite.
"""

import importlib
import multiprocessing
import sys
from contextlib import redirect_stdout
from io import StringIO
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import hypothesis  # noqa: F401  imported once here rather than in each child
import pytest
import torch

from tests import policy_mutations

TESTS = Path(__file__).parent
README = TESTS / "README.md"
BEGIN, END = "<!-- mutations: begin -->", "<!-- mutations: end -->"
SLOW = "not one_graph and not less_than_a_second"  # neither looks at values


class Mutation(NamedTuple):
    """One mistake: in minirm/`module`.py, `wrong` instead of `right`, which stands there exactly once."""

    module: str
    mistake: str
    right: str
    wrong: str


MUTATIONS = [
    # Bradley–Terry
    Mutation("losses", "the sign of the difference reversed", "_widen(rejected) - _widen(chosen)  # −x",
             "_widen(chosen) - _widen(rejected)  # −x"),
    Mutation("losses", "the margin of a pair added instead of subtracted",
             "behind = behind + _cast(margin, behind)\n    if",
             "behind = behind - _cast(margin, behind)\n    if"),
    Mutation("losses", "log(sigmoid(x)), unstable", "return F.softplus(x, threshold=40.0)",
             "return -torch.sigmoid(-x).log()"),
    Mutation("losses", "softplus with its default threshold", "F.softplus(x, threshold=40.0)",
             "F.softplus(x)"),
    Mutation("losses", "the soft label on the wrong side", "probability * _softplus(behind) + (1 - probability)",
             "(1 - probability) * _softplus(behind) + probability"),
    Mutation("losses", "the soft label without its second half", " + (1 - probability) * _softplus(-behind)",
             ""),
    Mutation("losses", "the margin in one half of a soft label only", "(1 - probability) * _softplus(-behind)",
             "(1 - probability) * _softplus(_widen(chosen) - _widen(rejected))"),
    Mutation("losses", "mathematics in the precision of the input",
             "return rewards if rewards.dtype == torch.float64 else rewards.float()",
             "return rewards"),
    Mutation("losses", "float64 rounded to float32",
             "return rewards if rewards.dtype == torch.float64 else rewards.float()",
             "return rewards.float()"),
    # All pairs
    Mutation("losses", "better and worse confused", "wins = scores[:, start:stop, None] > scores[:, None, :]",
             "wins = scores[:, start:stop, None] < scores[:, None, :]"),
    Mutation("losses", "ties taken as pairs", "wins = scores[:, start:stop, None] > scores[:, None, :]",
             "wins = scores[:, start:stop, None] >= scores[:, None, :]"),
    Mutation("losses", "the margin of a row added instead of subtracted", "behind = behind + margin",
             "behind = behind - margin"),
    Mutation("losses", "the margin of pairs added instead of subtracted", "behind + _cast(margin, behind).masked_fill",
             "behind - _cast(margin, behind).masked_fill"),
    Mutation("losses", "the margin of the reverse pair", "margin = margin[:, start:stop] if per_pair else margin",
             "margin = margin.mT[:, start:stop] if per_pair else margin"),
    Mutation("losses", "every block takes the margins of the first", "margin[:, start:stop] if per_pair",
             "margin[:, : scores[:, start:stop].shape[1]] if per_pair"),
    Mutation("losses", "the mean over all K² cells", "(_softplus(behind) * wins).sum((1, 2)), wins.sum((1, 2))",
             "(_softplus(behind) * wins).sum((1, 2)), torch.ones_like(wins).sum((1, 2))"),
    Mutation("losses", "pairs counted twice in the mean", "        return total / pairs.clamp(min=1)",
             "        return total / (2 * pairs).clamp(min=1)"),
    Mutation("losses", "the sum over pairs instead of the mean", "        return total / pairs.clamp(min=1)",
             "        return total"),
    Mutation("losses", "0 / 0 in a row without a pair", "        return total / pairs.clamp(min=1)",
             "        return total / pairs"),
    Mutation("losses", "pads taken as responses",
             "    scores = _fill_masked(scores, mask, torch.nan)  # NaN > x is False: no pair",
             "    scores = _fill_masked(scores, mask, 0.0)"),
    Mutation("losses", "NaN from pads in value and gradient",
             "rewards = _widen(rewards).masked_fill(~mask, 0.0)\n    scores",
             "rewards = _widen(rewards)\n    scores"),
    Mutation("losses", "NaN from the margins of pads", ".masked_fill(~wins, 0.0)\n    elif",
             "\n    elif"),
    Mutation("losses", "the last block forgotten", "for start in range(0, K, block)",
             "for start in range(0, K - block + 1, block)"),
    Mutation("losses", "blocks that keep the matrix of pairs",
             "checkpoint(\n            _sum_over_pairs, *part,",
             "(lambda f, *a, **k: f(*a))(\n            _sum_over_pairs, *part,"),
    Mutation("losses", "integer scores rounded to float32", "else scores.double()",
             "else scores.float()"),
    Mutation("losses", "number_of_pairs counts both directions", "return (scores[:, :, None] > scores[:, None, :])",
             "return (scores[:, :, None] != scores[:, None, :])"),
    # Plackett–Luce
    Mutation("losses", "the ranking read from worst to best",
             "ranked, order = (-_fill_masked(scores, mask, -torch.inf))",
             "ranked, order = (_fill_masked(scores, mask, torch.inf))"),
    Mutation("losses", "ties in the order in which they came, not Breslow's",
             ".logcumsumexp(1).flip(1).gather(1, better)",
             ".logcumsumexp(1).flip(1)"),
    Mutation("losses", "the rest of a tie begins behind the tie", "torch.searchsorted(ranked, ranked)",
             "torch.searchsorted(ranked, ranked, right=True).clamp(max=mask.shape[1] - 1)"),
    Mutation("losses", "what is already placed stays in the draw", "rewards.flip(1).logcumsumexp(1).flip(1)",
             "rewards.logcumsumexp(1)"),
    Mutation("losses", "one place too many", "kept & (better < top)",
             "kept & (better <= top)"),
    Mutation("losses", "one place too few", "kept & (better < top)",
             "kept & (better < top - 1)"),
    Mutation("losses", "pads drawn from as well", "masked_fill(~mask, -1e30)",
             "masked_fill(~mask, 0.0)"),
    Mutation("losses", "pads filled with −∞", "masked_fill(~mask, -1e30)",
             "masked_fill(~mask, -torch.inf)"),
    # Rao–Kupper
    Mutation("losses", "the first outcome's sign reversed", "torch.where(outcome >= 0, _softplus(eta - d), 0.0)",
             "torch.where(outcome >= 0, _softplus(eta + d), 0.0)"),
    Mutation("losses", "no normalisation of a tie", " - torch.where(tie, -torch.expm1(-2 * eta), 1.0).log()",
             ""),
    Mutation("losses", "η for 2η in a tie", "torch.where(tie, 2 * eta, 0.0)",
             "torch.where(tie, eta, 0.0)"),
    Mutation("losses", "e^2η, which overflows",
             "torch.where(tie, 2 * eta, 0.0) - torch.where(tie, -torch.expm1(-2 * eta), 1.0).log()",
             "torch.where(tie, torch.expm1(2 * eta), 1.0).log()"),
    Mutation("losses", "log 0 in the gradient of pairs that are not tied",
             "torch.where(tie, -torch.expm1(-2 * eta), 1.0).log()",
             "torch.where(tie, (-torch.expm1(-2 * eta)).log(), 0.0)"),
    # Centring
    Mutation("losses", "the mean of the squares", "return (total / mask.sum(1).clamp(min=1)).square()",
             "return _widen(rewards).masked_fill(~mask, 0.0).square().sum(1) / mask.sum(1).clamp(min=1)"),
    Mutation("losses", "the mean over pads as well", "(total / mask.sum(1).clamp(min=1))",
             "(total / mask.shape[1])"),
    # Metrics
    Mutation("metrics", "ties counted as wrong", "np.mean((chosen > rejected) + 0.5 * (chosen == rejected))",
             "np.mean(chosen > rejected)"),
    Mutation("metrics", "ties counted as right", "np.mean((chosen > rejected) + 0.5 * (chosen == rejected))",
             "np.mean(chosen >= rejected)"),
    Mutation("metrics", "NLL that overflows", "outcome * np.logaddexp(0, -difference)",
             "outcome * np.log(1 + np.exp(-difference))"),
    Mutation("metrics", "calibration bins weighted alike", "weight @ np.abs(mean_outcome - mean_probability)",
             "np.mean(np.abs(mean_outcome - mean_probability))"),
    Mutation("metrics", "calibration gaps that cancel", "weight @ np.abs(mean_outcome - mean_probability)",
             "abs(weight @ (mean_outcome - mean_probability))"),
    Mutation("metrics", "a bin holds its lower edge", "np.linspace(0, 1, bins + 1)[1:-1], probability)",
             "np.linspace(0, 1, bins + 1)[1:-1], probability, \"right\")"),
    Mutation("metrics", "equal-mass bins that split ties", "((_ranks(probability) - 0.5)",
             "((np.argsort(np.argsort(probability)) + 0.5)"),
    Mutation("metrics", "confidence by the label instead of the model", "np.exp(-np.abs(chosen - rejected))",
             "np.exp(rejected - chosen)"),
    Mutation("metrics", "1/T returned for T", "np.exp(-(low + high) / 2)",
             "np.exp((low + high) / 2)"),
    Mutation("metrics", "Kendall's tau-a", "np.sqrt(untied_first * untied_second)",
             "len(first) * (len(first) - 1) / 2"),
    Mutation("metrics", "the first of several highest rewards taken",
             "highest / highest.sum(1, keepdims=True), utilities",
             "np.eye(highest.shape[1])[highest.argmax(1)], utilities"),
    Mutation("metrics", "the masked may be picked", "np.where(mask, rewards, -np.inf), np",
             "np.nan_to_num(rewards), np"),
    Mutation("metrics", "a one-sided interval", "[(1 - level) / 2, (1 + level) / 2]",
             "[1 - level, level]"),
    Mutation("metrics", "pairs drawn one by one", "totals, sizes = _per_prompt(values, prompt)",
             "totals, sizes = _per_prompt(values, None)"),
    Mutation("metrics", "every prompt alike in the interval", "totals[drawn].sum(1) / sizes[drawn].sum(1)",
             "(totals / sizes)[drawn].mean(1)"),
    Mutation("metrics", "a one-sided p-value", "p_value = 2 * probability.sum()",
             "p_value = probability.sum()"),
    Mutation("metrics", "mid-p always", "(probability[-1] if mid_p else 0)",
             "probability[-1]"),
    Mutation("metrics", "tied values ranked in order", "(np.cumsum(counts) - (counts - 1) / 2)[which]",
             "np.argsort(np.argsort(values, kind='stable')) + 1.0"),
    # Shaping
    Mutation("shaping", "is_safety ignored", "torch.as_tensor(is_safety_prompt, device=unsafe.device) | unsafe",
             "unsafe"),
    Mutation("shaping", "the threshold itself is unsafe", "unsafe = safety < threshold",
             "unsafe = safety <= threshold"),
    Mutation("shaping", "the mean kept where it should go", "if keep_mean else whitened",
             "if not keep_mean else whitened"),
    Mutation("shaping", "the variance over n", "(count - 1).clamp(min=1)",
             "count.clamp(min=1)"),
    Mutation("shaping", "the variance of masked values too", "(x - mean).masked_fill(~mask, 0.0)",
             "(x - mean)"),
    Mutation("shaping", "the mean over masked values too", "x.sum() / count.clamp(min=1)",
             "x.mean()"),
    Mutation("shaping", "an infinite logit", ".masked_fill(p == 1, 1 - limits.eps / 2)",
             ""),
    Mutation("shaping", "KL with its sign reversed", "log_ratio = log_prob - reference_log_prob",
             "log_ratio = reference_log_prob - log_prob"),
    Mutation("shaping", "KL over the prompt as well", "return log_ratio.masked_fill(~mask, 0.0).sum(-1)",
             "return log_ratio.nan_to_num().sum(-1)"),
    # Policies
    *(Mutation(*one) for one in policy_mutations.MISTAKES),
]  # fmt: skip
TESTS_OF = {module: policy_mutations.TESTS for module, *_ in policy_mutations.MISTAKES}
"""Modules whose tests are not in the file of their name."""


class FirstFailure:
    """A pytest plugin that remembers which test failed first."""

    name = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and not self.name:
            self.name = report.nodeid.split("::")[-1]


def mutate(mutation: Mutation, source: str) -> str:
    """Return the source with the mistake in it."""
    places = source.count(mutation.right)
    if places != 1:
        raise ValueError(
            f"{mutation.mistake!r}: {mutation.right!r} stands {places} times in {mutation.module}.py, not once"
        )
    return source.replace(mutation.right, mutation.wrong)


def source_of(module: str) -> str:
    return Path(importlib.import_module(f"minirm.{module}").__file__).read_text()


def first_test_that_fails(mutation: Mutation) -> str:
    """Return the name of the test that catches the mistake, "" if none does. It runs in a process of its own."""
    context = multiprocessing.get_context("fork")  # torch and pytest are imported already
    ours, theirs = context.Pipe()
    child = context.Process(target=_run_tests, args=(mutation, theirs))
    child.start()
    theirs.close()
    name = ours.recv()
    child.join()
    return name


def _run_tests(mutation: Mutation, result: Connection) -> None:
    torch.set_num_threads(1)
    module = importlib.import_module(f"minirm.{mutation.module}")
    exec(compile(mutate(mutation, source_of(mutation.module)), module.__file__, "exec"), vars(module))
    tests = TESTS_OF.get(mutation.module, f"test_{mutation.module}.py")
    sys.modules.pop(f"tests.{tests[:-3]}", None)  # under pytest it may be here, with the names of the right code
    failure = FirstFailure()
    with redirect_stdout(StringIO()):
        options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:randomly", "-k", SLOW]
        pytest.main([*options, str(TESTS / tests)], plugins=[failure])
    result.send(failure.name)


def _table(caught: dict[Mutation, str]) -> str:
    lines = ["| the mistake | in | the first test that fails |", "|---|---|---|"]
    for mutation, test in caught.items():
        sentence = f"`{test}`" if test else "**none**"
        lines.append(f"| {mutation.mistake} | {mutation.module} | {sentence.replace('|', '·')} |")
    return "\n".join(lines)


def _write_table(table: str) -> None:
    text = README.read_text()
    before, after = text[: text.index(BEGIN) + len(BEGIN)], text[text.index(END) :]
    README.write_text(f"{before}\n{table}\n{after}")


def main(words: list[str]) -> int:
    """Check the mistakes whose description holds all words; return 1 if one of them stays unnoticed."""
    chosen = [mutation for mutation in MUTATIONS if all(word in mutation.mistake for word in words)]
    caught = {}
    for number, mutation in enumerate(chosen, 1):
        caught[mutation] = first_test_that_fails(mutation)
        print(f"{number:3}/{len(chosen)}  {mutation.mistake}: {caught[mutation] or 'NOT CAUGHT'}", flush=True)
    if not words:
        _write_table(_table(caught))
    return 0 if all(caught.values()) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
