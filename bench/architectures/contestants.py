"""Who takes part: minirm's backbones, single changes of one, the GPT-2 baseline, a user's own, and no network."""

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from torch import nn

from bench.architectures.gpt2 import HuggingFaceGPT2
from bench.architectures.heads import EachHeadsObjective, ManyHeads
from bench.architectures.subjects import digest
from minirm.config import ModelConfig, TrainConfig
from minirm.errors import InputError
from minirm.hub.reading import build_reward_model, read_model
from minirm.models.attention import RotaryPositions
from minirm.models.protocol import Backbone
from minirm.models.reward_model import RewardModel
from minirm.models.transformer import Transformer, build_mlp, build_norm
from minirm.tokens.packing import Encoded, PackedBatch, pack
from minirm.tokens.tokenizer import Tokenizer
from minirm.training.objectives import RewardObjective

Build = Callable[[ModelConfig], Backbone]


@dataclass(frozen=True)
class Contestant:
    """One way to a reward, trained like every other."""

    name: str
    kind: str
    """baseline: the GPT-2 that others are measured against. own: minirm's backbones. change: minirm's GPT-2 with one
    thing changed. training: minirm's GPT-2, trained in another way. yours: from a file. pretrained: a checkpoint, with
    its own tokenizer and size. plain: no network."""
    fields: dict = field(default_factory=dict)
    """Of `ModelConfig`, that differ from GPT-2's."""
    build: Build | None = None
    """Makes the backbone, where minirm does not know it by configuration."""
    language_model_epochs: float = 0.0
    """Passes of next-token prediction over all prompts and responses, before the reward stage."""
    pretrained: Path | None = None
    """Folder of a checkpoint that it starts from."""
    as_pairs: bool = False
    """Trained on disjoint pairs of each prompt's responses instead of on all of them together."""
    heads: int = 1
    """More than one: an ensemble on one backbone, whose reward is their mean."""
    about: str = ""
    """What it is, for the report."""

    @property
    def is_network(self) -> bool:
        """Whether it is trained by gradient descent."""
        return self.kind != "plain"

    @property
    def bidirectional(self) -> bool:
        """Whether it is an encoder, which reads a prompt anew for each response."""
        return self.fields.get("style") == "bert"

    def reward_model(self, config: ModelConfig) -> RewardModel:
        """Return a fresh reward model of this shape; a pretrained one has its own shape, and a fresh head."""
        if self.pretrained is not None:
            return build_reward_model(read_model(self.pretrained))
        config = replace(config, **self.fields)
        if self.heads > 1:
            return ManyHeads(config, self.heads)
        return RewardModel(config, None if self.build is None else self.build(config))

    def tokenizer(self, shared: Tokenizer) -> Tokenizer:
        """Return the tokenizer that all share, or a checkpoint's own."""
        return shared if self.pretrained is None else read_model(self.pretrained).tokenizer

    def objective(self, config: TrainConfig) -> RewardObjective:
        """Return what its reward stage minimises."""
        return RewardObjective(config) if self.heads == 1 else EachHeadsObjective(config)

    def pack(self, batch: Sequence[Encoded]) -> PackedBatch:
        """Return a batch as it reads it."""
        return pack(batch, share_prompt=not self.bidirectional, bidirectional=self.bidirectional)


# ── Single changes ────────────────────────────────────────────────────────────────────────────────────────────────────


def plain_start(model: Transformer) -> None:
    """Draw queries and keys independently, as GPT-2 does, instead of equal."""
    for block in model.blocks:
        nn.init.normal_(block.attention.qkv.weight, std=0.02)


def rms_norm(model: Transformer) -> None:
    """Put RMSNorm in the place of LayerNorm."""
    llama = replace(model.config, style="llama")
    for block in model.blocks:
        block.attention_norm, block.mlp_norm = build_norm(llama), build_norm(llama)
    model.norm = build_norm(llama)


def rotary(model: Transformer) -> None:
    """Turn queries and keys by their positions, instead of adding learned positions to the embedding."""
    model.positions, model.rotary = None, RotaryPositions(model.config.head_width, model.config.rope_theta)


def swiglu(model: Transformer) -> None:
    """Put SwiGLU of about as many weights in the place of the GELU MLP, with the same initialisation."""
    llama = replace(model.config, style="llama", mlp_width=None)
    for block in model.blocks:
        block.mlp = build_mlp(llama)
        nn.init.normal_(block.mlp.gate_up.weight, std=0.02)
        nn.init.normal_(block.mlp.down.weight, std=0.02 * (2 * model.config.layers) ** -0.5)


def changed(config: ModelConfig, change: Callable[[Transformer], None]) -> Transformer:
    model = Transformer(config)
    change(model)
    return model


