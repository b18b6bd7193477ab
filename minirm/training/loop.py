"""One training loop for both stages."""

import math
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from minirm.config import TrainConfig
from minirm.errors import InputError
from minirm.models.layers import compile_mlps
from minirm.models.lora import trained_weights
from minirm.models.transformer import Transformer
from minirm.tokens.packing import PackedBatch
from minirm.tokens.stream import Stream
from minirm.training.objectives import LanguageModelObjective, Outcome, RewardObjective
from minirm.training.optimizers import build_optimizer, clip_gradients, rate_at

Objective = RewardObjective | LanguageModelObjective

AT_ONCE = 2048
"""Tokens of a batch that a transformer on a CPU computes together. In the bench, whole batches take 0.97 to 1.02 of its
time, and 2.5 times the memory."""


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
    """What the validation part says after a step."""

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


class OnItsWay:
    """Numbers that are being copied to the host while it goes on."""

    def __init__(self, numbers: Tensor) -> None:
        self.numbers, self.arrived = numbers, None
        if numbers.is_cuda:
            self.numbers = torch.empty_like(numbers, device="cpu", pin_memory=True).copy_(numbers, non_blocking=True)
            self.arrived = torch.cuda.Event()
            self.arrived.record(torch.cuda.current_stream(numbers.device))  # which need not be the current GPU's

    def wait(self) -> list[float]:
        """Return the numbers when they are there; later work of the GPU is not waited for."""
        if self.arrived is not None:
            self.arrived.synchronize()
        return self.numbers.tolist()


@dataclass(frozen=True)
class Launched:
    """An optimizer step that a GPU may still be working on."""

    figures: OnItsWay  # loss, hits, cases, comparisons, tokens, norm of the gradient
    step: int
    total: float  # weight that the loss is divided by
    rate: float
    rows: list[int]
    began: float


