"""The model card of an exported run: what it was trained on, what it is worth, and what to mind."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from minirm.config_json import KINDS, config_from_json
from minirm.disk import read_json
from minirm.errors import InputError, field_error
from minirm.evaluation.evaluate import Estimate
from minirm.evaluation.scoring import LoadedRun
from minirm.runs.run_folder import CONFIG, DATA, METRICS

MEASURES = {
    "accuracy": ("accuracy", "pairs in the right order"),
    "length.longer_wins": ("longer wins", "choosing the longer response, without a model"),
    "length.better_is_shorter": ("better is shorter", "accuracy where the better response is the shorter one"),
    "swapped": ("prompts swapped", "accuracy behind other prompts: what needs no prompt"),
    "leakage.leaked": ("leaked prompts", "accuracy on prompts that stand in training as well"),
    "calibration.nll_nats": ("NLL, in nats", "−log probability of the label; 0.693 knows nothing"),
    "calibration.ece": ("ECE", "mean gap between confidence and accuracy"),
}
"""Path in metrics.json → what it is called, and what it means."""

CARD = """---
library_name: transformers
pipeline_tag: text-classification
tags: [reward-model, minirm]
---
# {name}

A reward model trained with minirm {version}: {size}.

It reads a dialogue and returns one number; the response with the higher number is the preferred one.

```python
from transformers import AutoModelForSequenceClassification, AutoTokenizer

model = AutoModelForSequenceClassification.from_pretrained("{name}").eval()
tokenizer = AutoTokenizer.from_pretrained("{name}")
{usage}
```

## What it was trained on

{data}

## What it is worth

On the validation part: {pairs} pairs of {prompts} prompts, 95% intervals by bootstrap over prompts.

| | value | interval | |
|---|---|---|---|
{measures}

## What to mind

- Only differences between rewards of responses to the same prompt were learned. Their level means nothing; on the
  validation part their mean was {mean:.3f} and their standard deviation {std:.3f}.
- {read}
- A text that spells a special token is read as that token here. minirm itself reads such a text as ordinary characters.
- Nothing longer than {longest} tokens was seen in training; a longer prompt was cut from its left.
- Pad on the right. {left}
- What the table shows of length and of prompts swapped is how far accuracy may come from something else than quality.
"""

OF_DECODER = """dialogue = [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]
text = tokenizer.apply_chat_template(dialogue, tokenize=False)
reward = model(**tokenizer([text], add_special_tokens=False, return_tensors="pt", padding=True)).logits[0, 0]"""
OF_ENCODER = """inputs = tokenizer(["the prompt …"], ["the response …"], return_tensors="pt", padding=True)
reward = model(**inputs).logits[0, 0]"""

READ_AT_END = (
    "The reward is read at the end token {end!r}, which the chat template writes. A text without it gets another "
    "number."
)
READ_AT_START = (
    "Prompt and response are two texts to the tokenizer, which gives them different token types. The chat template "
    "writes them as one, whose rewards are others."
)
PAD_LEFT = {
    "gpt2": "On the left, `position_ids` must be given as well, counted from the first token that is no pad.",
    "bert": "On the left, `position_ids` must be given as well, counted from the first token that is no pad.",
    "llama": "On the left is as good: positions are relative.",
}


def write_card(folder: Path, run_folder: Path, run: LoadedRun, *, name: str) -> None:
    """Write README.md.

    Raises:
        InputError: a file of the run lacks what the card tells.
    """
    validation = _field(run_folder / METRICS, "validation", dict)
    data = _field(run_folder / DATA, "summary", dict) | _field(run_folder / DATA, "counts", dict)
    config = run.model.config
    end = run.tokenizer.template.assistant[1]
    text = CARD.format(
        name=name,
        version=_field(run_folder / CONFIG, "versions.minirm", str),
        size=f"{config.style} style, {config.layers} layers, width {config.width}, {config.heads} heads",
        data="\n".join(_describe(data)),
        pairs=_field(run_folder / METRICS, "validation.pairs", int),
        prompts=_field(run_folder / METRICS, "validation.prompts", int),
        measures="\n".join(_measures(validation, f"{run_folder / METRICS}: validation")),
        mean=run.reward_mean,
        std=run.reward_std,
        usage=OF_ENCODER if config.bidirectional else OF_DECODER,
        read=READ_AT_START if config.bidirectional else READ_AT_END.format(end=end),
        longest=run.packing.max_tokens,
        left=PAD_LEFT[config.style],
    )
    (folder / "README.md").write_text(text, encoding="utf-8")


def _field(path: Path, name: str, kind: type) -> Any:
    """Return what a file holds under a name, each dot of which leads into an object.

    Raises:
        InputError: nothing is there, or something of another kind.
    """
    value = _find(read_json(path), name)
    if type(value) is not kind:
        rule = f"must be {KINDS.get(kind, 'an object')}"
        raise InputError(f"{path}: {field_error(name, value, rule)}")
    return value


def _find(values: dict, name: str) -> object:
    """Return what stands under a dotted name; None where nothing does."""
    value: object = values
    for key in name.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _describe(summary: dict) -> Iterator[str]:
    """Yield the lines of a data summary."""
    for name, value in summary.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key}: {_amount(count)}" for key, count in value.items()) or "none"
        if value is not None:
            yield f"- {name.replace('_', ' ')}: {value}"


def _amount(count: object) -> str:
    return f"{count:,.6g}" if isinstance(count, int | float) else str(count)


def _measures(validation: dict, place: str) -> Iterator[str]:
    """Yield the rows of the table.

    Raises:
        InputError: a measure is no number and no estimate.
    """
    for path, (name, meaning) in MEASURES.items():
        value = _find(validation, path)
        if isinstance(value, float):
            yield f"| {name} | {value:.3f} | | {meaning} |"
        elif value is not None or path == "accuracy":
            measured = config_from_json(Estimate, value, f"{place}.{path}")
            interval = "" if None in (measured.low, measured.high) else f"[{measured.low:.3f}, {measured.high:.3f}]"
            yield f"| {name} | {measured.value:.3f} | {interval} | {meaning} |"
