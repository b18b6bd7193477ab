"""Several processes: they take the steps that one would, act after the same step, and never disagree."""

import json
import multiprocessing
import os
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from minirm.cli.main import main
from minirm.cli.processes import joined_processes
from minirm.config import LoraConfig, PackingConfig, TrainConfig
from minirm.errors import InputError
from minirm.evaluation import scoring
from minirm.models.language_model import LanguageModel
from minirm.models.reward_model import RewardModel
from minirm.policies import zero_shot
from minirm.runs import alike
from minirm.runs import job as run
from minirm.runs import together as together_
from minirm.runs.journal import Observer, read_log
from minirm.runs.run_config import LANGUAGE_MODEL, REWARD
from minirm.runs.state import read_state, restore_trainer, save_state, trainer_state
from minirm.runs.together import any_wants, say_where, whole_weights
from minirm.tokens.packing import pack
from minirm.tokens.stream import Stream, TokenStore
from minirm.tokens.tokenizer import Tokenizer
from minirm.training.loop import Step, Trainer
from minirm.training.objectives import LanguageModelObjective, RewardObjective
from minirm.training.parallel import whole
from tests.conftest import kind_and_rude, write_lines
from tests.strategies import randomised
from tests.test_run import StopAt, a_config
from tests.test_train import MODEL, make_trainer, some_comparisons, weights

Work = Callable[[int, Path], None]


multiprocessing.set_forkserver_preload([__name__, "torch._dynamo"])  # the latter is what the first optimizer imports


def in_processes(work: Work, folder: Path, count: int = 2) -> None:
    """Call work(rank, folder) in processes that know of each other; what fails in one of them fails here.

    They are forked from one that has imported everything and computed nothing: importing torch takes seconds.
    """
    mp.start_processes(_join, (str(folder), work, count), nprocs=count, start_method="forkserver")


def _join(rank: int, folder: str, work: Work, count: int) -> None:
    meeting, patience = f"file://{folder}/meeting {count}", timedelta(seconds=60)
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=count, timeout=patience)
    torch.set_num_threads(1)
    work(rank, Path(folder))
    dist.barrier()
    os._exit(0)  # gloo's own threads now and then abort an orderly end of the interpreter; what counts is on disk


BACKWARD = {
    "prompt": TrainConfig(weighting="prompt"),
    "pair": TrainConfig(weighting="pair", accumulate=3),
    "whole rankings": TrainConfig(loss="plackett_luce", centering=0.1, micro_batch_tokens=20),
    "sharded": TrainConfig(shard=True, accumulate=2, micro_batch_tokens=20),
}
"""Ways of weighing and cutting that must not matter; every other comparison is a long one."""


def exact_trainer(
    folder: Path,
    config: TrainConfig,
    objective: type,
    count: int = 7,
    optimizer: str = "sgd",
    learning_rate: float = 1.0,
) -> Trainer:
    """Return a float64 trainer without dropout; with SGD its steps are the gradient itself."""
    config = replace(config, optimizer=optimizer, learning_rate=learning_rate, warmup=0.0, clip=0.0)
    judges = objective is RewardObjective
    knows_margins = config.loss == "all_pairs"
    comparisons = [replace(one, margin=one.margin * knows_margins) for one in some_comparisons(count, seed=5)]
    store = TokenStore.write(comparisons, folder)
    stream = Stream(store, PackingConfig(comparisons_per_batch=4))
    model = randomised(RewardModel(MODEL) if judges else LanguageModel(MODEL)).double()
    return Trainer(model, objective(config) if judges else objective(), stream, stream, config)


def _train_exactly(rank: int, folder: Path) -> None:
    for name, config in BACKWARD.items():
        for objective in (RewardObjective, LanguageModelObjective):
            for count in (1, 7):  # with one comparison, all but one process have nothing to do
                case = f"{name}, {objective.__name__}, {count}, {rank}"
                trainer = exact_trainer(folder / case, config, objective, count)
                told = [replace(event, seconds=0.0) if isinstance(event, Step) else event for event in trainer.run()]
                torch.save(
                    (dict(whole_weights(trainer.model)), [asdict(event) for event in told]), folder / f"{case}.pt"
                )


