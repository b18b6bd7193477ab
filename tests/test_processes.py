"""Several processes: they take the steps that one would, act after the same step, and never disagree."""

import os
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from minirm.cli.train import joined_processes
from minirm.config import LoraConfig, PackingConfig, TrainConfig
from minirm.errors import InputError
from minirm.models.reward_model import RewardModel
from minirm.runs import job as run
from minirm.runs.journal import Observer
from minirm.runs.run_config import LANGUAGE_MODEL
from minirm.runs.state import read_state, restore_trainer, save_state, trainer_state
from minirm.tokens.packing import pack
from minirm.tokens.stream import Stream, TokenStore
from minirm.training.loop import Evaluated, OnItsWay, Step, Trainer
from minirm.training.objectives import RewardObjective
from tests.conftest import kind_and_rude, write_lines
from tests.strategies import randomised
from tests.test_run import a_config
from tests.test_train import MODEL, PLAIN, assert_same_figures, make_trainer, some_comparisons, step_in_windows, weights

Work = Callable[[int, Path], None]


def in_two_processes(work: Work, folder: Path) -> None:
    """Call work(rank, folder) in two processes that know of each other; what fails in one of them fails here."""
    mp.spawn(_join, (str(folder), work), nprocs=2)


def _join(rank: int, folder: str, work: Work) -> None:
    meeting, patience = f"file://{folder}/meeting", timedelta(seconds=60)
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2, timeout=patience)
    torch.set_num_threads(1)
    work(rank, Path(folder))
    dist.barrier()
    os._exit(0)  # gloo's own threads now and then abort an orderly end of the interpreter; what counts is on disk


CUTS = {"halves": [[0, 1, 2, 3], [4, 5, 6, 7]], "nothing for the second": [[0, 1, 2, 3, 4, 5, 6, 7], []]}


def _take_a_step_with_each_cut(rank: int, folder: Path) -> None:
    comparisons = some_comparisons(8, seed=5)
    for name, cut in CUTS.items():
        store = TokenStore.write(comparisons, folder / name / str(rank))
        stream = Stream(store, PackingConfig())
        trainer = Trainer(randomised(RewardModel(MODEL)), RewardObjective(PLAIN), stream, stream, PLAIN)
        step = trainer.step([pack([comparisons[i]]) for i in cut[rank]])
        torch.save((weights(trainer), asdict(step)), folder / name / f"{rank}.pt")
        assert trainer.any_process(rank == 1, False) == [True, False]


def test_two_processes_take_the_step_that_one_would(tmp_path):
    """In the second cut the last window is short, and one process has nothing to do in it. They also stop together."""
    in_two_processes(_take_a_step_with_each_cut, tmp_path)
    whole, step = step_in_windows(tmp_path / "whole", "prompt", [8])
    for name in CUTS:
        for rank in range(2):
            together, figures = torch.load(tmp_path / name / f"{rank}.pt")
            torch.testing.assert_close(together, whole)
            assert_same_figures(Step(**figures), step)


def _meet_a_loss_that_is_nan(rank: int, folder: Path) -> None:
    trainer = make_trainer(folder / str(rank), TrainConfig())
    forward = trainer._forward

    def sick(batch):
        outcome = forward(batch)
        return replace(outcome, loss=outcome.loss * torch.nan)

    trainer._forward = forward if rank == 0 else sick
    with pytest.raises(InputError, match=r"loss is nan at step 1, training rows \d+, "):
        list(trainer.run())


def test_a_loss_that_is_nan_in_one_process_stops_both_with_one_line(tmp_path):
    in_two_processes(_meet_a_loss_that_is_nan, tmp_path)


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
    in_two_processes(_draw_anew, tmp_path)
    for name in ("average", "lora"):
        ours, theirs = (torch.load(tmp_path / f"{name}.{rank}.pt") for rank in range(2))
        assert all(torch.equal(ours[tensor], theirs[tensor]) for tensor in ours | theirs), name


def _train_together(rank: int, folder: Path) -> None:
    prepared = run.prepare
    run.prepare = lambda *arguments: (folder / f"prepared by {rank}").touch() or prepared(*arguments)
    evaluation = run.train_run(a_config(folder / "pairs.jsonl"), folder / "run", Observer())
    assert (evaluation is not None) == (rank == 0)


def test_the_first_of_two_processes_prepares_the_data_and_both_train_on_them(tmp_path):
    write_lines(tmp_path / "pairs.jsonl", kind_and_rude(40))
    in_two_processes(_train_together, tmp_path)
    assert (tmp_path / "run" / "metrics.json").is_file()
    assert [path.name for path in tmp_path.glob("prepared by *")] == ["prepared by 0"]


def _be_refused(rank: int, folder: Path) -> None:
    with pytest.raises(InputError, match=r"gone.jsonl: no such file or folder$"):
        run.train_run(a_config(folder / "gone.jsonl"), folder / "run", Observer())


