"""One loop: the same mathematics however a step is cut into batches and processes, and however often it is resumed."""

import math
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from minirm.config import PackingConfig, TrainConfig
from minirm.errors import InputError
from minirm.models.language_model import LanguageModel
from minirm.models.reward_model import RewardModel
from minirm.models.transformer import Transformer
from minirm.runs.state import read_state, restore_trainer, save_state, trainer_state
from minirm.tokens.packing import Encoded, pack
from minirm.tokens.stream import Stream, TokenStore
from minirm.training.loop import Evaluated, Step, Trainer
from minirm.training.objectives import LanguageModelObjective, RewardObjective
from tests.strategies import ARCHITECTURES, VOCABULARY, randomised

MODEL = ARCHITECTURES["gpt2"]


def some_comparisons(count: int, seed: int = 0, most: int = 4) -> list[Encoded]:
    """Return comparisons of unequal K, lengths, weights and margins, ties among them."""
    rng = np.random.default_rng(seed)
    comparisons = []
    for _ in range(count):
        K = int(rng.integers(2, most + 1))
        texts = [rng.integers(0, VOCABULARY, size=rng.integers(1, 9)).astype(np.int32) for _ in range(K + 1)]
        scores = tuple(float(s) for s in rng.permutation(K) // 2)
        weight, margin = float(rng.uniform(0.5, 2)), float(rng.uniform(0, 1))
        comparisons.append(Encoded(texts[0], tuple(texts[1:]), scores, margin, weight))
    return comparisons


def make_trainer(folder, config: TrainConfig, packing: PackingConfig | None = None, seed: int = 0) -> Trainer:
    store = TokenStore.write(some_comparisons(23, seed), folder / "training")
    validation = TokenStore.write(some_comparisons(7, seed + 1), folder / "validation")
    packing = packing or PackingConfig(comparisons_per_batch=4)
    torch.manual_seed(config.seed)
    model = RewardModel(replace(MODEL, dropout=0.1))
    streams = Stream(store, packing, config.seed), Stream(validation, packing)
    return Trainer(model, RewardObjective(config), *streams, config)


def weights(trainer: Trainer) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()])


PLAIN = TrainConfig(clip=0.05, optimizer="sgd", learning_rate=1.0, warmup=0.0)
"""A step that is the clipped gradient itself."""


def step_in_windows(folder, weighting: str, cut: list[int], objective, beside: float) -> tuple[torch.Tensor, Step]:
    """Take one step on comparisons, cut into batches of the given sizes; return the weights after it, and the step."""
    config = replace(PLAIN, weighting=weighting, language_model_weight=beside)
    comparisons = some_comparisons(sum(cut), seed=5)
    store = TokenStore.write(comparisons, folder)
    judges = objective is RewardObjective
    model = randomised(RewardModel(MODEL) if judges else LanguageModel(MODEL))
    stream = Stream(store, PackingConfig())
    trainer = Trainer(model, objective(config) if judges else objective(), stream, stream, config)
    batches, start = [], 0
    for size in cut:
        batches.append(pack(comparisons[start : start + size]))
        start += size
    step = trainer.step(batches)
    assert step.gradient_norm > 2 * config.clip
    return weights(trainer), step


@pytest.mark.parametrize("weighting", ["prompt", "pair"])
@pytest.mark.parametrize(
    ("objective", "beside"), [(RewardObjective, 0.0), (RewardObjective, 0.3), (LanguageModelObjective, 0.0)]
)
def test_a_step_is_the_same_however_it_is_cut_into_batches(tmp_path, weighting, objective, beside):
    whole, step = step_in_windows(tmp_path / "whole", weighting, [8], objective, beside)
    for name, cut in {"singly": [1] * 8, "unequal": [3, 1, 4]}.items():
        parts, same = step_in_windows(tmp_path / name, weighting, cut, objective, beside)
        torch.testing.assert_close(parts, whole)
        assert_same_figures(same, step)


def assert_same_figures(a: Step, b: Step) -> None:
    assert (a.cases, a.comparisons, a.tokens) == (b.cases, b.comparisons, b.tokens)
    assert a.loss == pytest.approx(b.loss, rel=1e-6)  # weights of comparisons are float32
    assert a.gradient_norm == pytest.approx(b.gradient_norm, rel=1e-6)


