"""What the report says about its tables: how contestants were treated, what the figures mean, what they do not say."""

from collections.abc import Sequence

import torch

from bench.architectures.cells import EVALUATIONS, LONGEST
from bench.architectures.contestants import HEADS
from bench.architectures.plan import PATIENCE
from bench.architectures.prices import pairs_per_comparison
from bench.architectures.profile import LEARNED, MOST
from bench.architectures.study import Study
from bench.architectures.subjects import WORLD, WORLD_CONFIG, is_skill
from minirm.worlds.skills import SKILLS, find_skill

QUALITY = (
    "Spearman's correlation of reward and true utility, mean over prompts; negative log-likelihood in nats; expected "
    "calibration error; utility (score, where no truth is known) lost by taking the response of highest reward. The "
    "same after a temperature fitted on validation, and the correlation over all prompts, stand in the JSON."
)
PROFILE = (
    "The way is that from chance (0) to the accuracy of one who knows every utility (1), on a test whose names no "
    f"training has seen. Learned: trainings that got {LEARNED:.0%} of the way. By: after how many comparisons "
    f"validation first said {MOST:.0%} of the way, in the median training."
)


def intervals(study: Study) -> str:
    """Return how intervals and p-values come about."""
    seeds = (
        "over prompts and seeds" if min(_seeds(study).values()) > 1 else "over prompts alone where there is one seed"
    )
    return (
        f"Intervals are 95%, {seeds}: the grouped jackknife over prompts, the variance over seeds, and Student's t; "
        "each seed has its own start, its own order and, where there are enough, its own training comparisons. The "
        "luck of tuning, one training for each rate, is in no interval. "
        "Differences are paired by prompt and seed. A star marks what is resolved: its p-value, with Holm's correction "
        "for all differences of its table, is below .05; its interval is that of a difference alone. Differences to "
        "the baseline are one family, those of all pairs of networks, of which groups and “not told apart” speak, "
        "another and larger one. What is not "
        "resolved is not shown to be small: the smallest difference that a table would have shown, four times in "
        "five, stands with it."
    )


def _seeds(study: Study) -> dict[str, int]:
    """Return the seeds of each kind of subject that there is."""
    plan, kinds = study.setup.plan, {"skills": 0, WORLD: 0, "people's judgements": 0}
    for name in study.setup.subjects:
        if is_skill(name):
            kinds["skills"] = plan.seeds
        elif name == WORLD:
            kinds[WORLD] = plan.world_seeds
        else:
            kinds["people's judgements"] = plan.file_seeds
    return {kind: seeds for kind, seeds in kinds.items() if seeds}


def comparison(study: Study) -> str:
    """Return what all contestants share."""
    plan = study.setup.plan
    seeds = ", ".join(f"{seeds} on {kind}" for kind, seeds in _seeds(study).items())
    return (
        "Every network was trained from nothing (a checkpoint excepted), by the same loop, on the same comparisons, "
        f"as many of them in a step, with the same tokenizer. Seeds: {seeds}. "
        f"Widths were chosen so that {what_matches(study)}. A comparison is a prompt with its "
        f"K responses. The budget is one rule: a skill's comparisons are seen once; elsewhere {plan.comparisons:,} "
        f"comparisons get {plan.steps:,} steps, and n of them √(n / {plan.comparisons:,}) times as many"
        + (f"; here, {plan.epochs:g} passes were asked for." if plan.epochs else ".")
    )


def what_matches(study: Study) -> str:
    """Return in words what is equal between the contestants."""
    return {
        "parameters": "all have about as many parameters as the baseline, embeddings not counted",
        "flops": "all need about as many operations for a comparison as the baseline",
        "seconds": "all are the same; instead each trains for about as many seconds as the baseline",
        "shape": "all are the same",
    }[study.setup.match]


