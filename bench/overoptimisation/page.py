"""Every number of the study → sections of words, tables and pictures."""

from dataclasses import asdict

import numpy as np

from bench.architectures.answers import against_zero, with_interval
from bench.architectures.figures import ACCURACY
from bench.architectures.statistics import Resampled, two_way_interval
from bench.overoptimisation import pictures
from bench.overoptimisation.curves import LOGARITHM, SQUARE, Curve, at_distance
from bench.overoptimisation.plan import TRUTH
from bench.overoptimisation.ranking import END, HIGHEST, MEASURES
from bench.overoptimisation.study import Study, form_of
from minirm.evaluation.report import Block, Picture, Section, Table
from minirm.worlds.grammar import WEIGHTS

TITLE = "How far a reward model can be followed"
ORDER = "PPO with a price"
"""The method by whose gold reward models are listed."""
BY_HALVES = (
    "Where gold is highest for a seed, the other seeds say by one half of the responses, and the seed itself tells by "
    "the other half what is gained there."
)


def sections(study: Study, facts: dict) -> list[Section]:
    """Return the report."""
    found = [
        ("Truth and proxy against distance", _curves(study)),
        ("Where the truth turns", _turns(study)),
        ("The formulas of Gao et al.", _fits(study)),
        ("What is written behind the turn", _texts(study)),
        ("Which reward model should I follow?", _ranking(study)),
        ("Does each method raise the truth?", _raises(study)),
        ("What was done", [_about(study), _dials(study, facts)]),
    ]
    return [Section(heading, blocks) for heading, blocks in found]


def verdict(study: Study) -> str:
    """Return where the truth turned, and which method raises it, as far as the data tell."""
    turned = {method: [one for one in study.proxies if (method, one) in study.turned] for method in study.methods}
    said = [
        f"{method}: {', '.join(one.name for one in those)}" if those else f"{method}: none"
        for method, those in turned.items()
    ]
    gains = [
        f"{method} {_words(gained)} at {_kl_nats(study.curves[method, one], points):.1f} nats"
        for (method, one), (gained, points) in study.raised.items()
        if one == study.best
    ]
    return (
        f"Gold gained where it is highest, following a proxy of {study.best.name}: {'; '.join(gains)}. "
        f"Proxies behind whose turn the truth fell, as far as the data tell (p < .05 after Holm's correction over all "
        f"methods and proxies): {'; '.join(said)}."
    )


def shapes(study: Study) -> list[str]:
    """Return what of the paper's shapes is seen, in a sentence each, "not resolved" included."""
    return [*(_bends(study, method) for method in study.methods), *(_which(study, method) for method in study.methods)]


def _bends(study: Study, method: str) -> str:
    form = form_of(method)
    betas = {one.name: two_way_interval(study.fits[method, one, form].beta) for one in study.sizes}
    bent = [name for name, beta in betas.items() if beta.low > 0]
    other = [name for name, beta in betas.items() if beta.high < 0]
    open_ = [name for name in betas if name not in bent + other]
    parts = [
        f"β of {form} is above 0 (the curve bends down as the paper has it) for {', '.join(bent) or 'none'}",
        *([f"below 0 (it bends up) for {', '.join(other)}"] if other else []),
        *([f"not resolved for {', '.join(open_)}"] if open_ else []),
    ]
    return f"{method}: {'; '.join(parts)}. {_by_size(study, method)}"


def _by_size(study: Study, method: str) -> str:
    """Return whether α rises and β falls with data, from the smallest to the largest."""
    form, said = form_of(method), []
    for letter, name, expected in (("α", "alpha", 1), ("β", "beta", -1)):
        first, last = (getattr(study.fits[method, one, form], name) for one in (study.sizes[0], study.sizes[-1]))
        change = two_way_interval(last - first)
        is_told = change.low > 0 or change.high < 0
        seen = f": {'as in' if change.estimate * expected > 0 else 'against'} the paper" if is_told else ""
        said.append(f"{letter} changes by {against_zero(change)}{seen}")
    return f"From the fewest comparisons to the most, {'; '.join(said)}."


