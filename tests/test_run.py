"""From files to a run folder and back into it: what it holds, how data are split, how it is stopped and resumed."""

import json
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from minirm.cli.watcher import Stopper
from minirm.config import LoraConfig, PackingConfig, TrainConfig, sized
from minirm.data.comparison import Comparison, Turn
from minirm.errors import InputError
from minirm.evaluation.evaluate import Fit, evaluate
from minirm.evaluation.report import as_table
from minirm.evaluation.scoring import RewardScorer
from minirm.files.disk import alone_in
from minirm.files.records import read_comparisons
from minirm.files.splits import prompt_key
from minirm.hub.load import load
from minirm.runs import job as run
from minirm.runs.job import prepare, read_config, train_run, usual_epochs
from minirm.runs.journal import Observer, read_log
from minirm.runs.run_config import LANGUAGE_MODEL, REWARD, DataConfig, RunConfig
from minirm.training.loop import Evaluated, Step
from minirm.worlds import demo
from minirm.worlds.demo import run_demo
from tests.conftest import kind_and_rude, write_lines


class StopAt(Observer):
    """Stops a run after a step of a stage."""

    def __init__(self, stage: str = "", step: int = 0) -> None:
        self.stage, self.step, self.stop = stage, step, False

    def event(self, stage, event):
        self.stop = (stage, event.step) == (self.stage, self.step)

    def should_stop(self):
        return self.stop


def a_config(*files: Path, loss: str = "all_pairs", **reward: object) -> RunConfig:
    """Return a run of about a second: 2 stages of a few steps."""
    return RunConfig(
        DataConfig(files, validation_share=25.0, vocab_size=None),
        sized("tiny", layers=1, width=16, heads=2, max_positions=64, dropout=0.1),
        PackingConfig(comparisons_per_batch=8, max_tokens=64),
        TrainConfig(epochs=2.0, learning_rate=1e-2, evaluate_every=0.5),
        TrainConfig(**{"epochs": 2.0, "learning_rate": 1e-2, "evaluate_every": 0.5, "loss": loss, **reward}),
    )


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    return write_lines(tmp_path_factory.mktemp("data") / "pairs.jsonl", kind_and_rude(40))


