"""Whether a backbone keeps the protocol's promises, and in words what is missing where it does not."""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from bench.architectures.contestants import Build
from minirm.config import ModelConfig, TrainConfig
from minirm.models.protocol import Backbone
from minirm.models.reward_model import RewardModel
from minirm.tokens.layout import lay_out
from minirm.tokens.packing import Encoded, PackedBatch, pack
from minirm.tokens.steps import Steps
from minirm.training.objectives import LOSSES, preference_losses

CONFIG = ModelConfig(vocab_size=23, layers=2, width=16, heads=2, max_positions=64)
TOLERANCE = 1e-8
"""Of sums of a few hundred products in float64."""


class Finding(NamedTuple):
    """One promise, and whether it is kept."""

    promise: str
    kept: bool
    needed: bool
    """False: the bench can do without."""
    words: str
    """What is missing; "" when nothing is."""


def check(build: Build) -> list[Finding]:
    """Return the protocol's promises, each with what a backbone makes of it, up to the first needed one that is broken.

    Args:
        build: takes a `ModelConfig`, returns a backbone.
    """
    checks: list[tuple[str, bool, Callable[[Backbone, list[Encoded]], str]]] = [
        ("it has an embedding and a checkpointing switch", True, _attributes),
        ("it returns hidden states in the right shape", True, _shapes),
        ("what it reads alone is what it reads among all tokens", True, _only_reads),
        ("packed rewards are those of each response alone", True, _packed),
        ("every parameter and every token gets a gradient", True, _gradients),
        ("a token sees nothing of what follows it", False, _causal),
        ("its state is all that a continuation needs", False, _state),
        ("every loss of the library trains it", False, _losses),
    ]
    torch.manual_seed(0)
    batch = _batch(np.random.default_rng(0))
    try:
        backbone = build(CONFIG).double().eval()
    except Exception as error:
        return [Finding("it can be built from a ModelConfig", False, True, f"{type(error).__name__}: {error}")]
    findings = []
    for promise, needed, examine in checks:
        try:
            words = examine(backbone, batch)
        except Exception as error:  # a stranger's code: whatever it raises is the finding
            words = f"{type(error).__name__}: {error}"
        findings.append(Finding(promise, not words, needed, words))
        if words and needed:
            break
    return findings


def _batch(rng: np.random.Generator) -> list[Encoded]:
    """Return comparisons of unequal lengths and numbers of responses, one of them of a single token."""
    shapes = [(5, (3, 7, 1)), (1, (4,)), (9, (2, 2))]
    text = lambda length: rng.integers(1, CONFIG.vocab_size, length).astype(np.int32)  # noqa: E731
    return [Encoded(text(p), tuple(map(text, r)), tuple(map(float, range(len(r))))) for p, r in shapes]


def _run(backbone: Backbone, batch: PackedBatch, **options: object) -> Tensor:
    return backbone(batch.tokens, batch.layout, **options)[0]


def _attributes(backbone: Backbone, batch: list[Encoded]) -> str:
    embedding = getattr(backbone, "embedding", None)
    if not isinstance(embedding, nn.Embedding):
        return "self.embedding must be an nn.Embedding: the language model's head is tied to it"
    if tuple(embedding.weight.shape) != (CONFIG.vocab_size, CONFIG.width):
        expected = f"({CONFIG.vocab_size}, {CONFIG.width})"
        return f"self.embedding is {tuple(embedding.weight.shape)}, it must be (vocab_size, width) = {expected}"
    if not hasattr(backbone, "gradient_checkpointing"):
        return "self.gradient_checkpointing = False is missing: training sets it"
    return ""


def _shapes(backbone: Backbone, batch: list[Encoded]) -> str:
    packed = pack(batch)
    counts = {False: ("tokens", len(packed.tokens)), True: ("reads", len(packed.layout.reads))}
    for only_reads, (what, count) in counts.items():
        result = backbone(packed.tokens, packed.layout, only_reads=only_reads)
        if not isinstance(result, tuple) or len(result) != 2:
            return "a call must return two things: hidden states, and the state or None"
        shape, expected = tuple(result[0].shape), (count, CONFIG.width)
        if shape != expected:
            return f"with only_reads={only_reads} it returns {shape}, it must be ({what}, width) = {expected}"
        if not torch.isfinite(result[0]).all():
            return f"with only_reads={only_reads} some hidden states are not finite"
    return ""


