"""The report of a study, and every number of it."""

from dataclasses import asdict
from pathlib import Path

from bench.architectures import pictures
from bench.architectures.answers import statements, verdict
from bench.architectures.differences import against_baseline, groups
from bench.architectures.page import computed_when, sections
from bench.architectures.plan import Table
from bench.architectures.prices import histories, seconds
from bench.architectures.profile import profile
from bench.architectures.scaling import exponents
from bench.architectures.study import Study
from bench.written import write_pages

TITLE = "Which architecture makes a better reward model"


def write(study: Study, folder: Path, name: str, facts: dict) -> str:
    """Write NAME.html, NAME.md with its pictures, and NAME.json; return the verdict."""
    said, parts = verdict(study), sections(study, facts)
    write_pages(folder / name, TITLE, said, parts, as_json(study, said, facts))
    return said


def as_json(study: Study, said: str, facts: dict) -> dict:
    """Return every number of the report, and every figure of each seed."""
    table: dict[str, dict] = {}
    for (subject, name), found in study.resampled.items():
        figures = {
            figure: {"interval": study.interval(subject, name, figure), "by seed": value.whole.tolist()}
            for figure, value in found.items()
        }
        table.setdefault(subject, {})[name] = figures

    def points(cells: Table) -> dict:
        intervals = study.points(cells)
        return {
            name: {
                pictures.named_point(point): {"interval": intervals[name][point], "by seed": found.whole.tolist()}
                for point, found in line.items()
            }
            for name, line in study.accuracies(cells).items()
        }

    return {
        "verdict": said,
        "facts": facts,
        "computed": computed_when(study),
        "plan": asdict(study.setup.plan),
        "match": study.setup.match,
        "training comparisons": study.setup.available,
        "table": table,
        f"minus {study.baseline}": {s: [asdict(d) for d in against_baseline(study, s)] for s in study.subjects},
        "groups": {subject: groups(study, subject, pictures.compared(study)) for subject in study.subjects},
        "profile": {f"{name}, {subject}": found._asdict() for (name, subject), found in profile(study).items()},
        "questions": {s: {q: asdict(one) for q, one in statements(study, s)} for s in study.setup.subjects},
        "costs": {name: asdict(cost) for name, cost in study.costs.items()},
        "seconds": {name: taken._asdict() for name in study.costs if (taken := seconds(study, name)) is not None},
        "by comparisons": points(study.curve),
        "by size": points(study.sizes),
        "exponents": {"comparisons": exponents(study, study.curve), "size": exponents(study, study.sizes)},
        "converged": points(study.converged),
        "histories": {name: histories(study, name) for name in study.costs},
        "by attribute": study.attributes(),
        "ensembles": study.ensembles(),
        "failures": study.failures(),
    }
