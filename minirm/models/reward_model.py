"""Backbone + head → one reward per response."""

import torch
from torch import Tensor, nn

from minirm.config import ModelConfig
from minirm.models.kernels.next_token import next_token_nll
from minirm.models.kernels.rows import take_rows
from minirm.models.ngrams import NGrams
from minirm.models.protocol import Backbone
from minirm.models.recurrent import Recurrent
from minirm.models.torch_decoder import TorchDecoder
from minirm.models.transformer import Transformer
from minirm.tokens.packing import PackedBatch

BACKBONES = {"transformer": Transformer, "torch_decoder": TorchDecoder, "gru": Recurrent, "lstm": Recurrent}
"""To add one, fulfil `protocol.Backbone`, and name it here and in `config.BackboneName`."""


def build_backbone(config: ModelConfig) -> Backbone:
    """Return a freshly initialised backbone."""
    return BACKBONES[config.backbone](config)


class Pooler(nn.Module):
    """tanh(W·x + b), what BERT makes of a sequence's first token before it is judged. Source: arXiv:1810.04805."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.width, config.width)
        self.dropout = nn.Dropout(config.dropout)
        nn.init.normal_(self.dense.weight, std=0.02)
        nn.init.zeros_(self.dense.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.dense(x).tanh())


class RewardModel(nn.Module):
    """r(prompt, response): the head's product with the hidden state at the response's last token.

    An encoder is read at the sequence's first token, through a pooler.

    Args:
        config: its shape.
        backbone: one that is not among minirm's own; None builds the one that the configuration names.
    """

    def __init__(self, config: ModelConfig, backbone: Backbone | None = None) -> None:
        super().__init__()
        self.config = config
        self.backbone = build_backbone(config) if backbone is None else backbone
        self.ngrams = NGrams(config.ngrams) if config.ngrams else None
        self.draw_head()

    def draw_head(self) -> None:
        """Make the head anew, with variance 1/(D + 1). Source: Stiennon et al., arXiv:2009.01325."""
        width, encodes = self.config.width, self.config.bidirectional
        self.pooler = Pooler(self.config) if encodes else nn.Identity()
        self.head = nn.Linear(width, 1, bias=False)  # no bias: only differences of rewards are learned
        nn.init.normal_(self.head.weight, std=(width + 1) ** -0.5)
        # Not learned: the bias of a BERT that comes from elsewhere, which so keeps its rewards.
        self.register_buffer("offset", torch.zeros(1) if encodes else None)

    def forward(self, batch: PackedBatch, *, with_language: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """Return rewards (B, K), float32 under any autocast (float64 in a float64 model); 0 where there is none.

        With `with_language`, also −log p (S,) of the batch's next tokens, as a `LanguageModel` of this backbone has it.
        """
        if with_language:
            states, _ = self.backbone(batch.tokens, batch.layout)  # (M, D)
            nll = next_token_nll(take_rows(states, batch.sources), self.backbone.embedding.weight, batch.targets)
            return self._judge(take_rows(states, batch.layout.reads), batch), nll
        return self._judge(self.backbone(batch.tokens, batch.layout, only_reads=True)[0], batch)

    def _judge(self, hidden: Tensor, batch: PackedBatch) -> Tensor:
        """Return rewards (B, K) of what was read (N, D)."""
        hidden = self.pooler(hidden)
        with torch.autocast(hidden.device.type, enabled=False):
            rewards = self.head(hidden.to(self.head.weight.dtype))[:, 0]  # (N,)
            rewards = rewards if self.offset is None else rewards + self.offset
            rewards = rewards if self.ngrams is None else rewards + self.ngrams(batch.tokens, batch.layout)
        return rewards.new_zeros(batch.mask.numel()).index_copy(0, batch.slots, rewards).view(batch.mask.shape)
