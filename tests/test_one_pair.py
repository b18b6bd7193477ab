"""The walk of one comparison, from its line in a file to the gradient that it leaves in the model.

Read it from top to bottom: each step is one room of the library, in the order of README's "Study the code: the walk".

    comparisons.jsonl → records → tokenizer → packing → layout → transformer → reward_model → losses → training loop
"""

import ast
import gc
import inspect
import json
import math
import re
import sys
import threading
from collections import Counter
from itertools import chain
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch

import minirm
from minirm.config import ModelConfig, PackingConfig, TrainConfig
from minirm.data.comparison import Comparison, Turn
from minirm.files.records import read_comparisons
from minirm.models.kernels.strips import StripAttention
from minirm.models.reward_model import RewardModel
from minirm.tokens.packing import fit, pack, tokenize
from minirm.tokens.stream import Stream, TokenStore
from minirm.tokens.tokenizer import Tokenizer
from minirm.training.loop import Step, Trainer
from minirm.training.objectives import RewardObjective
from tests.oracles import seen_by_tiles

LINE = '{"prompt": "Is a tomato a fruit?", "chosen": "Yes: it grows from a flower and holds seeds.", "rejected": "No."}'


def test_one_pair_from_its_line_to_its_gradient(tmp_path):
    torch.manual_seed(0)

    # 1. records: a line of a file becomes a comparison. A pair is K = 2 responses with scores 1 and 0.
    file = tmp_path / "comparisons.jsonl"
    file.write_text(LINE + "\n", encoding="utf-8")
    [comparison] = read_comparisons([file])
    assert comparison == Comparison(
        prompt=(Turn("user", "Is a tomato a fruit?"),),
        responses=("Yes: it grows from a flower and holds seeds.", "No."),
        scores=(1.0, 0.0),
        source=comparison.source,
    )
    assert comparison.source.endswith("comparisons.jsonl:1")

    # 2. tokenizer: texts become ids. The prompt ends with the token that opens the response, a response with its end.
    tokenizer = Tokenizer.train([turn.text for turn in comparison.prompt] + list(comparison.responses))
    [encoded] = fit(tokenize([comparison], tokenizer), PackingConfig(), Counter())
    P, R = len(encoded.prompt), [len(response) for response in encoded.responses]
    assert (
        encoded.prompt[0] == tokenizer.special["<|user|>"] and encoded.prompt[-1] == tokenizer.special["<|assistant|>"]
    )
    assert all(response[-1] == tokenizer.end_id for response in encoded.responses)
    assert tokenizer.decode(encoded.responses[1]) == "No."

    # 3. packing: prompt and responses lie end to end, the prompt once, nothing padded. Both responses continue the
    #    prompt's positions, and what will be read is the last token of each.
    batch = pack([encoded])
    M = P + sum(R)
    assert batch.tokens.shape == (M,)
    assert batch.layout.positions.tolist() == [*range(P), *range(P, P + R[0]), *range(P, P + R[1])]
    assert batch.layout.reads.tolist() == [P + R[0] - 1, M - 1]
    assert batch.mask.shape == (1, 2) and batch.order.tolist() == [[1.0, 0.0]]

    # 4. layout: a token sees its own path only. The second response's first token sees the prompt and itself.
    seen = seen_by_tiles(batch.layout.everywhere)
    assert len(seen) == M and set(seen[P + R[0]]) == {*range(P), P + R[0]}

    # 5. reward model, its backbone: a hidden state for every token; the last layer, by the fused read, at reads alone.
    model = RewardModel(ModelConfig(vocab_size=tokenizer.vocab_size, layers=2, width=16, heads=2))
    everywhere, _ = model.backbone(batch.tokens, batch.layout)
    assert everywhere.shape == (M, 16)
    hidden, _ = model.backbone(batch.tokens, batch.layout, only_reads=True)
    assert hidden.shape == (2, 16)
    torch.testing.assert_close(hidden, everywhere[batch.layout.reads])

    # 5, its head: one number per response, float32.
    rewards = model(batch)  # (B, K)
    assert rewards.shape == (1, 2) and rewards.dtype == torch.float32
    torch.testing.assert_close(rewards[0], hidden @ model.head.weight[0])

    # 6. losses: −log σ(r_chosen − r_rejected). The objective weighs it, and counts whether the order is right.
    outcome = RewardObjective(TrainConfig())(model, batch)
    torch.testing.assert_close(outcome.loss, -(rewards[0, 0] - rewards[0, 1]).sigmoid().log())
    assert outcome.cases == 1 and outcome.hits == float(rewards[0, 0] > rewards[0, 1])

    # 6, its gradient reaches every parameter that had a part in it: of the embedding, the rows of the tokens alone.
    outcome.loss.backward()
    used = model.backbone.embedding.weight.grad.norm(dim=1).nonzero().flatten().tolist()
    assert used == sorted(set(batch.tokens.tolist()))
    assert all(parameter.grad is not None for parameter in model.parameters())