@pytest.mark.parametrize("accumulate", [1, 2, 4])  # 4: the last window is short
@pytest.mark.parametrize("tokens", [1, 60])
def test_micro_batches_give_the_same_steps(tmp_path, accumulate, tokens):
    config = TrainConfig(accumulate=accumulate, optimizer="sgd", learning_rate=0.1)
    trainers = [
        make_trainer(tmp_path / str(at_once), replace(config, micro_batch_tokens=at_once))
        for at_once in (10**9, tokens)
    ]
    passes: list[list[bool]] = [[], []]
    for trainer, seen in zip(trainers, passes, strict=True):
        randomised(trainer.model.eval())  # no dropout: it would be drawn in another order
        trainer.model.train = lambda mode=True: None
        trainer.model.register_forward_hook(lambda *_, seen=seen: seen.append(torch.is_grad_enabled()))
    happened = [list(trainer.run()) for trainer in trainers]
    evaluated = [[(e.loss, e.accuracy) for e in events if isinstance(e, Evaluated)] for events in happened]
    assert len(evaluated[0]) == 1 and evaluated[1] == [pytest.approx(evaluated[0][0], rel=1e-6)]
    whole, parts = ([event for event in events if isinstance(event, Step)] for events in happened)
    assert len(whole) == len(parts) == math.ceil(6 / accumulate)
    for a, b in zip(whole, parts, strict=True):
        assert_same_figures(a, b)
    torch.testing.assert_close(weights(trainers[1]), weights(trainers[0]), rtol=1e-6, atol=1e-7)
    assert passes[0].count(True) == math.ceil(6 / accumulate) < passes[1].count(True) <= 23  # passes that learn …
    assert passes[0].count(False) < passes[1].count(False)  # … and that evaluate
    assert tokens > 1 or passes[1].count(True) == 23


def test_a_transformer_on_a_cpu_asks_for_micro_batches_and_a_recurrent_network_for_whole_ones(tmp_path):
    trainer = make_trainer(tmp_path, TrainConfig())
    gru = RewardModel(ARCHITECTURES["gru"])
    recurrent = Trainer(gru, trainer.objective, trainer.training, trainer.validation, TrainConfig())
    asked = Trainer(gru, trainer.objective, trainer.training, trainer.validation, TrainConfig(micro_batch_tokens=7))
    sizes = [one.micro_batch_tokens for one in (trainer, recurrent, asked)]
    assert sizes == [Transformer.micro_batch_tokens, PackingConfig().tokens_per_batch, 7]


@pytest.mark.parametrize(("tokens", "rule"), [(0, "0 must be at least 1"), (10**400, ".* must be at most 10{15}")])
def test_a_size_of_micro_batches_that_cannot_be_is_refused(tokens, rule):
    with pytest.raises(InputError, match=f"micro_batch_tokens={rule}"):
        TrainConfig(micro_batch_tokens=tokens)


def test_weighting_by_pairs_is_the_mean_over_all_pairs_of_the_window(tmp_path):
    config = TrainConfig(weighting="pair")
    batch = pack([replace(c, weight=1.0, margin=0.0) for c in some_comparisons(5)])
    model = randomised(RewardModel(MODEL))
    outcome, rewards = RewardObjective(config)(model, batch), model(batch)
    losses = []
    for b in range(5):
        for i in range(rewards.shape[1]):
            for j in range(rewards.shape[1]):
                if batch.mask[b, i] and batch.mask[b, j] and batch.order[b, i] > batch.order[b, j]:
                    losses.append(math.log1p(math.exp(float(rewards[b, j].detach() - rewards[b, i].detach()))))
    assert outcome.loss.item() == pytest.approx(sum(losses), rel=1e-6)
    assert RewardObjective(config).comparison_weights(batch).sum() == len(losses) == int(outcome.cases)


def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(tmp_path):
    config = TrainConfig(epochs=3.0, evaluate_every=0.5, learning_rate=1e-2, micro_batch_tokens=10)
    whole = make_trainer(tmp_path / "whole", config)
    events = list(whole.run())
    for stop_after in (1, 4, 9):
        first = make_trainer(tmp_path / f"first{stop_after}", config)
        for event in first.run():
            if isinstance(event, Step) and event.step == stop_after:
                break
        save_state(tmp_path / "states", *trainer_state(first, "reward"))
        second = make_trainer(tmp_path / f"second{stop_after}", config)
        restore_trainer(second, read_state(tmp_path / "states", print))
        torch.manual_seed(99)  # what a step drops follows from its number
        rest = list(second.run())
        assert torch.equal(weights(second), weights(whole))
        assert second.progress == whole.progress
        ours, theirs = ([(e.step, e.loss) for e in es if isinstance(e, Step)] for es in (rest, events))
        assert ours == theirs[stop_after:]


def test_every_comparison_is_met_once_in_an_epoch(tmp_path):
    trainer = make_trainer(tmp_path, TrainConfig(epochs=1.0))
    steps = [event for event in trainer.run() if isinstance(event, Step)]
    assert sum(step.comparisons for step in steps) == 23
    assert steps[-1].step == steps[-1].steps == len(steps) == 6


