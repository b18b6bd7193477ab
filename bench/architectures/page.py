"""Every number of a study → sections of tables and pictures."""

from collections import Counter
from dataclasses import asdict
from pathlib import Path

from bench.architectures import pictures, words
from bench.architectures.answers import difference_words, shortened, statements, with_interval
from bench.architectures.cells import STARTS
from bench.architectures.differences import Difference, against_baseline, at_convergence, groups, usual_detectable
from bench.architectures.figures import (
    ACCURACY,
    ECE,
    NLL,
    RANK,
    REGRET,
    WAY,
)
from bench.architectures.prices import (
    accuracy_after,
    pairs_per_comparison,
    pairs_trained_on,
    seconds,
    shortest_training,
)
from bench.architectures.profile import profile, until_most
from bench.architectures.provenance import code_digest
from bench.architectures.scaling import exponents
from bench.architectures.study import ALL_SKILLS, Study, figure_in, figure_of
from bench.architectures.subjects import AS_TRAINED, REVERSED, SWAPPED, is_known_truth, is_skill
from minirm.evaluation.pairs import pair_table
from minirm.evaluation.report import Picture, Section, Table

FIGURES = (RANK, NLL, ECE, REGRET)

Blocks = list[str | Table | Picture]


def sections(study: Study, facts: dict) -> list[Section]:
    """Return the report, from the pictures to everything that is needed to repeat it."""
    others = [subject for subject in study.setup.subjects if not is_skill(subject)]
    asked = [subject for subject in study.setup.subjects if len(statements(study, subject)) > 1]
    found = [
        ("At a glance", _glance(study)),
        ("Who is told apart from whom", [_groups(study), words.intervals(study)]),
        ("The subjects", [words.comparison(study), _subjects(study)]),
        ("Skill by skill", [*_all_skills(study), words.PROFILE, _skills(study)] if study.setup.skills else []),
        *((f"How good: {Path(subject).name}", _subject(study, subject)) for subject in others),
        *((f"Questions, asked of {Path(subject).name}", [_statements(study, subject)]) for subject in asked),
        ("Budgets and sizes", _curves(study)),
        (f"Prices, on {Path(study.main).name}", [words.costs(study, facts["load_at_start"]), _costs(study)]),
        ("What decides", _attributes(study)),
        ("Ensembles and doubt", _doubt(study)),
        ("Who took part, and how they were tuned", _contestants(study)),
        ("What was computed when, and how to repeat it", _repeat(study, facts)),
    ]
    return [Section(heading, blocks) for heading, blocks in found if blocks]


def _glance(study: Study) -> Blocks:
    return [
        Picture(
            pictures.profile_map(study),
            "What each has learned of each subject: how many hundredths of the way from chance to the best possible "
            "accuracy, mean over seeds; where no truth is known, the accuracy in hundredths.",
        ),
        Picture(
            pictures.forest(study),
            f"Differences to {study.baseline}: 95% intervals, a tick for each seed; filled where resolved, the number "
            "of differences being considered.",
        ),
        Picture(pictures.accuracy_against_cost(study), "Accuracy on test against the price of a training."),
        Picture(pictures.accuracy_over_seconds(study), "Accuracy on validation while training goes on."),
    ]


def _groups(study: Study) -> Table:
    rows = []
    for subject in study.subjects:
        found = groups(study, subject, pictures.compared(study))
        if found:
            together = " | ".join(", ".join(map(shortened, group)) for group in found)
            rows.append((Path(subject).name, together, f"{usual_detectable(against_baseline(study, subject)):.3f}"))
    caption = (
        "The architectures on each subject, the best first. A bar ends a group of neighbours of which no two are told "
        "apart; one may stand in several, and two that share none need not be told apart. Last: the smallest true "
        "difference to the baseline that this design shows four times in five, before any correction."
    )
    return Table(("subject", "groups", "shows"), rows, caption)


