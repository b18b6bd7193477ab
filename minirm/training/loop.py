"""One training loop for both stages.

A step descends along the gradient of L = Σ w·ℓ / Σ w, over the comparisons (or tokens) of the step's batches. How they
are dealt to processes that train together and cut into micro-batches changes neither, but for what dropout draws.
"""

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, islice

import numpy as np
import torch
from torch import Tensor, nn

from minirm.config import TrainConfig
from minirm.errors import InputError
from minirm.models.transformer import compile_mlps
from minirm.tokens.packing import PackedBatch
from minirm.tokens.stream import Stream
from minirm.training.objectives import LanguageModelObjective, Outcome, RewardObjective
from minirm.training.optimizers import build_optimizer, clip_gradients, rate_at, trained_weights
from minirm.training.parallel import Ranks

Objective = RewardObjective | LanguageModelObjective


@dataclass(frozen=True)
class Step:
    """What one optimizer step did."""

    step: int  # counted from 1
    steps: int  # in all
    loss: float  # per unit of weight, in nats
    accuracy: float  # fraction of pairs in the right order; mean probability of the next token
    gradient_norm: float  # before clipping
    learning_rate: float
    cases: int  # pairs, or targets of the language model
    comparisons: int
    tokens: int
    seconds: float  # waiting for its batches included; evaluations, and what the caller does meanwhile, are not


@dataclass(frozen=True)
class Evaluated:
    """What the validation split says after a step."""

    step: int
    loss: float
    accuracy: float
    best: bool  # lower loss than at every evaluation before


@dataclass
class Progress:
    """Where training stands; with the weights and the optimizer's state, all that going on needs."""

    step: int = 0
    epoch: int = 0
    steps_in_epoch: int = 0
    best_loss: float = math.inf
    best_step: int = 0
    evaluated_step: int = 0
    evaluations_without_gain: int = 0


