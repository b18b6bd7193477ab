"""A model and its adapters, as the options of `minirm train` describe them."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from minirm.config import SIZES, BackboneName, LoraConfig, Matrix, ModelConfig, Style, sized
from minirm.errors import InputError


@dataclass(frozen=True)
class ModelOptions:
    """The size by name, and any field of it by hand."""

    size: Literal[tuple(SIZES)] | None = None  # type: ignore[valid-type]
    """tiny 2×128, small 4×256, medium 8×512, gpt2 12×768, gpt2-medium 24×1024 (layers × width); by default small."""
    backbone: BackboneName | None = None
    """A transformer, PyTorch's nn.TransformerDecoder, or a recurrent network; by default transformer."""
    style: Style | None = None
    """gpt2: LayerNorm, learned positions, GELU. llama: RMSNorm, rotary positions, SwiGLU. prefix: an encoder that
    shares prompts, without a first stage: --stage reward. bert: one sequence per response, likewise: --no-share-prompt
    --stage reward. By default gpt2."""
    layers: int | None = None
    """Instead of the size's."""
    width: int | None = None
    """Instead of the size's."""
    heads: int | None = None
    """Instead of the size's."""
    kv_heads: int | None = None
    """Fewer than heads: grouped-query attention."""
    mlp_width: int | None = None
    """Inner width of the MLP."""
    token_types: bool | None = None
    """Where a response is judged by what it has in common with its prompt: a decoder sees that from the first step."""
    dropout: float | None = None
    """Probability that a hidden unit is dropped in training."""
    ngrams: int | None = None
    """Longest n-gram that a linear read-out of a response's words, beside the network, counts; by default none."""

    def configure(self, max_tokens: int) -> ModelConfig:
        """Return the model's configuration, with room for `max_tokens` positions."""
        fields = {name: value for name, value in vars(self).items() if name != "size"}
        return sized(self.size or "small", max_positions=max_tokens, **fields)

    def take_over(self, model: ModelConfig, vocab_size: int | None, folder: Path) -> ModelConfig:
        """Return the configuration of another run's model, which may be given another dropout and n-grams.

        Raises:
            InputError: an option, or `vocab_size`, asks for another model.
        """
        asked = {**SIZES.get(self.size, {}), **{k: v for k, v in vars(self).items() if v is not None}}
        asked |= {"vocab_size": vocab_size or model.vocab_size}
        for name in sorted(asked.keys() - {"size", "dropout", "ngrams"}):
            has = getattr(model, name)
            if asked[name] != has:
                raise InputError(f"{name}={asked[name]} does not go with --from {folder}: its model has {name}={has}")
        own = {"dropout": self.dropout, "ngrams": self.ngrams}
        return replace(model, **{name: value for name, value in own.items() if value is not None})


@dataclass(frozen=True)
class LoraOptions:
    """Low-rank adapters, learned instead of all weights in the reward stage; --lora.rank asks for them."""

    rank: int | None = None
    """Rank of the adapters; without it, all weights learn."""
    alpha: float | None = None
    """By default 16: what the adapters say counts alpha/rank times."""
    dropout: float | None = None
    """Probability that an input of the adapters is dropped in training; by default 0."""
    matrices: tuple[Matrix, ...] | None = None
    """Which matrices are adapted; by default query and value."""

    def configure(self) -> LoraConfig | None:
        """Return the adapters' configuration, or None for none.

        Raises:
            InputError: adapters are described, and no rank is given.
        """
        given = {name: value for name, value in vars(self).items() if value is not None}
        if self.rank is None and given:
            raise InputError(f"--lora.{min(given)} goes with --lora.rank: without a rank there are no adapters")
        return LoraConfig(**given) if given else None