@pytest.fixture(scope="module")
def whole(tmp_path_factory, file) -> Path:
    """An uninterrupted run; tests must leave it as it is."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    assert train_run(a_config(file), folder, Observer()) is not None
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_folder_holds_what_its_reference_lists(whole):
    names = {path.relative_to(whole).parts[0] for path in whole.rglob("*") if path.is_file()}
    listed = ["config.json", "tokenizer.json", "model.safetensors", "data.json", "training_prompts.bin"]
    assert names == {*listed, "metrics.json", "log.jsonl", "tensorboard", "report.html", "checksums.txt"}
    assert not any(name.startswith(".") for name in names)  # nothing unfinished is left behind


def test_the_log_holds_every_step_and_evaluation_of_both_stages(whole):
    for stage in (LANGUAGE_MODEL, REWARD):
        log = read_log(whole, stage)
        steps = [entry for entry in log if entry["kind"] == "step"]
        evaluations = [entry["step"] for entry in log if entry["kind"] == "evaluation"]
        assert [entry["step"] for entry in steps] == list(range(1, 9)) and evaluations == [2, 4, 6, 8]
        assert all(entry["comparisons"] <= 8 and entry["seconds"] > 0 for entry in steps)
        assert sum(entry["comparisons"] for entry in steps) == 2 * 30  # every comparison once an epoch
        assert next(entry["best"] for entry in log if entry["kind"] == "evaluation") is True


def without_few_steps(notes: list[str]) -> list[str]:
    return [note for note in notes if "few to learn from" not in note]


def test_a_run_says_where_steps_are_few_to_learn_from(file, tmp_path):
    observer = Noting()
    train_run(a_config(file, epochs=6.0), tmp_path / "run", observer)
    [said] = [note for note in observer.notes if "few to learn from" in note]
    assert said.startswith("language model: 8 steps in all are few")  # the reward stage has 24


def test_where_nobody_says_few_comparisons_make_many_steps(file, tmp_path):
    asked = a_config(file, epochs=None)
    language_model = replace(asked.language_model, epochs=None)
    train_run(
        replace(asked, packing=PackingConfig(max_tokens=64), language_model=language_model),
        tmp_path / "run",
        Observer(),
    )
    for stage in (LANGUAGE_MODEL, REWARD):
        steps = [entry for entry in read_log(tmp_path / "run", stage) if entry["kind"] == "step"]
        assert [entry["comparisons"] for entry in steps] == [1] * 30 * 6
    assert read_config(tmp_path / "run").reward.epochs is None  # as it was asked for, when it is gone on with


@pytest.mark.parametrize(("batches", "epochs"), [(1, 6), (100, 6), (200, 3), (300, 2), (9000, 2)])
def test_epochs_become_fewer_as_steps_become_more(batches, epochs):
    training = SimpleNamespace(plan=lambda _epoch: [None] * batches)
    assert usual_epochs(training, TrainConfig(), from_nothing=True) == epochs
    assert usual_epochs(training, TrainConfig(), from_nothing=False) == 2
    twice = SimpleNamespace(plan=lambda _epoch: [None] * batches * 2)
    assert usual_epochs(twice, TrainConfig(accumulate=2), from_nothing=True) == epochs


def test_the_language_model_stage_learns(whole):
    losses = [entry["loss"] for entry in read_log(whole, LANGUAGE_MODEL) if entry["kind"] == "evaluation"]
    assert losses[-1] < losses[0] - 0.3


def read_board(folder: Path, stage: str) -> EventAccumulator:
    board = EventAccumulator(str(folder / "tensorboard" / stage.replace(" ", "_")), size_guidance={"tensors": 0})
    board.Reload()
    return board


def test_tensorboard_shows_curves_and_texts_with_their_scores(whole):
    board = read_board(whole, REWARD)
    training = {"loss", "accuracy", "gradient_norm", "learning_rate", "cases_per_second", "tokens_per_second"}
    wanted = {f"reward/training/{name}" for name in training} | {"reward/validation/loss", "reward/validation/accuracy"}
    assert set(board.Tags()["scalars"]) == wanted
    losses = {entry["step"]: entry["loss"] for entry in read_log(whole, REWARD) if entry["kind"] == "step"}
    shown = {event.step: event.value for event in board.Scalars("reward/training/loss")}
    assert shown == pytest.approx(losses, rel=1e-6)
    texts = board.Tensors("reward/texts/0/text_summary")
    assert [event.step for event in texts] == [2, 4, 6, 8]
    table = texts[-1].tensor_proto.string_val[0].decode()
    prompt, answer, rude = table.split("\n\n")[0], "Gladly, here is answer", "No, go away"
    assert prompt.startswith("**user** Question") and answer in table and rude in table
    scores = [float(row.split("|")[1]) for row in table.splitlines()[-2:]]
    assert scores == sorted(scores, reverse=True)
    number = prompt.split()[-1].rstrip("?")
    rewards = load(whole).score([prompt.removeprefix("**user** ")] * 2, [f"{answer} {number}.", f"{rude} {number}."])
    if read_log(whole, REWARD)[-1]["best"]:  # else the folder holds the weights of an earlier evaluation
        assert sorted(rewards, reverse=True) == pytest.approx(scores, abs=6e-4)


@pytest.mark.parametrize(("stage", "step"), [(LANGUAGE_MODEL, 3), (LANGUAGE_MODEL, 8), (REWARD, 1), (REWARD, 6)])
def test_a_resumed_run_ends_as_the_uninterrupted_one_did(file, whole, tmp_path, stage, step):
    folder = tmp_path / "run"
    assert train_run(a_config(file), folder, StopAt(stage, step)) is None
    assert not (folder / "metrics.json").exists()
    assert train_run(run.read_config(folder), folder, Observer()) is not None
    for name in ("model.safetensors", "metrics.json", "data.json", "tokenizer.json", "training_prompts.bin"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes(), name
    for stage in (LANGUAGE_MODEL, REWARD):
        ours, theirs = (
            [(e["kind"], e["step"], e["loss"]) for e in read_log(place, stage)] for place in (folder, whole)
        )
        assert ours == theirs  # nothing twice, nothing missing
        shown = [event.step for event in read_board(folder, stage).Scalars(f"{stage}/training/loss")]
        assert sorted(shown) == list(range(1, 9))  # sorted: two event files of one second are read in either order


def test_a_run_that_was_left_between_its_stages_draws_the_same_anew(file, tmp_path):
    config, folder = a_config(file, average_read=True), tmp_path / "run"
    assert train_run(config, tmp_path / "whole", Observer()) is not None
    assert train_run(config, folder, StopAt(LANGUAGE_MODEL, 8)) is None
    assert train_run(config, folder, Observer()) is not None
    assert (folder / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()


@pytest.mark.parametrize("step", [1, 5])
def test_a_run_that_was_killed_goes_on_from_its_last_evaluation(file, whole, tmp_path, step):
    """Killed at the first step of the second stage, or between two evaluations, in the middle of a line of the log."""

    class Kill(Observer):
        def event(self, stage, event):
            if (stage, event.step) == (REWARD, step):
                raise KeyboardInterrupt

    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train_run(a_config(file), folder, Kill())
    with (folder / "log.jsonl").open("a") as log:
        log.write('{"stage": "reward", "kind": "st')
    assert train_run(run.read_config(folder), folder, Observer()) is not None
    assert (folder / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    losses = [[e["loss"] for stage in (LANGUAGE_MODEL, REWARD) for e in read_log(f, stage)] for f in (folder, whole)]
    assert losses[0] == losses[1]


def test_an_evaluation_that_was_told_and_not_saved_is_told_once(file, whole, tmp_path, monkeypatch):
    """Killed behind an evaluation, after a save between its step and it."""

    class Kill(Observer):
        def event(self, stage, event):
            if (stage, event.step, isinstance(event, Evaluated)) == (REWARD, 4, True):
                raise KeyboardInterrupt

    folder = tmp_path / "run"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(run, "SECONDS_BETWEEN_SAVES", -1.0)
        train_run(a_config(file), folder, Kill())
    assert train_run(run.read_config(folder), folder, Observer()) is not None
    told = [[(e["kind"], e["step"], e["loss"]) for e in read_log(place, REWARD)] for place in (folder, whole)]
    assert told[0] == told[1]


def test_a_log_that_lacks_a_step_is_refused_and_left_as_it_is_and_without_it_the_run_goes_on(file, whole, tmp_path):
    folder = tmp_path / "run"
    assert train_run(a_config(file), folder, StopAt(LANGUAGE_MODEL, 2)) is None
    log = folder / "log.jsonl"
    before = log.read_bytes().split(b"\n", 1)[1]
    log.write_bytes(before)
    said = f"^{log}: is damaged: it is not as it was written; without it, the run goes on$"
    with pytest.raises(InputError, match=said):
        train_run(a_config(file), folder, Observer())
    assert log.read_bytes() == before
    log.unlink()
    observer = Noting()
    assert train_run(a_config(file), folder, observer) is not None
    assert without_few_steps(observer.notes) == [f"{log}: file is missing; the run goes on without what it told"]
    assert (folder / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_a_run_does_not_go_on_with_other_data_and_touches_nothing(file, tmp_path):
    data, folder = tmp_path / "pairs.jsonl", tmp_path / "run"
    data.write_bytes(file.read_bytes())
    assert train_run(a_config(data), folder, StopAt(REWARD, 2)) is None
    before = contents(folder)
    rows = kind_and_rude(40)
    swapped = [{**row, "chosen": row["rejected"], "rejected": row["chosen"]} for row in rows]
    for changed in (rows[:-1], swapped):
        write_lines(data, changed)
        said = rf"run: the data changed since this run began \({data}\): train anew$"
        with pytest.raises(InputError, match=said):
            train_run(run.read_config(folder), folder, Observer())
        assert contents(folder) == before
    data.write_bytes(file.read_bytes())
    assert train_run(run.read_config(folder), folder, Observer()) is not None


def test_training_stops_early_and_the_best_weights_are_kept(file, tmp_path):
    config = a_config(file, epochs=40.0, patience=2, learning_rate=0.1, schedule="constant")
    config = replace(config, model=replace(config.model, dropout=0.0))
    evaluation = train_run(config, tmp_path / "run", Observer())
    log = [entry for entry in read_log(tmp_path / "run", REWARD) if entry["kind"] == "evaluation"]
    best = min(log, key=lambda entry: entry["loss"])
    assert log[-1]["step"] < 160 and log.index(best) == len(log) - 3
    assert evaluation.calibration.nll_nats == pytest.approx(best["loss"], rel=1e-4)


def test_a_prompt_is_on_one_side_only_however_often_it_occurs(tmp_path):
    rows = [{**row, "prompt": f"Question {n % 12}?"} for n, row in enumerate(kind_and_rude(60))]
    prepared = prepare(a_config(write_lines(tmp_path / "pairs.jsonl", rows)), tmp_path / "work")
    training = {bytes(key) for key in prepared.training_prompts}
    validation = {prompt_key(comparison) for comparison in prepared.validation}
    assert len(training) == 9 and len(validation) == 3 and not training & validation
    assert len(prepared.validation) == 15 == len(prepared.stores["validation reward"])
    assert len(prepared.stores["training reward"]) == len(prepared.stores["training language model"]) == 45


def test_files_for_validation_are_used_as_they_are(file, tmp_path):
    other = write_lines(tmp_path / "other.jsonl", [{**row, "prompt": "New?"} for row in kind_and_rude(5)])
    config = a_config(file)
    prepared = prepare(replace(config, data=DataConfig((file,), validation=(other,))), tmp_path / "work")
    assert len(prepared.training_prompts) == 40 and len(prepared.validation) == 5


def test_what_is_dropped_stands_in_data_json_with_its_reason_and_stage(tmp_path):
    rows = kind_and_rude(20)
    rows += [{"prompt": f"Same {n}?", "chosen": "alike", "rejected": "alike"} for n in range(4)]
    rows += [{"prompt": f"Long {n}?", "chosen": "a, " * 80 + "b", "rejected": "a, " * 80 + "c"} for n in range(8)]
    validation = write_lines(tmp_path / "validation.jsonl", kind_and_rude(3))
    config = a_config(write_lines(tmp_path / "pairs.jsonl", rows))
    config = replace(config, data=replace(config.data, validation=(validation,), vocab_size=262))
    counts = {}
    for when_longer in ("drop", "truncate"):
        packing = replace(config.packing, when_longer=when_longer)
        prepared = prepare(replace(config, packing=packing), tmp_path / when_longer)
        counts[when_longer] = prepared.data["counts"]
    assert counts["drop"] == {
        "training, language model: dropped: longer than max_tokens": 8,
        "training, reward: dropped: longer than max_tokens": 8,
        "training, reward: comparisons with identical responses": 4,
    }
    assert counts["truncate"]["training, reward: dropped: nothing left to compare, responses of the same tokens"] == 8
    assert counts["truncate"]["training, reward: merged: responses of the same tokens"] == 8


def test_a_language_model_learns_responses_that_a_cut_makes_alike(tmp_path):
    rows = [{"prompt": f"Long {n}?", "chosen": "a, " * 80 + "b", "rejected": "a, " * 80 + "c"} for n in range(8)]
    config = a_config(write_lines(tmp_path / "pairs.jsonl", [*kind_and_rude(20), *rows]))
    config = replace(config, data=replace(config.data, vocab_size=262, language_model_responses="all"))
    prepared = prepare(config, tmp_path / "work")
    dropped = "dropped: nothing left to compare, responses of the same tokens"
    counts = prepared.data["counts"]
    assert sum(n for name, n in counts.items() if name.endswith(dropped) and "reward" in name) == 8
    assert not any("dropped" in name for name in counts if "language model" in name)
    texts = sum(len(prepared.stores[f"{part} language model"]) for part in ("training", "validation"))
    assert texts == 28


def test_a_language_model_loses_nothing_to_responses_that_it_does_not_learn(tmp_path):
    rows = [{"prompt": f"Say it {n}!", "chosen": f"It {n}.", "rejected": "no, " * 80} for n in range(20)]
    for when_longer in ("drop", "truncate"):
        config = a_config(write_lines(tmp_path / "pairs.jsonl", [*kind_and_rude(20), *rows]))
        config = replace(config, packing=replace(config.packing, when_longer=when_longer))
        prepared = prepare(config, tmp_path / when_longer)
        counts = prepared.data["counts"]
        assert counts and not any("language model" in name for name in counts)
        assert sum(len(prepared.stores[f"{part} language model"]) for part in ("training", "validation")) == 40


def test_conversations_without_a_judgement_feed_the_language_model_only(file, tmp_path):
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]
    (tmp_path / "chats.json").write_text(json.dumps({"type": "conversation", "instances": [{"messages": messages}]}))
    config = a_config(file, tmp_path / "chats.json")
    assert len(list(read_comparisons(config.data.data))) == 41
    config = replace(config, data=replace(config.data, validation=(file,)))
    prepared = prepare(config, tmp_path / "work")
    assert len(prepared.stores["training language model"]) == 41 and len(prepared.stores["training reward"]) == 40
    assert prepared.data["counts"]["training, reward: comparisons with a single response"] == 1


def test_the_language_model_reads_the_preferred_response_or_all(file, tmp_path):
    config = a_config(file)
    for which, count in (("preferred", 1), ("all", 2)):
        data = replace(config.data, language_model_responses=which)
        store = prepare(replace(config, data=data), tmp_path / which).stores["training language model"]
        assert all(len(store[row].responses) == count for row in range(len(store)))


def refusal(config: RunConfig, folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        train_run(config, folder, Observer())
    assert not folder.exists() and "\n" not in str(caught.value)
    return str(caught.value)


def test_validation_without_a_better_response_is_refused_before_the_training(file, tmp_path):
    even = write_lines(tmp_path / "even.jsonl", [{**row, "probability": 0.5} for row in kind_and_rude(20)])
    said = "no pair of the validation part has a better response"
    assert refusal(a_config(even), tmp_path / "run") == f"{even}: {said}"
    ties = [{"prompt": f"Q{n}", "responses": [{"text": t, "score": 1} for t in ("a", "b")]} for n in range(5)]
    ties = write_lines(tmp_path / "ties.jsonl", ties)
    for loss in ("rao_kupper", "all_pairs"):
        config = a_config(file, loss=loss)
        config = replace(config, data=replace(config.data, validation=(ties,)))
        assert refusal(config, tmp_path / "run") == f"{ties}: {said}"


def test_what_a_loss_would_leave_unread_is_refused(tmp_path):
    knows = "all_pairs, noise_corrected, probit, hinge, squared"
    for name, value, rule in (
        ("margin", 2, f"margin must be 0: only {knows} know one"),
        ("probability", 0.9, f"probability must be 1: only {knows} know others"),
    ):
        file = write_lines(tmp_path / f"{name}.jsonl", [*kind_and_rude(9), {**kind_and_rude(1)[0], name: value}])
        said = f"{file}:10: loss=plackett_luce: {rule}"
        assert refusal(a_config(file, loss="plackett_luce"), tmp_path / "run") == said
    with pytest.raises(
        InputError, match=rf"label_smoothing=0\.1 must be 0\.0 for loss=rao_kupper: only {knows} know it"
    ):
        a_config(file, loss="rao_kupper", label_smoothing=0.1)
    with pytest.raises(InputError, match="weighting=pair must be prompt for loss=plackett_luce"):
        a_config(file, loss="plackett_luce", weighting="pair")
    with pytest.raises(InputError, match=r"tie_width=2 must be 1\.0 for loss=all_pairs"):
        a_config(file, tie_width=2)


def test_grades_that_are_none_are_refused_before_the_training(tmp_path):
    for score, loss in ((5, "ordinal"), (0.5, "graded_preference"), (-1, "ordinal")):
        rows = [
            {"prompt": f"Q{n}", "responses": [{"text": "a", "score": 1}, {"text": "b", "score": 0}]} for n in range(9)
        ]
        file = write_lines(tmp_path / "grades.jsonl", rows)
        rows[3]["responses"][0]["score"] = score
        write_lines(file, rows)
        said = f"{file}:4: loss={loss}: scores must be whole numbers from 0 to 4 (grades=5)"
        assert refusal(a_config(file, loss=loss), tmp_path / "run") == said


@pytest.mark.parametrize("loss", ["rating", "ordinal", "step"])
def test_responses_that_are_judged_one_by_one_train_a_model_and_have_no_accuracy(tmp_path, loss):
    """One rated response to a prompt, or one with labelled steps: nothing to compare, but a loss, and rewards."""
    rows = [{"prompt": f"Q{n}", "responses": [{"text": "yes" if n % 2 else "no", "score": n % 2}]} for n in range(40)]
    if loss == "step":
        rows = [
            {"prompt": f"Q{n}", "completions": ["yes", "no", "yes"], "labels": [True, False, True]} for n in range(40)
        ]
    file = write_lines(tmp_path / "singles.jsonl", rows)
    fit = train_run(a_config(file, loss=loss, epochs=4.0, learning_rate=3e-3), tmp_path / "run", Observer())
    assert isinstance(fit, Fit) and fit.loss < {"rating": 0.25, "ordinal": 1.2, "step": 0.6}[loss]
    good, bad = load(tmp_path / "run").score(["Q1", "Q1"], ["yes", "no"])
    assert good > bad
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["validation"] == {"loss": fit.loss}


def test_labels_of_steps_are_for_the_loss_that_reads_them(file, tmp_path):
    steps = write_lines(tmp_path / "steps.jsonl", [{"prompt": "Q", "completions": ["a"], "labels": [1]}] * 3)
    said = f"{steps}:1: loss=all_pairs: labels of steps must not be there: only step knows them"
    assert refusal(a_config(steps), tmp_path / "run") == said
    assert (
        refusal(a_config(file, loss="step"), tmp_path / "run") == f"{file}:1: loss=step: labels of steps must be there"
    )


def test_what_nobody_judged_is_not_taken_for_a_score_of_0(tmp_path):
    rows = [{"prompt": f"Q{n}", "response": "a text"} for n in range(9)]
    file = write_lines(tmp_path / "unjudged.jsonl", rows)
    assert "comparisons without a judgement" in refusal(a_config(file, loss="rating"), tmp_path / "run")


def test_what_a_run_keeps_of_its_validation_split_comes_back_as_it_was(tmp_path):
    odd = {"id": [10**30, "\ud800", None], "margin": 0.1 + 0.2, "weight": 3, "subset": "größe"}
    rows = [{**row, **odd} for row in kind_and_rude(8)]
    file = write_lines(tmp_path / "pairs.jsonl", rows)
    prepared = prepare(a_config(file), tmp_path / "work")
    kept = {one.source: one for one in prepared.validation}
    read = [one for one in read_comparisons([file]) if one.source in kept]
    assert len(read) == 2 and all(one == kept[one.source] for one in read)


def test_ties_stay_in_the_validation_part_of_a_loss_that_learns_from_them(tmp_path):
    rows = [
        {"prompt": f"Q{n}", "responses": [{"text": "a", "score": 1}, {"text": "b", "score": n % 2}]} for n in range(40)
    ]
    file = write_lines(tmp_path / "some_ties.jsonl", rows)
    tied = {}
    for loss in ("rao_kupper", "all_pairs"):
        prepared = prepare(a_config(file, loss=loss), tmp_path / loss)
        assert len(prepared.validation) == len(prepared.stores["validation reward"])
        tied[loss] = sum(len(set(comparison.scores)) == 1 for comparison in prepared.validation)
    assert tied["rao_kupper"] > 0 == tied["all_pairs"]
    assert train_run(a_config(file, loss="rao_kupper"), tmp_path / "run", Observer()).pairs > 0


def test_data_that_were_all_dropped_are_refused_with_the_reason(file, tmp_path):
    config = a_config(file)
    config = replace(config, packing=PackingConfig(max_tokens=8, when_longer="drop"))
    said = (
        "nothing of the training part is left for the language model, most of it (30) dropped: longer than max_tokens"
    )
    assert refusal(config, tmp_path / "run") == f"{file}: {said}"


def test_weights_are_on_disk_before_anything_can_go_wrong_with_their_evaluation(file, tmp_path, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("no evaluation today")

    monkeypatch.setattr(RewardScorer, "evaluate", broken)
    with pytest.raises(RuntimeError, match="today"):
        train_run(a_config(file), tmp_path / "run", Observer())
    assert load_file(tmp_path / "run" / "model.safetensors")["head.weight"].shape == (1, 16)


def test_a_folder_that_is_not_empty_is_refused(file, whole, tmp_path):
    for name in ("config.json", "checksums.txt", "states/mine"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("of someone else")
    for folder in (whole, tmp_path):
        before = contents(folder)
        with pytest.raises(InputError, match=f"^{folder}: is not empty; name another folder$"):
            train_run(a_config(file), folder, Observer())
        assert contents(folder) == before


def test_a_folder_within_the_data_is_refused(file):
    config = a_config(file.parent)
    with pytest.raises(InputError, match=f"^{file.parent / 'run'}: lies in {file.parent}, whose files are read as"):
        train_run(config, file.parent / "run", Observer())


def test_the_same_run_goes_on_and_another_one_is_refused_by_what_differs(file, whole, tmp_path):
    folder = tmp_path / "run"
    assert train_run(a_config(file), folder, StopAt(REWARD, 2)) is None
    before = contents(folder)
    said = f"^{folder / 'begun' / 'asked.json'}: was begun with reward.epochs=2.0, not reward.epochs=3.0$"
    with pytest.raises(InputError, match=said):
        train_run(a_config(file, epochs=3.0), folder, Observer())
    assert contents(folder) == before
    assert train_run(a_config(file), folder, Observer()) is not None
    assert (folder / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_what_a_process_left_that_was_killed_before_the_run_began_is_cleared_away(file, whole, tmp_path):
    left = tmp_path / ".begun.4711"
    (left / "tokens").mkdir(parents=True)
    (left / "tokenizer.json").write_text("half")
    (tmp_path / ".lock").touch()
    assert train_run(a_config(file), tmp_path, Observer()) is not None
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in whole.iterdir()}


def test_a_resumed_run_does_not_prepare_again(file, tmp_path, monkeypatch):
    assert train_run(a_config(file), tmp_path / "run", StopAt(REWARD, 2)) is None
    monkeypatch.setattr(run, "prepare", interrupted)
    assert train_run(a_config(file), tmp_path / "run", Observer()) is not None


def test_of_two_runs_at_once_in_one_folder_one_is_refused(file, whole, tmp_path):
    before = contents(whole)
    with alone_in(whole), pytest.raises(InputError, match=f"^{whole}: another command of minirm is at work in it"):
        train_run(a_config(file), whole, Observer())
    assert contents(whole) == before
    folder = tmp_path / "new" / "run"
    with alone_in(folder), pytest.raises(InputError, match="at work in it"):
        train_run(a_config(file), folder, Observer())
    assert not folder.parent.exists()


def test_a_demo_with_a_wrong_seed_writes_nothing(tmp_path):
    with pytest.raises(InputError, match="seed=-1 must be at least 0"):
        run_demo(tmp_path / "demo", Observer(), seed=-1)
    assert not (tmp_path / "demo").exists()


def interrupted(*_, **__):
    raise KeyboardInterrupt  # not by a signal: where tests run in the background, SIGINT may be ignored


def test_a_demo_that_was_stopped_goes_on_and_its_figures_leave_nothing_out(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "TRAINING_ROWS", 60)
    monkeypatch.setattr(demo, "TEST_ROWS", 40)
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert run_demo(whole, Observer()) is not None
    assert run_demo(stopped, StopAt(REWARD, 2)) is None
    before = contents(stopped)
    with pytest.raises(InputError, match=f"^{stopped / 'begun' / 'asked.json'}: was begun with seed=0, not seed=1$"):
        run_demo(stopped, Observer(), seed=1)
    assert contents(stopped) == before
    with monkeypatch.context() as patch:
        patch.setattr(demo, "load_run", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_demo(stopped, Observer())
    with monkeypatch.context() as patch:
        patch.setattr(demo, "write_report", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_demo(stopped, StopAt(REWARD, 1))  # it is trained already
    assert run_demo(stopped, Observer()) is not None
    figures = json.loads((stopped / "metrics.json").read_text())
    assert figures == json.loads((whole / "metrics.json").read_text())
    for test_set in figures.values():
        assert test_set["swapped"]["count"] == test_set["pairs"] > 0
        assert test_set["leakage"]["prompts"] is not None and set(test_set["cut"].values()) == {0}
    assert (stopped / "report.html").is_file()
    with pytest.raises(InputError, match="is not empty; name another folder"):
        run_demo(stopped, Observer())


def test_a_demo_that_was_stopped_while_it_read_its_data_goes_on_and_trains_what_a_demo_trains(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "TRAINING_ROWS", 60)
    monkeypatch.setattr(demo, "TEST_ROWS", 40)
    with monkeypatch.context() as patch:
        patch.setattr(run, "prepare", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_demo(tmp_path, Observer())
    assert run_demo(tmp_path, StopAt(REWARD, 1)) is None
    monkeypatch.setattr(demo, "TRAINING_RESPONSES", 2)  # the data are written anew, and are others
    with pytest.raises(InputError, match="run: the data changed since this run began"):
        run_demo(tmp_path, Observer())


def test_once_all_is_trained_a_signal_stops_at_once():
    with Stopper() as stopper:
        stopper.begin(REWARD, 0, 5)
        signal.raise_signal(signal.SIGINT)
        assert stopper.should_stop()
        stopper.end()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


class Noting(Observer):
    """Keeps the notes of a run."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text):
        self.notes.append(text)