def _subjects(study: Study) -> Table:
    rows = []
    for name in study.setup.subjects:
        test = study.subject(name).tests[AS_TRAINED]
        pairs = len(pair_table(test.comparisons, [[0.0] * len(row.responses) for row in test.comparisons]).better)
        trained = study.setup.available[name]
        folds = f" in each of {len(study.setup.folds(name))} folds" if len(study.setup.folds(name)) > 1 else ""
        tested = f"{len(test.comparisons):,} ({len(set(test.keys)):,}; {pairs:,}){folds}"
        best = f"{study.best_possible(name):.3f}" if is_known_truth(name) else "unknown"
        rows.append(
            (Path(name).name, f"{trained:,}", f"{study.setup.plan.steps_for(name, trained):,}", tested, best,
             words.subject(name) if is_skill(name) else "see below")
        )  # fmt: skip
    columns = ("subject", "training", "steps", "test (groups; pairs)", "best possible", "what it is")
    return Table(
        columns, rows, "Comparisons for training, steps, comparisons in the test, and the best accuracy there."
    )


def _all_skills(study: Study) -> Blocks:
    """Return the mean over the skills, where there are several."""
    resolved = {one.first: one for one in against_baseline(study, ALL_SKILLS)}
    rows = [
        (name, with_interval(study.interval(ALL_SKILLS, name, WAY)), difference_words(resolved.get(name)))
        for name in study.ranking(ALL_SKILLS)
    ]
    columns = ("contestant", "part of the way", f"minus {study.baseline}")
    return [Table(columns, rows, f"Mean over the {len(study.setup.skills)} skills.")] if rows else []


def _skills(study: Study) -> Table:
    found, rows = profile(study), []
    for subject in study.setup.skills:
        resolved = {one.first: one for one in against_baseline(study, subject)}
        for name in study.ranking(subject):
            learned = found[name, subject]
            rows.append(
                (subject, name, with_interval(study.interval(subject, name, WAY)), difference_words(resolved.get(name)),
                 f"{learned.learned} of {learned.trainings}; {until_most(learned)}")
            )  # fmt: skip
    columns = ("skill", "contestant", "part of the way", f"minus {study.baseline}", "learned; by")
    return Table(columns, rows)


def _subject(study: Study, subject: str) -> Blocks:
    views = study.subject(subject).tests
    blocks = [words.subject(subject), _views(study, subject), words.QUALITY]
    blocks += [_quality(study, subject, view) for view in views]
    if subject == study.main:
        blocks.append(Picture(pictures.reliability(study), "Reliability, before temperature; dashed: as often right."))
        if is_known_truth(subject):
            blocks.append(Picture(pictures.reward_against_utility(study), "Reward against true utility, seed 0."))
    return blocks


def _views(study: Study, subject: str) -> Table:
    """Return accuracies on the views of a subject, with the paired difference to the baseline."""
    differences = {one.first: one for one in against_baseline(study, subject, ACCURACY)}
    others = [view for view in (REVERSED, SWAPPED) if view in study.subject(subject).tests]
    rows = []
    for name in study.ranking(subject):
        against = "the baseline" if name == study.baseline else difference_words(differences.get(name))
        seen = [with_interval(study.interval(subject, name, view)) for view in (ACCURACY, *others)]
        way = [with_interval(study.interval(subject, name, WAY))] if is_known_truth(subject) else []
        rows.append((name, seen[0], against, *way, *seen[1:]))
    ways = ["part of the way"] if is_known_truth(subject) else []
    shows = f"Accuracy on held-out pairs. Shown four times in five: {usual_detectable(list(differences.values())):.3f}."
    return Table(("contestant", AS_TRAINED, f"minus {study.baseline}", *ways, *others), rows, shows)


def _quality(study: Study, subject: str, view: str) -> Table:
    names = study.ranking(subject)
    called = {figure: figure_in(view, figure) for figure in FIGURES}
    measured = [f for f in FIGURES if any(study.figure(subject, name, called[f]) is not None for name in names)]
    rows = [(name, *(with_interval(study.interval(subject, name, called[f])) for f in measured)) for name in names]
    return Table(("contestant", *measured), rows, f"{view[0].upper()}{view[1:]}.")


