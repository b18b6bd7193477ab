"""Who takes part: minirm's backbones, single changes of one, the GPT-2 baseline, a user's own, and no network."""

import importlib.util
import inspect
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path

from bench.architectures import changes
from bench.architectures.changes import changed
from bench.architectures.encoder_decoder import EncoderDecoder
from bench.architectures.gpt2 import HuggingFaceGPT2
from bench.architectures.heads import EachHeadsObjective, ManyHeads, PooledRead
from bench.architectures.provenance import code_digest
from bench.architectures.state_space import StateSpace
from bench.architectures.subjects import digest
from minirm.config import ModelConfig, TrainConfig
from minirm.errors import InputError
from minirm.hub import reading
from minirm.hub.reading import build_reward_model, read_model
from minirm.models.protocol import Backbone
from minirm.models.reward_model import RewardModel
from minirm.models.transformer import Transformer
from minirm.tokens.packing import Encoded, PackedBatch, pack
from minirm.tokens.tokenizer import Tokenizer
from minirm.training.objectives import RewardObjective

Build = Callable[[ModelConfig], Backbone]


@dataclass(frozen=True)
class Contestant:
    """One way to a reward, trained like every other."""

    name: str
    kind: str
    """baseline: the GPT-2 that others are measured against. own: minirm's backbones. change: one of those with one
    thing changed, as `about` says. training: minirm's GPT-2, trained in another way. yours: from a file. pretrained: a
    checkpoint, with its own tokenizer and size. plain: no network."""
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
    shares_prompt: bool = True
    """A prompt is computed once for all its responses; False: a row for each response, as others have it."""
    read: str = "last"
    """Where a decoder's reward is read: at the response's last token, its first, their mean, or their learned mean."""
    heads: int = 1
    """More than one: an ensemble on one backbone, whose reward is their mean."""
    place: str = ""
    """FILE.py:CLASS or the folder, of what a user brings."""
    about: str = ""
    """What it is, for the report."""

    @property
    def is_network(self) -> bool:
        """Whether it is trained by gradient descent."""
        return self.kind != "plain"

    @property
    def identity(self) -> str:
        """What `find_contestant` finds it by."""
        return (PRETRAINED if self.pretrained else "") + self.place if self.place else self.name

    @property
    def bidirectional(self) -> bool:
        """Whether it is an encoder, which reads a prompt anew for each response."""
        return self.fields.get("style") == "bert"

    @property
    def shares(self) -> bool:
        """Whether its responses share the computation of their prompt."""
        return self.shares_prompt and not self.bidirectional

    def reward_model(self, config: ModelConfig) -> RewardModel:
        """Return a fresh reward model of this shape; a pretrained one has its own shape, and a fresh head."""
        if self.pretrained is not None:
            return build_reward_model(read_model(self.pretrained))
        config = replace(config, **self.fields)
        if self.heads > 1:
            return ManyHeads(config, self.heads)
        if self.read != "last":
            return PooledRead(config, self.read)
        return RewardModel(config, None if self.build is None else self.build(config))

    def tokenizer(self, shared: Tokenizer) -> Tokenizer:
        """Return the tokenizer that all share, or a checkpoint's own."""
        return shared if self.pretrained is None else read_model(self.pretrained).tokenizer

    def objective(self, config: TrainConfig) -> RewardObjective:
        """Return what its reward stage minimises."""
        return RewardObjective(config) if self.heads == 1 else EachHeadsObjective(config)

    def pack(self, batch: Sequence[Encoded]) -> PackedBatch:
        """Return a batch as it reads it."""
        return pack(batch, share_prompt=self.shares, bidirectional=self.bidirectional)


