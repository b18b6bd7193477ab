"""A policy follows a reward, iteration by iteration: what PPO, RLOO and GRPO have in common.

    draw    K responses to each of some prompts, by the policy π_old that there is
    judge   the reward of each, and what each token costs for leading away from π₀, the model that the policy began as
    learn   optimizer steps on a method's loss over these responses; then anew

Letters beside the core's: S tokens of all N responses, end to end; T tokens of the longest response.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from typing import Annotated, ClassVar

import numpy as np
import torch
from msgspec import Meta
from torch import Tensor

from minirm.config_rules import Count, NotNegative, Positive, Seed, check, require
from minirm.files.pretrained import AnyTokenizer
from minirm.models.language_model import LanguageModel
from minirm.policies.learner import Learner, Policy, as_rows
from minirm.policies.sampling import Dialogue, Reward, Sample, encode, rewards_of
from minirm.tokens.packing import PackedBatch, pack


@dataclass(frozen=True)
class PolicyConfig:
    """How a policy learns from a reward, by whichever method."""

    iterations: Count = 60
    """How often responses are drawn and learned from."""
    prompts_per_iteration: Count = 64
    """Prompts that are drawn each time."""
    samples_per_prompt: Count = 1
    """K: responses that are drawn to each of them."""
    epochs: Count = 2
    """Passes over the responses of an iteration."""
    batch: Count = 16
    """Responses of an optimizer step; those to one prompt stay together."""
    learning_rate: Positive = 3e-4
    """Of Adam."""
    kl_weight: NotNegative = 0.05
    """β: what a nat away from the first model costs, in units of the reward."""
    target_kl: Positive | None = None
    """Nats a response away from the first model that β is moved towards, iteration by iteration; by default β stays."""
    unended_reward: Annotated[float, Meta(ge=-1e30, le=1e30)] | None = None
    """What a response earns that was stopped without an end; by default what the reward says."""
    max_new_tokens: Count = 96
    """Where a response without an end is stopped."""
    seed: Seed = 0
    """Of prompts, draws and batches."""

    def __post_init__(self) -> None:
        check(self)
        moves = self.target_kl is None or self.kl_weight > 0
        require(moves, f"kl_weight={self.kl_weight} must be above 0 where target_kl is given, which multiplies it")


@dataclass(frozen=True)
class Iteration:
    """What an iteration found: of the policy before it learned, and of the steps that it then took."""

    iteration: int  # counted from 1
    reward: float  # mean
    kl_nats: float  # k1, mean over responses of Σ_t log π(a_t)/π₀(a_t): right on average, may be negative
    kl_k3_nats: float  # k3, mean over responses of Σ_t (π₀/π − 1 − log π₀/π): right on average too, never negative
    entropy_nats: float  # mean over tokens of −log π(a_t): right on average
    tokens: float  # mean length of a response
    unended: float  # share of responses that were stopped without an end
    kl_weight: float  # β
    clipped: float  # share of ratios that stopped to count, mean over steps
    explained_variance: float | None  # of what V should have been, by V; None: the method has no value
    gradient_norm: float  # mean over steps, before it is cut to `LARGEST_GRADIENT`
    samples_per_second: float = dataclass_field(compare=False)
    updates_per_second: float = dataclass_field(compare=False)

    def __str__(self) -> str:
        """Return what a reader wants of it in one line."""
        written = f"{self.tokens:.0f} tokens a response, {self.unended:.0%} without an end"
        return f"reward {self.reward:.3f}, {self.kl_nats:.2f} nats away, {written}"


@dataclass(frozen=True)
class Experience:
    """N responses, K to each prompt side by side, and what was thought of them when they were drawn."""

    samples: list[Sample]
    rewards: Tensor  # (N,)
    mask: Tensor  # (N, T) bool, True is a token
    log_p: Tensor  # (N, T) log π_old, 0 behind the end
    first_log_p: Tensor  # (N, T) log π₀, 0 behind the end
    values: Tensor  # (N, T) V, 0 behind the end
    advantages: Tensor  # (N, T) how much better than expected; 0 until a method says it
    returns: Tensor  # (N, T) what V should have been; 0 until a method says it

    @property
    def kl_nats(self) -> Tensor:
        """Return Σ_t log π(a_t) − log π₀(a_t) of each response, (N,)."""
        return (self.log_p - self.first_log_p).sum(1)

    def part(self, rows: Sequence[int]) -> "Experience":
        """Return some of the responses."""
        index = torch.as_tensor(rows)
        tensors = {name: value[index] for name, value in vars(self).items() if name != "samples"}
        return Experience([self.samples[row] for row in rows], **tensors)

    def at_tokens(self, rows: Tensor, device: torch.device) -> Tensor:
        """Return (N, T) as (S,): what a packed batch computes, in its order."""
        return rows[self.mask].to(device)


@dataclass(frozen=True)
class Method:
    """How a policy learns from experience: the dials are its fields, the mathematics its two functions."""

    name: ClassVar[str]
    has_value: ClassVar[bool] = False
    least_samples: ClassVar[int] = 2
    """K, at least."""

    clip: Positive = 0.2
    """ε: how far from 1 a ratio of probabilities may go before it stops to count."""

    def __post_init__(self) -> None:
        check(self)

    def judge(self, experience: Experience, samples_per_prompt: int, kl_weight: float) -> Experience:
        """Return the experience with its advantages, and returns where there is a value."""
        raise NotImplementedError

    def loss(self, log_p: Tensor, values: Tensor, experience: Experience, kl_weight: float) -> tuple[Tensor, Tensor]:
        """Return the loss () of what the policy says now, (S,) each, and which ratios are clipped, bool."""
        raise NotImplementedError


class PolicyTrainer(Learner):
    """Lets a language model itself learn from a reward.

    Args:
        prompts: at least one; drawn from anew in each iteration.
        reward: prompts and responses → numbers.
        method: PPO, RLOO or GRPO, with its dials.
    Raises:
        InputError: the method compares the responses to a prompt, and there is one only.
    """

    def __init__(
        self,
        language_model: LanguageModel,
        tokenizer: AnyTokenizer,
        prompts: Sequence[Dialogue],
        reward: Reward,
        config: PolicyConfig,
        method: Method,
    ) -> None:
        k, least = config.samples_per_prompt, method.least_samples
        why = f"{method.name} compares a response with the others to its prompt"
        require(k >= least, f"samples_per_prompt={k} must be at least {least}: {why}")
        super().__init__(language_model, tokenizer, config, iterations=config.iterations, has_value=method.has_value)
        self.prompts, self.reward, self.method = prompts, reward, method

    def run(self) -> Iterator[Iteration]:
        """Yield what each iteration found, when the policy has learned from it.

        Raises:
            InputError: a loss, a gradient or the policy's own logits are not finite; the message names the iteration.
                Or see `rewards_of`.
        """
        while self.done < self.iterations:
            began = time.perf_counter()
            rng = np.random.default_rng([self.config.seed, self.done])
            experience = self._explore(rng)
            drawn = time.perf_counter()
            self.latest = list(zip(experience.samples, experience.rewards.tolist(), strict=True))
            steps = [self._learn(part) for part in self._parts(experience, rng)]
            learned = time.perf_counter()
            norms, clipped = zip(*steps, strict=True)
            found = Iteration(
                self.done + 1,
                **measure(experience, has_value=self.method.has_value),
                kl_weight=self.kl_weight,
                clipped=float(np.mean(clipped)),
                gradient_norm=float(np.mean(norms)),
                samples_per_second=len(experience.samples) / (drawn - began),
                updates_per_second=len(steps) / (learned - drawn),
            )
            self.kl_weight = adapted(self.kl_weight, found.kl_nats, self.config.target_kl)
            self.done += 1
            yield found

    def _explore(self, rng: np.random.Generator) -> Experience:
        """Return responses of the policy as it is, judged."""
        config = self.config
        chosen = rng.integers(len(self.prompts), size=config.prompts_per_iteration)
        drawn = [self.prompts[i] for i in chosen for _ in range(config.samples_per_prompt)]
        samples = self.write(drawn, seed=config.seed, part=self.done + 1)
        earned = rewards_of(self.reward, drawn, [one.response for one in samples])
        rewards = torch.tensor(earned, dtype=torch.float32)
        if config.unended_reward is not None:
            rewards[torch.tensor([not one.has_end for one in samples])] = config.unended_reward
        experience = gather(self.policy, self.first, samples, rewards)
        return self.method.judge(experience, config.samples_per_prompt, self.kl_weight)

    def _parts(self, experience: Experience, rng: np.random.Generator) -> Iterator[Experience]:
        """Yield the responses of each optimizer step; those to one prompt stay together."""
        k, prompts = self.config.samples_per_prompt, self.config.prompts_per_iteration
        at_once = max(1, self.config.batch // k)
        for _ in range(self.config.epochs):
            order = rng.permutation(prompts)
            for start in range(0, prompts, at_once):
                yield experience.part([p * k + i for p in order[start : start + at_once].tolist() for i in range(k)])

    def _learn(self, experience: Experience) -> tuple[float, float]:
        """Take a step, and return the gradient's norm and the share of clipped ratios."""
        log_p, values = self.policy(packed(experience.samples, self.policy.device))
        loss, clipped = self.method.loss(log_p, values, experience, self.kl_weight)
        return self.step(loss), clipped.float().mean().item()

    def _other_dials(self) -> dict[str, float]:
        return {name: value for name, value in vars(self.method).items() if name == "value_weight"}