@pytest.fixture(scope="module")
def trained_alone(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    _train_exactly(0, folder)
    return folder


@pytest.mark.parametrize("processes", [2, 3])
def test_several_processes_take_the_steps_that_one_would(trained_alone, tmp_path, processes):
    """Loss, weights and evaluation in float64, whoever computes how much, and however it is cut and weighed."""
    in_processes(_train_exactly, tmp_path, processes)
    for path in sorted(trained_alone.glob("*.pt")):
        expected, told = torch.load(path)
        for rank in range(processes):
            found, same = torch.load(tmp_path / path.name.replace(" 0.pt", f" {rank}.pt"))
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
            assert [pytest.approx(event, rel=1e-9, abs=1e-9) for event in told] == same


def _wish(rank: int, folder: Path) -> None:
    assert any_wants(rank == 1, False) == [True, False]


def test_processes_stop_when_one_of_them_is_to_stop(tmp_path):
    in_processes(_wish, tmp_path)


def _meet_a_loss_that_is_nan(rank: int, folder: Path) -> None:
    trainer = make_trainer(folder / str(rank), TrainConfig())
    forward = trainer._forward

    def sick(model, batch):
        outcome = forward(model, batch)
        return replace(outcome, loss=outcome.loss * torch.nan)

    trainer._forward = forward if rank == 0 else sick
    with pytest.raises(InputError, match=r"loss is nan at step 1, training comparisons \d+"):
        list(trainer.run())


def test_a_loss_that_is_nan_in_one_process_stops_both_with_one_line(tmp_path):
    in_processes(_meet_a_loss_that_is_nan, tmp_path)


class FirstStageAlone(run._Stages):
    """Keeps the weights that the reward stage is to begin with, and stops there."""

    def _train(self, model, stage, config):
        if stage == LANGUAGE_MODEL:
            return super()._train(model, stage, config)
        torch.save(model.state_dict(), self.job.folder.with_suffix(f".{dist.get_rank()}.pt"))
        return None


def _draw_anew(rank: int, folder: Path) -> None:
    run._Stages = FirstStageAlone
    config = a_config(folder / "pairs.jsonl")
    average = replace(config, reward=replace(config.reward, average_read=True))
    for name, drawing in {"average": average, "lora": replace(config, lora=LoraConfig())}.items():
        assert run.train_run(drawing, folder / name, Observer()) is None


def test_what_is_drawn_after_the_first_stage_is_the_same_in_every_process(tmp_path):
    """Dropout of the first stage draws from each process's own generator."""
    write_lines(tmp_path / "pairs.jsonl", kind_and_rude(40))
    in_processes(_draw_anew, tmp_path)
    for name in ("average", "lora"):
        ours, theirs = (torch.load(tmp_path / f"{name}.{rank}.pt") for rank in range(2))
        assert all(torch.equal(ours[tensor], theirs[tensor]) for tensor in ours | theirs), name


def _train_together(rank: int, folder: Path) -> None:
    prepared, config = run.prepare, a_config(folder / "pairs.jsonl")
    run.prepare = lambda *arguments: (folder / f"prepared by {rank}").touch() or prepared(*arguments)
    for name, shard in (("whole", False), ("sharded", True)):
        stages = (replace(stage, shard=shard) for stage in (config.language_model, config.reward))
        both = replace(config, **dict(zip(("language_model", "reward"), stages, strict=True)))
        assert run.train_run(both, folder / name, Observer()) is not None
        assert run.train_run(both, folder / f"stopped {name}", StopAt(REWARD, 3)) is None


def test_the_first_of_two_processes_prepares_the_data_and_both_train_on_them(tmp_path):
    write_lines(tmp_path / "pairs.jsonl", kind_and_rude(40))
    in_processes(_train_together, tmp_path)
    assert [path.name for path in tmp_path.glob("prepared by *")] == ["prepared by 0"]
    names = ("whole", "sharded", "stopped whole", "stopped sharded")
    for name in names[2:]:  # one process goes on with what two began
        assert run.train_run(run.read_config(tmp_path / name), tmp_path / name, Observer()) is not None
    losses = [[entry["loss"] for entry in read_log(tmp_path / name, REWARD)] for name in names]
    for those in losses[1:]:
        assert those == pytest.approx(losses[0], abs=1e-2)  # what dropout draws depends on the processes


def _be_refused(rank: int, folder: Path) -> None:
    with pytest.raises(InputError, match=r"gone.jsonl: no such file or folder$"):
        run.train_run(a_config(folder / "gone.jsonl"), folder / "run", Observer())


def _evaluate_and_score(rank: int, folder: Path) -> None:
    pairs, batches = str(folder / "pairs.jsonl"), []
    with (
        patch.object(scoring, "TOKENS_AT_ONCE", 60),
        patch.object(scoring, "pack", lambda *a, **k: batches.append(1) or pack(*a, **k)),
    ):
        assert main(["eval", str(folder / "run"), "--data", pairs, "--out", str(folder / "eval")]) == 0
        computed = len(batches)
        assert main(["score", str(folder / "run"), "--file", pairs, "--out", str(folder / "scored.jsonl")]) == 0
    (folder / f"computed {rank}").write_text(str(computed))


def test_processes_score_each_response_once_and_say_what_one_would(trained, tmp_path):
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    for folder in (alone, shared):
        folder.mkdir()
        (folder / "run").symlink_to(trained)
        write_lines(folder / "pairs.jsonl", kind_and_rude(17))
    in_processes(_evaluate_and_score, alone, 1)
    in_processes(_evaluate_and_score, shared, 3)
    assert (shared / "scored.jsonl").read_text() == (alone / "scored.jsonl").read_text()
    one, three = (json.loads((folder / "eval" / "metrics.json").read_text()) for folder in (alone, shared))
    assert three == one and (shared / "eval" / "report.html").is_file()
    batches = [int((shared / f"computed {rank}").read_text()) for rank in range(3)]
    assert sum(batches) == int((alone / "computed 0").read_text()) and max(batches) - min(batches) <= 2


def _ask(rank: int, folder: Path) -> None:
    texts = ["Gladly.", "No.", *(f"Well, {n} times no." for n in range(9))]
    tokenizer = Tokenizer.train(texts)
    torch.manual_seed(0)
    model = LanguageModel(replace(MODEL, vocab_size=tokenizer.vocab_size))
    scorer, asked = zero_shot.ZeroShotScorer(model, tokenizer, "{response} good?", "y", "n"), []
    own = scorer.model.log_probabilities

    def noted(questions: list[list[int]], words: tuple) -> tuple:
        asked.extend(questions)
        return own(questions, words)

    scorer.model.log_probabilities = noted
    with patch.object(zero_shot, "TOKENS_AT_ONCE", 60):
        rewards = scorer.score(None, texts)
    (folder / f"asked {rank}").write_text(json.dumps([rewards, asked]))


def test_processes_ask_a_language_model_each_question_once(tmp_path):
    _ask(0, tmp_path)
    expected, asked = json.loads((tmp_path / "asked 0").read_text())
    in_processes(_ask, tmp_path, 3)
    found = [json.loads((tmp_path / f"asked {rank}").read_text()) for rank in range(3)]
    assert [rewards for rewards, _ in found] == [expected] * 3
    assert sorted(one for _, its in found for one in its) == sorted(asked) and all(its for _, its in found)


def test_what_the_first_of_two_processes_refuses_both_refuse(tmp_path):
    in_processes(_be_refused, tmp_path)


def _train_by_clocks_that_differ(rank: int, folder: Path) -> None:
    trainer = make_trainer(folder / str(rank), TrainConfig(epochs=4, evaluate_every=100))
    looks, saves = iter([0.0] * (3 + rank)), []
    run.time = SimpleNamespace(monotonic=lambda: next(looks, 301.0))
    job = SimpleNamespace(save=lambda *_: saves.append(trainer.progress.step))
    journal = SimpleNamespace(write=lambda event: None, written=dict)
    stages = SimpleNamespace(observer=Observer(), job=job, journal=journal)
    assert run._Stages._follow(stages, trainer, "language model")
    (folder / f"saves{rank}").write_text(f"{trainer.progress.step} {saves}")


def test_a_timed_save_comes_after_the_same_step_though_clocks_differ(tmp_path):
    """By rank 0's clock the time has come one event earlier."""
    in_processes(_train_by_clocks_that_differ, tmp_path)
    assert (tmp_path / "saves0").read_text() == "24 [3, 24]"


def _leave_and_go_on(rank: int, folder: Path) -> None:
    """Go on from the state that is there, whoever saved it; leave another one after two more steps."""
    config = TrainConfig(epochs=3.0, evaluate_every=100, micro_batch_tokens=30, shard=(folder / "shard").exists())
    trainer = exact_trainer(folder / f"{dist.get_world_size() if dist.is_initialized() else 1} {rank}", config,
                            RewardObjective, optimizer="adamw", learning_rate=1e-2)  # fmt: skip
    if state := read_state(folder / "states", print):
        restore_trainer(trainer, state)
        saved = torch.load(folder / "saved.pt")
        assert all(torch.equal(tensor, saved.pop(name)) for name, tensor in whole_state(trainer).items()) and not saved
    for _ in zip(range(2), trainer.run(), strict=False):
        pass
    save_state(folder / "states", *trainer_state(trainer, "reward"))
    saved = whole_state(trainer)
    if rank == 0:
        torch.save(saved, folder / "saved.pt")


def whole_state(trainer: Trainer) -> dict[str, torch.Tensor]:
    """Return weights and moments; all processes must ask."""
    return {name: whole(tensor) for name, tensor in trainer_state(trainer, "reward")[0].items()}


@pytest.mark.parametrize("shard", [False, True], ids=["replicated", "sharded"])
def test_what_some_processes_saved_any_other_number_goes_on_from(tmp_path, shard):
    """1 → 2 → 3 → 1: what is read is what was saved, to the bit; the end is that of one that was never left."""
    alone, folder = tmp_path / "alone", tmp_path / "moved"
    for path in (alone, folder):
        path.mkdir()
        (path / "states").mkdir()
    if shard:
        (folder / "shard").touch()
    for _ in range(4):
        _leave_and_go_on(0, alone)
    for count in (1, 2, 3, 1):
        in_processes(_leave_and_go_on, folder, count) if count > 1 else _leave_and_go_on(0, folder)
    expected, found = (read_state(path / "states", print) for path in (alone, folder))
    assert found.progress == pytest.approx(expected.progress) and found.tensors.keys() == expected.tensors.keys()
    assert (found.path / "checksums.txt").read_text().count(".safetensors") == 1
    for name, tensor in expected.tensors.items():
        torch.testing.assert_close(found.tensors[name], tensor, rtol=1e-9, atol=1e-9)


def _resume(rank: int, folder: Path) -> None:
    config = TrainConfig(epochs=2, evaluate_every=100, micro_batch_tokens=10)
    whole, resumed = (make_trainer(folder / f"{name}{rank}", config) for name in ("whole", "resumed"))
    for event in whole.run():
        if isinstance(event, Step) and event.step == 2:
            save_state(folder / "states", *trainer_state(whole, "reward"))
    seeds = [torch.zeros(1, dtype=torch.float64) for _ in range(2)]
    dist.all_gather(seeds, torch.tensor([torch.initial_seed()], dtype=torch.float64))
    assert seeds[0] != seeds[1]  # each drops something else
    restore_trainer(resumed, read_state(folder / "states", print))
    assert [event.step for event in resumed.run() if isinstance(event, Step)] == list(range(3, 13))
    assert torch.equal(weights(resumed), weights(whole))


def test_two_processes_resume_bit_for_bit_and_each_drops_something_else(tmp_path):
    in_processes(_resume, tmp_path)


def _differ(rank: int, folder: Path) -> None:
    config = a_config(folder / "pairs.jsonl", epochs=2.0 + rank)
    with pytest.raises(InputError, match=r"^process 1 on \S+: reward.epochs: 3.0: must be 2.0, as process 0 has it$"):
        run.train_run(config, folder / "run", Observer())
    alike.minirm_version = lambda: f"0.{rank}"
    with pytest.raises(InputError, match=r"^process 1 on \S+: minirm: 0.1: must be 0.0, as process 0 has it$"):
        run.train_run(a_config(folder / "pairs.jsonl"), folder / "run", Observer())
    (folder / str(rank)).mkdir()
    if rank == 0:
        (folder / "0" / "checksums.txt").touch()
    with pytest.raises(InputError, match=r"^process 1 on \S+: prepared data: none in .*/1, which all must share: must"):
        alike.check_same_folder(folder / str(rank))


def test_a_process_of_another_configuration_version_or_folder_is_named_before_the_first_step(tmp_path):
    write_lines(tmp_path / "pairs.jsonl", kind_and_rude(40))
    in_processes(_differ, tmp_path)
    assert not (tmp_path / "run").exists()


def _hang(rank: int, folder: Path) -> None:
    impatient = dist.new_group(timeout=timedelta(seconds=1))
    say_where(f"reward, step {3 + rank}")
    dist.barrier()
    if rank == 1:
        while not (folder / "named").exists():
            time.sleep(0.1)
        return
    os.environ["RANK"] = "0"
    engine = {"init_process_group": lambda *_, **__: None, "destroy_process_group": lambda: None}
    said = r"^no answer from process 1, last heard of at reward, step 4: .*[Tt]imed out"
    with (
        patch.multiple(dist, **engine),
        patch.object(together_, "GRACE", 0.1),
        pytest.raises(InputError, match=said),
        joined_processes(),
    ):
        dist.all_reduce(torch.zeros(1), group=impatient)
    (folder / "named").touch()


def test_a_process_that_hangs_is_named_with_its_last_step(tmp_path):
    in_processes(_hang, tmp_path)


def test_each_process_takes_its_own_gpu_before_it_meets_the_others(monkeypatch):
    done = []
    monkeypatch.setenv("RANK", "5")
    monkeypatch.setenv("LOCAL_RANK", "1")  # the second process of the second machine
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: done.append(f"GPU {device}"))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(dist, "init_process_group", lambda backend, timeout: done.append(backend))
    monkeypatch.setattr(dist, "destroy_process_group", lambda: done.append("left"))
    with joined_processes():
        assert run.pick_device() == torch.device("cuda", 1)
    assert done == ["GPU 1", "cpu:gloo,cuda:nccl", "left"]
