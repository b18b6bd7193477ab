"""A backbone on PyTorch's own `nn.TransformerDecoder`: a response is decoded against its prompt as memory.

Where minirm's transformer has one attention over prompt and response, this one has two: causal self-attention among the
tokens of the response, and cross-attention to the prompt. The memory is LayerNorm(embedding + position) of the prompt's
tokens; no layer runs over it, so they know nothing of each other until a response looks at them. It is made once, and
all K responses to the prompt look at it (PyTorch's module still projects its keys and values for each of them).

PyTorch wants padded rectangles: `levels` of the layout, made for recurrent networks, are prompts and responses side by
side. A pad holds zeros, is masked where it would be seen, and is dropped behind the last layer.
"""

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence
from torch.utils.checkpoint import checkpoint

from minirm.config import ModelConfig
from minirm.models.kernels.rows import take_rows
from minirm.models.protocol import State
from minirm.tokens.layout import Layout, Level


class TorchDecoder(nn.Module):
    """Embedding, L layers of self-attention, cross-attention and MLP (GELU), each behind its norm, and a last norm.

    Source: Vaswani et al., arXiv:1706.03762, without their encoder; norms before the sublayers.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.gradient_checkpointing = False
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        self.positions = nn.Embedding(config.max_positions, config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.memory_norm = nn.LayerNorm(config.width, eps=config.norm_eps)
        shape = config.width, config.heads, config.inner_width, config.dropout
        how = {"activation": "gelu", "layer_norm_eps": config.norm_eps, "batch_first": True, "norm_first": True}
        layer = nn.TransformerDecoderLayer(*shape, **how)
        norm = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.decoder = nn.TransformerDecoder(layer, config.layers, norm)  # copies the layer, weights and all
        self._initialise()

    @torch.no_grad()
    def _initialise(self) -> None:
        """As `Transformer` starts: N(0, 0.02²), less by √(3L) for what writes into the residual, queries like keys."""
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                into_residual = name.endswith(("out_proj.weight", "linear2.weight"))
                scale = (3 * self.config.layers) ** -0.5 if into_residual else 0.5 if "positions" in name else 1.0
                nn.init.normal_(parameter, std=0.02 * scale)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
        for layer in self.decoder.layers:
            for attention in (layer.self_attn, layer.multihead_attn):
                query, key, _ = attention.in_proj_weight.chunk(3)
                query.copy_(nn.init.normal_(key, std=self.config.width**-0.5))

    def forward(
        self,
        tokens: Tensor,
        layout: Layout,
        *,
        only_reads: bool = False,
        past: State | None = None,
        keep_state: bool = False,
    ) -> tuple[Tensor, None]:
        """Return hidden states after the last norm; see `protocol.Backbone`.

        Of a prompt, the last token is decoded, from which a response's first one can be predicted; the others keep
        their embedding and position. With `only_reads`, responses alone are decoded.

        Raises:
            ValueError: the layout is not one of prompts and responses, or a state is to be used or kept.
        """
        if past is not None or keep_state:
            raise ValueError("backbone=torch_decoder has no state to continue from: PyTorch's module keeps none")
        if len(layout.levels) != 2:
            raise ValueError(f"backbone=torch_decoder reads prompts and responses, not {len(layout.levels)} levels")
        x = self.dropout(self.embedding(tokens) + self.positions(layout.positions))  # (M, D)
        (prompt, prompt_lengths), (response, lengths) = (_rectangle(x, level) for level in layout.levels)
        ends = layout.levels[0].lengths[:, None] - 1  # (B, 1)
        position = torch.arange(prompt.shape[1], device=x.device)  # (P,)
        pads = position > ends
        memory = self._remember(prompt, pads)
        if not only_reads:
            last = prompt.take_along_dim(ends[..., None], dim=1)  # (B, 1, D)
            prompt = torch.where((position == ends)[..., None], self._decode(last, memory, pads), prompt)
        owner = (layout.levels[1].parents[:, None] == layout.levels[0].segments).int().argmax(1)  # (N,) among prompts
        response = self._decode(response, memory[owner], pads[owner])  # (N, R, D)
        states = torch.cat([_real(prompt, prompt_lengths), _real(response, lengths)])
        return take_rows(states, layout.slots_in_levels[layout.reads] if only_reads else layout.slots_in_levels), None

    def _remember(self, prompt: Tensor, pads: Tensor) -> Tensor:
        """Return the memory (n, P, D) of prompts (n, P, D), of which pads are none."""
        return self.memory_norm(prompt)

    def _decode(self, x: Tensor, memory: Tensor, pads: Tensor) -> Tensor:
        """Return what the layers make of x (n, T, D), each token seeing those before it and memory (n, P, D)."""
        hidden = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).triu(1)
        seeing = {"tgt_mask": hidden, "memory_key_padding_mask": pads, "tgt_is_causal": True}
        if not (self.gradient_checkpointing and torch.is_grad_enabled()):
            return self.decoder(x, memory, **seeing)
        for layer in self.decoder.layers:
            x = checkpoint(layer, x, memory, use_reentrant=False, **seeing)
        return self.decoder.norm(x)


def _rectangle(x: Tensor, level: Level) -> tuple[Tensor, Tensor]:
    """Return a level's segments of x (M, D) as (n, R, D), zeros behind each, and their lengths, on the host."""
    return pad_packed_sequence(PackedSequence(take_rows(x, level.tokens), level.steps), batch_first=True)


def _real(x: Tensor, lengths: Tensor) -> Tensor:
    """Return what of a rectangle (n, R, D) is no pad, (m, D), in the order of its level."""
    return pack_padded_sequence(x, lengths, batch_first=True).data
