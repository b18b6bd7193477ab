"""The bench's own networks and single changes, against plain loops over one sequence."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

pytest.importorskip("transformers")

from bench.architectures.contestants import AS_GPT2, GPT2, find_contestant
from bench.architectures.state_space import REACH, STATES
from minirm.config import ModelConfig, TrainConfig
from minirm.tokens.layout import lay_out
from minirm.training.optimizers import build_optimizer
from tests.test_architectures import batch

SHAPE = ModelConfig(vocab_size=23, layers=2, width=16, heads=2, max_positions=64)
TOKENS = torch.arange(2, 11)


def backbone(name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    return find_contestant(name).reward_model(SHAPE).backbone.double()


def alone(model: torch.nn.Module, tokens: Tensor) -> Tensor:
    return model(tokens, lay_out([len(tokens)], [-1], [0]))[0]


def test_alibi_takes_from_a_keys_product_its_distance_times_the_heads_slope():
    model = backbone("ALiBi")
    x = model.embedding(TOKENS)
    for block in model.blocks:
        q, k, v = block.attention.qkv(block.attention_norm(x)).chunk(3, -1)
        rows = []
        for i in range(len(x)):
            heads = []
            for h, slope in enumerate((2**-4, 2**-8)):
                own = slice(8 * h, 8 * h + 8)
                far = torch.arange(i, -1, -1, dtype=torch.float64)
                weights = (k[: i + 1, own] @ q[i, own] / 8**0.5 - slope * far).softmax(0)
                heads.append(weights @ v[: i + 1, own])
            rows.append(torch.cat(heads))
        x = x + block.attention.out(torch.stack(rows))
        x = x + block.mlp(block.mlp_norm(x))
    torch.testing.assert_close(alone(model, TOKENS), model.norm(x))


def test_without_positions_a_first_layer_does_not_tell_an_order_from_another():
    model = backbone("no positions")
    swapped = TOKENS[torch.tensor([1, 0, *range(2, 9)])]
    one_layer = lambda tokens: model.blocks[0](model.embedding(tokens), lay_out([9], [-1], [0]))[0][-1]  # noqa: E731
    torch.testing.assert_close(one_layer(TOKENS), one_layer(swapped))


def test_a_state_space_is_its_recurrence_token_by_token():
    model = backbone("state space")
    x = model.embedding(TOKENS)
    for norm, mix in zip(model.norms, model.mixes, strict=True):
        u, gate = mix.enter(norm(x)).chunk(2, -1)
        memory, rows = torch.zeros(32, STATES, dtype=torch.float64), []
        for t in range(len(x)):
            mixed = F.silu(sum(mix.taps[back] * u[t - back] for back in range(min(REACH, t + 1))))
            chosen = mix.choose(mixed)
            step = F.softplus(mix.step(chosen[: mix.rank]))
            write, read = chosen[mix.rank :].chunk(2)
            for channel in range(32):
                fade = torch.exp(-step[channel] * mix.log_rates.view(-1, STATES)[channel].exp())
                memory[channel] = fade * memory[channel].clone() + step[channel] * mixed[channel] * write
            rows.append((memory @ read + mix.past_by * mixed) * F.silu(gate[t]))
        x = x + mix.leave(torch.stack(rows))
    torch.testing.assert_close(alone(model, TOKENS), model.norm(x))


def test_what_fades_a_state_spaces_memory_is_not_decayed():
    """As in Mamba's own code, whose A_log and D are marked so."""
    model = backbone("state space")
    decayed, spared = (group["params"] for group in build_optimizer(model, TrainConfig()).param_groups)
    for mix in model.mixes:
        for parameter, group in ((mix.log_rates, spared), (mix.past_by, spared), (mix.enter.weight, decayed)):
            assert any(parameter is one for one in group)


def test_a_decoder_started_as_gpt2_has_the_spreads_of_hugging_faces():
    wide = ModelConfig(vocab_size=400, layers=2, width=64, heads=4, max_positions=256)
    theirs = find_contestant(GPT2).reward_model(wide).backbone.model
    ours = find_contestant(AS_GPT2).reward_model(wide).backbone
    pairs = [(theirs.wte, ours.embedding), (theirs.wpe, ours.positions)]
    for one, other in zip(theirs.h, ours.blocks, strict=True):
        pairs += [(one.attn.c_attn, other.attention.qkv), (one.attn.c_proj, other.attention.out)]
        pairs += [(one.mlp.c_fc, other.mlp.up), (one.mlp.c_proj, other.mlp.down)]
        assert torch.equal(other.attention.qkv.bias, one.attn.c_attn.bias)
    for one, other in pairs:
        assert one.weight.std().item() == pytest.approx(other.weight.std().item(), rel=0.06)
    query, key, _ = ours.blocks[0].attention.qkv.weight.chunk(3)
    assert not torch.equal(query, key)


def test_an_encoder_decoders_memory_of_a_prompts_token_depends_on_those_behind_it():
    model = find_contestant("encoder–decoder").reward_model(SHAPE).backbone.eval()
    prompt = torch.randn(1, 4, 16)
    other = torch.cat([prompt[:, :3], torch.randn(1, 1, 16)], 1)
    pads = torch.zeros(1, 4, dtype=torch.bool)
    first, second = (model._remember(one, pads)[0, 0] for one in (prompt, other))
    assert not torch.allclose(first, second)
    pads[0, 3] = True
    torch.testing.assert_close(*(model._remember(one, pads)[0, 0] for one in (prompt, other)))


def test_a_first_read_is_of_the_responses_first_token():
    contestant = find_contestant("prefix, read: first")
    torch.manual_seed(0)
    model = contestant.reward_model(SHAPE)
    packed = contestant.pack(batch())
    hidden, _ = model.backbone(packed.tokens, packed.layout)
    lengths = [len(r) for e in batch() for r in e.responses]
    ends = packed.layout.reads.tolist()
    first = [end - length + 1 for end, length in zip(ends, lengths, strict=True)]
    torch.testing.assert_close(model(packed).flatten()[packed.slots], model.head(hidden[first])[:, 0])