def _statements(study: Study, subject: str) -> Table:
    answers = statements(study, subject)
    rows = [
        (question + _other_width(study, subject, one), f"{one.first} − {one.second}", difference_words(one))
        for question, one in answers
    ]
    what = "part of the way" if figure_of(subject) == WAY else "accuracy"
    shows = usual_detectable([one for _, one in answers])
    caption = f"Difference in {what}, all of these being one family. Shown four times in five: {shows:.3f}."
    return Table(("question", "first − second", "difference"), rows, caption)


def _other_width(study: Study, subject: str, one: Difference) -> str:
    """Return how wide the two networks are, where they are not alike: what is matched is not width."""
    known = {contestant.name: contestant for contestant in study.setup.networks}
    widths = [study.setup.cell(known[name], subject).width for name in (one.first, one.second) if name in known]
    return f" (width {widths[0]}, not {widths[1]})" if len(set(widths)) > 1 else ""


def _curves(study: Study) -> Blocks:
    names, blocks = pictures.compared(study), []
    curves = (
        (study.curve, "training comparisons", "Accuracy against the number of comparisons, by the rule of the budget."),
        (study.sizes, "layers × width of the baseline", "Accuracy against size; the others have the one that matches."),
    )
    for cells, what, caption in curves:
        points = study.points(cells)
        places = list(dict.fromkeys(place for line in points.values() for place in line))
        if len(places) > 1:
            laws = exponents(study, cells)
            rows = [
                (
                    name,
                    *(with_interval(line.get(place)) for place in places),
                    *([with_interval(laws.get(name))] if laws else []),
                )
                for name, line in points.items()
            ]
            columns = ("contestant", *map(pictures.named_point, places), *(["α"] if laws else []))
            blocks += [
                Picture(pictures.curves(points, names, what), caption),
                Table(columns, rows, f"By {what}." + words.LAW * bool(laws)),
            ]
    if study.converged:
        blocks += [words.CONVERGED, _converged(study)]
    return blocks


def _converged(study: Study) -> Table:
    points, rows, differences = study.points(study.converged), [], at_convergence(study)
    for name, line in points.items():
        results = [study.result(cell) for key, (cell,) in study.converged.items() if key[0] == name]
        seen = [r["best_step"] * study.setup.plan.per_batch(study.main) for r in results if "best_step" in r]
        capped = sum(
            study.result(cell).get("steps") == cell.steps for key, (cell,) in study.converged.items() if key[0] == name
        )
        fixed = with_interval(study.interval(study.main, name, ACCURACY))
        against = difference_words(differences.get(name))
        least = f"{sum(seen) / len(seen):,.0f}" if seen else "–"
        rows.append((name, fixed, with_interval(line["converged"]), against, least, f"{capped}" if seen else "–"))
    columns = (
        "contestant", "fixed budget", "to convergence", f"minus {shortened(study.baseline)}",
        "comparisons until the best", "trainings that all steps ended",
    )  # fmt: skip
    shows = usual_detectable(list(differences.values()))
    where = f"Accuracy on {Path(study.main).name}."
    caption = f"{where} Differences are of trainings to convergence; shown four times in five: {shows:.3f}."
    return Table(columns, rows, caption)


def _costs(study: Study) -> Table:
    rows, shortest, pairs = [], shortest_training(study), pairs_per_comparison(study)
    for name, cost in study.costs.items():
        taken = seconds(study, name)
        trained = pairs_trained_on(study, name) / cost.training.median
        speeds = f"{trained:,.0f}; {pairs / cost.scoring.median:,.0f}"
        timed = "–" if taken is None else f"{taken.to_most:.1f}; {taken.whole:.1f}"
        after = with_interval(accuracy_after(study, name, shortest))
        sizes = f"{cost.parameters:,}", f"{cost.flops / 1e6:.1f} M"
        rows.append((name, *sizes, speeds, f"{cost.peak_bytes / 1e6:.1f} MB", timed, after))
    columns = ("contestant", "parameters", "operations", "pairs/s training; scoring", "memory", "s to 90%; in all",
               f"accuracy after {shortest:.1f} s")  # fmt: skip
    return Table(columns, rows)