def _which(study: Study, method: str) -> str:
    rows = {form: [study.fits[method, one, form].error for one in study.sizes] for form in (SQUARE, LOGARITHM)}
    closer = sum(a < b for a, b in zip(rows[SQUARE], rows[LOGARITHM], strict=True))
    errors = f"root mean square error {np.mean(rows[SQUARE]):.3f} against {np.mean(rows[LOGARITHM]):.3f}"
    n = len(study.sizes)
    return f"{method}: {SQUARE} fits closer than {LOGARITHM} for {closer} of {n} sizes of data ({errors})."


def _curves(study: Study) -> list[Block]:
    blocks: list[Block] = [
        "Above, the true utility that is gained against √KL from the first policy; a ring marks the highest. Below, "
        "the reward that was followed, in standard deviations over what the first policy writes. Bands of the truth "
        "are 95% intervals over seeds, responses and what the first policy wrote; dotted is the formula. KL of best of "
        "n is the bound log n − (n − 1)/n, all other KL the mean of log π/π₀ over the policy's own draws, which is "
        "right on average."
    ]
    for method in study.methods:
        curves = {one: study.curves[method, one] for one in study.work.plan.followed}
        form = form_of(method)
        blocks.append(Picture(pictures.against_distance(curves, form), f"{method}; dotted: {form}."))
    return blocks


def _turns(study: Study) -> list[Block]:
    rows, points = [], {}
    for method in study.methods:
        points[method] = {one.comparisons: two_way_interval(study.lost[method, one]) for one in study.sizes}
        for one in study.work.plan.followed:
            curve, (gained, highest) = study.curves[method, one], study.raised[method, one]
            d = curve.distance[np.arange(highest.shape[1]), highest].mean()
            truth = at_distance(study.curves[method, TRUTH], d)
            rows.append(
                (method, one.name, f"{d:.2f}", _signed(two_way_interval(gained)),
                 "beyond" if np.isnan(truth) else f"{truth:+.2f}".replace("-", "−"),
                 f"{curve.distance[:, -1].mean():.2f}",
                 _signed(study.gold(method, one)), f"{curve.proxy[:, -1].mean():+.2f}".replace("-", "−"),
                 _words(study.lost[method, one]))
            )  # fmt: skip
    columns = ("method", "followed", "√KL at the highest", "gold there", "the truth followed, there", "√KL at the end",
               "gold at the end", "proxy at the end, sd", "lost since the highest")  # fmt: skip
    caption = (
        f"Gold is true utility above the first policy's. {BY_HALVES} Lost is that less gold at the end, by single "
        "intervals; the head of this page considers how many there are. “Beyond”: who followed the truth did not go so "
        "far."
    )
    return [
        Table(columns, rows, caption),
        Picture(pictures.by_data(points, "gold lost at the end"), "What was lost behind the turn, by size of data."),
    ]


def _words(figure: Resampled) -> str:
    return against_zero(two_way_interval(figure))


def _signed(found: object) -> str:
    return with_interval(found, "+")


def _fits(study: Study) -> list[Block]:
    rows, alphas, betas = [], {}, {}
    for method in study.methods:
        own = form_of(method)
        alphas[method], betas[method] = {}, {}
        for one in study.work.plan.followed:
            fits = {form: study.fits[method, one, form] for form in (SQUARE, LOGARITHM)}
            alpha, beta = (two_way_interval(getattr(fits[own], name)) for name in ("alpha", "beta"))
            if one in study.sizes:
                alphas[method][one.comparisons], betas[method][one.comparisons] = alpha, beta
            errors = (f"{fits[form].explained:.3f}; {fits[form].error:.3f}" for form in (SQUARE, LOGARITHM))
            rows.append((method, one.name, own, with_interval(alpha), with_interval(beta), *errors))
    columns = ("method", "followed", "formula", "α", "β", f"{SQUARE}: R²; error", f"{LOGARITHM}: R²; error")
    caption = "d is √KL in √nats, the fit that of gold gained. R² and root mean square error of the mean over seeds."
    return [
        *shapes(study),
        Picture(pictures.by_data(alphas, "α"), "α by size of data, each method by its own formula."),
        Picture(pictures.by_data(betas, "β"), "β by size of data."),
        Table(columns, rows, caption),
    ]