def _only_reads(backbone: Backbone, batch: list[Encoded]) -> str:
    packed = pack(batch)
    apart = _distance(_run(backbone, packed, only_reads=True), _run(backbone, packed)[packed.layout.reads])
    return (
        "" if apart < TOLERANCE else f"they differ by {apart:.2g}: only_reads must select by layout.reads, in its order"
    )


def _packed(backbone: Backbone, batch: list[Encoded]) -> str:
    together = _run(backbone, pack(batch), only_reads=True)
    singles = [Encoded(e.prompt, (r,), (0.0,)) for e in batch for r in e.responses]
    alone = torch.cat([_run(backbone, pack([single]), only_reads=True) for single in singles])
    apart = _distance(together, alone)
    if apart < TOLERANCE:
        return ""
    return (
        f"they differ by {apart:.2g}: a response must see its own path (layout.paths) and nothing of its siblings, of "
        "other comparisons or of padding; its positions continue its prompt's (layout.positions)"
    )


def _gradients(backbone: Backbone, batch: list[Encoded]) -> str:
    packed = pack(batch[:1])
    backbone.zero_grad()
    weight = torch.linspace(1, 2, CONFIG.width, dtype=torch.float64)
    (_run(backbone, packed, only_reads=True) * weight).tanh().sum().backward()
    without = [name for name, p in backbone.named_parameters() if p.grad is None or not p.grad.any()]
    rows = backbone.embedding.weight.grad
    backbone_without = [name for name in without if "embedding" not in name and "wte" not in name]
    if rows is None or backbone_without:
        return f"no gradient reaches {', '.join(backbone_without or ['the embedding'])}"
    unread = [
        token for token in np.unique(np.concatenate([batch[0].prompt, *batch[0].responses])) if not rows[token].any()
    ]
    return f"no gradient reaches {len(unread)} of the tokens: prompt and response must both be read" if unread else ""


def _causal(backbone: Backbone, batch: list[Encoded]) -> str:
    first, other = np.array([1, 2, 3, 4], np.int32), np.array([1, 2, 3, 5], np.int32)
    hidden = [_run(backbone, pack([Encoded(first[:2], (text[2:],), (0.0,))])) for text in (first, other)]
    apart = _distance(hidden[0][:3], hidden[1][:3])
    return "" if apart < TOLERANCE else "it looks ahead: it can be no language model, and shares no prompt"


def _state(backbone: Backbone, batch: list[Encoded]) -> str:
    prompts = lay_out([len(e.prompt) for e in batch], [-1] * len(batch), range(len(batch)))
    tokens = torch.from_numpy(np.concatenate([e.prompt for e in batch])).long()
    try:
        _, state = backbone(tokens, prompts, keep_state=True)
    except NotImplementedError:
        return "it keeps no state: generation and scoring again behind a known prompt are not to be had"
    responses = [(b, r) for b, e in enumerate(batch) for r in e.responses]
    layout = lay_out([len(r) for _, r in responses], [b for b, _ in responses], range(len(responses)), prompts)
    tokens = torch.from_numpy(np.concatenate([r for _, r in responses])).long()
    continued, _ = backbone(tokens, layout, only_reads=True, past=state)
    apart = _distance(continued, _run(backbone, pack(batch), only_reads=True))
    return "" if apart < TOLERANCE else f"a continuation differs by {apart:.2g} from reading everything at once"


def _losses(backbone: Backbone, batch: list[Encoded]) -> str:
    model = RewardModel(CONFIG, backbone).double()
    ends = [[np.unique([0, len(r) - 1]) for r in item.responses] for item in batch]
    of_each = (tuple(Steps(end, np.ones(len(end))) for end in ends_of_one) for ends_of_one in ends)
    steps = [replace(item, steps=steps_of_one) for item, steps_of_one in zip(batch, of_each, strict=True)]
    for name in LOSSES:
        packed = pack(steps if name == "step" else batch)
        model.zero_grad()
        losses = preference_losses(model(packed), packed, TrainConfig(loss=name))
        losses.sum().backward()
        gradients = [p.grad for p in backbone.parameters() if p.grad is not None]
        if not all(x.isfinite().all() for x in (losses, *gradients)) or not any(g.any() for g in gradients):
            return f"under loss={name} its loss is {losses.tolist()}, or its gradient 0 or not finite"
    return ""


def _distance(first: Tensor, second: Tensor) -> float:
    return float((first - second).detach().abs().max())
