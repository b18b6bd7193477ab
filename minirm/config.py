"""What a model is and how it is trained, as frozen dataclasses that refuse a wrong value when they are made."""

import math
from dataclasses import dataclass
from typing import Literal

from minirm.config_rules import check_choices, check_largest, require
from minirm.errors import shorten

BackboneName = Literal["transformer", "torch_decoder", "gru", "lstm"]
Style = Literal["gpt2", "llama", "bert"]
Optimizer = Literal["adamw", "adam", "sgd", "lion"]
Schedule = Literal["cosine", "linear", "constant"]
Loss = Literal[
    "all_pairs", "noise_corrected", "probit", "hinge", "squared",
    "plackett_luce", "listnet", "lambdarank",
    "rao_kupper", "davidson", "graded_preference",
    "rating", "ordinal", "step",
]  # fmt: skip
OF_DIFFERENCES = ("all_pairs", "noise_corrected", "probit", "hinge", "squared")
"""Losses of ordered pairs, which know margins and how probable a label is."""
OF_TIES = ("rao_kupper", "davidson", "graded_preference")
"""Losses to which two equal scores are an outcome."""
OF_SINGLES = ("rating", "ordinal", "step")
"""Losses that learn from a response by itself, and need no second one."""
KNOWN_BY = {
    "label_smoothing": OF_DIFFERENCES,
    "weighting": OF_DIFFERENCES,
    "tie_width": (*OF_TIES, "ordinal"),
    "levels": ("graded_preference", "ordinal"),
}
"""A field of `TrainConfig` → the losses that use it; the others refuse any value but its default."""
Matrix = Literal["query", "key", "value", "output", "gate", "up", "down"]

SIZES = {
    "tiny": {"layers": 2, "width": 128, "heads": 4},
    "small": {"layers": 4, "width": 256, "heads": 4},
    "medium": {"layers": 8, "width": 512, "heads": 8},
    "gpt2": {"layers": 12, "width": 768, "heads": 12},
    "gpt2-medium": {"layers": 24, "width": 1024, "heads": 16},
}
"""Sizes by name: layers L, width D, heads H."""