@dataclass
class Trainer:
    """Takes a model through one stage; `run` yields what happened, and may be left at any point."""

    model: nn.Module
    objective: Objective
    training: Stream
    validation: Stream
    config: TrainConfig
    progress: Progress = field(default_factory=Progress)
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    """Of the best evaluation, what learns; what is frozen never changes."""

    def __post_init__(self) -> None:
        self.device = next(self.model.parameters()).device
        self.ranks = Ranks()
        self.model.backbone.gradient_checkpointing = self.config.gradient_checkpointing
        if self.config.compile:
            compile_mlps(self.model)
        self.learner = self.ranks.join(self.model, shard=self.config.shard)
        self.optimizer = build_optimizer(self.model, self.config)
        self.micro_batch_tokens = self.config.micro_batch_tokens or self._usual_micro_batch()
        self.steps_per_epoch = math.ceil(len(self.training.plan(0)) / self.config.accumulate)
        if self.config.epochs is None:
            raise InputError("epochs=None must be a number: only `minirm train` chooses one by itself")
        self.steps = max(1, round(self.config.epochs * self.steps_per_epoch)) if self.config.epochs else 0
        self.evaluate_each = max(1, round(self.config.evaluate_every * self.steps_per_epoch))

    def step(self, micro_batches: Iterable[PackedBatch | None]) -> Step:
        """Take one optimizer step along the gradient of Σ w·ℓ / Σ w.

        Args:
            micro_batches: this process's share of the step, as many as every other has; None where it has no more.
        Raises:
            InputError: the loss or the gradient is not finite; the message names the step and the comparisons.
        """
        began = time.perf_counter()
        share = list(micro_batches)
        rate = rate_at(self.progress.step, self.steps, self.config)
        self._begin_step(rate)
        weight = sum(float(self.objective.total_weight(batch)) for batch in share if batch)
        total = max(self.ranks.sum(weight), 1e-30)  # 0 where there is nothing to learn
        sums, norm = self._accumulate(share, total), clip_gradients(self.model, self.config.clip)
        figures = torch.cat([sums, norm.view(1) / self.ranks.count])  # (6,) read at once: a GPU is waited for then
        loss, hits, cases, comparisons, tokens, norm = self.ranks.sum(figures)
        numbers = [number for batch in share if batch for number in batch.numbers]
        self._check_finite({"loss": loss, "gradient norm": norm}, numbers)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.progress.step += 1
        return Step(
            step=self.progress.step,
            steps=self.steps,
            loss=loss / total,
            accuracy=hits / max(cases, 1),
            gradient_norm=norm,
            learning_rate=rate,
            cases=int(cases),
            comparisons=int(comparisons),
            tokens=int(tokens),
            seconds=time.perf_counter() - began,
        )

    def _accumulate(self, share: Sequence[PackedBatch | None], total: float) -> Tensor:
        """Add up the gradient of Σ w·ℓ / total over all ranks' micro-batches; return this rank's sums (5,)."""
        sums = torch.zeros(5, dtype=torch.float64, device=self.device)
        for number, batch in enumerate(share, start=1):
            with self.ranks.synchronising(self.learner, now=number == len(share)):
                outcome = self._forward(self.learner, batch or self._idle)
                scale = self.ranks.count / total if batch else 0.0  # the ranks' gradients are averaged
                (outcome.loss * scale).backward()
            if batch:
                _add_up(sums, outcome, batch)
        return sums

    def run(self) -> Iterator[Step | Evaluated]:
        """Yield each step and each evaluation until the last step, or until patience ends.

        Raises:
            InputError: a loss or gradient is not finite; the message names the step, and in training the comparisons.
        """
        yield from self._evaluate_if_due()  # training may have been left between a step and its evaluation
        while self.progress.step < self.steps and not self._is_out_of_patience():
            for step in self._rest_of_epoch():
                yield step
                yield from self._evaluate_if_due()
                if self._is_out_of_patience():
                    return

    def _is_out_of_patience(self) -> bool:
        return 0 < self.config.patience <= self.progress.evaluations_without_gain

    def _rest_of_epoch(self) -> Iterator[Step]:
        plan, each = self.training.plan(self.progress.epoch), self.config.accumulate
        plan = plan[self.progress.steps_in_epoch * each :]
        steps = [np.concatenate(plan[start : start + each]) for start in range(0, len(plan), each)]
        dealt = [self._share(self.training, numbers) for numbers in steps]
        batches = self.training.batches(chain.from_iterable(dealt))
        for share in dealt:
            if self.progress.step >= self.steps:
                return
            self.progress.steps_in_epoch += 1
            yield self.step(islice(batches, len(share)))
        self.progress.epoch, self.progress.steps_in_epoch = self.progress.epoch + 1, 0

    def _begin_step(self, rate: float) -> None:
        self.model.train()
        self._seed_dropout()
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def _seed_dropout(self) -> None:
        """Let what a step drops follow from seed, step and process alone: no state of a generator need be saved."""
        entropy = [self.config.seed, self.progress.step, self.ranks.rank]
        seed = np.random.SeedSequence(entropy).generate_state(1, np.uint64)
        on_gpu = self.device.type == "cuda"
        generator = torch.cuda.default_generators[self.device.index] if on_gpu else torch.default_generator
        generator.manual_seed(int(seed[0]))  # torch.manual_seed takes 0.1 ms: it seeds every kind of device

    def _share(self, stream: Stream, numbers: np.ndarray) -> list[np.ndarray]:
        """Return this process's micro-batches of some comparisons."""
        return stream.deal(numbers, self.ranks.count, self.micro_batch_tokens)[self.ranks.rank]

    def _forward(self, model: nn.Module, batch: PackedBatch) -> Outcome:
        low = self.config.precision == "bfloat16"
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=low):
            return self.objective(model, batch.to(self.device))

    @cached_property
    def _idle(self) -> PackedBatch:
        """What a process computes, and does not count, while others have more to do: they wait for each other."""
        return self.training.packed(np.array([0]))

    def _usual_micro_batch(self) -> int:
        """Return how many tokens go through the network at once where the user says nothing."""
        wanted = getattr(self.model.backbone, "micro_batch_tokens", None) if self.device.type == "cpu" else None
        return wanted or self.training.packing.tokens_per_batch

    def _check_finite(self, figures: dict[str, float], comparisons: Sequence[int]) -> None:
        for what, value in figures.items():
            if not math.isfinite(value):
                named = ", ".join(map(str, comparisons[:16])) + (", …" if len(comparisons) > 16 else "")
                step = self.progress.step + 1
                raise self._not_finite(f"{what} is {value} at step {step}, training comparisons {named}")

    def _not_finite(self, what: str) -> InputError:
        return InputError(f"{what}: learning_rate={self.config.learning_rate} may be too high")

    @torch.no_grad()
    def evaluate(self, stream: Stream) -> tuple[float, float]:
        """Return loss and accuracy over all of a stream, of which each process computes its share."""
        self.model.eval()
        sums, weight = torch.zeros(5, dtype=torch.float64, device=self.device), 0.0
        micro_batches = chain.from_iterable(self._share(stream, numbers) for numbers in stream.plan(None))
        for batch in stream.batches(micro_batches):
            outcome = self._forward(self.model, batch or self._idle)
            if batch:
                _add_up(sums, outcome, batch)
                weight += float(self.objective.total_weight(batch))
        loss, hits, cases, _, _ = self.ranks.sum(sums)
        return loss / max(self.ranks.sum(weight), 1e-30), hits / max(cases, 1)

    def _evaluate_if_due(self) -> Iterator[Evaluated]:
        """Evaluate after every so many steps and after the last one, and keep the weights if they are the best.

        Raises:
            InputError: the validation loss is not finite.
        """
        step = self.progress.step
        due = step > 0 and (step % self.evaluate_each == 0 or step >= self.steps)
        if not due or self.progress.evaluated_step == step:
            return
        loss, accuracy = self.evaluate(self.validation)
        if not math.isfinite(loss):
            raise self._not_finite(f"validation loss is {loss} after step {step}")
        best = loss < self.progress.best_loss
        if best:
            self.progress.best_loss, self.progress.best_step = loss, step
            self.best_weights = {name: w.detach().clone() for name, w in trained_weights(self.model).items()}
        self.progress.evaluations_without_gain = 0 if best else self.progress.evaluations_without_gain + 1
        self.progress.evaluated_step = step
        yield Evaluated(step, loss, accuracy, best)

    def use_best(self) -> None:
        """Put the weights of the best evaluation back into the model."""
        if self.best_weights:
            self.model.load_state_dict(self.best_weights, strict=False)


def _add_up(sums: Tensor, outcome: Outcome, batch: PackedBatch) -> None:
    """Add a batch's loss, hits, cases, comparisons and tokens to sums (5,) where they lie."""
    sums[:3] += torch.stack([outcome.loss.detach(), outcome.hits, outcome.cases])
    sums[3] += len(batch.numbers)
    sums[4] += len(batch.tokens)