@pytest.mark.parametrize("stage", ["lm", "reward"])
def test_what_was_left_out_and_what_leaks_is_said_while_a_run_goes_on(tmp_path, stage):
    rows = kind_and_rude(20)
    training = write_lines(tmp_path / "training.jsonl", [*rows, {**rows[0], "rejected": rows[0]["chosen"]}])
    validation = write_lines(tmp_path / "validation.jsonl", rows[:5] + kind_and_rude(24)[20:])
    config = a_config(training)
    config = replace(config, data=replace(config.data, validation=(validation,)), stage=stage)
    observer = Noting()
    assert train_run(config, tmp_path / "run", observer) is not None
    alike = ["training, reward: comparisons with identical responses: 1"] if stage == "reward" else []
    assert without_few_steps(observer.notes) == [*alike, "validation: 5 of its prompts stand in training too"]


def test_a_run_says_what_needs_no_prompt_and_what_leaked(whole):
    figures = json.loads((whole / "metrics.json").read_text())["validation"]
    assert figures["swapped"]["count"] == figures["pairs"] and figures["leakage"]["prompts"] == 0


def test_without_a_first_stage_the_second_starts_from_nothing(file, tmp_path):
    config = a_config(file)
    config = replace(config, language_model=replace(config.language_model, epochs=0.0))
    seen = []

    class Watching(Observer):
        def event(self, stage, event):
            seen.append((stage, isinstance(event, Step)))

    assert train_run(config, tmp_path / "run", Watching()) is not None
    assert {stage for stage, _ in seen} == {REWARD}


