"""A transformer, by configuration a decoder in the style of GPT-2 or Llama, or an encoder: BERT's, or of prefixes."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from minirm.config import ModelConfig
from minirm.config_rules import require
from minirm.models.attention import Attention, Kernel, KeysValues, RotaryPositions, Rotation, Stacked
from minirm.models.kernels.choice import faster_attention
from minirm.models.kernels.continuing import Continuing
from minirm.models.kernels.cpu_bfloat16 import fill_up
from minirm.models.kernels.rows import take_rows
from minirm.models.likeness import keep_places_apart
from minirm.models.protocol import State
from minirm.tokens.layout import Layout, see_both_ways


class GeluMLP(nn.Module):
    """W₂·gelu(W₁·x), with GPT-2's tanh form of GELU or BERT's exact one."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.width, config.inner_width)
        self.down = nn.Linear(config.inner_width, config.width)
        self.approximate = "none" if config.style == "bert" else "tanh"

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x), approximate=self.approximate))


class SwiGLU(nn.Module):
    """W₃·(silu(W₁·x) ⊙ W₂·x). Source: Shazeer, arXiv:2002.05202."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_up = Stacked(config.width, {"gate": config.inner_width, "up": config.inner_width}, bias=False)
        self.down = nn.Linear(config.inner_width, config.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)


def build_mlp(config: ModelConfig) -> nn.Module:
    """Return the MLP of a style: GELU (gpt2, bert) or SwiGLU (llama)."""
    return SwiGLU(config) if config.style == "llama" else GeluMLP(config)


def build_norm(config: ModelConfig) -> nn.Module:
    """Return the norm of a style: LayerNorm (gpt2, bert) or RMSNorm (llama)."""
    norm = nn.RMSNorm if config.style == "llama" else nn.LayerNorm
    return norm(config.width, eps=config.norm_eps)


class Block(nn.Module):
    """x ← x + attention(norm(x)); x ← x + mlp(norm(x))."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention_norm = build_norm(config)
        self.attention = Attention(config)
        self.mlp_norm = build_norm(config)
        self.mlp = build_mlp(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x: Tensor,
        layout: Layout,
        rotation: Rotation | None = None,
        past: KeysValues | None = None,
        kernel: Kernel | None = None,
    ) -> tuple[Tensor, KeysValues]:
        """Return the block's output (M, D), and its keys and values; see `Attention`."""
        attended, state = self.attention(self.attention_norm(x), layout, rotation, past, kernel)
        return self.add(x, attended), state

    def read(self, x: Tensor, layout: Layout, rotation: Rotation | None = None) -> Tensor:
        """Return the block's output at `layout.reads` alone, (N, D): the fused read."""
        attended = self.attention.read(self.attention_norm(x), layout.at_reads, layout.reads, rotation)
        return self.add(take_rows(x, layout.reads), attended)

    def add(self, x: Tensor, attended: Tensor) -> Tensor:
        x = x + self.dropout(attended)
        return x + self.dropout(self.mlp(self.mlp_norm(x)))


class EncoderBlock(Block):
    """x ← norm(x + attention(x)); x ← norm(x + mlp(x))."""

    def forward(
        self,
        x: Tensor,
        layout: Layout,
        rotation: None = None,
        past: KeysValues | None = None,
        kernel: Kernel | None = None,
    ) -> tuple[Tensor, KeysValues]:
        """Return the block's output (M, D), and its keys and values."""
        attended, state = self.attention(x, layout, rotation, past, kernel)
        return self.add(x, attended), state

    def read(self, x: Tensor, layout: Layout, rotation: None = None) -> Tensor:
        """Return the block's output at `layout.reads` alone, (N, D): the fused read."""
        attended = self.attention.read(x, layout.at_reads, layout.reads)
        return self.add(take_rows(x, layout.reads), attended)

    def add(self, x: Tensor, attended: Tensor) -> Tensor:
        x = self.attention_norm(x + self.dropout(attended))
        return self.mlp_norm(x + self.dropout(self.mlp(x)))