CONFIGURED = PackingConfig(), TrainConfig(learning_rate=1e-3), ModelConfig(vocab_size=600, layers=2, width=32, heads=2)
"""What the user has said before a comparison sets out."""


def one_training_step(folder: Path) -> None:
    """Rooms 1 to 7: read 64 comparisons, store them in tokens, and take a real step of training on them."""
    file = folder / "comparisons.jsonl"
    file.write_text("".join(_long_line(n) + "\n" for n in range(64)), encoding="utf-8")
    comparisons = list(read_comparisons([file]))
    tokenizer = Tokenizer.train(text for c in comparisons for text in (c.prompt[0].text, *c.responses))
    packing, config, shape = CONFIGURED
    store = TokenStore.write(fit(tokenize(comparisons, tokenizer), packing, Counter()), folder / "store")
    stream = Stream(store, packing)
    torch.manual_seed(0)
    model = RewardModel(shape)
    assert model(stream.packed(np.arange(1))).shape == (1, 2)  # so few tokens take the plain way, without strips
    trainer = Trainer(model, RewardObjective(config), stream, stream, config)
    before, _ = trainer.evaluate(stream)
    step = next(trainer.run())
    assert isinstance(step, Step) and step.cases == step.comparisons > 50 and math.isfinite(step.gradient_norm)
    after, _ = trainer.evaluate(stream)
    assert after < before


def _long_line(number: int) -> str:
    words = [f"word{(number * 7 + i * i) % 101}" for i in range(42)]
    prompt, chosen, rejected = words[:14], [*words[14:28], "yes"], [*words[28:], "no"]
    texts = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
    return json.dumps({name: " ".join(text) for name, text in texts.items()})


def test_a_real_training_step_meets_the_kernels_and_lowers_the_loss(tmp_path):
    with patch.object(StripAttention, "apply", wraps=StripAttention.apply) as strips:
        one_training_step(tmp_path)
    assert strips.called


def lines_to_read(entered: set[tuple[str, int]]) -> dict[str, int]:
    """Return of each file how many lines must be read to know the functions that were entered.

    A function is read whole, and so is the class that it stands in. `entered`: files, and first lines of functions.
    """
    found: dict[str, set[int]] = {}
    for file, line in entered:
        tree = ast.parse(Path(file).read_text(encoding="utf-8"))
        around = [node for node in tree.body if first_line(node) <= line <= node.end_lineno]
        for node in around:
            found.setdefault(file, set()).update(range(first_line(node), node.end_lineno + 1))
    return {file: len(lines) for file, lines in found.items()}


def first_line(node: ast.stmt) -> int:
    """Return where a statement begins, decorators included."""
    return min([node.lineno, *(decorator.lineno for decorator in getattr(node, "decorator_list", []))])


def test_the_walk_is_at_most_1750_lines_in_16_files(tmp_path, capsys):
    """Whole functions and classes that a real training step enters, without the kernels, at which reading stops.

    Printed beside it: the same with the data classes that they are given, but for what the user has configured.
    """
    home, entered, made = Path(minirm.__file__).parent, set(), set()

    def note(frame, event, _argument):
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(str(home)) and code.co_name != "<module>":
            entered.add((code.co_filename, code.co_firstlineno))
            made.update(map(type, frame.f_locals.values()))
            made.update(
                type(value) for one in frame.f_locals.values() for value in getattr(one, "__dict__", {}).values()
            )

    gc.collect()  # else what earlier tests left may be closed within the walk
    threading.setprofile(note)  # batches are packed in a thread of their own
    sys.setprofile(note)
    try:
        one_training_step(tmp_path)
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    made = {kind for kind in made if kind.__module__.startswith("minirm.") and kind.__module__ != "minirm.config"}
    given = {(inspect.getfile(kind), inspect.getsourcelines(kind)[1]) for kind in made}
    lines, all_lines = (
        {file: n for file, n in lines_to_read(places).items() if "kernels" not in file}
        for places in (entered, entered | given)
    )
    with capsys.disabled():
        print(f"\nthe walk: {sum(lines.values())} lines in {len(lines)} files")
        print(f"with the classes of what they are given: {sum(all_lines.values())}")
        for file, number in sorted(lines.items()):
            print(f"  {Path(file).relative_to(home)}: {number}")
    assert 800 < sum(lines.values()) <= 1750
    assert len(lines) <= 16
    told = {str(Path(file).relative_to(home)): number for file, number in lines.items()}
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    assert f"{len(told)} files, {sum(told.values()):,} lines" in readme and f"{sum(all_lines.values()):,}" in readme
    rooms = re.findall(r"^\| \d \| (.*?) \| (\d+) \|", readme, re.MULTILINE)
    files = [re.findall(r"`([\w/]+\.py)`", names) for names, _ in rooms]
    assert sorted(chain.from_iterable(files)) == sorted(told)
    assert [sum(told[file] for file in some) for some in files] == [int(number) for _, number in rooms]