def test_a_single_pair_is_not_called_pairs():
    comparison = Comparison((Turn("user", "Q"),), ("yes", "no"), (1.0, 0.0))
    rows = as_table(evaluate([comparison], [[1.0, 0.0]], training_prompts=frozenset()))
    said = " ".join(row.explanation for row in rows)
    assert "in the right order, of 1 pair of 1 prompt" in said
    assert "1 pairs" not in said and "1 prompts" not in said


def test_a_run_whose_read_begins_as_average_is_another_and_scores_again(file, tmp_path):
    for average in (True, False):
        assert train_run(a_config(file, average_read=average), tmp_path / f"run{average}", Observer()) is not None
    weights, plain = (load_file(tmp_path / f"run{average}" / "model.safetensors") for average in (True, False))
    name = "backbone.blocks.0.attention.out.weight"
    assert weights[name].norm() > 2 * plain[name].norm()  # drawn anew at unit gain
    again, once_more = (load(tmp_path / "runTrue").score(["be kind"], ["yes"]) for _ in range(2))
    assert again == once_more


def test_a_read_begins_as_average_where_a_decoder_learns_from_nothing_unless_asked_otherwise(file, whole):
    config = a_config(file)
    llama, gru = (
        replace(config, model=replace(config.model, **fields)) for fields in ({"style": "llama"}, {"backbone": "gru"})
    )
    assert config.reads_the_average and llama.reads_the_average
    for other in (gru, replace(config, lora=LoraConfig()), replace(config, start=whole)):
        assert not other.reads_the_average
    assert not a_config(file, average_read=False).reads_the_average
    assert replace(a_config(file, average_read=True), start=whole).reads_the_average


