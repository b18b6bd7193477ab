"""What the report says about its tables: how contestants were treated, what the figures mean, what they do not say."""

from collections.abc import Sequence

import torch

from bench.architectures.contestants import HEADS
from bench.architectures.study import Study
from bench.architectures.subjects import WORLDS

QUALITY = (
    "Below: the part of the way from chance to the best possible accuracy (labels are drawn, so luck may bring it "
    "above 1); Spearman's correlation of reward and true utility, mean over prompts, and over the responses of all "
    "prompts, between which no training compares; negative log-likelihood in nats; expected calibration error "
    "before and after a temperature fitted on validation; utility (score, where no truth is known) lost by taking "
    "the response of highest reward."
)
OF_FILES = (
    "Comparisons from files. With prompts swapped the responses and labels stay and the prompt is another one: what "
    "is still right needs no prompt, so a high figure there is no merit."
)
INTERVALS = (
    "Intervals are 95%, over prompts and seeds: the grouped jackknife over prompts (in the worlds over the 8 films "
    "of the test prompts, none of which training names), and the variance over seeds, with Student's t. Differences "
    "are paired by prompt and seed; one whose interval holds 0 is not resolved, which does not mean that it is "
    "small. Nothing is corrected for the number of differences: of twenty without any cause, one would seem "
    "resolved."
)


def comparison(study: Study) -> str:
    """Return what all contestants share."""
    plan = study.setup.plan
    return (
        "Every network was trained from nothing (a checkpoint excepted), by the same loop, on the same comparisons, "
        f"as many of them in a step, with the same tokenizer, from {plan.main_seeds} seeds on {study.main} and "
        f"{plan.seeds} in its curves and elsewhere. Widths were chosen so that {what_matches(study)}. A comparison "
        "is a prompt with its K responses (the worlds: 8)."
    )


def what_matches(study: Study) -> str:
    """Return in words what is equal between the contestants."""
    return {
        "parameters": "all have about as many parameters as the baseline",
        "flops": "all need about as many operations for a comparison as the baseline",
        "seconds": "all are the same; instead each trains for about as many seconds as the baseline",
        "shape": "all are the same",
    }[study.setup.match]


def tuning(study: Study) -> str:
    """Return how learning rates and weights were chosen, and what that leaves open."""
    at_the_end, trained = study.best_at_the_end()
    return (
        "Each had one training of one seed, judged on validation, for each of the learning rates "
        f"{listed(study.setup.plan.rates)}. So little tuning is noisy, and its noise is in none of the intervals; "
        "where the chosen rate is the lowest or the highest of them, a better one may lie beyond. (On hh-harmless "
        "rates are tuned in the first fold, part of whose validation is tested on in another.) The weights that are "
        f"tested are those of the best of ten evaluations on validation. It was the last one in {at_the_end} of "
        f"{trained} trainings: longer ones might order the contestants differently."
    )


def listed(numbers: Sequence[float]) -> str:
    """Return "0.001, 0.002"."""
    return ", ".join(f"{number:g}" for number in numbers)


def subject(study: Study, name: str) -> str:
    """Return what a subject is, and what its views are."""
    if name not in WORLDS:
        return OF_FILES
    noise, strength = WORLDS[name]["noise"], WORLDS[name]["shortcut_strength"]
    trained = study.setup.plan.template(name).comparisons
    return (
        f"{trained:,} comparisons of a world whose truth is known (minirm/synthetic.py): film reviews on request, "
        f"judged by what was asked for, the right film and manners, with noise {noise:g} in the labels, the better "
        f"response tending to be the longer one (strength {strength:g}). One who knows the truth is right in "
        f"{study.best_possible(name):.3f} of the test pairs, on average over the draws of labels. Shortcut reversed: "
        "the better response tends to be the shorter one. Prompts swapped: the responses behind another request, which "
        "another of them suits; the labels are the truth about that one, so a high figure is good. The start with "
        "queries equal to keys, and the average read, were found on worlds of this kind."
    )


def costs(study: Study) -> str:
    """Return what the columns of the costs mean."""
    return (
        "Operations: multiplications and additions of matrix products, forward, per comparison, which has "
        f"{study.pairs_per_comparison:.3g} pairs. Speeds: medians and quartiles of one run in which all took turns, "
        f"with {torch.get_num_threads()} threads. Peak memory: of tensors in one training step. Seconds, at these "
        "speeds, to 90% of the final accuracy on validation, to 90% of the way from ½ to it, and of the whole "
        "training, language-model stage included; last, the accuracy on validation that each has when the fastest "
        "is done, the others being in the middle of their schedule."
    )


def doubt(study: Study) -> str:
    """Return what the table of ensembles shows."""
    return (
        f"Members are the {study.setup.plan.main_seeds} seeds of a contestant, which cost as many trainings; its "
        f"intervals are over prompts alone. Those of “{HEADS}” are the heads of one model; its intervals are over "
        "its seeds too. Accuracy of one member (mean) and of the members' mean reward, and the area under the "
        "latter's risk–coverage curve, pairs being judged in order of doubt: lower finds the mistakes better. "
        "Disagreement is the spread of σ(difference) over the members; chance is an order that knows nothing, "
        "knowing one that knows every mistake. Where the last column lies above 0, disagreement says less than a "
        "small difference does."
    )
