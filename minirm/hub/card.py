"""The model card of an exported run: what it was trained on, what it is worth, and what to mind."""

import html
import re
from functools import reduce
from pathlib import Path

from jinja2 import Environment, StrictUndefined, UndefinedError

from minirm.errors import InputError
from minirm.evaluation.scoring import LoadedRun
from minirm.files.disk import read_json
from minirm.runs.run_folder import CONFIG, DATA, METRICS
from minirm.tokens.tokenizer import END, Tokenizer

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
# {{ name }}

A reward model trained with minirm {{ version }}: {{ model.style }} style, {{ model.layers }} layers, width \
{{ model.width }}, {{ model.heads }} heads.

It reads a dialogue and returns one number; the response with the higher number is the preferred one.

```python
from transformers import AutoModelForSequenceClassification, AutoTokenizer

model = AutoModelForSequenceClassification.from_pretrained("{{ name }}").eval()
tokenizer = AutoTokenizer.from_pretrained("{{ name }}")
{% if model.bidirectional %}
inputs = tokenizer(["the prompt …"], ["the response …"], return_tensors="pt", padding=True)
reward = model(**inputs).logits[0, 0]
{% else %}
dialogue = [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]
text = tokenizer.apply_chat_template(dialogue, tokenize=False)
reward = model(**tokenizer([text], add_special_tokens=False, return_tensors="pt", padding=True)).logits[0, 0]
{% endif %}
```

## What it was trained on

{% for key, value in data.items() if value is not none %}
- {{ key.replace("_", " ") | plain }}: {{ value | plain }}
{% endfor %}

## What it is worth

On the validation part: {{ validation.pairs }} pairs of {{ validation.prompts }} prompts, 95% intervals by bootstrap \
over prompts.

| | value | interval | |
|---|---|---|---|
{% for found, its, meaning in measures if found is not none %}
{% if found is mapping %}
| {{ its }} | {{ "%.3f" % found.value }} | {{ "[%.3f, %.3f]" % (found.low, found.high) if found.low is not none }} | \
{% else %}
| {{ its }} | {{ "%.3f" % found }} | | \
{% endif %}
{{ meaning }} |
{% endfor %}

## What to mind

- Only differences between rewards of responses to the same prompt were learned. Their level means nothing; on the
  validation part their mean was {{ "%.3f" % mean }} and their standard deviation {{ "%.3f" % std }}.
{% if model.bidirectional %}
- Prompt and response are two texts to the tokenizer, which gives them different token types: there is no chat template.
{% else %}
- The reward is read at the end of {{ end }}, which is written behind a response. A text without it gets another number.
{% endif %}
- A text that spells a special token is read as that token here.\
{{ " minirm itself reads such a text as ordinary characters." if is_own }}
- Nothing longer than {{ longest }} tokens was seen in training; a longer prompt was cut from its left.
- Pad on the right. \
{% if model.style == "llama" %}
On the left is as good: positions are relative.
{% else %}
On the left, `position_ids` must be given as well, counted from the first token that is no pad.
{% endif %}
- What the table shows of length and of prompts swapped is how far accuracy may come from something else than quality.
"""


def write_card(folder: Path, run_folder: Path, run: LoadedRun, *, name: str) -> None:
    """Write README.md.

    Raises:
        InputError: a file of the run lacks what the card tells.
    """
    try:
        text = _fill(run_folder, run, name)
    except (KeyError, TypeError, ValueError, AttributeError, UndefinedError) as error:
        wrong = f"{METRICS} or {DATA} does not hold what the card tells"
        raise InputError(f"{run_folder}: {wrong} ({type(error).__name__}: {error})") from None
    (folder / "README.md").write_text(text, encoding="utf-8")


def _fill(run_folder: Path, run: LoadedRun, name: str) -> str:
    data, validation = read_json(run_folder / DATA), read_json(run_folder / METRICS)["validation"]
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True)
    environment.filters["plain"] = _plain
    is_own = isinstance(run.tokenizer, Tokenizer)
    found = [_find(validation, path) for path in MEASURES]
    if found[0] is None:
        raise KeyError("accuracy")
    return environment.from_string(CARD).render(
        name=name,
        version=read_json(run_folder / CONFIG)["versions"]["minirm"],
        model=run.model.config,
        data=data["summary"] | data["counts"],
        validation=validation,
        measures=[(one, *its) for one, its in zip(found, MEASURES.values(), strict=True)],
        mean=run.reward_mean,
        std=run.reward_std,
        end=repr(END if is_own else run.tokenizer.theirs.decode(run.tokenizer.ending)),
        is_own=is_own,
        longest=run.packing.max_tokens,
    )


def _find(values: dict, name: str) -> object:
    """Return what stands under a dotted name; None where nothing does."""
    return reduce(lambda value, key: value.get(key) if isinstance(value, dict) else None, name.split("."), values)


def _plain(value: object) -> str:
    """Return a value of the data's own as Markdown that shows it: on one line, without HTML."""
    if isinstance(value, dict):
        parts = (
            f"{key}: {count:,.6g}" if isinstance(count, int | float) else f"{key}: {count}"
            for key, count in value.items()
        )
        value = ", ".join(parts) or "none"
    return re.sub(r"[\\`*_\[\]|]", r"\\\g<0>", html.escape(" ".join(str(value).split()), quote=False))