def test_an_average_read_is_refused_where_there_is_none_to_begin_with(file):
    config = a_config(file)
    with pytest.raises(InputError, match="average_read=True must be False for backbone=gru"):
        replace(config, model=replace(config.model, backbone="gru"), reward=replace(config.reward, average_read=True))
    with pytest.raises(InputError, match="average_read=True must be False for lora"):
        replace(config, lora=LoraConfig(), reward=replace(config.reward, average_read=True))


@pytest.mark.parametrize(("field", "value"), [("average_read", True), ("centering", 0.1), ("loss", "plackett_luce")])
def test_what_a_language_model_has_no_use_for_is_refused(file, field, value):
    config = a_config(file)
    with pytest.raises(InputError, match=f"^language_model.{field}={value} must be .*: the reward stage alone"):
        replace(config, language_model=replace(config.language_model, **{field: value}))


@pytest.mark.parametrize(("has_products", "says"), [(False, 1), (True, 0)])
def test_a_processor_without_bfloat16_products_is_named_before_training(
    file, tmp_path, monkeypatch, has_products, says
):
    told = []

    class Listening(StopAt):
        def note(self, text):
            told.append(text)

    monkeypatch.setattr(run, "computes_bfloat16", lambda device: has_products)
    config = a_config(file, precision="bfloat16")
    assert train_run(config, tmp_path / "run", Listening(REWARD, 1)) is None
    assert (
        without_few_steps(told)
        == ["reward: bfloat16 is slower than float32 here: this processor has no products in it"] * says
    )
