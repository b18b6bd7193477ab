"""The same backbone + its own embedding as the head, unless that is untied → the next token."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minirm.config import ModelConfig
from minirm.config_rules import require
from minirm.models.kernels.next_token import next_token_nll
from minirm.models.kernels.rows import take_rows
from minirm.models.protocol import Backbone, State
from minirm.models.reward_model import build_backbone
from minirm.tokens.layout import Layout, lay_out
from minirm.tokens.packing import PackedBatch


class LanguageModel(nn.Module):
    """p(token | path before it). Args: as `RewardModel`."""

    def __init__(self, config: ModelConfig, backbone: Backbone | None = None) -> None:
        super().__init__()
        self.config = config
        self.backbone = build_backbone(config) if backbone is None else backbone
        self.unembedding = None if config.tied_head else nn.Linear(config.width, config.vocab_size, bias=False)

    def forward(self, batch: PackedBatch) -> Tensor:
        """Return the negative log-probabilities of the batch's targets (S,), in nats, float32."""
        return self.nll(self.states(batch), batch.targets)

    def states(self, batch: PackedBatch) -> Tensor:
        """Return the hidden states (S, D) that predict the batch's targets."""
        hidden, _ = self.backbone(batch.tokens, batch.layout)  # (M, D)
        return take_rows(hidden, batch.sources)

    def nll(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Return −log p (S,) of targets (S,) given the states that predict them (S, D), in nats, float32."""
        return next_token_nll(hidden, (self.unembedding or self.backbone.embedding).weight, targets)

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the logits (…, V) of hidden states (…, D)."""
        return F.linear(hidden, (self.unembedding or self.backbone.embedding).weight)

    def check_room(self, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> None:
        """Refuse prompts, in tokens, that the model can't continue.

        Raises:
            InputError: a prompt and `max_new_tokens` exceed the model's positions, or its backbone keeps no state.
        """
        keeps_state = self.config.backbone != "torch_decoder"
        require(keeps_state, "backbone=torch_decoder must be another to generate: PyTorch's module keeps no state")
        longest, room = max(map(len, prompts), default=0), self.config.max_positions
        together = f"a prompt of {longest} tokens and max_new_tokens={max_new_tokens}"
        require(longest + max_new_tokens <= room, f"{together} must not exceed the model's max_positions={room}")

    @torch.no_grad()
    def generate(
        self, prompts: list[list[int]], *, max_new_tokens: int, end_id: int, temperature: float = 1.0, seed: int = 0
    ) -> list[list[int]]:
        """Return a sampled continuation of each prompt, without its end token.

        Args:
            prompts: token ids, each at least one; all go on together. One that stands there several times is computed
                once, and its continuations are segments behind that one parent.
            max_new_tokens: where a continuation without an end token is stopped.
            end_id: the token that ends a continuation.
            temperature: divides the logits; 0 always takes the most probable token.
            seed: of the sampling.
        Raises:
            InputError: see `check_room`.
            FloatingPointError: the logits of a token are not finite.
        """
        self.check_room(prompts, max_new_tokens)
        device = self.backbone.embedding.weight.device
        generator = torch.Generator(device).manual_seed(seed)
        written: list[list[int]] = [[] for _ in prompts]
        alive = list(range(len(prompts)))
        numbers = {prompt: n for n, prompt in enumerate(dict.fromkeys(map(tuple, prompts)))}
        prompt_of = [numbers[tuple(prompt)] for prompt in prompts]
        layout = lay_out([len(prompt) for prompt in numbers], [-1] * len(numbers), range(len(numbers)))
        tokens = torch.tensor([t for prompt in numbers for t in prompt], device=device)
        hidden, state = self.backbone(tokens, layout.to(device), only_reads=True, keep_state=True)
        kind = getattr(self.backbone, "continuing", Segments)  # a backbone may have a faster way
        go_on, logits = kind(self.backbone, state, layout, prompt_of, max_new_tokens), self.logits(hidden)[prompt_of]
        for left in reversed(range(max_new_tokens)):
            chosen = _draw(logits.float(), temperature, generator).tolist()
            for n, token in zip(alive, chosen, strict=True):
                written[n].append(token)
            going = [i for i, token in enumerate(chosen) if token != end_id]
            if not going or not left:
                break
            alive = [alive[i] for i in going]
            logits = self.logits(go_on(going, torch.tensor([chosen[i] for i in going], device=device)))
        return [ids[:-1] if ids and ids[-1] == end_id else ids for ids in written]


class Segments:
    """Continuations of prompts, for any backbone: each step is a segment of one token. Args: as `Continuing`."""

    def __init__(self, backbone: Backbone, state: State, layout: Layout, prompt_of: Sequence[int], _room: int) -> None:
        self.backbone, self.state, self.layout, self.tips = backbone, state, layout, list(prompt_of)

    def __call__(self, going: Sequence[int], tokens: Tensor) -> Tensor:
        """Return the hidden states (n, D) behind one more token of each continuation; see `Continuing`."""
        segments, n = len(self.layout.paths), len(going)
        self.layout = lay_out([1] * n, [self.tips[i] for i in going], range(n), self.layout)
        self.tips = list(range(segments, segments + n))
        layout, past = self.layout.to(tokens.device), self.state
        hidden, self.state = self.backbone(tokens, layout, only_reads=True, past=past, keep_state=True)
        return hidden


def _draw(logits: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """Return one token per row of logits (n, V), all finite."""
    if not logits.isfinite().all():
        raise FloatingPointError("a logit of the language model is not finite")
    if temperature == 0:
        return logits.argmax(-1)
    # One uniform number a row; torch.multinomial draws one for each of the V tokens.
    until = (logits / temperature).softmax(-1).cumsum(-1, dtype=torch.float64)  # (n, V)
    drawn = torch.rand(len(logits), 1, dtype=until.dtype, device=until.device, generator=generator) * until[:, -1:]
    return torch.searchsorted(until, drawn, right=True)[:, 0].clamp(max=until.shape[1] - 1)
