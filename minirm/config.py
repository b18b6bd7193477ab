"""What a model is and how it is trained, as frozen dataclasses that refuse a wrong value when they are made."""

from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta

from minirm.config_rules import Count, NotNegative, Positions, Positive, Seed, Share, Width, check, require
from minirm.errors import InputError

BackboneName = Literal["transformer", "torch_decoder", "gru", "lstm"]
Style = Literal["gpt2", "llama", "prefix", "bert"]
LOOK_AHEAD = ("prefix", "bert")
"""Styles in which a token sees some that follow it, so that it can predict none."""
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
    "grades": ("graded_preference", "ordinal"),
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

    factor: Positive
    """How many times slower the slowest frequencies turn."""
    low_frequency_factor: Positive
    """A frequency that turns fewer times than this over `trained_positions` is slowed by the whole factor …"""
    high_frequency_factor: Positive
    """… one that turns more often than this not at all, and those between in between."""
    trained_positions: Positions
    """Tokens of the texts that were trained on first."""

    def __post_init__(self) -> None:
        check(self)
        low, high = self.low_frequency_factor, self.high_frequency_factor
        require(low < high, f"high_frequency_factor={high} must be above low_frequency_factor={low}")


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a backbone. The style's defaults are GPT-2's; `sized` gives a size by name."""

    backbone: BackboneName = "transformer"
    """A transformer, PyTorch's `nn.TransformerDecoder` (decodes a response against its prompt), or a recurrent one."""
    style: Style = "gpt2"
    """gpt2: LayerNorm, learned positions, GELU (tanh), biases. llama: RMSNorm, rotary positions, SwiGLU, no biases.
    prefix: as gpt2, but tokens of a prompt see each other both ways, and those of a response the prompt and each other.
    bert: an encoder; as gpt2, with GELU (erf), token types, and each norm behind its residual sum."""
    vocab_size: Count = 8192
    """Tokens the embedding knows (V)."""
    layers: Annotated[int, Meta(ge=1, le=1_000)] = 4
    """Blocks (L)."""
    width: Width = 256
    """Width of the hidden state (D)."""
    heads: Width = 4
    """Attention heads (H); a recurrent network ignores them."""
    kv_heads: Width | None = None
    """Heads of keys and values; fewer than `heads` is grouped-query attention. None: as many as `heads`."""
    mlp_width: Count | None = None
    """Inner width of the MLP. None: 4·D for gpt2 and bert, 8/3·D rounded up to a multiple of 32 for llama."""
    max_positions: Positions = 1024
    """Tokens that a path may hold, prompt plus response; learned positions end here."""
    dropout: Share = 0.0
    """Probability that a hidden unit is dropped in training, after the embedding and after each sublayer. bert: also
    an attention weight and a pooled unit. torch_decoder: also an attention weight and a unit inside the MLP."""
    rope_theta: Positive = 10_000.0
    """Base of the rotary frequencies (llama)."""
    rope_scaling: RopeScaling | None = None
    """How the rotary frequencies are slowed for longer texts (llama). None: not at all."""
    tied_head: bool = True
    """The language model's head is its embedding. False: weights of its own."""
    token_types: bool = False
    """A decoder's tokens say whether a prompt or a response holds them, and look for their like: see likeness.py."""
    ngrams: Annotated[int, Meta(ge=0, le=16)] = 0
    """Longest n-gram of a response that a linear read-out beside the backbone counts, in tokens: ngrams.py. 0: none."""
    norm_eps: Positive = 1e-5
    """Added to the variance in LayerNorm and RMSNorm; Google's BERT has 1e-12."""

    def __post_init__(self) -> None:
        check(self)
        require(self.width % self.heads == 0, f"width={self.width} must be a multiple of heads={self.heads}")
        kv_heads = self.key_value_heads
        require(self.heads % kv_heads == 0, f"heads={self.heads} must be a multiple of kv_heads={kv_heads}")
        anywhere = self.backbone == "transformer" or (self.style not in LOOK_AHEAD and not self.token_types)
        what = f"style={self.style}" + ", token_types=True" * self.token_types
        require(anywhere, f"{what} must go with backbone=transformer, not {self.backbone}")
        own, alike = self.backbone != "torch_decoder", kv_heads == self.heads  # PyTorch's module has no choice of these
        require(own or self.style == "gpt2", f"style={self.style} must be gpt2 for backbone=torch_decoder")
        require(own or alike, f"kv_heads={self.kv_heads} must be heads={self.heads} for backbone=torch_decoder")
        rotary = self.backbone == "transformer" and self.style == "llama"
        even = self.head_width % 2 == 0 or not rotary
        require(even, f"width/heads={self.head_width} must be even to rotate in pairs")

    @property
    def bidirectional(self) -> bool:
        """Whether the tokens of a prompt and its response all see each other; the first one is then read."""
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
        usual = -(-8 * self.width // 3 // 32) * 32 if self.style == "llama" else 4 * self.width
        return usual if self.mlp_width is None else self.mlp_width


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

    tokens_per_batch: Annotated[int, Meta(ge=1)] = 8192
    """Tokens that a batch holds at most; a comparison of more makes a batch of its own."""
    comparisons_per_batch: Annotated[int, Meta(ge=1)] | None = None
    """At most this many comparisons in a batch. None: the token budget alone decides, and `minirm train` puts at most a
    hundredth of the comparisons into one, so that few of them make enough steps."""
    max_tokens: Annotated[int, Meta(ge=4, le=10_000_000)] = 1024
    """Longest prompt plus response, in tokens."""
    when_longer: Literal["truncate", "drop"] = "truncate"
    """truncate: cut the prompt from its left, then responses before their end. drop: leave the comparison out."""
    share_prompt: bool = True
    """A prompt stands once, before its responses. False: once before each response, and a language model that learns
    all responses then learns it as often."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class TrainConfig:
    """One stage of training."""

    epochs: Annotated[float, Meta(ge=0, le=1e6)] | None = 1.0
    """Passes over the training comparisons; 0 skips a language-model stage. None, for `minirm train`: 2, and up to 6
    where a model that learns from nothing would take fewer than 600 steps."""
    optimizer: Optimizer = "adamw"
    """adamw, adam (no weight decay), sgd (momentum 0.9), lion."""
    learning_rate: Positive = 3e-4
    """Highest rate, reached at the end of the warm-up."""
    schedule: Schedule = "cosine"
    """How the rate falls to `final_rate` × learning_rate after the warm-up."""
    final_rate: Annotated[float, Meta(ge=0, le=1)] = 0.1
    """Fraction of the rate to which it falls (cosine, linear); a step after the last would reach it."""
    warmup: Share = 0.05
    """Fraction of the steps over which the rate rises linearly from 0."""
    weight_decay: NotNegative = 0.1
    """Decoupled decay of matrices (adamw, lion); biases, norms and embeddings of positions are spared."""
    betas: tuple[Share, Share] = (0.9, 0.95)
    """Decay of the two moments (adamw, adam, lion)."""
    clip: NotNegative = 1.0
    """Largest norm of the gradient; 0 turns clipping off."""
    accumulate: Annotated[int, Meta(ge=1)] = 1
    """Batches per optimizer step, weighted by what each holds."""
    micro_batch_tokens: Annotated[int, Meta(ge=1, le=10**15)] | None = None
    """A batch of more tokens goes through the network in micro-batches of about this size: the same
    step, but for what dropout draws, in less memory. None: 2,048 for a transformer on a CPU, else the whole batch."""
    loss: Loss = "all_pairs"
    """Reward stage. all_pairs: Bradley–Terry on every pair of a prompt; noise_corrected, probit, hinge, squared: other
    functions of the same differences (links.py). plackett_luce, listnet, lambdarank: the whole list. rao_kupper,
    davidson: pairs with ties as an outcome; graded_preference: by how many grades one is better. rating, ordinal: each
    score by itself, as a number or a grade. step: a label for each step of a response (ratings.py)."""
    weighting: Literal["prompt", "pair"] = "prompt"
    """prompt: each comparison counts once, its n pairs of different scores 1/n each. pair: every pair counts alike."""
    label_smoothing: Annotated[float, Meta(ge=0, lt=0.5)] = 0.0
    """Probability that a label is taken to be wrong. noise_corrected makes the loss unbiased for it, other losses of
    differences smooth the label."""
    centering: NotNegative = 0.0
    """Weight of the penalty that pulls a comparison's rewards to mean zero."""
    language_model_weight: NotNegative = 0.0
    """Reward stage: weight of the mean −log p of a comparison's tokens, in nats, added to its loss in training steps.
    Source: GRM, arXiv:2406.10216, which adds that of preferred responses alone."""
    average_read: bool | None = None
    """Reward stage: let the last layer begin as the mean of all that a response's last token sees, not as the language
    model left it. What each token found then counts from the first step: for few comparisons, where a bag of words is
    hard to beat, and for what a response has in common with its prompt. None: where a decoder learns from nothing."""
    tie_width: Annotated[float, Meta(ge=0, le=1e6)] = 1.0
    """η in logits: two equal rewards tie with probability tanh(η/2), by Rao–Kupper's log θ = η, Davidson's ν = e^η − 1.
    graded_preference, ordinal: half the distance between two thresholds."""
    grades: Annotated[int, Meta(ge=2, le=1000)] = 5
    """ordinal and graded_preference: how many grades a score may have; scores are then 0, 1, … up to one less."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16: autocast of matrix products; weights, losses and rewards stay float32."""
    gradient_checkpointing: bool = False
    """Keep only the input of each block for the backward pass and compute the rest again."""
    shard: bool = False
    """Several processes: each keeps a part of weights, gradients and moments (FSDP2), for models that do not fit."""
    compile: bool = False
    """Run the MLPs through torch.compile; the first step then takes longer."""
    evaluate_every: Annotated[float, Meta(gt=0, le=1e9)] = 1.0
    """Epochs between evaluations on the validation split."""
    patience: Annotated[int, Meta(ge=0)] = 0
    """Stop after this many evaluations without a lower validation loss; 0 never stops early."""
    seed: Seed = 0
    """Seed of the order of the batches and the dropout; the last stage's also of the weights and of what is kept for
    validation."""

    def __post_init__(self) -> None:
        check(self)
        for field, losses in KNOWN_BY.items():
            value, unset = getattr(self, field), getattr(TrainConfig, field)
            known = self.loss in losses or value == unset
            require(known, f"{field}={value} must be {unset} for loss={self.loss}: only {', '.join(losses)} know it")


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters: which matrices get one, and of what size; see lora.py."""

    rank: Count = 8
    """Rank r of the product B·A that is learned beside each matrix."""
    alpha: Positive = 16.0
    """α: the product counts α/r times."""
    dropout: Share = 0.0
    """Probability that an input of the adapters is dropped in training."""
    matrices: tuple[Matrix, ...] = ("query", "value")
    """Which ones: query, key, value and output of the attention; up, down and (llama) gate of the MLP."""

    def __post_init__(self) -> None:
        try:
            check(self)
        except InputError as error:
            raise InputError(f"lora: {error}") from None
        require(len(self.matrices) > 0, "lora: matrices: at least one must be named")