@dataclass(frozen=True)
class RopeScaling:
    """Llama 3's slower rotation of what turns slowly, for texts longer than those trained on first."""

    factor: float
    """How many times slower the slowest frequencies turn."""
    low_frequency_factor: float
    """A frequency that turns fewer times than this over `trained_positions` is slowed by the whole factor …"""
    high_frequency_factor: float
    """… one that turns more often than this not at all, and those between in between."""
    trained_positions: int
    """Tokens of the texts that were trained on first."""

    def __post_init__(self) -> None:
        for field in ("factor", "low_frequency_factor", "trained_positions"):
            value = getattr(self, field)
            require(0 < value < math.inf, f"{field}={shorten(value)} must be above 0 and finite")
        check_largest(trained_positions=self.trained_positions)
        low, high = self.low_frequency_factor, self.high_frequency_factor
        require(low < high < math.inf, f"high_frequency_factor={high} must be above low_frequency_factor={low}")


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a backbone. The style's defaults are GPT-2's; `sized` gives a size by name."""

    backbone: BackboneName = "transformer"
    """A transformer, PyTorch's `nn.TransformerDecoder` (the response is decoded against its prompt), or a recurrent
    network."""
    style: Style = "gpt2"
    """gpt2: LayerNorm, learned positions, GELU (tanh), biases. llama: RMSNorm, rotary positions, SwiGLU, no biases.
    bert: an encoder; as gpt2, with GELU (erf), token types, and each norm behind its residual sum."""
    vocab_size: int = 8192
    """Tokens the embedding knows (V)."""
    layers: int = 4
    """Blocks (L)."""
    width: int = 256
    """Width of the hidden state (D)."""
    heads: int = 4
    """Attention heads (H); a recurrent network ignores them."""
    kv_heads: int | None = None
    """Heads of keys and values; fewer than `heads` is grouped-query attention. None: as many as `heads`."""
    mlp_width: int | None = None
    """Inner width of the MLP. None: 4·D for gpt2 and bert, 8/3·D rounded up to a multiple of 32 for llama."""
    max_positions: int = 1024
    """Tokens that a row may hold along one path, prompt plus response; learned positions end here."""
    dropout: float = 0.0
    """Probability that a hidden unit is dropped in training, after the embedding and after each sublayer. bert: also
    an attention weight and a pooled unit. torch_decoder: also an attention weight and a unit inside the MLP."""
    rope_theta: float = 10_000.0
    """Base of the rotary frequencies (llama)."""
    rope_scaling: RopeScaling | None = None
    """How the rotary frequencies are slowed for longer texts (llama). None: not at all."""
    tied_head: bool = True
    """The language model's head is its embedding. False: weights of its own."""
    norm_eps: float = 1e-5
    """Added to the variance in LayerNorm and RMSNorm; Google's BERT has 1e-12."""

    def __post_init__(self) -> None:
        check_choices(self)
        for field in ("vocab_size", "layers", "width", "heads", "kv_heads", "mlp_width", "max_positions"):
            value = getattr(self, field)
            require(value is None or value >= 1, f"{field}={value} must be at least 1")
            check_largest(**{field: value})
        for field in ("rope_theta", "norm_eps"):
            value = getattr(self, field)
            require(0 < value < math.inf, f"{field}={value} must be above 0 and finite")
        require(0 <= self.dropout < 1, f"dropout={self.dropout} must be in [0, 1)")
        require(self.width % self.heads == 0, f"width={self.width} must be a multiple of heads={self.heads}")
        kv_heads = self.key_value_heads
        require(self.heads % kv_heads == 0, f"heads={self.heads} must be a multiple of kv_heads={kv_heads}")
        encodes = self.backbone == "transformer" or not self.bidirectional
        require(encodes, f"style=bert must go with backbone=transformer, not {self.backbone}")
        self._check_torch_decoder()
        rotary = self.backbone == "transformer" and self.style == "llama"
        require(
            not rotary or self.head_width % 2 == 0, f"width/heads={self.head_width} must be even to rotate in pairs"
        )

    def _check_torch_decoder(self) -> None:
        """Refuse what PyTorch's module has no choice of."""
        own = self.backbone != "torch_decoder"
        require(own or self.style == "gpt2", f"style={self.style} must be gpt2 for backbone=torch_decoder")
        kv_heads, heads = self.key_value_heads, self.heads
        require(own or kv_heads == heads, f"kv_heads={kv_heads} must be heads={heads} for backbone=torch_decoder")

    @property
    def bidirectional(self) -> bool:
        """Whether the tokens of a prompt and its response all see each other; the row's first token is then read."""
        return self.style == "bert"

    @property
    def predicts_prompts(self) -> bool:
        """Whether its language model learns the tokens of prompts too; a memory shows all of them at once."""
        return self.backbone != "torch_decoder"

    @property
    def head_width(self) -> int:
        """Width of one head (C)."""
        return self.width // self.heads

    @property
    def key_value_heads(self) -> int:
        """Heads of keys and values."""
        return self.heads if self.kv_heads is None else self.kv_heads

    @property
    def inner_width(self) -> int:
        """Inner width of the MLP."""
        if self.mlp_width is not None:
            return self.mlp_width
        return -(-8 * self.width // 3 // 32) * 32 if self.style == "llama" else 4 * self.width


def sized(size: str, **fields: object) -> ModelConfig:
    """Return the configuration of a size by name; `fields` that are not None override it one by one.

    Raises:
        InputError: there is no such size, or a field breaks a rule.
    """
    require(size in SIZES, f"size={size!r} must be one of {', '.join(SIZES)}")
    return ModelConfig(**{**SIZES[size], **{name: value for name, value in fields.items() if value is not None}})


@dataclass(frozen=True)
class PackingConfig:
    """How comparisons become batches."""

    tokens_per_batch: int = 8192
    """A batch takes comparisons until their tokens reach this number; one that is longer makes a batch of its own."""
    comparisons_per_batch: int | None = None
    """At most this many comparisons in a batch. None: the token budget alone decides."""
    max_tokens: int = 1024
    """Longest prompt plus response, in tokens."""
    when_longer: Literal["truncate", "drop"] = "truncate"
    """truncate: cut the prompt from its left, then responses before their end. drop: leave the comparison out."""
    share_prompt: bool = True
    """One row per prompt, its responses side by side. False: one row per response, each behind its own prompt, which a
    language model that learns all responses then learns as often."""

    def __post_init__(self) -> None:
        check_choices(self)
        require(self.tokens_per_batch >= 1, f"tokens_per_batch={self.tokens_per_batch} must be at least 1")
        require(self.max_tokens >= 4, f"max_tokens={self.max_tokens} must be at least 4")
        check_largest(max_tokens=self.max_tokens)
        per_batch = self.comparisons_per_batch
        require(per_batch is None or per_batch >= 1, f"comparisons_per_batch={per_batch} must be at least 1")


def check_fit(model: ModelConfig, packing: PackingConfig) -> None:
    """Refuse batches that a model can't read.

    Raises:
        InputError: they may be longer than the model's positions, or an encoder is to share prompts.
    """
    longest, room = packing.max_tokens, model.max_positions
    require(longest <= room, f"max_tokens={longest} must not exceed the model's max_positions={room}")
    shares = model.bidirectional and packing.share_prompt
    require(not shares, "share_prompt=True must be False for style=bert: a prompt's tokens look at the response")


@dataclass(frozen=True)
class TrainConfig:
    """One stage of training."""

    epochs: float = 1.0
    """Passes over the training comparisons; 0 skips a language-model stage."""
    optimizer: Optimizer = "adamw"
    """adamw, adam (no weight decay), sgd (momentum 0.9), lion."""
    learning_rate: float = 3e-4
    """Highest rate, reached at the end of the warm-up."""
    schedule: Schedule = "cosine"
    """How the rate falls to `final_rate` × learning_rate after the warm-up."""
    final_rate: float = 0.1
    """Fraction of the rate to which it falls (cosine, linear); a step after the last would reach it."""
    warmup: float = 0.05
    """Fraction of the steps over which the rate rises linearly from 0."""
    weight_decay: float = 0.1
    """Decoupled decay of matrices (adamw, lion); biases, norms and embeddings of positions are spared."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Decay of the two moments (adamw, adam, lion)."""
    clip: float = 1.0
    """Largest norm of the gradient; 0 turns clipping off."""
    accumulate: int = 1
    """Batches per optimizer step, weighted by what each holds."""
    tokens_at_once: int | None = None
    """A batch of more tokens goes through the network in parts of about this size, its gradient accumulated: the same
    step, but for what dropout draws, in less memory. None: 2,048 for a transformer on a CPU, else the whole batch."""
    loss: Loss = "all_pairs"
    """Reward stage. all_pairs: Bradley–Terry on every pair of a prompt; noise_corrected, probit, hinge, squared: other
    functions of the same differences (links.py). plackett_luce, listnet, lambdarank: the whole list. rao_kupper,
    davidson: pairs with ties as an outcome; graded_preference: by how many grades one is better. rating, ordinal: each
    score by itself, as a number or a grade. step: a label for each step of a response (ratings.py)."""
    weighting: Literal["prompt", "pair"] = "prompt"
    """prompt: each comparison counts once, its n pairs of different scores 1/n each. pair: every pair counts alike."""
    label_smoothing: float = 0.0
    """Probability that a label is taken to be wrong. noise_corrected makes the loss unbiased for it, other losses of
    differences smooth the label."""
    centering: float = 0.0
    """Weight of the penalty that pulls a row's rewards to mean zero."""
    average_read: bool | None = None
    """Reward stage: let the last layer begin as the mean of all that a response's last token sees, not as the language
    model left it. What each token found then counts from the first step: for few comparisons, where a bag of words is
    hard to beat, and for what a response has in common with its prompt. None: where a decoder learns from nothing."""
    tie_width: float = 1.0
    """η in logits: two equal rewards tie with probability tanh(η/2), by Rao–Kupper's log θ = η, Davidson's ν = e^η − 1.
    graded_preference, ordinal: half the distance between two thresholds."""
    levels: int = 5
    """ordinal and graded_preference: how many grades a score may have; scores are then 0, 1, … up to one less."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16: autocast of matrix products; weights, losses and rewards stay float32."""
    gradient_checkpointing: bool = False
    """Keep only the input of each block for the backward pass and compute the rest again."""
    compile: bool = False
    """Run the MLPs through torch.compile; the first step then takes longer."""
    evaluate_every: float = 1.0
    """Epochs between evaluations on the validation part."""
    patience: int = 0
    """Stop after this many evaluations without a lower validation loss; 0 never stops early."""
    seed: int = 0
    """Seed of the order of the batches and the dropout; the last stage's also of the weights and of what is kept for
    validation."""

    def __post_init__(self) -> None:
        check_choices(self)
        for field in ("epochs", "weight_decay", "clip", "centering", "tie_width", "patience"):
            value = getattr(self, field)
            require(0 <= value < math.inf, f"{field}={value} must be at least 0 and finite")
        for field in ("learning_rate", "evaluate_every"):
            value = getattr(self, field)
            require(0 < value < math.inf, f"{field}={value} must be above 0 and finite")
        check_largest(epochs=self.epochs, evaluate_every=self.evaluate_every, tie_width=self.tie_width)
        require(0 <= self.warmup < 1, f"warmup={self.warmup} must be in [0, 1)")
        require(0 <= self.final_rate <= 1, f"final_rate={self.final_rate} must be in [0, 1]")
        require(0 <= self.label_smoothing < 0.5, f"label_smoothing={self.label_smoothing} must be in [0, 0.5)")
        for field, losses in KNOWN_BY.items():
            value, unset = getattr(self, field), getattr(TrainConfig, field)
            known = self.loss in losses or value == unset
            require(known, f"{field}={value} must be {unset} for loss={self.loss}: only {', '.join(losses)} know it")
        require(self.levels >= 2, f"levels={self.levels} must be at least 2")
        check_largest(levels=self.levels)
        require(all(0 <= beta < 1 for beta in self.betas), f"betas={self.betas} must each be in [0, 1)")
        require(self.accumulate >= 1, f"accumulate={self.accumulate} must be at least 1")
        at_once = self.tokens_at_once
        require(at_once is None or at_once >= 1, f"tokens_at_once={at_once} must be at least 1")
        check_largest(tokens_at_once=at_once)
        require(0 <= self.seed < 2**63, f"seed={self.seed} must be at least 0 and below 2^63")


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters: which matrices get one, and of what size; see lora.py."""

    rank: int = 8
    """Rank r of the product B·A that is learned beside each matrix."""
    alpha: float = 16.0
    """α: the product counts α/r times."""
    dropout: float = 0.0
    """Probability that an input of the adapters is dropped in training."""
    matrices: tuple[Matrix, ...] = ("query", "value")
    """Which ones: query, key, value and output of the attention; up, down and (llama) gate of the MLP."""

    def __post_init__(self) -> None:
        require(self.rank >= 1, f"lora: rank={self.rank} must be at least 1")
        check_largest(rank=self.rank)
        require(0 < self.alpha < math.inf, f"lora: alpha={self.alpha} must be above 0 and finite")
        require(0 <= self.dropout < 1, f"lora: dropout={self.dropout} must be in [0, 1)")
        require(len(self.matrices) > 0, "lora: matrices: at least one must be named")