@dataclass
class Trainer:
    """Takes a model through one stage; `run` yields what happened, and may be left at any point.

    A GPU is given the next step before the figures of the last one are read, so that it never waits for the host. What
    is to be saved must therefore be *settled*: `settle` asks for it, `is_settled` says when it is. Several processes
    with GPUs need a process group for tensors on the host too: "cpu:gloo,cuda:nccl".
    """

    model: nn.Module
    objective: Objective
    training: Stream
    validation: Stream
    config: TrainConfig
    progress: Progress = field(default_factory=Progress)
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    """Of what learns; what is frozen never changes."""

    def __post_init__(self) -> None:
        self.device = next(self.model.parameters()).device
        self.optimizer = build_optimizer(self.model, self.config)
        self.model.backbone.checkpointing = self.config.gradient_checkpointing
        if self.config.compile:
            compile_mlps(self.model)
        self.rank, self.processes = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        self.lag = 1 if self.device.type == "cuda" else 0  # steps whose figures are not read yet
        self.in_flight: deque[Launched] = deque()
        self.settling = False
        self.last_read = 0.0
        self.window = self.config.accumulate * self.processes  # batches of one step
        in_parts = self.device.type == "cpu" and isinstance(self.model.backbone, Transformer)
        self.at_once = self.config.tokens_at_once or (AT_ONCE if in_parts else None)
        self.steps_per_epoch = math.ceil(len(self.training.plan(0)) / self.window)
        self.steps = max(1, round(self.config.epochs * self.steps_per_epoch)) if self.config.epochs else 0
        self.evaluate_each = max(1, round(self.config.evaluate_every * self.steps_per_epoch))

    def run(self) -> Iterator[Step | Evaluated]:
        """Yield each step and each evaluation until the last step, or until patience ends.

        Raises:
            InputError: a loss or gradient is not finite; the message names the step, and in training the rows.
        """
        self.in_flight.clear()
        yield from self._evaluate_if_due()  # training may have been left between a step and its evaluation
        while self.progress.step < self.steps and not self._is_out_of_patience():
            for launched in self._rest_of_epoch():
                self.in_flight.append(launched)
                while len(self.in_flight) > (0 if self.settling or self._is_evaluation_due() else self.lag):
                    yield self._read(self.in_flight.popleft())
                yield from self._evaluate_if_due()
                if self._is_out_of_patience():
                    return

    def settle(self) -> None:
        """Ask that no step be left in flight, now that its outcome is to be saved."""
        self.settling = bool(self.in_flight)

    @property
    def is_settled(self) -> bool:
        """Whether every step that was taken has been reported."""
        return not self.in_flight

    def _is_out_of_patience(self) -> bool:
        return 0 < self.config.patience <= self.progress.evaluations_without_gain

    def _rest_of_epoch(self) -> Iterator[Launched]:
        plan = self.training.plan(self.progress.epoch)[self.progress.steps_in_epoch * self.window :]
        mine, each = plan[self.rank :: self.processes], self.config.accumulate
        parts = self._parts(self.training, mine)
        batches = self.training.batches(chain.from_iterable(parts))
        for window in range(math.ceil(len(plan) / self.window)):
            if self.progress.step >= self.steps:
                return
            self.progress.steps_in_epoch += 1
            yield self._launch(islice(batches, sum(map(len, parts[window * each : (window + 1) * each]))))
        self.progress.epoch, self.progress.steps_in_epoch = self.progress.epoch + 1, 0

    def _parts(self, stream: Stream, plan: list[np.ndarray]) -> list[list[np.ndarray]]:
        """Return each batch of a plan in the parts that are computed together."""
        return stream.in_parts(plan, self.at_once) if self.at_once else [[rows] for rows in plan]

    def step(self, window: Iterable[PackedBatch]) -> Step:
        """Take one optimizer step on this process's batches of a window, and wait for its figures."""
        return self._read(self._launch(window))

    def _launch(self, window: Iterable[PackedBatch]) -> Launched:
        """Take one optimizer step without waiting for a GPU."""
        began = time.perf_counter()
        window = list(window)
        self.model.train()
        self._seed_dropout()
        rate = rate_at(self.progress.step, self.steps, self.config)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        weights = [float(self.objective.total_weight(batch)) for batch in window]
        total = self._sum_over_processes(torch.tensor(sum(weights), dtype=torch.float64)).clamp(min=1e-30).item()
        sums = torch.zeros(5, dtype=torch.float64, device=self.device)  # loss, hits, cases, comparisons, tokens
        for batch in window:
            outcome = self._forward(batch.to(self.device))
            if self.processes == 1:  # several find out together, below: one alone would leave the others waiting
                self._check_finite("loss", outcome.loss, batch.rows)
            (outcome.loss / total).backward()
            _add_up(sums, outcome, batch)
        norm, rows = self._finish_gradients(), [row for batch in window for row in batch.rows]
        sums = self._sum_over_processes(sums)
        self._check_finite("loss", sums[0], rows)
        self._check_finite("gradient norm", norm, rows)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        figures = torch.cat([sums, norm[None].double()])
        self.progress.step += 1
        return Launched(OnItsWay(figures), self.progress.step, total, rate, rows, began)

    def _seed_dropout(self) -> None:
        """Let what a step drops follow from seed, step and process alone: no state of a generator need be saved."""
        seed = np.random.SeedSequence([self.config.seed, self.progress.step, self.rank]).generate_state(1, np.uint64)
        on_gpu = self.device.type == "cuda"
        generator = torch.cuda.default_generators[self.device.index] if on_gpu else torch.default_generator
        generator.manual_seed(int(seed[0]))  # torch.manual_seed seeks every kind of device, for 0.1 ms

    def _read(self, launched: Launched) -> Step:
        """Return what a step did, as soon as it is known.

        Raises:
            InputError: its loss or gradient is not finite.
        """
        loss, hits, cases, comparisons, tokens, norm = launched.figures.wait()
        for what, value in (("loss", loss), ("gradient norm", norm)):
            if not math.isfinite(value):
                raise InputError(self._not_finite(what, value, launched.step, launched.rows))
        now = time.perf_counter()
        seconds, self.last_read = now - max(launched.began, self.last_read), now
        self.settling = self.settling and not self.is_settled
        return Step(
            step=launched.step,
            steps=self.steps,
            loss=loss / launched.total,
            accuracy=hits / max(cases, 1),
            gradient_norm=norm,
            learning_rate=launched.rate,
            cases=int(cases),
            comparisons=int(comparisons),
            tokens=int(tokens),
            seconds=seconds,
        )

    def _forward(self, batch: PackedBatch) -> Outcome:
        low = self.config.precision == "bfloat16"
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=low):
            return self.objective(self.model, batch)

    def _finish_gradients(self) -> Tensor:
        """Add up the gradients of all processes, clip them, and return their norm before clipping."""
        if self.processes > 1:
            parameters = trained_weights(self.model).values()
            for parameter in parameters:  # a process whose share of the window is empty has none
                parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            gradients = [p.grad for p in parameters]
            flat = self._sum_over_processes(torch.cat([g.flatten() for g in gradients]))
            for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
                gradient.copy_(part.view_as(gradient))
        return clip_gradients(self.model, self.config.clip)

    def _sum_over_processes(self, value: Tensor) -> Tensor:
        """Add up a tensor where it lies; one on the host waits for the other hosts, and for no GPU."""
        if self.processes > 1:
            dist.all_reduce(value)
        return value

    def _mean_over_processes(self, *figures: float) -> list[float]:
        return (self._sum_over_processes(torch.tensor(figures, dtype=torch.float64)) / self.processes).tolist()

    def any_process(self, *wishes: bool) -> list[bool]:
        """Return of each wish whether one of the processes has it, so that all of them act after the same step."""
        return (self._sum_over_processes(torch.tensor(wishes, dtype=torch.float64)) > 0).tolist()

    def _check_finite(self, what: str, value: Tensor, rows: Sequence[int]) -> None:
        """Look at once on a CPU; a GPU is not made to wait: `_read` looks when the figures are there."""
        if self.device.type == "cpu" and not math.isfinite(value.item()):
            raise InputError(self._not_finite(what, value.item(), self.progress.step + 1, rows))

    def _not_finite(self, what: str, value: float, step: int, rows: Sequence[int]) -> str:
        named = ", ".join(map(str, rows[:16])) + (", …" if len(rows) > 16 else "")
        rate = f"learning_rate={self.config.learning_rate} may be too high"
        return f"{what} is {value} at step {step}, training rows {named}: {rate}"

    @torch.no_grad()
    def evaluate(self, stream: Stream) -> tuple[float, float]:
        """Return loss and accuracy over all of a stream."""
        self.model.eval()
        sums = torch.zeros(5, dtype=torch.float64, device=self.device)
        weight = 0.0
        for batch in stream.batches(chain.from_iterable(self._parts(stream, stream.plan(None)))):
            _add_up(sums, self._forward(batch.to(self.device)), batch)
            weight += float(self.objective.total_weight(batch))
        loss, hits, cases, _, _ = sums.tolist()
        return loss / max(weight, 1e-30), hits / max(cases, 1)

    def _is_evaluation_due(self) -> bool:
        step = self.progress.step
        due = step > 0 and (step % self.evaluate_each == 0 or step >= self.steps)
        return due and self.progress.evaluated_step != step

    def _evaluate_if_due(self) -> Iterator[Evaluated]:
        """Evaluate after every so many steps and after the last one, and keep the weights if they are the best.

        Raises:
            InputError: the validation loss is not finite.
        """
        if not self._is_evaluation_due():
            return
        step = self.progress.step
        loss, accuracy = self._mean_over_processes(*self.evaluate(self.validation))  # by which all of them judge
        if not math.isfinite(loss):
            rate = f"learning_rate={self.config.learning_rate} may be too high"
            raise InputError(f"validation loss is {loss} after step {step}: {rate}")
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
    sums[3] += len(batch.rows)
    sums[4] += len(batch.tokens)
