"""An evaluation on disk: metrics.json and one page with its pictures."""

from collections.abc import Sequence
from pathlib import Path

from minirm.data.comparison import Comparison
from minirm.errors import InputError
from minirm.evaluation.figures import Evaluation, as_table
from minirm.evaluation.pairs import Rewards, pair_table
from minirm.evaluation.pictures import learning_curve, reliability_diagram, reward_histogram
from minirm.evaluation.report import Example, Judged, Picture, Section, Table, write_report
from minirm.files.dialogue import render_dialogue
from minirm.files.disk import read_json, write_json

CONFIG, METRICS = "config.json", "metrics.json"
"""Files of a folder: a run has both, an evaluation the second."""
SHOWN = 5
"""Examples of each kind on a page."""


def check_evaluation_folder(folder: Path) -> None:
    """Refuse a folder in which an evaluation would overwrite something else than an earlier evaluation.

    Raises:
        InputError: it is a run's, or is neither empty nor has the metrics.json of an evaluation.
    """
    if (folder / CONFIG).exists():
        raise InputError(f"{folder}: is a run folder, whose own report would be lost; name another folder")
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    if not (folder / METRICS).is_file() or not {"accuracy", "calibration"} <= read_json(folder / METRICS).keys():
        raise InputError(f"{folder}: is not empty and holds no earlier evaluation; name another folder")


def write_evaluation(
    folder: Path,
    comparisons: Sequence[Comparison],
    rewards: Rewards,
    evaluation: Evaluation,
    *,
    title: str,
    history: Sequence[dict] | None = None,
) -> None:
    """Write report.html, and metrics.json unless a run has its own there.

    Args:
        history: a run's own entries of log.jsonl, for the learning curve of its reward stage. None: not a run's folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if history is None:
        write_json(folder / METRICS, evaluation.to_json())  # first: by it the folder is known again
    accuracy = as_table(evaluation)[0]
    verdict = f"Accuracy {accuracy.value} {accuracy.interval}: {accuracy.explanation}."
    sections = evaluation_sections(comparisons, rewards, evaluation)
    if history:
        curve = Picture(learning_curve(merged_history(history)), "Loss and accuracy while the reward stage ran.")
        sections.append(Section("How it was learned", [curve]))
    sections.append(Section("Where it is most wrong", most_wrong(comparisons, rewards)))
    write_report(folder / "report.html", title=title, verdict=verdict, sections=sections)


def evaluation_sections(
    comparisons: Sequence[Comparison], rewards: Rewards, evaluation: Evaluation, heading: str = "The figures"
) -> list[Section]:
    """Return the table of an evaluation and its pictures."""
    pairs = pair_table(comparisons, rewards)
    table = Table(("", "value", "95% interval", ""), as_table(evaluation))
    reliability = reliability_diagram(evaluation.calibration.bins)
    histogram = reward_histogram(pairs.better_reward, pairs.worse_reward)
    pictures = [
        Picture(reliability, "How often the model is right when it is that sure; on the dashed line it knows itself."),
        Picture(histogram, "Rewards of the better and of the worse response of every pair."),
    ]
    return [Section(heading, [table, *pictures])]


def most_wrong(comparisons: Sequence[Comparison], rewards: Rewards) -> list[Example | str]:
    """Return the pairs in the wrong order with the largest difference of rewards."""
    pairs = pair_table(comparisons, rewards)
    worst = [n for n in pairs.reward_difference.argsort()[:SHOWN] if pairs.reward_difference[n] < 0]
    if not worst:
        return ["No pair is in the wrong order."]
    examples = []
    for n in worst:
        comparison, scored = comparisons[pairs.comparison[n]], rewards[pairs.comparison[n]]
        shown = [
            Judged(comparison.responses[k], scored[k], is_preferred)
            for k, is_preferred in ((pairs.better[n], True), (pairs.worse[n], False))
        ]
        examples.append(Example(render_dialogue(comparison.prompt).strip(), shown))
    return examples


def merged_history(entries: Sequence[dict]) -> list[dict]:
    """Return log entries as the learning curve wants them: evaluations under validation_… names."""
    return [
        entry
        if entry["kind"] == "step"
        else {
            "step": entry["step"],
            "validation_loss": entry["loss"],
            "validation_accuracy": entry["accuracy"],
        }
        for entry in entries
    ]
