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

import minirm  # noqa: F401  likewise
from tests import policy_mutations

TESTS = Path(__file__).parent
README = TESTS / "README.md"
BEGIN, END = "<!-- mutations: begin -->", "<!-- mutations: end -->"
TESTED_BY = {
    "vectors": "metrics",
    "limits": "losses",
    "models.ngrams": "ngrams",
    "training.objectives": "reward_model",
} | {module: policy_mutations.TESTS for module, *_ in policy_mutations.MISTAKES}
"""A module → whose tests look after it, where they are not its own."""
SLOW = "not one_graph and not less_than_a_second"  # neither looks at values


class Mutation(NamedTuple):
    """One mistake: in minirm/`module`.py, `wrong` instead of `right`, which stands there exactly once."""

    module: str
    mistake: str
    right: str
    wrong: str


MUTATIONS = [
    # Losses
    Mutation("losses", "the sign of the difference reversed",
             "widen(rejected) - widen(chosen)  # −x",
             "widen(chosen) - widen(rejected)  # −x"),
    Mutation("losses", "the margin of a pair added instead of subtracted",
             "behind = behind + cast(margin, behind)\n    if",
             "behind = behind - cast(margin, behind)\n    if"),
    Mutation("losses", "log(sigmoid(x)), unstable",
             "return F.softplus(x, threshold=40.0)",
             "return -torch.sigmoid(-x).log()"),
    Mutation("losses", "softplus with its default threshold",
             "F.softplus(x, threshold=40.0)",
             "F.softplus(x)"),
    Mutation("losses", "the soft label on the wrong side",
             "weighed(behind, probability) + weighed(-behind, 1 - probability)",
             "weighed(behind, 1 - probability) + weighed(-behind, probability)"),
    Mutation("losses", "the soft label without its second half",
             "weighed(behind, probability) + weighed(-behind, 1 - probability)",
             "weighed(behind, probability)"),
    Mutation("losses", "the margin in one half of a soft label only",
             "    return mix_labels(softplus, behind, cast(probability, behind))",
             "    return probability * softplus(behind) + (1 - probability) * softplus(chosen - rejected)"),
    Mutation("losses", "mathematics in the precision of the input",
             "return rewards if rewards.dtype == torch.float64 else rewards.float()",
             "return rewards"),
    Mutation("losses", "float64 rounded to float32",
             "return rewards if rewards.dtype == torch.float64 else rewards.float()",
             "return rewards.float()"),
    Mutation("losses", "better and worse confused",
             "wins = scores[:, start:stop, None] > scores[:, None, :]",
             "wins = scores[:, start:stop, None] < scores[:, None, :]"),
    Mutation("losses", "ties taken as pairs",
             "wins = scores[:, start:stop, None] > scores[:, None, :]",
             "wins = scores[:, start:stop, None] >= scores[:, None, :]"),
    Mutation("losses", "the margin of a row added instead of subtracted",
             "        behind = behind + cast(margin, behind)\n    losses",
             "        behind = behind - cast(margin, behind)\n    losses"),
    Mutation("losses", "the margin of the reverse pair",
             "margin = margin[:, start:stop]",
             "margin = margin.mT[:, start:stop]"),
    Mutation("losses", "every block takes the margins of the first",
             "margin = margin[:, start:stop]",
             "margin = margin[:, : scores[:, start:stop].shape[1]]"),
    Mutation("losses", "the mean over all K² cells",
             "wins.sum((1, 2)).to(losses.dtype)",
             "torch.ones_like(losses).sum((1, 2))"),
    Mutation("losses", "pairs counted twice in the mean",
             "        return total / pairs.clamp(min=1)",
             "        return total / (2 * pairs).clamp(min=1)"),
    Mutation("losses", "the sum over pairs instead of the mean",
             "        return total / pairs.clamp(min=1)",
             "        return total"),
    Mutation("losses", "0 / 0 in a row without a pair",
             "        return total / pairs.clamp(min=1)",
             "        return total / pairs"),
    Mutation("losses", "pads taken as responses",
             "widen(rewards), fill_masked(scores, mask, torch.nan)  # NaN > x is False: no pair",
             "widen(rewards), fill_masked(scores, mask, 0.0)"),
    Mutation("losses", "NaN from the margins of pads",
             "softplus(behind.masked_fill(~wins, -torch.inf))",
             "softplus(behind) * wins"),
    Mutation("losses", "the last block forgotten",
             "for start in range(0, K, block)",
             "for start in range(0, K - block + 1, block)"),
    Mutation("losses", "blocks that keep the matrix of pairs",
             "found = checkpoint(_sum_over_pairs, *part, use_reentrant=False, preserve_rng_state=False)",
             "found = _sum_over_pairs(*part)"),
    Mutation("losses", "integer scores rounded to float32",
             "else scores.double()",
             "else scores.float()"),
    Mutation("losses", "number_of_pairs counts both directions",
             "return (scores[:, :, None] > scores[:, None, :])",
             "return (scores[:, :, None] != scores[:, None, :])"),
    Mutation("losses", "the ranking read from worst to best",
             "ranked, order = (-fill_masked(scores, mask, -torch.inf))",
             "ranked, order = (fill_masked(scores, mask, torch.inf))"),
    Mutation("losses", "ties in the order in which they came, not Breslow's",
             ".logcumsumexp(1).flip(1).gather(1, better)",
             ".logcumsumexp(1).flip(1)"),
    Mutation("losses", "the rest of a tie begins behind the tie",
             "torch.searchsorted(ranked, ranked)",
             "torch.searchsorted(ranked, ranked, right=True).clamp(max=mask.shape[1] - 1)"),
    Mutation("losses", "what is already placed stays in the draw",
             "r.flip(1).logcumsumexp(1).flip(1)",
             "r.logcumsumexp(1)"),
    Mutation("losses", "one place too many",
             "else top))",
             "else top + 1))"),
    Mutation("losses", "one place too few",
             "else top))",
             "else top - 1))"),
    Mutation("limits", "pads drawn from as well",
             ".masked_fill(~mask, -1.5e308)",
             ".masked_fill(~mask, 0.0)"),
    Mutation("limits", "pads filled with −∞",
             ".masked_fill(~mask, -1.5e308)",
             ".masked_fill(~mask, -torch.inf)"),
    Mutation("losses", "the first outcome's sign reversed",
             "    return torch.where(tie, tied, softplus(eta - lead))",
             "    return torch.where(tie, tied, softplus(eta + lead))"),
    Mutation("losses", "no normalisation of a tie",
             " + log_span(torch.where(tie, 2 * eta, 1.0))",
             ""),
    Mutation("losses", "η for 2η in a tie",
             "torch.where(tie, 2 * eta, 1.0)",
             "torch.where(tie, eta, 1.0)"),
    Mutation("losses", "e^2η, which overflows",
             "tied = softplus(lead - eta) + softplus(-lead - eta) + log_span(torch.where(tie, 2 * eta, 1.0))",
             "tied = softplus(eta - lead) + softplus(eta + lead) - torch.where(tie, 2 * eta, 1.0).expm1().log()"),
    Mutation("losses", "log 0 in the gradient of pairs that are not tied",
             "torch.where(tie, 2 * eta, 1.0)",
             "2 * eta"),
    Mutation("losses", "the mean of the squares",
             "return (total / mask.sum(1).clamp(min=1)).square().to(widen(rewards).dtype)",
             "return widen(rewards).masked_fill(~mask, 0.0).square().sum(1) / mask.sum(1).clamp(min=1)"),
    Mutation("losses", "the mean of a row added up in float32",
             "total = rewards.double().masked_fill",
             "total = widen(rewards).masked_fill"),
    Mutation("losses", "the mean over pads as well",
             "(total / mask.sum(1).clamp(min=1))",
             "(total / mask.shape[1])"),
    Mutation("losses", "0·∞ counts in a label that cannot be wrong",
             "weight * link(behind.masked_fill(never, 0.0))",
             "weight * link(behind)"),
    Mutation("losses", "0·∞ kept out where the difference is ∞, not where its loss overflows",
             "link(behind.detach()).isinf()",
             "behind.isinf()"),
    Mutation("losses", "∞ − ∞ of pairs that are none",
             "behind.masked_fill(~wins, -torch.inf)",
             "behind.masked_fill(~wins & ~behind.isnan(), -torch.inf)"),
    Mutation("limits", "the ranking summed up in float32",
             "(r - highest).clamp(-1e300, 1e300).masked_fill(~mask, -1.5e308)",
             "(r - highest).float().clamp(-1e30, 1e30).masked_fill(~mask, -1e35)"),
    Mutation("limits", "a level that a row shares rounds what is added up",
             "(r - highest).clamp",
             "r.clamp"),
    Mutation("limits", "infinite rewards left infinite in a ranking",
             "(r - highest).clamp(-1e300, 1e300)",
             "(r - highest)"),
    Mutation("limits", "an infinite reward taken for the level of its row",
             "~mask | r.isinf()",
             "~mask"),
    Mutation("limits", "two equal infinities taken for equal rewards",
             "return losses.masked_fill(twice, torch.nan)",
             "return losses"),
    Mutation("limits", "an infinite loss of a list stays 1e300",
             "losses + torch.where(losses > 1e299, torch.inf, 0.0)",
             "losses"),
    Mutation("limits", "wide ties by the formula of narrow ones",
             "torch.where(width < 0.5, near.log(), far.log1p())",
             "near.log()"),
    Mutation("losses", "Davidson's odds in float32, where they cancel",
             "nu = tie_weight * torch.ones_like(d)",
             "d = d.float()\n    nu = tie_weight * torch.ones_like(d)"),
    Mutation("losses", "Davidson's tie falls like Rao–Kupper's",
             "against_tie = (softplus(lead) + softplus(-lead)) / 2 - log_nu",
             "against_tie = (softplus(lead) + softplus(-lead)) - log_nu"),
    Mutation("losses", "Davidson's weight on the wrong side",
             "against_winner = log_nu - lead / 2 + softplus(-lead / 2 - log_nu)",
             "against_winner = -log_nu - lead / 2 + softplus(-lead / 2 + log_nu)"),
    Mutation("losses", "Davidson's outcome ignored",
             "    lead = torch.where(outcome >= 0, d, -d)\n    # −log P",
             "    lead = d\n    # −log P"),
    # Other links
    Mutation("links", "logistic for probit",
             "-torch.special.log_ndtr(x.clamp(-1e3, 1e3))",
             "softplus(-x.clamp(-1e3, 1e3))"),
    Mutation("links", "the probit by log_ndtr from end to end, whose derivative is wrong far out",
             "torch.where(x < -1e3, limit, -torch.special.log_ndtr(x.clamp(-1e3, 1e3)))",
             "-torch.special.log_ndtr(x)"),
    Mutation("links", "the hinge at 0",
             "(1 + behind).relu()",
             "behind.relu()"),
    Mutation("links", "the squared loss around −1",
             "(1 + behind).square()",
             "(1 - behind).square()"),
    Mutation("links", "the noise smoothed instead of corrected",
             "(one * probability - noise) / (one - 2 * one * noise)",
             "one * probability * (1 - noise) + (1 - probability) * noise"),
    Mutation("links", "the noise counted once",
             "(one - 2 * one * noise)",
             "(one - one * noise)"),
    Mutation("links", "labels of half precision corrected in half precision",
             "(one * probability - noise) / (one - 2 * one * noise)",
             "(probability - noise) / (1 - 2 * noise)"),
    Mutation("links", "the margin of a link added",
             "behind = behind + cast(margin, behind)",
             "behind = behind - cast(margin, behind)"),
    # Lists
    Mutation("listwise", "ListNet the wrong way round",
             "wanted = fill_masked(scores, mask, -torch.inf)",
             "wanted = fill_masked(-scores, mask, -torch.inf)"),
    Mutation("listwise", "ListNet by pads",
             "fill_masked(scores, mask, -torch.inf)",
             "fill_masked(scores, mask, 0.0)"),
    Mutation("listwise", "ranks by gain instead of reward",
             "ranked = r.detach()",
             "ranked = gains"),
    Mutation("listwise", "discounts from rank 0",
             "discounts = 1 / (2 + places).to(r.dtype).log2()",
             "discounts = 1 / (3 + places).to(r.dtype).log2()"),
    Mutation("listwise", "the best order's DCG forgotten",
             "/ torch.where(best > 0, best, 1.0)",
             ""),
    Mutation("listwise", "one place too many counted",
             "places >= top",
             "places > top"),
    Mutation("listwise", "gains of pads",
             "gains.to(r.dtype).masked_fill(~mask, 0.0)",
             "gains.to(r.dtype).nan_to_num(9.0)"),
    # Ratings, grades and steps
    Mutation("ratings", "the absolute error of a rating",
             "error.masked_fill(~mask, 0.0).square()",
             "error.masked_fill(~mask, 0.0).abs()"),
    Mutation("ratings", "the sum over a row's ratings",
             "return losses.sum(1) / mask.sum(1).clamp(min=1)",
             "return losses.sum(1)"),
    Mutation("ratings", "the grade one off",
             "torch.cat([-end, thresholds])[grade.long()]",
             "torch.cat([-end, thresholds])[(grade.long() - 1).clamp(min=0)]"),
    Mutation("ratings", "thresholds rounded to the type of the rewards",
             "torch.cat([thresholds, end])[grade.long()]",
             "torch.cat([thresholds, end]).to(x.dtype)[grade.long()]"),
    Mutation("ratings", "thresholds that are not mirrored",
             "torch.cat([-thresholds.flip(0), thresholds])",
             "torch.cat([-thresholds, thresholds])"),
    Mutation("ratings", "an open end that an infinite reward makes NaN",
             "(x - high).masked_fill(high == torch.inf, -torch.inf)",
             "x - high"),
    Mutation("ratings", "the sign of a step reversed",
             "behind = -widen(rewards).masked_fill(~mask, 0.0)",
             "behind = widen(rewards).masked_fill(~mask, 0.0)"),
    # Intervals
    Mutation("intervals", "a one-sided interval",
             "tails = (1 - level) / 2, (1 + level) / 2",
             "tails = 1 - level, level"),
    Mutation("intervals", "pairs drawn one by one",
             "totals, sizes = _per_prompt(values, prompt)",
             "totals, sizes = _per_prompt(values, None)"),
    Mutation("intervals", "every prompt alike in the interval",
             "weights @ np.stack([deviations, sizes], axis=1)",
             "weights @ np.stack([deviations / sizes * sizes.mean(), np.full(len(sizes), sizes.mean())], axis=1)"),
    Mutation("intervals", "a one-sided p-value",
             "as_far + (farther if mid_p else as_far)",
             "(as_far + (farther if mid_p else as_far)) / 2"),
    Mutation("intervals", "mid-p always",
             "(farther if mid_p else as_far)",
             "farther"),
    Mutation("intervals", "no further prompt at the bound",
             "if np.isfinite(bound):",
             "if False:"),
    Mutation("intervals", "the normal's width for Student's",
             "half = stdtrit(freedom, tail) * error",
             "half = 1.96 * error"),
    Mutation("intervals", "the long end lengthened as the mean leans, not as Student's ratio does",
             "(-ends[1] / ends[0]) ** 1.5",
             "(-ends[1] / ends[0])"),
    Mutation("intervals", "as many degrees of freedom as for equal prompts",
             "freedom = max(1.0, (sizes**2).sum() ** 2 / (sizes**4).sum() - 1)",
             "freedom = G + 30"),
    Mutation("intervals", "bounds taken from the values",
             "return -np.inf, np.inf",
             "return values.min(), values.max()"),
    Mutation("intervals", "differences bounded by 0",
             "return (-1.0, 1.0) if values.min() < 0 else (0.0, 1.0)",
             "return (-1.0, 1.0)"),
    # Calibration
    Mutation("calibration", "NLL that overflows",
             "np.where(outcome > 0, np.logaddexp(0, -difference), 0)",
             "np.where(outcome > 0, np.log(1 + np.exp(-difference)), 0)"),
    Mutation("calibration", "calibration bins weighted alike",
             "weight @ np.abs(mean_outcome - mean_probability)",
             "np.mean(np.abs(mean_outcome - mean_probability))"),
    Mutation("calibration", "calibration gaps that cancel",
             "weight @ np.abs(mean_outcome - mean_probability)",
             "abs(weight @ (mean_outcome - mean_probability))"),
    Mutation("calibration", "a bin holds its lower edge",
             "np.linspace(0, 1, bins + 1)[1:-1], probability)",
             "np.linspace(0, 1, bins + 1)[1:-1], probability, \"right\")"),
    Mutation("calibration", "equal-mass bins that split ties",
             "((ranks(probability) - 0.5)",
             "((np.argsort(np.argsort(probability)) + 0.5)"),
    Mutation("calibration", "confidence by the label instead of the model",
             "np.exp(-np.abs(np.where(equal, 0, chosen) - np.where(equal, 0, rejected)))",
             "np.exp(np.where(equal, 0, rejected) - np.where(equal, 0, chosen))"),
    Mutation("calibration", "1/T returned for T",
             "np.exp(-(low + high) / 2)",
             "np.exp((low + high) / 2)"),
    Mutation("calibration", "a bias that is not taken away",
             "gap[several] ** 2 - squares / ((n - 1) * n)",
             "gap[several] ** 2"),
    Mutation("calibration", "the bias of bins by n for n − 1",
             "squares / ((n - 1) * n)",
             "squares / (n * n)"),
    Mutation("calibration", "chance by the variance for its root",
             "np.sqrt(variance).sum()",
             "variance.sum()"),
    Mutation("calibration", "an infinite loss for a label that cannot be wrong",
             "np.where(outcome > 0, np.logaddexp(0, -difference), 0)",
             "np.logaddexp(0, -difference)"),
    Mutation("calibration", "∞ and right asks for another temperature",
             "np.where(error == 0, 0, difference) @ error",
             "difference @ error"),
    # Metrics
    Mutation("metrics", "ties counted as wrong",
             "np.mean((chosen > rejected) + 0.5 * (chosen == rejected))",
             "np.mean(chosen > rejected)"),
    Mutation("metrics", "ties counted as right",
             "np.mean((chosen > rejected) + 0.5 * (chosen == rejected))",
             "np.mean(chosen >= rejected)"),
    Mutation("metrics", "Kendall's tau-a",
             "np.sqrt(untied_first * untied_second)",
             "len(first) * (len(first) - 1) / 2"),
    Mutation("metrics", "the first of several highest rewards taken",
             "highest / highest.sum(1, keepdims=True), utilities",
             "np.eye(highest.shape[1])[highest.argmax(1)], utilities"),
    Mutation("metrics", "the masked may be picked",
             "np.where(mask, rewards, -np.inf), np",
             "np.nan_to_num(rewards), np"),
    Mutation("metrics", "NDCG with tied rewards in their order",
             "by[:, None, :] == by[:, :, None]",
             "np.eye(by.shape[1], dtype=bool)[None]"),
    Mutation("metrics", "NDCG's ideal by reward",
             "else top))\n    until",
             "else top + 1))\n    until"),
    Mutation("metrics", "squares that overflow",
             "        values = values / np.abs(values).max()\n",
             ""),
    Mutation("metrics", "∞ − ∞ in a rank correlation",
             "first, second = map(ranks, as_vectors(first=first, second=second, at_least=2))",
             "first, second = as_vectors(first=first, second=second, at_least=2)"),
    # Vectors
    Mutation("vectors", "tied values ranked in order",
             "np.repeat(starts + (counts + 1) / 2, counts)",
             "np.arange(1.0, len(values) + 1)"),
    # Shaping
    Mutation("shaping", "is_safety ignored",
             "torch.as_tensor(is_safety_prompt, device=unsafe.device) | unsafe",
             "unsafe"),
    Mutation("shaping", "the threshold itself is unsafe",
             "unsafe = ~(safety >= threshold) if",
             "unsafe = ~(safety > threshold) if"),
    Mutation("shaping", "the mean kept where it should go",
             "if keep_mean else whitened",
             "if not keep_mean else whitened"),
    Mutation("shaping", "the variance over n",
             "(count - 1).clamp(min=1)",
             "count.clamp(min=1)"),
    Mutation("shaping", "the variance of masked values too",
             "(x - mean).masked_fill(~mask, 0.0)",
             "(x - mean)"),
    Mutation("shaping", "the mean over masked values too",
             "x.sum() / count.clamp(min=1)",
             "x.mean()"),
    Mutation("shaping", "an infinite logit",
             "p.clamp(limits.tiny, 1 - limits.eps / 2)",
             "p.clamp(limits.tiny, 1)"),
    Mutation("shaping", "KL with its sign reversed",
             "_widen(log_prob) - _widen(reference_log_prob)",
             "_widen(reference_log_prob) - _widen(log_prob)"),
    Mutation("shaping", "KL over the prompt as well",
             "return log_ratio.masked_fill(~mask, 0.0).sum(-1)",
             "return log_ratio.nan_to_num().sum(-1)"),
    Mutation("shaping", "safety of NaN taken for safe",
             "unsafe = ~(safety >= threshold) if",
             "unsafe = (safety < threshold) if"),
    Mutation("shaping", "a logit that falls near 0",
             "p.clamp(limits.tiny, 1 - limits.eps / 2)",
             "p.masked_fill(p == 0, limits.tiny).clamp(max=1 - limits.eps / 2)"),
    Mutation("shaping", "equal values whose mean is rounded",
             ".amax().masked_fill(~mask.any(), 0.0)",
             ".amax().nan_to_num(0.0) * 0"),
    Mutation("shaping", "KL in half precision",
             "_widen(log_prob) - _widen(reference_log_prob)",
             "log_prob - reference_log_prob"),
    # Policies
    *(Mutation(*one) for one in policy_mutations.MISTAKES),
    # What stands beside the network
    Mutation("models.ngrams", "n-grams of the prompt counted too",
             "inside = layout.types == 1",
             "inside = layout.types >= 0"),
    Mutation("models.ngrams", "n-grams that reach over the beginning of a response",
             "whole = inside & (behind >= n)",
             "whole = inside"),
    Mutation("models.ngrams", "a sum over n-grams without its norm",
             "return SCALE * sums / counts.sqrt()",
             "return SCALE * sums"),
    Mutation("training.objectives", "the language-model loss subtracted from the reward's",
             "losses + share * means",
             "losses - share * means"),
    Mutation("training.objectives", "the language-model loss as the mean over a micro-batch",
             "losses + share * means",
             "losses + share * nll.mean()"),
    Mutation("training.objectives", "the language-model loss in validation too",
             "learns = share > 0 and model.training",
             "learns = share > 0"),
]  # fmt: skip


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
    right = dict(vars(module))
    exec(compile(mutate(mutation, source_of(mutation.module)), module.__file__, "exec"), vars(module))
    for other in [other for name, other in sys.modules.items() if name.startswith("minirm.")]:
        for name, value in vars(other).items():  # who imported the right one
            if callable(value) and value is right.get(name):
                vars(other)[name] = vars(module)[name]
    tests = f"test_{TESTED_BY.get(mutation.module, mutation.module)}"
    for name in ("tests.test_losses", f"tests.{tests}"):
        sys.modules.pop(name, None)  # under pytest it may be here, with the names of the right code
    failure = FirstFailure()
    with redirect_stdout(StringIO()):
        options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:randomly", "-k", SLOW]
        pytest.main([*options, str(TESTS / f"{tests}.py")], plugins=[failure])
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
