"""The walk of one comparison, from its line in a file to the gradient that it leaves in the model.

Read it from top to bottom: each step is one room of the library, in the order of the README's "How it works".

    comparisons.jsonl → records → tokenizer → packing → layout → backbones → reward_model → losses → train
"""

import sys
from collections import Counter
from pathlib import Path

import torch

import minirm
from minirm.config import ModelConfig, PackingConfig, TrainConfig
from minirm.objectives import RewardObjective
from minirm.optimizers import build_optimizer
from minirm.packing import fit, pack, tokenize
from minirm.records import Comparison, Turn, read_comparisons
from minirm.reward_model import RewardModel
from minirm.tokenizer import Tokenizer
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
    assert batch.mask.shape == (1, 2) and batch.scores.tolist() == [[1.0, 0.0]]

    # 4. layout: a token sees its own path only. The second response's first token sees the prompt and itself.
    seen = seen_by_tiles(batch.layout.everywhere)
    assert len(seen) == M and set(seen[P + R[0]]) == {*range(P), P + R[0]}

    # 5. backbone: a hidden state for every token; or, with the fused read, of the last layer only what is read.
    model = RewardModel(ModelConfig(vocab_size=tokenizer.vocab_size, layers=2, width=16, heads=2))
    everywhere, _ = model.backbone(batch.tokens, batch.layout)
    assert everywhere.shape == (M, 16)
    hidden, _ = model.backbone(batch.tokens, batch.layout, only_reads=True)
    assert hidden.shape == (2, 16)
    torch.testing.assert_close(hidden, everywhere[batch.layout.reads])

    # 6. reward model: one number per response, float32.
    rewards = model(batch)  # (B, K)
    assert rewards.shape == (1, 2) and rewards.dtype == torch.float32
    torch.testing.assert_close(rewards[0], hidden @ model.head.weight[0])

    # 7. losses: −log σ(r_chosen − r_rejected). The objective weighs it, and counts whether the order is right.
    outcome = RewardObjective(TrainConfig())(model, batch)
    torch.testing.assert_close(outcome.loss, -(rewards[0, 0] - rewards[0, 1]).sigmoid().log())
    assert outcome.cases == 1 and outcome.hits == float(rewards[0, 0] > rewards[0, 1])

    # 8. train: the gradient reaches every parameter that had a part in it, and a step widens the difference.
    outcome.loss.backward()
    used = model.backbone.embedding.weight.grad.norm(dim=1).nonzero().flatten().tolist()
    assert used == sorted(set(batch.tokens.tolist()))
    assert all(parameter.grad is not None for parameter in model.parameters())
    build_optimizer(model, TrainConfig(learning_rate=1e-3)).step()
    after = model(batch)
    assert after[0, 0] - after[0, 1] > rewards[0, 0] - rewards[0, 1]


CONFIGURATIONS = ("config.py", "config_rules.py", "run_config.py")  # which no comparison passes


def test_the_walk_is_at_most_640_lines(tmp_path):
    """Count the different lines of minirm that run on the way, but for those of configurations and their rules."""
    home, lines = str(Path(minirm.__file__).parent), set()

    def note(frame, event, _argument):
        if not frame.f_code.co_filename.startswith(home) or Path(frame.f_code.co_filename).name in CONFIGURATIONS:
            return None
        if event == "line":
            lines.add((frame.f_code.co_filename, frame.f_lineno))
        return note

    sys.settrace(note)
    try:
        test_one_pair_from_its_line_to_its_gradient(tmp_path)
    finally:
        sys.settrace(None)
    assert 200 < len(lines) <= 640