def test_what_the_first_of_two_processes_refuses_both_refuse(tmp_path):
    in_two_processes(_be_refused, tmp_path)


def _train_by_clocks_that_differ(rank: int, folder: Path) -> None:
    trainer = make_trainer(folder / str(rank), TrainConfig(epochs=4, evaluate_every=100))
    trainer.lag = 1  # as on a GPU
    looks, saves = iter([0.0] * (3 + rank)), []
    run.time = SimpleNamespace(monotonic=lambda: next(looks, 301.0))
    job = SimpleNamespace(save=lambda *_: saves.append(trainer.progress.step))
    journal = SimpleNamespace(write=lambda event: None, written=dict)
    stages = SimpleNamespace(observer=Observer(), job=job, journal=journal)
    assert run._Stages._follow(stages, trainer, "language model")
    (folder / f"saves{rank}").write_text(f"{trainer.progress.step} {saves}")


def test_a_timed_save_comes_after_the_same_step_though_clocks_differ(tmp_path):
    """By rank 0's clock the time has come one event earlier; a step is in flight, as on a GPU."""
    in_two_processes(_train_by_clocks_that_differ, tmp_path)
    assert (tmp_path / "saves0").read_text() == "12 [4, 12]"


def _resume(rank: int, folder: Path) -> None:
    config = TrainConfig(epochs=2, evaluate_every=100, tokens_at_once=10)
    whole, resumed = (make_trainer(folder / f"{name}{rank}", config) for name in ("whole", "resumed"))
    for event in whole.run():
        if isinstance(event, Step) and event.step == 2 and rank == 0:
            save_state(folder / "states", *trainer_state(whole, "reward"))
    seeds = [torch.zeros(1, dtype=torch.float64) for _ in range(2)]
    dist.all_gather(seeds, torch.tensor([torch.initial_seed()], dtype=torch.float64))
    assert seeds[0] != seeds[1]  # each drops something else
    restore_trainer(resumed, read_state(folder / "states", print))
    assert [event.step for event in resumed.run() if isinstance(event, Step)] == [3, 4, 5, 6]
    assert torch.equal(weights(resumed), weights(whole))


def test_two_processes_resume_bit_for_bit_and_each_drops_something_else(tmp_path):
    in_two_processes(_resume, tmp_path)


def _evaluate_apart(rank: int, folder: Path) -> None:
    trainer = make_trainer(folder / str(rank), TrainConfig(epochs=8, patience=1))
    losses = iter([3.0, [2.0, 2.5][rank], [2.25, 2.0][rank], 2.5])  # rank 0 alone would stop after the third
    trainer.evaluate = lambda stream: (next(losses), 0.5)
    told = [(event.loss, event.best) for event in trainer.run() if isinstance(event, Evaluated)]
    assert told == [(3.0, True), (2.25, True), (2.125, True), (2.5, False)]


def test_processes_that_evaluate_apart_agree_on_what_is_best_and_when_to_stop(tmp_path):
    in_two_processes(_evaluate_apart, tmp_path)


def test_each_process_takes_its_own_gpu_before_it_meets_the_others(monkeypatch):
    done = []
    monkeypatch.setenv("RANK", "5")
    monkeypatch.setenv("LOCAL_RANK", "1")  # the second process of the second machine
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: done.append(f"GPU {device}"))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(dist, "init_process_group", lambda backend: done.append(backend))
    monkeypatch.setattr(dist, "destroy_process_group", lambda: done.append("left"))
    with joined_processes():
        assert run.pick_device() == torch.device("cuda", 1)
    assert done == ["GPU 1", "cpu:gloo,cuda:nccl", "left"]


def test_figures_have_arrived_when_the_stream_of_their_own_gpu_says_so(monkeypatch):
    """A stand-in for numbers on the second GPU, while the first one is current."""
    recorded = []
    numbers = SimpleNamespace(is_cuda=True, device=torch.device("cuda", 1))
    pinned = SimpleNamespace(copy_=lambda source, non_blocking: pinned)
    event = SimpleNamespace(record=lambda stream=None: recorded.append(stream))
    monkeypatch.setattr(torch, "empty_like", lambda *_, **__: pinned)
    monkeypatch.setattr(torch.cuda, "Event", lambda: event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"stream of {device}")
    assert OnItsWay(numbers).numbers is pinned
    assert recorded == ["stream of cuda:1"]


def test_what_the_host_must_know_at_once_is_added_up_on_the_host(tmp_path, monkeypatch):
    """On a stand-in for a GPU, whose numbers can't be read: only gradients and figures are added up there."""
    trainer = make_trainer(tmp_path, TrainConfig())
    trainer.device, trainer.processes, places = torch.device("meta"), 2, []
    monkeypatch.setattr(dist, "all_reduce", lambda value: places.append(value.device.type))
    assert trainer.any_process(True, False) == [True, False]
    assert places == ["cpu"]