def _texts(study: Study) -> list[Block]:
    """Return what one policy wrote before it learned, at the turn and at the end, to ten prompts."""
    work, method = study.work, study.work.plan.ways[0]
    worst = max(study.sizes, key=lambda one: study.lost[method.name, one].whole.mean())
    curve, found = study.curves[method.name, worst], work.learned(method, worst, 0)
    reward, prompts = work.reward(worst, 0), work.shown()
    turn = max(curve.turn - 1, 0)  # texts are written at the end of a window, draws of a point within it
    rows = []
    columns = [found["texts"][place] for place in (turn, -1)]
    judged = [(texts, reward(prompts, texts), work.gold(prompts, texts)) for texts in columns]
    for n, prompt in enumerate(prompts):
        cells = [f"{texts[n]} ({gold[n]:+.1f}; {rewards[n]:+.1f})" for texts, rewards, gold in judged]
        rows.append((prompt[-1].text, *cells))
    fell = [float(np.mean(gold)) for _, _, gold in judged]
    return [
        f"{method.name}, following a proxy of {worst.name}, seed 0. In brackets, true utility and the proxy's reward "
        f"in sd. Mean utility of these: {fell[0]:+.2f} at the turn, {fell[1]:+.2f} at the end.",
        Table(("prompt", f"after {(turn + 1) * work.plan.window} iterations, at the turn", "at the end"), rows),
    ]


def _ranking(study: Study) -> list[Block]:
    best = {method: study.by_gold(method) for method in study.methods}
    rows = []
    for one in best[ORDER]:
        figures = [with_interval(two_way_interval(study.measured[one][name])) for name in MEASURES]
        golds = {method: _signed(two_way_interval(study.raised[method, one][0])) for method in study.methods}
        cells = [f"{gold} ({best[method].index(one) + 1})" for method, gold in golds.items()]
        rows.append((one.name, *figures, *cells))
    columns = ("reward model", ACCURACY, "NLL, nats", "ECE", "best-of-8 regret", *(f"{m}: gold" for m in study.methods))
    caption = (
        f"Gold is what is gained where it is highest, in brackets the place by it; in the order of {ORDER}. "
        f"{BY_HALVES} {_ceiling(study)}"
    )
    found = study.ranking
    models, seeds = found.measures[ACCURACY].shape
    about = (
        f"Spearman's rank correlation over the {models} reward models of a draw of comparisons, of what is measured of "
        f"one, the better the higher, and the gold {{}}: mean over {seeds} draws, intervals over draws and models. "
        "Models of a draw share comparisons and members, so intervals may be too narrow."
    )
    correlations = [
        Table(("measure", *study.methods), _correlations(study, where), about.format(said))
        for where, said in ((HIGHEST, "where it is highest"), (END, "at the end"))
    ]
    return [
        Table(columns, rows, caption),
        *correlations,
        Picture(pictures.scatter(found.measures[ACCURACY], found.reached[HIGHEST], "accuracy of the proxy"),
                "Gold where it is highest against the accuracy of the proxy, a mark for each seed."),
    ]  # fmt: skip


def _correlations(study: Study, where: str) -> list[tuple[str, ...]]:
    rows = []
    for measure in MEASURES:
        cells = [study.ranking.correlation(measure, where, method) for method in study.methods]
        rows.append((measure, *map(against_zero, cells)))
    return rows


def _ceiling(study: Study) -> str:
    judged, world = study.work.test(), study.work.world
    best, nll = world.best_possible_accuracy(judged), world.best_possible_nll(judged)
    return f"Best possible: accuracy {best:.3f}, NLL {nll:.3f} nats."


def _raises(study: Study) -> list[Block]:
    rows = []
    for (method, one), curve in study.curves.items():
        if one == study.best:
            gained, points = study.raised[method, one]
            last = len(curve.steps) - 1
            rows.append(_gained(method, HIGHEST, curve, gained, points))
            rows.append(_gained(method, END, curve, curve.gained(last), np.full_like(points, last)))
    columns = ("method", "where", "n, or iterations", "KL, nats", "gold gained", "without an end")
    return [Table(columns, rows, f"Following a proxy of {study.best.name}. {BY_HALVES}")]


