"""Packed ≡ one row per response ≡ every sequence alone: rewards, losses and gradients, for every backbone."""

import copy
from contextlib import AbstractContextManager
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minirm.models.kernels.cpu_bfloat16 import fill_up
from minirm.models.language_model import LanguageModel
from minirm.models.reward_model import RewardModel, build_backbone
from minirm.tokens.layout import lay_out
from minirm.tokens.packing import Encoded, pack
from tests.oracles import hidden_states, nll_one_by_one, rewards_one_by_one
from tests.strategies import ARCHITECTURES, CAUSAL, VOCABULARY, encoded_batches, packed_for, randomised

few = settings(max_examples=12)
each_architecture = pytest.mark.parametrize("name", ARCHITECTURES)
each_causal = pytest.mark.parametrize("name", CAUSAL)
UNEQUAL = Encoded(
    np.arange(5, dtype=np.int32), (np.arange(3, dtype=np.int32), np.arange(9, dtype=np.int32)), (1.0, 0.0)
)


WAYS = ("kernel", "strips")


def attention_by(way: str) -> AbstractContextManager:
    """Within, a transformer's attention goes one way, however small the batch: PyTorch's kernel, or strips of two."""
    return patch.multiple("minirm.models.kernels.strips", LEAST_WORK=0 if way == "strips" else 1 << 40, MOST_QUERIES=2)


def gradients(model: torch.nn.Module, value: torch.Tensor) -> torch.Tensor:
    """Return the gradient of a number by every parameter, as one vector; zero where a parameter has no part in it."""
    parts = torch.autograd.grad(value, list(model.parameters()), allow_unused=True)
    flat = [torch.zeros_like(p) if g is None else g for p, g in zip(model.parameters(), parts, strict=True)]
    return torch.cat([part.flatten() for part in flat])


@each_architecture
@few
@given(batch=encoded_batches(), share_prompt=st.booleans(), way=st.sampled_from(WAYS))
def test_packed_rewards_and_gradients_are_those_of_each_sequence_alone(name, batch, share_prompt, way):
    model = randomised(RewardModel(ARCHITECTURES[name]))
    packed = packed_for(name, batch, share_prompt=share_prompt)
    with attention_by(way):
        rewards = model(packed)
    alone = rewards_one_by_one(model, batch)
    for b, expected in enumerate(alone):
        torch.testing.assert_close(rewards[b, : len(expected)], expected, rtol=1e-10, atol=1e-10)
    weight = torch.arange(1, rewards.numel() + 1, dtype=torch.float64).view_as(rewards)  # a different one for each
    slow = sum((weight[b, : len(r)] * r.tanh()).sum() for b, r in enumerate(alone))
    fast_gradient = gradients(model, (weight * rewards.tanh()).sum())
    torch.testing.assert_close(fast_gradient, gradients(model, slow), rtol=1e-8, atol=1e-8)