GPT2 = "GPT-2 (Hugging Face)"
OWN_GPT2 = "GPT-2 style"
PREFIX = "prefix encoder"
AS_GPT2, APART = "start: GPT-2's", "start: apart, small"
LONGER = "longer wins"
HEADS = "five heads"
PRETRAINED = "pretrained "
"""What the name of one begins with."""
# fmt: off
CONTESTANTS = [
    Contestant(
        GPT2, "baseline", build=HuggingFaceGPT2,
        about="GPT2Model of transformers, a linear head on the last token, a padded row for each response",
    ),
    Contestant(
        OWN_GPT2, "own",
        about="minirm's decoder; its queries start equal to its keys, with variance 1/D, its positions at half of "
        "GPT-2's; its last layer starts like the others, where `minirm train` lets it begin as an average",
    ),
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
        PREFIX, "own", {"style": "prefix"},
        about=f"{OWN_GPT2}, but a prompt's tokens see each other both ways, and a response's the prompt and each other",
    ),
    Contestant(
        "encoder–decoder", "own", {"backbone": "torch_decoder"}, build=EncoderDecoder,
        about="nn.TransformerDecoder over the response; its memory is the prompt, over which as many layers of "
        "nn.TransformerEncoder have gone; queries start equal to keys",
    ),
    Contestant("GRU", "own", {"backbone": "gru"}, about="its memory of the prompt is forked for each response"),
    Contestant(
        "state space", "own", build=StateSpace,
        about="Mamba's selective state space with its short convolution; its memory of the prompt is forked likewise",
    ),
    Contestant(
        "PyTorch decoder", "change", {"backbone": "torch_decoder"},
        about="encoder–decoder, whose memory is the prompt's embeddings, over which no layer runs",
    ),
    Contestant("LSTM", "change", {"backbone": "lstm"}, about="the GRU's place taken by an LSTM"),
    Contestant(
        AS_GPT2, "change", build=partial(changed, change=changes.as_gpt2),
        about=f"{OWN_GPT2}, started as GPT-2: queries and keys apart and small, positions twice as large",
    ),
    Contestant(
        APART, "change", build=partial(changed, change=partial(changes.start, equal=False, large=False)),
        about=f"{OWN_GPT2}, queries and keys drawn apart, at GPT-2's scale",
    ),
    Contestant(
        "start: apart, large", "change", build=partial(changed, change=partial(changes.start, equal=False, large=True)),
        about=f"{OWN_GPT2}, queries and keys drawn apart, at the scale at which {OWN_GPT2} has them equal",
    ),
    Contestant(
        "start: equal, small", "change", build=partial(changed, change=partial(changes.start, equal=True, large=False)),
        about=f"{OWN_GPT2}, queries and keys equal, at GPT-2's scale",
    ),
    Contestant(
        "loud read", "change", build=partial(changed, change=changes.loud_read),
        about=f"{OWN_GPT2}, the values and output of whose last layer begin at unit gain",
    ),
    Contestant(
        "average read", "change", build=partial(changed, change=Transformer.begin_as_average),
        about="loud read, whose last layer also begins with queries of zero: as the mean of all it sees",
    ),
    Contestant("read: mean", "change", read="mean", about=f"{OWN_GPT2}, read as the mean over the response's tokens"),
    Contestant(
        "read: learned mean", "change", read="learned mean",
        about=f"{OWN_GPT2}, read as the mean over the response's tokens, weighted by the softmax of a learned score",
    ),
    Contestant(
        "prefix, read: first", "change", {"style": "prefix"}, read="first",
        about=f"{PREFIX}, read at the first token of the response, which sees all that follow it",
    ),
    Contestant(
        "separate rows", "change", shares_prompt=False,
        about=f"{OWN_GPT2}, a row for each response, prompt included: the same function of each, but comparisons of "
        "like length, which a batch holds, are others",
    ),
    Contestant("RMSNorm", "change", build=partial(changed, change=changes.rms_norm), about=f"{OWN_GPT2} with RMSNorm"),
    Contestant(
        "rotary positions", "change", build=partial(changed, change=changes.rotary),
        about=f"{OWN_GPT2} with rotary positions",
    ),
    Contestant(
        "no positions", "change", build=partial(changed, change=changes.no_positions),
        about=f"{OWN_GPT2} without any",
    ),
    Contestant(
        "ALiBi", "change", build=partial(changed, change=changes.alibi),
        about=f"{OWN_GPT2} that looks less at what is further away, instead of learned positions",
    ),
    Contestant(
        "SwiGLU", "change", build=partial(changed, change=changes.swiglu),
        about=f"{OWN_GPT2} with SwiGLU and no biases there",
    ),
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
    Contestant("TF-IDF + logistic regression", "plain", about="on words and marks, pairs of them, and log length"),
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
    chosen += [*map(load_contestant, backbones), *map(load_pretrained, pretrained)]
    twice = [name for name, times in Counter(contestant.name for contestant in chosen).items() if times > 1]
    if twice:
        raise InputError(f"contestant {twice[0]!r}: taken twice")
    return chosen


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
    return Contestant(name, "yours", build=build, place=place)


def load_pretrained(folder: str) -> Contestant:
    """Return the contestant that starts from a checkpoint in Hugging Face's layout.

    Raises:
        InputError: there is none, or minirm does not compute what it describes.
    """
    model = read_model(folder)
    name, fields = PRETRAINED + Path(folder).resolve().name, {"style": model.config.style}
    return Contestant(name, "pretrained", fields, pretrained=Path(folder), place=folder)


def fingerprint(contestant: Contestant) -> str:
    """Return what a user's file, with what it imports, or checkpoint is, in short; "" for all others."""
    if contestant.pretrained is not None:
        read = code_digest(
            (Path(reading.__file__), "read_model"), (Path(reading.__file__), "build_reward_model"), given=()
        )
        return digest(tuple(sorted(contestant.pretrained.glob("*.*")))) + read
    return code_digest((Path(contestant.place.rpartition(":")[0]), "")) if contestant.kind == "yours" else ""


@lru_cache
def code_of(identity: str) -> str:
    """Return what one contestant is, in short: its fields, and the code that builds it; not what is said about it."""
    contestant = find_contestant(identity)
    fields = {
        name: value for name, value in vars(contestant).items() if name not in ("about", "kind", "build", "place")
    }
    build, given = None if contestant.place else contestant.build, {}  # a user's is in his file's `fingerprint`
    while isinstance(build, partial):
        given = given | build.keywords
        build = build.func
        if isinstance(given.get("change"), partial):
            given = given | given["change"].keywords | {"change": given["change"].func}
    parts = [inspect.unwrap(one) for one in (build, *given.values()) if callable(one)]  # not what decorates them
    code = code_digest(*((Path(inspect.getfile(one)), one.__qualname__.partition(".")[0]) for one in parts))
    return f"{sorted(map(str, fields.items()))} {[str(v) for v in given.values() if not callable(v)]} {code}"
