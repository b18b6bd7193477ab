"""A policy learns, step by step: what every method has in common.

Letters beside the core's: S tokens of all N responses, end to end; T tokens of the longest response.
"""

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from minirm.config_rules import require
from minirm.errors import InputError, shorten
from minirm.files.disk import load_weights
from minirm.files.pretrained import AnyTokenizer
from minirm.models.language_model import LanguageModel
from minirm.policies.sampling import Dialogue, Sample, sample
from minirm.runs.moments import check_moments, optimizer_tensors, restore_optimizer
from minirm.runs.state import State
from minirm.tokens.packing import PackedBatch

LARGEST_GRADIENT = 1.0
"""The gradients are scaled so that their norm is at most this."""


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
        self,
        language_model: LanguageModel,
        tokenizer: AnyTokenizer,
        config: object,
        *,
        iterations: int,
        has_value: bool,
    ) -> None:
        self.tokenizer, self.config, self.iterations = tokenizer, config, iterations
        self.policy = Policy(language_model, has_value=has_value).eval()  # nothing is dropped, from here on
        self.policy.to(self.policy.device)
        self.first = copy.deepcopy(language_model).requires_grad_(False)
        self.optimizer = torch.optim.Adam(self.policy.parameters(), lr=config.learning_rate)
        self.kl_weight = config.kl_weight
        self.done = 0  # iterations
        self.prompts: Sequence[Dialogue] = ()
        """Behind which its method draws, if it does."""
        self.latest: Sequence[tuple[Sample, float]] = ()
        """Of what it drew last, if its method draws: responses and what they earned."""

    def write(self, prompts: Sequence[Dialogue], *, seed: int, part: int = 0) -> list[Sample]:
        """Return a response of the policy, as it is now, to each prompt. Args: as `sample`.

        Raises:
            InputError: learning has left it logits that are not finite.
        """
        drawn = {"max_new_tokens": self.config.max_new_tokens, "seed": seed, "part": part}
        try:
            return sample(self.policy.language_model, self.tokenizer, prompts, **drawn)
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

    def state(self) -> tuple[dict[str, Tensor], dict]:
        """Return the policy and the optimizer's moments; the iterations done, and β."""
        tensors = {f"policy.{name}": tensor for name, tensor in self.policy.state_dict().items()}
        tensors |= {f"adam.{name}": tensor for name, tensor in optimizer_tensors(self.optimizer).items()}
        return tensors, {"done": self.done, "kl_weight": self.kl_weight}

    def restore(self, state: State) -> None:
        """Go back to where `state` was asked for; π₀ stays what it is.

        Raises:
            InputError: it is the state of another policy, or no policy saves it.
        """
        path, done, kl_weight = state.path, state.progress.get("done"), state.progress.get("kl_weight")
        require(done in range(self.iterations + 1), f"{path}: done={shorten(done)} is no number of iterations")
        is_price = isinstance(kl_weight, int | float) and 0 <= kl_weight < math.inf
        require(is_price, f"{path}: kl_weight={shorten(kl_weight)} must be a finite number, at least 0")
        check_moments(state.under("adam."), self.optimizer, path)
        load_weights(self.policy, state.under("policy."), path)
        restore_optimizer(self.optimizer, state.under("adam."))
        self.kl_weight, self.done = kl_weight, done


def as_rows(flat: Tensor, mask: Tensor) -> Tensor:
    """Return values of tokens, end to end (S,), as rows (N, T), 0 where there is no token."""
    return flat.new_zeros(mask.shape).masked_scatter(mask.to(flat.device), flat)