class Transformer(nn.Module):
    """Embedding, L blocks, a last norm; BERT: its norm stands behind the embedding, since every block ends with one.

    Source: GPT-2 (Radford et al. 2019); Llama, arXiv:2302.13971; BERT, arXiv:1810.04805.
    """

    continuing = Continuing
    micro_batch_tokens = 2048  # of a whole batch's memory it takes 0.4, of its time 0.98 to 1.03

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.gradient_checkpointing = False
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        learned, encodes = config.style != "llama", config.bidirectional
        self.positions = nn.Embedding(config.max_positions, config.width) if learned else None
        self.rotary = None if learned else RotaryPositions(config.head_width, config.rope_theta, config.rope_scaling)
        self.token_types = nn.Embedding(2, config.width) if encodes or config.token_types else None
        self.embedding_norm = build_norm(config) if encodes else nn.Identity()
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList((EncoderBlock if encodes else Block)(config) for _ in range(config.layers))
        self.norm = nn.Identity() if encodes else build_norm(config)
        self._initialise()

    def forward(
        self,
        tokens: Tensor,
        layout: Layout,
        *,
        only_reads: bool = False,
        past: State | None = None,
        keep_state: bool = False,
    ) -> tuple[Tensor, State | None]:
        """Return hidden states after the last norm; see `protocol.Backbone`.

        Raises:
            ValueError: an encoder needs `lay_out_sequences`, every other style `lay_out`.
        """
        if bool(layout.parents) == self.config.bidirectional:
            raise ValueError(f"style={self.config.style} must be packed with bidirectional={self.config.bidirectional}")
        layout = see_both_ways(layout) if self.config.style == "prefix" else layout
        tokens, layout = fill_up(tokens, layout)  # for bfloat16 on a CPU alone
        x = self.embed(tokens, layout.positions, layout.types)  # (M, D)
        rotation = None if self.rotary is None else self.rotary(layout.positions)
        fused = only_reads and past is None and not keep_state  # else keys and values are needed everywhere
        blocks = self.blocks[:-1] if fused else self.blocks
        kernel = faster_attention(self.blocks[0].attention, layout) if blocks and past is None else None
        state = []
        for block, layer_past in zip(blocks, past or [None] * len(blocks), strict=True):
            x, layer_state = self._run(block, x, layout, rotation, layer_past, kernel)
            if keep_state:  # else its tensors would live until the last layer
                state.append(tuple(kept[: layout.tokens_so_far] for kept in layer_state))
        if fused:
            return self.norm(self._run(self.blocks[-1].read, x, layout, rotation)), None
        x = take_rows(x, layout.reads) if only_reads else x[: sum(layout.lengths)]  # without what `fill_up` added
        return self.norm(x), state if keep_state else None

    def embed(self, tokens: Tensor, positions: Tensor, types: Tensor) -> Tensor:
        """Return the first hidden states (M, D) of tokens at positions, of type 0 in a prompt and 1 in a response."""
        x = self.embedding(tokens)
        if self.positions is not None:
            x = x + self.positions(positions)
        if self.token_types is not None:
            x = x + self.token_types(types)
        return self.dropout(self.embedding_norm(x))

    def _run(self, layer: Callable, *inputs: object) -> object:
        """Return layer(*inputs); with checkpointing, only the inputs are kept for the backward pass."""
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return checkpoint(layer, *inputs, use_reentrant=False)
        return layer(*inputs)

    def _initialise(self) -> None:
        """Draw matrices from N(0, 0.02²), as BERT and GPT-2 do, but keys from N(0, 1/D), and queries equal to them.

        A decoder's positions have half of 0.02, and what writes into its residual stream 1/√(2L) of it.
        """
        encodes = self.config.bidirectional
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                into_residual = name.endswith(("out.weight", "down.weight"))
                scale = 0.5 if "positions" in name else (2 * self.config.layers) ** -0.5 if into_residual else 1.0
                nn.init.normal_(parameter, std=0.02 * (1.0 if encodes else scale))
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
        for block in self.blocks:
            block.attention.look_for_likeness()
        if self.config.token_types and not encodes:
            keep_places_apart(self)

    def begin_as_average(self) -> None:
        """Let the last block begin as the mean of what each token sees; see `Attention.begin_as_average`."""
        self.blocks[-1].attention.begin_as_average()


def compile_mlps(model: nn.Module) -> None:
    """Run each MLP through torch.compile: where most of the arithmetic is, and the same graph for every batch.

    Attention is left out: its tiles change from batch to batch, and each change would be compiled anew.

    Raises:
        InputError: the model has no MLP of this file.
    """
    mlps = [module for module in model.modules() if isinstance(module, GeluMLP | SwiGLU)]
    require(len(mlps) > 0, "compile=True must be False for this backbone: it has no MLP that could be compiled")
    for mlp in mlps:
        mlp.compile(dynamic=True)