def test_training_learns_what_can_be_learned(tmp_path):
    """Responses that hold token 1 win: a rule that any backbone finds."""
    rng = np.random.default_rng(0)
    comparisons = []
    for _ in range(200):
        prompt, a, b = (rng.integers(2, VOCABULARY, size=4).astype(np.int32) for _ in range(3))
        a[rng.integers(4)] = 1
        comparisons.append(Encoded(prompt, (a, b), (1.0, 0.0)))
    store = TokenStore.write(comparisons, tmp_path)
    for name in ARCHITECTURES:
        torch.manual_seed(0)
        config = TrainConfig(epochs=6.0, learning_rate=1e-2)
        both_ways = ARCHITECTURES[name].bidirectional
        packing = PackingConfig(comparisons_per_batch=20, share_prompt=not both_ways)
        stream = Stream(store, packing, bidirectional=both_ways)
        trainer = Trainer(RewardModel(ARCHITECTURES[name]), RewardObjective(config), stream, stream, config)
        last = [event for event in trainer.run() if isinstance(event, Evaluated)][-1]
        assert last.accuracy > 0.95, name


def test_patience_stops_early_and_the_best_weights_come_back(tmp_path):
    config = TrainConfig(epochs=50.0, learning_rate=0.05, patience=2, schedule="constant")
    trainer = make_trainer(tmp_path, config)
    evaluations = [event for event in trainer.run() if isinstance(event, Evaluated)]
    best = min(evaluations, key=lambda e: e.loss)
    assert len(evaluations) < 50 and evaluations[-1].step == best.step + 2 * trainer.evaluate_each
    trainer.use_best()
    assert trainer.evaluate(trainer.validation)[0] == pytest.approx(best.loss, abs=1e-9)


def test_a_loss_that_is_not_finite_names_step_and_comparisons(tmp_path):
    trainer = make_trainer(tmp_path, TrainConfig(epochs=1.0))
    with torch.no_grad():
        trainer.model.head.weight.fill_(torch.nan)
    with pytest.raises(InputError, match=r"loss is nan at step 1, training comparisons \d+, \d+, "):
        list(trainer.run())


def test_a_validation_loss_that_is_not_finite_stops_the_run(tmp_path):
    """One step at an absurd rate: the training loss was taken before it, so only the evaluation can see the damage."""
    trainer = make_trainer(tmp_path, TrainConfig(learning_rate=1e30, warmup=0.0), PackingConfig())
    message = r"validation loss is (nan|inf) after step 1: learning_rate=1e\+30 may be too high"
    with pytest.raises(InputError, match=message):
        list(trainer.run())
    assert not trainer.best_weights and trainer.progress.best_loss == math.inf


def test_seconds_of_a_step_include_the_wait_for_its_batches(tmp_path):
    trainer = make_trainer(tmp_path, TrainConfig())
    batch = pack(some_comparisons(2))

    def late():
        time.sleep(0.2)
        yield batch

    assert trainer.step(late()).seconds >= 0.2


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd", "lion"])
def test_every_optimizer_lowers_the_loss(tmp_path, name):
    rate = {"adamw": 1e-2, "adam": 1e-2, "sgd": 0.3, "lion": 3e-3}[name]
    trainer = make_trainer(tmp_path, TrainConfig(epochs=15.0, optimizer=name, learning_rate=rate))
    before, _ = trainer.evaluate(trainer.training)
    list(trainer.run())
    assert trainer.evaluate(trainer.training)[0] < 0.8 * before


def test_bfloat16_autocast_keeps_rewards_in_float32_and_near():
    model = RewardModel(MODEL)
    batch = pack(some_comparisons(6))
    exact = model(batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rewards = model(batch)
    assert rewards.dtype == torch.float32
    torch.testing.assert_close(rewards, exact, atol=0.05, rtol=0.05)


def test_the_same_seed_gives_the_same_weights(tmp_path):
    config = TrainConfig(epochs=2.0)
    runs = [make_trainer(tmp_path / str(n), config) for n in range(2)]
    for trainer in runs:
        list(trainer.run())
    assert torch.equal(weights(runs[0]), weights(runs[1]))
    other = make_trainer(tmp_path / "other", replace(config, seed=1))
    assert not torch.equal(weights(other), weights(runs[0]))


def test_a_trainer_is_told_how_many_epochs(tmp_path):
    with pytest.raises(InputError, match="epochs=None must be a number"):
        make_trainer(tmp_path, TrainConfig(epochs=None))