def _gained(method: str, where: str, curve: Curve, gained: Resampled, points: np.ndarray) -> tuple[str, ...]:
    steps = [curve.steps[point] for point in np.unique(points)]
    span = f"{steps[0]:,}" if len(steps) == 1 else f"{steps[0]:,} to {steps[-1]:,}"
    unended = curve.unended[np.arange(points.shape[1]), points].mean()
    return method, where, span, f"{_kl_nats(curve, points):.2f}", _words(gained), f"{unended:.1%}"


def _kl_nats(curve: Curve, points: np.ndarray) -> float:
    """Return the mean KL at points, (2, S), of a curve."""
    return float(curve.kl_nats[np.arange(points.shape[1]), points].mean())


def _about(study: Study) -> str:
    plan, drawn = study.work.plan, study.work.drawn()
    weights = ", ".join(f"{name} {weight:g}" for name, weight in WEIGHTS.items())
    return (
        f"Every text has a true utility, read off the text by the grammar that writes the world's reviews: the sum of "
        f"{weights}, each times −1 to 1 as the text does what was asked for; form is 0 where the grammar can say every "
        f"sentence, −1 where it can say none (an empty text, too), and between them by the share of odd or repeated "
        f"ones. So a malformed text earns −{WEIGHTS['form']:g} at most, and nothing for what it does not name. The "
        f"first policy ({plan.layers} layers, D = {plan.width}, fine-tuned on {2 * plan.reviews:,} of the world's "
        f"reviews, good and bad) writes {np.mean(drawn['first']):.3f} on average over {plan.first:,} prompts (standard "
        f"error {np.std(drawn['first']) / plan.first**0.5:.3f}, which all gold of learned policies shares; intervals "
        f"count it). Proxies begin with its weights and learn labels that are drawn from true utilities. An ensemble's "
        f"members learn from the same comparisons in another order, with another head. {plan.seeds} seeds: other "
        f"comparisons, and other draws by the policies; prompts are new, of the kind that proxies learned from. Best "
        f"of n: {plan.draws:,} responses to each of {plan.prompts} prompts, the same for all proxies."
    )


def _dials(study: Study, facts: dict) -> Table:
    plan = {f"plan: {name}": value for name, value in asdict(study.work.plan).items()}
    rows = [(name, str(value)) for name, value in (facts | plan).items()]
    return Table(("", ""), rows, "Command, machine, versions and plan.")


def record(study: Study, facts: dict) -> dict:
    """Return every number of the report as JSON types."""
    curves = []
    for (method, one), curve in study.curves.items():
        of = {"gold": curve.gained, "proxy": curve.earned}
        lines = {name: [list(i) for i in curve.line(figure)] for name, figure in of.items()}
        kl = curve.kl_nats.round(4).tolist()
        unended = curve.unended.mean(0).round(4).tolist()
        curves.append({"method": method, "followed": one.name, "steps": curve.steps, "kl_nats by seed": kl, **lines,
                       "unended": unended, "lost": list(two_way_interval(study.lost[method, one]))})  # fmt: skip
    fits = [
        {"method": method, "followed": one.name, "formula": form, "alpha": list(two_way_interval(fit.alpha)),
         "beta": list(two_way_interval(fit.beta)), "explained": fit.explained, "error": fit.error}
        for (method, one, form), fit in study.fits.items()
    ]  # fmt: skip
    measured = {
        one.name: {name: list(two_way_interval(value)) for name, value in found.items()}
        for one, found in study.measured.items()
    }
    ranks = {
        where: {m: {way: list(study.ranking.correlation(m, where, way)) for way in study.methods} for m in MEASURES}
        for where in (HIGHEST, END)
    }
    gains = [
        {"method": method, "followed": one.name, "kl_nats": _kl_nats(study.curves[method, one], points),
         "gold": list(two_way_interval(gained))}
        for (method, one), (gained, points) in study.raised.items()
    ]  # fmt: skip
    return {"verdict": verdict(study), "shapes": shapes(study), "facts": facts, "plan": asdict(study.work.plan),
            "curves": curves, "fits": fits, "gained": gains, "measured": measured,
            "rank correlations": ranks}  # fmt: skip