@torch.no_grad()
def gather(policy: Policy, first: LanguageModel, samples: list[Sample], rewards: Tensor) -> Experience:
    """Return what there is to learn from responses and their rewards (N,), before a method has judged it."""
    lengths = torch.tensor([[len(one.ids)] for one in samples])
    mask = torch.arange(int(lengths.max())) < lengths  # (N, T)
    batch = packed(samples, policy.device)
    log_p, values = (as_rows(flat.cpu(), mask) for flat in policy(batch))
    nothing = torch.zeros_like(log_p)
    return Experience(samples, rewards, mask, log_p, as_rows(-first(batch).cpu(), mask), values, nothing, nothing)


def packed(samples: Sequence[Sample], device: torch.device) -> PackedBatch:
    """Return samples as a batch, each prompt once; its targets are the tokens of the responses, end to end (S,)."""
    return pack(encode(samples)).to(device)


def measure(experience: Experience, *, has_value: bool) -> dict[str, float | None]:
    """Return what an iteration tells of its responses, by the names of `Iteration`."""
    mask, log_p = experience.mask, experience.log_p.double()
    behind = experience.first_log_p.double() - log_p  # log π₀/π; 0 behind the end, where k3 is 0 too
    k3 = behind.expm1() - behind
    wanted, found = experience.returns[mask].double(), experience.values[mask].double()
    spread = wanted.var(correction=0).item()
    explained = 1 - (wanted - found).var(correction=0).item() / spread if has_value and spread > 0 else None
    return {
        "reward": experience.rewards.double().mean().item(),
        "kl_nats": experience.kl_nats.double().mean().item(),
        "kl_k3_nats": k3.sum(1).mean().item(),
        "entropy_nats": -log_p[mask].mean().item(),
        "tokens": mask.sum(1).double().mean().item(),
        "unended": sum(not one.has_end for one in experience.samples) / len(experience.samples),
        "explained_variance": explained,
    }


def adapted(kl_weight: float, kl_nats: float, target: float | None) -> float:
    """Return β moved by a tenth of how far the distance is off its target, at most by a fiftieth; None leaves it.

    Source: Ziegler et al., arXiv:1909.08593, section 2.2.
    """
    if target is None:
        return kl_weight
    return kl_weight * (1 + 0.1 * min(0.2, max(-0.2, (kl_nats - target) / target)))