def _attributes(study: Study) -> Blocks:
    by_attribute = study.attributes()
    attributes = sorted({attribute for found in by_attribute.values() for attribute in found})
    if not attributes:
        return []
    rows = [(name, *(found.get(attribute) for attribute in attributes)) for name, found in by_attribute.items()]
    pairs = study.decided()
    of = ", ".join(f"{name} of {len(pairs[name]):,}" for name in attributes)
    caption = f"Accuracy against the truth on pairs of which one attribute alone decides which is better: {of} pairs."
    return [Table(("contestant", *attributes), rows, caption)]


def _doubt(study: Study) -> Blocks:
    found = study.ensembles()
    if not found:
        return []
    columns = list(next(iter(found.values())))
    signed = lambda column, value: with_interval(value, "+" if "−" in column else "")  # noqa: E731
    rows = [(name, *(signed(column, values[column]) for column in columns)) for name, values in found.items()]
    best = study.networks(study.main)[0]
    curve = pictures.risk_over_coverage(study.scored[study.main, best][AS_TRAINED], best)
    return [
        words.doubt(study),
        Table(("contestant", *columns), rows),
        Picture(curve, "Mistakes left when the doubtful pairs are set aside."),
    ]


def _contestants(study: Study) -> Blocks:
    about = [(c.name, c.about or c.place or c.kind) for c in study.setup.contestants]
    chosen: dict[tuple[str, str], list[str]] = {}
    named = {contestant.identity: contestant.name for contestant in study.setup.contestants}
    for cell, rate in study.rates.items():
        chosen.setdefault((named[cell.contestant], cell.subject), []).append(f"{rate:g}")
    rows = [(name, Path(subject).name, ", ".join(rates)) for (name, subject), rates in chosen.items()]
    return [
        Table(("contestant", "what it is"), about),
        words.tuning(study),
        *(f"Failed: {line}" for line in study.failures()),
        Table(("contestant", "tuned on", "learning rates"), rows, "Chosen rates, one for each condition of a subject."),
    ]


def _repeat(study: Study, facts: dict) -> Blocks:
    sources = asdict(study.setup.sources) | {"data": str(study.setup.sources.data)}
    plan = {**asdict(study.setup.plan), "sources": sources, "match": study.setup.match}
    computed = (
        "Trainings by the commit and the day that computed them. Whatever else these commits hold, the functions that "
        f"compute a training are the same: digest {code_digest(*STARTS)}, and those that build each contestant."
    )
    return [
        Table(("commit", "day", "PyTorch", "trainings", "processor minutes"), computed_when(study), computed),
        *(f"Missing for {name}: {what}." for name, what in study.missing.items()),
        f"Trainings of other code that lie in the cache and were not used: {stale(study) or 'none'}.",
        Table(("", ""), [(name, str(value)) for name, value in facts.items()], "Command, machine and versions."),
        Table(("", ""), [(name, str(value)) for name, value in plan.items()], "The plan."),
        "Two runs with the same seeds, versions and threads give the same accuracies; times differ.",
    ]


def computed_when(study: Study) -> list[tuple[str, str, str, int, str]]:
    """Return by commit, day and version of PyTorch how many trainings were done, and in how many minutes."""
    minutes: dict[tuple[str, str, str], list[float]] = {}
    for cell in study.cells:
        result = study.result(cell)
        minutes.setdefault((result["commit"], result["date"], result["torch"]), []).append(result["cpu_seconds"] / 60)
    return [(*key, len(taken), f"{sum(taken):.1f}") for key, taken in sorted(minutes.items())]


def stale(study: Study) -> str:
    """Return by subject how many results of the same trainings by other code lie in the cache; "" for none."""
    found = Counter()
    for cell in study.cells:
        found[Path(cell.subject).name] += len(cell.stale(study.cache, study.setup.sources))
    return ", ".join(f"{count} of {subject}" for subject, count in found.items() if count)