@each_causal
@few
@given(batch=encoded_batches(), way=st.sampled_from(WAYS))
def test_packed_language_model_loss_and_gradient_are_those_of_each_sequence_alone(name, batch, way):
    model = randomised(LanguageModel(ARCHITECTURES[name]))
    with attention_by(way):
        fast = model(pack(batch)).sum()
    slow = nll_one_by_one(model.backbone, batch)
    torch.testing.assert_close(fast, slow, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(gradients(model, fast), gradients(model, slow), rtol=1e-8, atol=1e-8)


@each_architecture
@few
@given(batch=encoded_batches(), data=st.data())
def test_a_reward_does_not_depend_on_the_rest_of_the_batch_or_on_its_order(name, batch, data):
    model = randomised(RewardModel(ARCHITECTURES[name]))
    order = data.draw(st.permutations(range(len(batch))))
    rewards, shuffled = model(packed_for(name, batch)), model(packed_for(name, [batch[i] for i in order]))
    for place, i in enumerate(order):
        count = len(batch[i].responses)
        torch.testing.assert_close(shuffled[place, :count], rewards[i, :count], rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(model(packed_for(name, [batch[i]]))[0], rewards[i, :count], rtol=1e-10, atol=1e-10)


@each_architecture
@few
@given(batch=encoded_batches(), share_prompt=st.booleans(), way=st.sampled_from(WAYS))
def test_nan_in_one_comparison_stays_in_it(name, batch, share_prompt, way):
    """Tiles and levels are padded from a segment's own tokens; were it another's, or were it read, NaN would spread."""
    model = randomised(RewardModel(ARCHITECTURES[name]))
    with attention_by(way):
        clean = model(packed_for(name, batch, share_prompt=share_prompt))
    poison = VOCABULARY - 1
    with torch.no_grad():
        model.backbone.embedding.weight[poison] = torch.nan
    healthy = [all(poison not in text for text in (e.prompt, *e.responses)) for e in batch]
    with attention_by(way):
        rewards = model(packed_for(name, batch, share_prompt=share_prompt))
    for b, encoded in enumerate(batch):
        if healthy[b]:
            assert torch.equal(rewards[b, : len(encoded.responses)], clean[b, : len(encoded.responses)])


@each_architecture
@pytest.mark.parametrize("way", WAYS)
def test_nan_in_one_response_does_not_change_its_siblings(name, way):
    model = randomised(RewardModel(ARCHITECTURES[name]))
    prompt = np.array([1, 2, 3], dtype=np.int32)
    sibling, poisoned = np.array([4, 5], dtype=np.int32), np.array([6, 22, 7, 8], dtype=np.int32)
    with torch.no_grad():
        model.backbone.embedding.weight[22] = torch.nan
    batch = packed_for(name, [Encoded(prompt, (poisoned, sibling), (0.0, 1.0))])
    with attention_by(way):
        rewards = model(batch)
        states = None if name not in CAUSAL else model.backbone(batch.tokens, batch.layout)[0]
    alone = model(packed_for(name, [Encoded(prompt, (sibling,), (1.0,))]))
    assert rewards[0, 0].isnan()
    torch.testing.assert_close(rewards[0, 1], alone[0, 0], rtol=1e-12, atol=1e-12)
    assert states is None or states[: len(prompt)].isfinite().all()


@each_causal
@few
@given(batch=encoded_batches(), way=st.sampled_from(WAYS))
def test_a_state_carries_everything_that_a_continuation_needs(name, batch, way):
    """Prompts first, then responses from their state: what generation and repeated scoring of one prompt do."""
    backbone = randomised(build_backbone(ARCHITECTURES[name]))
    prompts = lay_out([len(e.prompt) for e in batch], [-1] * len(batch), range(len(batch)))
    tokens = torch.from_numpy(np.concatenate([e.prompt for e in batch])).long()
    with attention_by(way):
        _, state = backbone(tokens, prompts, keep_state=True)
    responses = [(b, r) for b, e in enumerate(batch) for r in e.responses]
    layout = lay_out([len(r) for _, r in responses], [b for b, _ in responses], range(len(responses)), prompts)
    tokens = torch.from_numpy(np.concatenate([r for _, r in responses])).long()
    read, _ = backbone(tokens, layout, only_reads=True, past=state)
    for hidden, (b, response) in zip(read, responses, strict=True):
        alone = hidden_states(backbone, torch.tensor([*batch[b].prompt, *response]))[-1]
        torch.testing.assert_close(hidden, alone, rtol=1e-10, atol=1e-10)


@each_architecture
@pytest.mark.parametrize("way", WAYS)
def test_reading_only_the_last_tokens_is_what_reading_everything_gives_there(name, way):
    backbone = randomised(build_backbone(ARCHITECTURES[name]))
    batch = packed_for(name, [UNEQUAL])
    with attention_by(way):
        fused, _ = backbone(batch.tokens, batch.layout, only_reads=True)
        everywhere, _ = backbone(batch.tokens, batch.layout)
    there = everywhere[batch.layout.reads]
    torch.testing.assert_close(fused, there, rtol=1e-12, atol=1e-12)
    fast, slow = (gradients(backbone, (states.tanh() * states.detach()).sum()) for states in (fused, there))
    torch.testing.assert_close(fast, slow, rtol=1e-10, atol=1e-10)


TRANSFORMERS = [name for name, config in ARCHITECTURES.items() if config.backbone == "transformer"]


@pytest.mark.parametrize("name", TRANSFORMERS)
@few
@given(
    batch=encoded_batches(most_tokens=20), only_reads=st.booleans(), keep_state=st.booleans(), way=st.sampled_from(WAYS)
)
def test_tokens_that_fill_up_change_no_hidden_state_and_no_gradient(name, batch, only_reads, keep_state, way):
    """In float64, which autocast leaves alone: within it a batch is filled up all the same."""
    backbone = randomised(build_backbone(ARCHITECTURES[name]))
    packed = packed_for(name, batch * 2 + [UNEQUAL])
    exact, state = backbone(packed.tokens, packed.layout, only_reads=only_reads, keep_state=keep_state)
    weight = torch.randn(exact.shape, dtype=exact.dtype, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=torch.bfloat16), attention_by(way):
        filled, layout = fill_up(packed.tokens, packed.layout)
        hidden, same = backbone(packed.tokens, packed.layout, only_reads=only_reads, keep_state=keep_state)
    assert len(filled) == len(layout.positions) == len(layout.everywhere.slots) <= 17 / 16 * len(packed.tokens)
    torch.testing.assert_close(hidden, exact, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(same, state, rtol=1e-10, atol=1e-10)
    fast, slow = (gradients(backbone, (weight * states.tanh()).sum()) for states in (hidden, exact))
    torch.testing.assert_close(fast, slow, rtol=1e-8, atol=1e-8)


def test_filled_up_batches_have_few_sizes():
    sizes = set()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for count in range(2048, 4096):
            tokens, _ = fill_up(torch.zeros(count, dtype=torch.int64), pack([UNEQUAL]).layout)
            sizes.add(len(tokens))
    assert len(sizes) == 17 and max(sizes) == 4096
    assert fill_up(torch.zeros(2049), pack([UNEQUAL]).layout)[0].shape == (2049,)


@each_architecture
@pytest.mark.parametrize("way", WAYS)
def test_gradient_checkpointing_changes_no_gradient(name, way):
    model = randomised(RewardModel(ARCHITECTURES[name]))
    twin = copy.deepcopy(model)
    twin.backbone.gradient_checkpointing = True
    batch = packed_for(name, [UNEQUAL])
    with attention_by(way):
        expected = gradients(model, model(batch).diff().sum())
        torch.testing.assert_close(gradients(twin, twin(batch).diff().sum()), expected, rtol=1e-12, atol=1e-12)


@each_causal
def test_greedy_generation_with_a_cache_is_greedy_generation_without_one(name):
    model = randomised(LanguageModel(ARCHITECTURES[name]))
    prompts = [[1, 2, 3], [4], [5, 6, 7, 8, 9]]
    fast = model.generate(prompts, max_new_tokens=6, end_id=0, temperature=0.0)
    for prompt, continuation in zip(prompts, fast, strict=True):
        ids = list(prompt)
        for _ in range(6):
            ids.append(int(model.logits(hidden_states(model.backbone, torch.tensor(ids))[-1]).argmax()))
            if ids[-1] == 0:
                break
        expected = ids[len(prompt) :]
        assert continuation == (expected[:-1] if expected[-1] == 0 else expected)