GPT2 = "GPT-2 (Hugging Face)"
OWN_GPT2 = "GPT-2 style"
LONGER = "longer wins"
HEADS = "five heads"
PRETRAINED = "pretrained "
"""What the name of one begins with, before its folder."""
# fmt: off
CONTESTANTS = [
    Contestant(
        GPT2, "baseline", build=HuggingFaceGPT2,
        about="GPT2Model of transformers, a linear head on the last token, a padded row for each response",
    ),
    Contestant(OWN_GPT2, "own", about="minirm's decoder; its queries start equal to its keys"),
    Contestant(
        "Llama style", "own", {"style": "llama"},
        about="the same with RMSNorm, rotary positions, SwiGLU and no biases",
    ),
    Contestant(
        "BERT style", "own", {"style": "bert"},
        about="an encoder: sees both ways, is read at its first token, reads the prompt anew for each response; "
        "queries start equal to keys",
    ),
    Contestant(
        "PyTorch decoder", "own", {"backbone": "torch_decoder"},
        about="nn.TransformerDecoder over the response, its memory being the prompt's embeddings, over which no layer "
        "runs; queries start equal to keys",
    ),
    Contestant("GRU", "own", {"backbone": "gru"}, about="its memory of the prompt is forked for each response"),
    Contestant("LSTM", "own", {"backbone": "lstm"}, about="likewise"),
    Contestant(
        "plain start", "change", build=partial(changed, change=plain_start),
        about=f"{OWN_GPT2}, queries and keys drawn apart, as GPT-2 draws them",
    ),
    Contestant(
        "average read", "change", build=partial(changed, change=Transformer.begin_as_average),
        about=f"{OWN_GPT2}, whose last layer begins as the mean of all it sees",
    ),
    Contestant("RMSNorm", "change", build=partial(changed, change=rms_norm), about=f"{OWN_GPT2} with RMSNorm"),
    Contestant(
        "rotary positions", "change", build=partial(changed, change=rotary), about=f"{OWN_GPT2} with rotary positions"
    ),
    Contestant("SwiGLU", "change", build=partial(changed, change=swiglu), about=f"{OWN_GPT2} with SwiGLU"),
    Contestant(
        "language model first", "training", language_model_epochs=0.5,
        about=f"{OWN_GPT2} after half a pass of next tokens over all prompts and responses, at one rate, untuned",
    ),
    Contestant(
        "pairs", "training", as_pairs=True,
        about=f"{OWN_GPT2} trained on K/2 pairs of each prompt that share no response: as many responses, fewer pairs",
    ),
    Contestant(
        HEADS, "training", heads=5,
        about=f"{OWN_GPT2} with five heads, each trained on its own resample; its reward is their mean",
    ),
    Contestant(LONGER, "plain", about="the longer response wins"),
    Contestant("TF-IDF + logistic regression", "plain", about="on words and pairs of words, and log length"),
]
# fmt: on


def find_contestants(
    names: Sequence[str], backbones: Sequence[str] = (), pretrained: Sequence[str] = ()
) -> list[Contestant]:
    """Return contestants by name, all where none is named, and those that users bring.

    Args:
        backbones: "file.py:Class" each.
        pretrained: folders of checkpoints.
    Raises:
        InputError: a name or a file is not known, or a file holds no such class.
    """
    known = {contestant.name: contestant for contestant in CONTESTANTS}
    for name in names:
        if name not in known:
            raise InputError(f"contestant {name!r}: must be one of {', '.join(known)}")
    chosen = [known[name] for name in (names or known)]
    return [*chosen, *map(load_contestant, backbones), *map(load_pretrained, pretrained)]


def find_contestant(name: str) -> Contestant:
    """Return one contestant by its name, a user's by "file.py:Class", or a pretrained one."""
    if name.startswith(PRETRAINED):
        return load_pretrained(name.removeprefix(PRETRAINED))
    return load_contestant(name) if ".py:" in name else find_contestants([name])[0]


def load_contestant(place: str) -> Contestant:
    """Return the contestant of a class in a user's file.

    Args:
        place: "file.py:Class"; the class takes a `ModelConfig` and fulfils `minirm.models.protocol.Backbone`.
    Raises:
        InputError: there is no such file or class, or the file cannot be run.
    """
    file, _, name = place.rpartition(":")
    if not Path(file).is_file():
        raise InputError(f"--backbone {place}: must be FILE.py:CLASS, and {file or place} is no file")
    spec = importlib.util.spec_from_file_location(f"backbone_{Path(file).stem}", file)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise InputError(f"--backbone {place}: {type(error).__name__} when the file was run: {error}") from error
    build = getattr(module, name, None)
    if build is None:
        raise InputError(f"--backbone {place}: {file} holds no {name}")
    return Contestant(place, "yours", build=build)


def load_pretrained(folder: str) -> Contestant:
    """Return the contestant that starts from a checkpoint in Hugging Face's layout.

    Raises:
        InputError: there is none, or minirm does not compute what it describes.
    """
    model = read_model(folder)
    return Contestant(PRETRAINED + folder, "pretrained", {"style": model.config.style}, pretrained=Path(folder))


def fingerprint(contestant: Contestant) -> str:
    """Return what a user's file or checkpoint is, in short: a changed one is trained anew. "" for all others."""
    if contestant.pretrained is not None:
        return digest(tuple(sorted(contestant.pretrained.glob("*.*"))))
    return digest((Path(contestant.name.rpartition(":")[0]),)) if contestant.kind == "yours" else ""
