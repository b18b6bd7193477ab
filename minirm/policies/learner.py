"""A policy learns, step by step: what every method has in common.

Letters beside the core's: S tokens of all N responses, end to end; T tokens of the longest response.
"""

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from minirm.config_rules import require
from minirm.errors import InputError
from minirm.models.language_model import LanguageModel
from minirm.policies.sampling import Dialogue, Sample, sample
from minirm.runs.resume import tensors_under
from minirm.tokens.packing import PackedBatch
from minirm.tokens.tokenizer import Tokenizer
from minirm.training.optimizers import optimizer_tensors, restore_optimizer

LARGEST_DIAL = 1e30
"""What float32 holds with room to compute."""
LARGEST_GRADIENT = 1.0
"""The gradients are scaled so that their norm is at most this."""


def check_dials(
    dials: object, *, counts: Sequence[str] = (), above_0: Sequence[str] = (), at_least_0: Sequence[str] = ()
) -> None:
    """Refuse a dial that is out of its range.

    Raises:
        InputError: names the dial, its value and the rule.
    """
    for name in counts:
        require(getattr(dials, name) >= 1, f"{name}={getattr(dials, name)} must be at least 1")
    for name in above_0:
        value = getattr(dials, name)
        require(0 < value <= LARGEST_DIAL, f"{name}={value} must be above 0 and at most {LARGEST_DIAL:g}")
    for name in at_least_0:
        value = getattr(dials, name)
        require(0 <= value <= LARGEST_DIAL, f"{name}={value} must be at least 0 and at most {LARGEST_DIAL:g}")


class Policy(nn.Module):
    """A language model, and beside it, if the method wants one, a head for V: the return that is still to come."""

    def __init__(self, language_model: LanguageModel, *, has_value: bool = False) -> None:
        super().__init__()
        self.language_model = language_model
        self.value = nn.Linear(language_model.config.width, 1) if has_value else None
        if has_value:
            nn.init.zeros_(self.value.weight)
            nn.init.zeros_(self.value.bias)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.language_model.backbone.embedding.weight.device

    def forward(self, batch: PackedBatch) -> tuple[Tensor, Tensor]:
        """Return log π(a_t) and V_t for each token of the responses, (S,) each; V is 0 where the method has none."""
        hidden = self.language_model.states(batch)
        log_p = -self.language_model.nll(hidden, batch.targets)
        return log_p, torch.zeros_like(log_p) if self.value is None else self.value(hidden)[:, 0]


class Learner:
    """A policy, its optimizer, and all that going on needs.

    Args:
        language_model: the policy; a copy of it as it comes is π₀.
        iterations: how often `run` yields.
    """

    def __init__(
        self, language_model: LanguageModel, tokenizer: Tokenizer, config: object, *, iterations: int, has_value: bool
    ) -> None:
        self.tokenizer, self.config, self.iterations = tokenizer, config, iterations
        self.policy = Policy(language_model, has_value=has_value).eval()
        self.policy.to(self.policy.device)
        self.first = copy.deepcopy(language_model).eval().requires_grad_(False)
        self.optimizer = torch.optim.Adam(self.policy.parameters(), lr=config.learning_rate)
        self.kl_weight = config.kl_weight
        self.done = 0  # iterations
        self.latest: Sequence[tuple[Sample, float]] = ()
        """Of what it drew last, if its method draws: responses and what they earned."""

    def write(self, prompts: Sequence[Dialogue], *, seed: int) -> list[Sample]:
        """Return a response of the policy, as it is now, to each prompt.

        Raises:
            InputError: learning has left it logits that are not finite.
        """
        most = self.config.max_new_tokens
        try:
            return sample(self.policy.language_model, self.tokenizer, prompts, max_new_tokens=most, seed=seed)
        except FloatingPointError as error:
            raise InputError(f"{error} {self._where()}") from None

    def step(self, loss: Tensor) -> float:
        """Take an optimizer step, and return the gradient's norm before it was cut.

        Raises:
            InputError: loss or gradient is not finite; the message names the iteration.
        """
        self._check_finite("loss", loss.item())
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.policy.parameters(), LARGEST_GRADIENT).item()
        self._check_finite("gradient norm", norm)
        self.optimizer.step()
        return norm

    def _check_finite(self, what: str, value: float) -> None:
        if not math.isfinite(value):
            raise InputError(f"{what} is {value} {self._where()}")

    def _where(self) -> str:
        """Return when something came out that is not finite, and what may have led to it."""
        dials = {"learning_rate": self.config.learning_rate, "kl_weight": self.config.kl_weight} | self._other_dials()
        told = [f"{name}={value}" for name, value in dials.items()]
        return (
            f"in iteration {min(self.done + 1, self.iterations)}: {', '.join(told[:-1])} or {told[-1]} may be too high"
        )

    def _other_dials(self) -> dict[str, float]:
        """Return what else may have led to a number that is not finite."""
        return {}

    def state(self) -> dict[str, Tensor]:
        """Return the policy, the optimizer's moments, β, and the iterations done."""
        tensors = {f"policy.{name}": tensor for name, tensor in self.policy.state_dict().items()}
        tensors |= {f"adam.{name}": tensor for name, tensor in optimizer_tensors(self.optimizer).items()}
        return {
            **tensors,
            "kl_weight": torch.tensor(self.kl_weight, dtype=torch.float64),
            "done": torch.tensor(self.done),
        }

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Go back to where `state` was asked for; π₀ stays what it is."""
        self.policy.load_state_dict(tensors_under("policy.", tensors))
        restore_optimizer(self.optimizer, tensors_under("adam.", tensors))
        self.kl_weight, self.done = tensors["kl_weight"].item(), int(tensors["done"])


def as_rows(flat: Tensor, mask: Tensor) -> Tensor:
    """Return values of tokens, end to end (S,), as rows (N, T), 0 where there is no token."""
    return flat.new_zeros(mask.shape).masked_scatter(mask.to(flat.device), flat)