def tuning(study: Study) -> str:
    """Return how learning rates and weights were chosen, and what that leaves open."""
    at_the_end, trained = study.best_at_the_end()
    plan = study.setup.plan
    folds = any(len(study.setup.folds(subject)) > 1 for subject in study.setup.subjects)
    folded = "(In folds: in the first, part of whose validation is tested on in another.) " if folds else ""
    further = f", and up to {plan.extensions} beyond where the best lay at the edge" if plan.extensions else ""
    outer = {min(plan.rates) / 2**plan.extensions, max(plan.rates) * 2**plan.extensions}
    edge = sum(rate in outer for rate in study.rates.values())
    return (
        "In each condition (subject, comparisons, size) each network had one training of one seed, judged on "
        f"validation, for each of the learning rates {listed(plan.rates)}{further}. In {edge} of {len(study.rates)} "
        f"conditions the best was the last that was tried in its direction. So little tuning is noisy, and "
        f"its noise is in none of the intervals. {folded}The weights that are tested are those of the best of "
        f"{EVALUATIONS} evaluations on validation. It was the last one in {at_the_end} of {trained} trainings."
    )


def listed(numbers: Sequence[float]) -> str:
    """Return "0.001, 0.002"."""
    return ", ".join(f"{number:g}" for number in numbers)


def subject(name: str) -> str:
    """Return what a subject is, and what its views are."""
    if is_skill(name):
        skill, dial = find_skill(name)
        return f"{SKILLS[skill].about} Dial: {dial:g} {SKILLS[skill].dial}."
    if name == WORLD:
        noise, strength = WORLD_CONFIG.noise, WORLD_CONFIG.shortcut_strength
        return (
            "Film reviews on request, judged by what was asked for, the right film and manners, with noise "
            f"{noise:g} in the labels, the better response tending to be the longer one (strength {strength:g}). "
            "Shortcut reversed: the better response tends to be the shorter one. "
            "Prompts swapped: the responses behind another request, which suits another of them; the labels are the "
            "truth about that one, so a high figure is good. That queries start equal to keys, and the average read, "
            "were found on worlds of this kind."
        )
    return (
        "Judgements from files. With prompts swapped the responses and labels stay and the prompt is another one: "
        "what is still right needs no prompt, so a high figure there is no merit."
    )


LAW = (
    " α is that of the law which fits best, gap to the best possible accuracy = c·n^−α, n being comparisons, or about "
    "the weights; its interval is over seeds. It says how fast the gap closed here, and predicts nothing beyond."
)
CONVERGED = (
    f"Beside the fixed budget: at a constant rate, until {PATIENCE} evaluations brought no lower validation loss, "
    f"within {LONGEST} times the steps. The rate is the one tuned for the fixed budget, whose schedule falls. A "
    "network that learns nothing for so long is stopped there, though it might have gone on."
)


def costs(study: Study, load: object) -> str:
    """Return what the columns of the costs mean."""
    return (
        "Parameters: without embeddings of tokens and positions. Operations: multiplications and additions of matrix "
        f"products, forward, per comparison, which has {pairs_per_comparison(study):.3g} pairs. Speeds: medians of one "
        f"run in which all took turns, with {torch.get_num_threads()} threads; load average before the bench: {load}. "
        "Compare them with one another alone. Peak memory: of tensors in one training "
        "step. Seconds, at these speeds, to 90% of the way from ½ to the final accuracy on validation, and of the "
        "whole training, language-model stage included; last, the accuracy on validation that each has when the "
        "fastest is done, the others being in the middle of their schedule."
    )


def doubt(study: Study) -> str:
    """Return what the table of ensembles shows."""
    seeds = max(len(study.setup.seeds(contestant, study.main)) for contestant in study.setup.networks)
    return (
        f"Members are the {seeds} seeds of a contestant, which cost as many trainings; its "
        f"intervals are over prompts alone. Those of “{HEADS}” are the heads of one model; its intervals are over "
        "its seeds too. Accuracy of one member (mean) and of the members' mean reward, and the area under the "
        "latter's risk–coverage curve, pairs being judged in order of doubt: lower finds the mistakes better. "
        "Disagreement is the spread of σ(difference) over the members; chance is an order that knows nothing, "
        "knowing one that knows every mistake. Where the last column lies above 0, disagreement says less than a "
        "small difference does."
    )
