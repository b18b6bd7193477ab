"""What a policy is taught by: draws, advantages, losses and the log, each against plain loops or a whole enumeration.

`tests/policy_mutations.py` plants mistakes in the code that these tests must notice.
"""

import math
from dataclasses import replace
from itertools import combinations, product

import numpy as np
import pytest
import torch
from torch import Tensor

from minirm.config import ModelConfig
from minirm.data.comparison import Comparison, Turn
from minirm.errors import InputError
from minirm.models import language_model
from minirm.models.kernels.continuing import Continuing
from minirm.models.language_model import LanguageModel, Segments
from minirm.policies.best_of_n import best_of_n, expected_best, kl_bound
from minirm.policies.dpo import DPO, DPOConfig
from minirm.policies.grpo import GRPO
from minirm.policies.learner import Policy, as_rows
from minirm.policies.ppo import PPO, clipped_gain, generalised_advantages
from minirm.policies.rloo import RLOO
from minirm.policies.sampling import Sample, encode, sample
from minirm.policies.trainer import Experience, PolicyConfig, PolicyTrainer, adapted, gather, measure, packed
from minirm.tokens.layout import lay_out
from minirm.tokens.packing import tokenize
from minirm.tokens.tokenizer import Tokenizer
from tests.oracles import hidden_states
from tests.strategies import randomised

BARE = Tokenizer.train([], 262)  # one token per byte
PROMPTS = [(Turn("user", "ab"),), (), (Turn("user", "hello"), Turn("assistant", "x"), Turn("user", "?"))]


def a_model(backbone: str = "transformer", width: int = 16, **fields: object) -> LanguageModel:
    torch.manual_seed(0)
    fields = {"vocab_size": 262, "layers": 1, "heads": 2, "max_positions": 64, **fields}
    return LanguageModel(ModelConfig(backbone=backbone, width=width, **fields))


def vowels(prompts, responses) -> list[float]:
    return [sum(letter in "aeiou" for letter in text) / max(1, len(text)) for text in responses]


QUICK = PolicyConfig(iterations=25, prompts_per_iteration=32, learning_rate=1e-2, max_new_tokens=8, kl_weight=0.0)
IN_GROUPS = replace(QUICK, prompts_per_iteration=8, samples_per_prompt=4)
METHODS = {"ppo": (PPO(), QUICK), "rloo": (RLOO(), IN_GROUPS), "grpo": (GRPO(), IN_GROUPS)}


def a_trainer(name: str = "ppo", model: LanguageModel | None = None, **dials: object) -> PolicyTrainer:
    method, config = METHODS[name]
    return PolicyTrainer(model or a_model(), BARE, PROMPTS, vowels, replace(config, **dials), method)


def log_p_alone(model: LanguageModel, one: Sample) -> Tensor:
    """Return log p of each token of a response (R,), its prompt and itself read alone, layer by layer."""
    ids = torch.tensor([*one.prompt_ids.tolist(), *one.ids.tolist()])
    logits = hidden_states(model.backbone, ids) @ model.backbone.embedding.weight.T
    rows = torch.arange(len(one.prompt_ids), len(ids))
    return logits.log_softmax(-1)[rows - 1, ids[rows]]


def moved_policy(*, has_value: bool = True) -> tuple[Policy, LanguageModel]:
    """Return a policy that has gone some way from its first model, with values that are not 0."""
    first = randomised(a_model(), seed=0).eval()
    policy = randomised(Policy(a_model(), has_value=has_value), seed=1).eval()
    with torch.no_grad():
        for parameter, before in zip(policy.language_model.parameters(), first.parameters(), strict=True):
            parameter.copy_(before + 0.1 * parameter)
    return policy, first


def an_experience(k: int = 3, *, has_value: bool = True, seed: int = 0) -> tuple[Policy, LanguageModel, Experience]:
    """Return k responses of uneven length to each of three prompts, gathered, with rewards that differ."""
    policy, first = moved_policy(has_value=has_value)
    prompts = [prompt for prompt in PROMPTS for _ in range(k)]
    samples = sample(policy.language_model, BARE, prompts, max_new_tokens=9, seed=seed)
    cut = [replace(one, ids=one.ids[: 1 + n % 9]) for n, one in enumerate(samples)]
    rewards = torch.randn(3 * k, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    return policy, first, gather(policy, first, cut, rewards)


def since_learned(experience: Experience) -> Experience:
    """Return it as if the policy had learned since: its old log-probabilities are others."""
    shift = torch.randn(experience.log_p.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64) * 0.3
    return replace(experience, log_p=experience.log_p + shift * experience.mask)


def same_gradient(policy: Policy, ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    gradients = [torch.autograd.grad(loss, list(policy.language_model.parameters())) for loss in (ours, theirs)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9)


def kept_in(ratio: Tensor, advantage: float, clip: float) -> tuple[Tensor, bool]:
    """Return PPO's gain of one ratio as its paper draws it, and whether the clip holds it."""
    outside = (advantage > 0 and ratio > 1 + clip) or (advantage < 0 and ratio < 1 - clip)
    edge = 1 + clip if advantage > 0 else 1 - clip
    return (ratio * 0 + edge if outside else ratio) * advantage, bool(outside)


# Drawing


@pytest.mark.parametrize("backbone", ["transformer", "gru"])
def test_a_sample_holds_its_tokens_its_text_and_its_end_if_it_has_one(backbone):
    model = randomised(a_model(backbone))
    drawn = sample(model, BARE, PROMPTS * 80, max_new_tokens=12, seed=1)
    assert any(one.has_end for one in drawn) and not all(one.has_end for one in drawn)
    for one in drawn:
        tokens = one.ids.tolist()
        assert BARE.end_id not in tokens[:-1] and one.has_end == (tokens[-1] == BARE.end_id)
        assert one.has_end or len(tokens) == 12
        assert one.prompt_ids.tolist() == BARE.encode_prompts([one.prompt])[0]
        assert one.response == BARE.decode(tokens).replace("\0", "\ufffd")


@pytest.mark.parametrize("fields", [{}, {"style": "llama", "kv_heads": 1}, {"backbone": "gru"}], ids=str)
def test_log_probabilities_at_which_tokens_were_drawn_are_those_of_a_forward_pass(fields, monkeypatch):
    model, drawn_at, draw = randomised(a_model(**fields)), [], language_model._draw

    def watched(logits, *how):
        chosen = draw(logits, *how)
        drawn_at.append(logits.double().log_softmax(-1).gather(1, chosen[:, None])[:, 0].tolist())
        return chosen

    monkeypatch.setattr(language_model, "_draw", watched)
    prompts = [prompt for prompt in PROMPTS for _ in range(60)]
    samples = sample(model, BARE, prompts, max_new_tokens=12, seed=1)
    at = [[] for _ in samples]
    for step, values in enumerate(drawn_at):
        alive = [n for n, one in enumerate(samples) if len(one.ids) > step]
        for n, value in zip(alive, values, strict=True):
            at[n].append(value)
    assert len({len(one.ids) for one in samples}) > 1
    for one, values in zip(samples, at, strict=True):
        assert values == pytest.approx(log_p_alone(model, one).tolist(), abs=1e-6)


@pytest.mark.parametrize(
    "fields", [{}, {"style": "llama", "kv_heads": 1}, {"style": "prefix"}, {"token_types": True}], ids=str
)
def test_going_on_behind_shared_prompts_is_going_on_by_segments(fields):
    """Step by step, while continuations end and whole prompts run out of them, on prompts of very uneven length."""
    model = randomised(a_model(layers=2, **fields)).double().eval()
    rng, n = np.random.default_rng(0), 12
    prompts = [rng.integers(262, size=length).tolist() for length in (3, 4, 20, 9)]
    prompt_of = rng.integers(len(prompts), size=n).tolist()
    layout = lay_out([len(ids) for ids in prompts], [-1] * len(prompts), range(len(prompts)))
    _, state = model.backbone(
        torch.tensor([t for ids in prompts for t in ids]), layout, only_reads=True, keep_state=True
    )
    fast, plain = (kind(model.backbone, state, layout, prompt_of, 8) for kind in (Continuing, Segments))
    for kept in (12, 12, 9, 9, 5, 2, 1):
        going = sorted(rng.choice(n, size=kept, replace=False).tolist())
        tokens, n = torch.from_numpy(rng.integers(262, size=kept)), kept
        torch.testing.assert_close(fast(going, tokens), plain(going, tokens), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_tokens_are_drawn_as_often_as_they_are_probable(temperature):
    logits = torch.tensor([0.0, 2.0, -torch.inf, 1.0, -3.0])
    drawn = language_model._draw(logits.nan_to_num(neginf=-1e4).expand(20_000, 5), temperature, torch.Generator())
    share, p = torch.bincount(drawn, minlength=5) / 20_000, (logits / temperature).softmax(0)
    assert share[2] == 0 and share.tolist() == pytest.approx(p.tolist(), abs=4 * 0.5 / 20_000**0.5)


def test_a_prompt_that_stands_several_times_is_computed_once():
    model, seen = randomised(a_model()), []
    model.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    prompts = [prompt for prompt in PROMPTS for _ in range(8)]
    together = sample(model, BARE, prompts, max_new_tokens=3, seed=0)
    assert seen[0] == sum(len(ids) for ids in BARE.encode_prompts(PROMPTS))
    assert len({one.response for one in together[:8]}) > 1  # each is drawn by itself


def test_samples_of_one_prompt_are_segments_behind_one_parent():
    samples = sample(a_model(), BARE, [p for p in PROMPTS for _ in range(3)], max_new_tokens=5, seed=0)
    items = encode(samples)
    assert [len(item.responses) for item in items] == [3, 3, 3]
    assert not any(item.learned.any() for item in items)
    batch = packed(samples, torch.device("cpu"))
    assert len(batch.tokens) == sum(len(ids) for ids in BARE.encode_prompts(PROMPTS)) + sum(len(s.ids) for s in samples)
    assert batch.targets.tolist() == [token for one in samples for token in one.ids.tolist()]


def test_what_is_scored_is_what_was_written_token_for_token(monkeypatch):
    tokenizer = Tokenizer.train(["fine film"] * 9)
    written = [ids[:-1] for ids in tokenizer.encode_responses(["fine film", "film", " fine", ""])]
    monkeypatch.setattr(LanguageModel, "generate", lambda *_, **__: written)
    drawn = sample(a_model(), tokenizer, PROMPTS[:1] * 4, max_new_tokens=99, seed=0)
    scored = tokenizer.encode_responses([one.response for one in drawn])
    assert scored == [one.ids.tolist() for one in drawn]
    best = best_of_n(a_model(), tokenizer, PROMPTS[:1], lambda _, texts: list(map(len, texts)), n=4, max_new_tokens=99)
    assert best[0].responses[best[0].best] == "fine film"


@pytest.mark.parametrize(
    "fields", [{}, {"style": "llama"}, {"backbone": "gru"}], ids=["learned positions", "rotary", "recurrent"]
)
def test_what_is_drawn_may_fill_the_positions_and_no_more(fields):
    model, [prompt] = randomised(a_model(**fields)), BARE.encode_prompts(PROMPTS[:1])
    room, end_id = 64 - len(prompt), -1  # nothing ends
    assert [len(ids) for ids in model.generate([prompt], max_new_tokens=room, end_id=end_id)] == [room]
    message = f"a prompt of {len(prompt)} tokens and max_new_tokens={room + 1} must not exceed the model's max_pos"
    with pytest.raises(InputError, match=message):
        model.generate([[0], prompt], max_new_tokens=room + 1, end_id=end_id)


# Best of n


def test_best_of_n_holds_all_draws_their_rewards_and_which_is_best():
    model = randomised(a_model())
    found = best_of_n(model, BARE, PROMPTS, vowels, n=8, max_new_tokens=10, seed=3)
    drawn = sample(model, BARE, [prompt for prompt in PROMPTS for _ in range(8)], max_new_tokens=10, seed=3)
    for p, one in enumerate(found):
        mine = drawn[8 * p : 8 * p + 8]
        assert list(one.responses) == [each.response for each in mine]
        assert list(one.rewards) == vowels(None, one.responses) and one.rewards[one.best] == max(one.rewards)
        assert one.unended == sum(not each.has_end for each in mine)


def test_the_best_of_n_earns_its_mean_over_all_choices_of_n():
    rewards = [[0.3, -1.0, 0.3, 2.0, 0.0], [1.0, 1.0, 1.0, 1.0, 1.0]]  # with ties
    gold = [[5.0, 1.0, 3.0, -2.0, 0.0], [1.0, 2.0, 3.0, 4.0, 5.0]]
    ours, judged = expected_best(rewards), expected_best(rewards, gold)
    for p in range(2):
        for n in range(1, 6):
            choices = list(combinations(range(5), n))
            assert ours[p, n - 1] == pytest.approx(np.mean([max(rewards[p][i] for i in c) for c in choices]))
            winners = [[i for i in c if rewards[p][i] == max(rewards[p][j] for j in c)] for c in choices]
            expected = np.mean([np.mean([gold[p][i] for i in w]) for w in winners])
            assert judged[p, n - 1] == pytest.approx(expected)


def test_the_estimate_for_a_thousand_samples_is_finite_and_rises_from_mean_to_highest():
    rewards = np.random.default_rng(0).normal(size=(1, 1024))
    earned = expected_best(rewards)[0]
    assert earned[0] == pytest.approx(rewards.mean()) and earned[-1] == pytest.approx(rewards.max())
    assert (np.diff(earned) > -1e-9).all()


def test_the_bound_on_kl_holds_and_is_met_where_no_two_responses_are_alike():
    assert kl_bound(1) == 0 and kl_bound(4) == pytest.approx(math.log(4) - 0.75)
    for outcomes in (2, 1000):  # equally likely, in order of reward: the best of n is at most i with chance (i/m)^n
        share = np.arange(outcomes + 1) / outcomes
        for n in (2, 4):
            p = np.diff(share**n)
            kl = (p * np.log(p * outcomes)).sum()
            assert kl <= kl_bound(n) and (outcomes == 2) == (kl < 0.9 * kl_bound(n))


# What was drawn


@pytest.mark.parametrize("write", [
    lambda seed, part: sample(randomised(a_model()), BARE, PROMPTS, max_new_tokens=12, seed=seed, part=part),
    lambda seed, part: a_trainer(seed=seed, max_new_tokens=12).write(PROMPTS, seed=seed, part=part),
], ids=["sample", "policy"])  # fmt: skip
def test_two_seeds_and_two_parts_of_one_draw_something_else(write):
    """Seed 0 in iteration 2 is not seed 1 in iteration 1: seeds of a study are independent draws."""
    seeds = (0, 1, 2, 2**32, 2**32 + 1, 2**33)
    texts = [[one.response for one in write(seed, part)] for seed in seeds for part in range(3)]
    assert len({tuple(one) for one in texts}) == 18
    assert [one.response for one in write(1, 2)] == texts[5]


def test_iterations_draw_anew_and_seeds_have_no_iteration_in_common():
    drawn = []
    for seed in range(2):
        trainer = a_trainer("rloo", seed=seed, iterations=3, learning_rate=1e-12, epochs=1)
        trainer.prompts = PROMPTS[:1]
        drawn += [tuple(one.response for one, _ in trainer.latest) for _ in trainer.run()]
    assert len(set(drawn)) == 6


def test_prompts_of_best_of_n_have_draws_of_their_own():
    """256 to a prompt are drawn prompt by prompt: the second of seed 0 are not the first of seed 1."""
    by_seed = [
        best_of_n(randomised(a_model()), BARE, PROMPTS[:1] * 2, vowels, n=256, max_new_tokens=4, seed=seed)
        for seed in range(2)
    ]
    assert len({one.responses for found in by_seed for one in found}) == 4


@pytest.mark.parametrize(
    ("reward", "said"),
    [
        (lambda _, texts: [1.0], "the reward gave 1 for 9 responses: must be a number for each"),
        (lambda _, texts: None, "the reward gave null: must be a number for each response"),
        (lambda _, texts: [float("nan")] * len(texts), "the reward gave nan for .*: must be from -1e30"),
        (lambda _, texts: [1e39] * len(texts), "the reward gave 1e.39 for .*: must be from -1e30"),
    ],
)
def test_a_reward_is_one_finite_number_for_each_response(reward, said):
    config = PolicyConfig(prompts_per_iteration=9, max_new_tokens=3)
    with pytest.raises(InputError, match=said):
        next(PolicyTrainer(a_model(), BARE, PROMPTS, reward, config, PPO()).run())
    with pytest.raises(InputError, match=said):
        best_of_n(a_model(), BARE, PROMPTS, reward, n=3, max_new_tokens=3)


def test_a_reward_may_be_a_whole_number():
    def length(prompts, responses) -> list[int]:
        return list(map(len, responses))

    config = replace(QUICK, iterations=1, max_new_tokens=5)
    [one] = PolicyTrainer(a_model(), BARE, PROMPTS, length, config, PPO()).run()
    assert 0 < one.reward < 5


def test_a_response_that_was_stopped_without_an_end_earns_what_the_dial_says():
    [plain] = a_trainer(iterations=1, max_new_tokens=2).run()
    [fined] = a_trainer(iterations=1, max_new_tokens=2, unended_reward=-3.0).run()
    assert plain.unended == fined.unended > 0.9
    assert fined.reward == pytest.approx(-3.0 * plain.unended, abs=0.1) and plain.reward >= 0


def test_the_responses_to_a_prompt_stay_together_in_a_step():
    trainer = a_trainer("rloo", batch=8)
    experience = trainer._explore(np.random.default_rng(0))
    parts = list(trainer._parts(experience, np.random.default_rng(1)))
    assert [len(part.samples) for part in parts] == [8] * 8  # two epochs of 32
    for part in parts:
        assert len({id(s) for s in part.samples}) == 8
        for group in (part.samples[:4], part.samples[4:]):
            assert len({one.prompt for one in group}) == 1
    assert {id(s) for part in parts[:4] for s in part.samples} == {id(s) for s in experience.samples}


@pytest.mark.parametrize("name", METHODS)
def test_neither_model_drops_anything_while_a_policy_learns(name):
    [one] = a_trainer(name, a_model(dropout=0.5), iterations=1, epochs=1, batch=32).run()
    assert one.kl_nats == pytest.approx(0, abs=1e-6) and one.kl_k3_nats == pytest.approx(0, abs=1e-6)
    assert one.clipped == 0


def test_what_is_gathered_are_the_rows_of_each_response_read_alone():
    policy, first, experience = an_experience()
    for n, one in enumerate(experience.samples):
        real = experience.mask[n]
        assert real.sum() == len(one.ids)
        assert experience.log_p[n][real].tolist() == pytest.approx(log_p_alone(policy.language_model, one).tolist())
        assert experience.first_log_p[n][real].tolist() == pytest.approx(log_p_alone(first, one).tolist())
        ids = torch.tensor([*one.prompt_ids.tolist(), *one.ids.tolist()])
        states = hidden_states(policy.language_model.backbone, ids)[len(one.prompt_ids) - 1 : -1]
        assert experience.values[n][real].tolist() == pytest.approx(policy.value(states)[:, 0].tolist())
        assert not experience.log_p[n][~real].any() and not experience.values[n][~real].any()


def test_some_of_an_experience_is_what_these_responses_alone_would_be():
    _, _, experience = an_experience()
    part = experience.part([5, 0])
    assert part.samples == [experience.samples[5], experience.samples[0]]
    for name in ("rewards", "mask", "log_p", "first_log_p", "values", "advantages", "returns"):
        assert torch.equal(getattr(part, name), getattr(experience, name)[[5, 0]])


def test_rows_of_tokens_are_filled_in_their_order_and_keep_their_gradient():
    mask = torch.tensor([[True, True, False], [True, False, False]])
    flat = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    rows = as_rows(flat, mask)
    assert rows.tolist() == [[1, 2, 0], [3, 0, 0]]
    rows.square().sum().backward()
    assert flat.grad.tolist() == [2, 4, 6]


# What an iteration tells


def test_both_estimates_of_kl_are_right_on_average_and_k3_is_never_negative():
    """The exact distance is Σ over prefixes of Σ over all next tokens; the estimates know the drawn ones alone."""
    policy, first = moved_policy(has_value=False)
    samples = sample(policy.language_model, BARE, PROMPTS[:1] * 4000, max_new_tokens=3, seed=0)
    experience = gather(policy, first, samples, torch.zeros(len(samples)))
    exact = []
    for one in samples[:200]:
        ids = torch.tensor([*one.prompt_ids.tolist(), *one.ids.tolist()])
        log_p, log_q = (
            (hidden_states(m.backbone, ids) @ m.backbone.embedding.weight.T).log_softmax(-1)[
                len(one.prompt_ids) - 1 : -1
            ]
            for m in (policy.language_model, first)
        )
        exact.append((log_p.exp() * (log_p - log_q)).sum().item())
    found = measure(experience, has_value=False)
    behind = (experience.first_log_p - experience.log_p).double()
    k3 = (behind.exp() - 1 - behind).sum(1)
    k1 = experience.kl_nats.double()
    assert found["kl_nats"] == pytest.approx(k1.mean().item()) and found["kl_k3_nats"] == pytest.approx(
        k3.mean().item()
    )
    assert k1.min() < 0 <= k3.min()
    for estimate in (k1, k3):
        error = math.hypot((estimate.std() / len(samples) ** 0.5).item(), np.std(exact) / len(exact) ** 0.5)
        assert abs(estimate.mean().item() - np.mean(exact)) < 4 * error
    assert found["kl_nats"] > 0.05


def test_an_iteration_tells_means_over_responses_tokens_and_endings():
    _, _, experience = an_experience()
    log_p = [row[real] for row, real in zip(experience.log_p, experience.mask, strict=True)]
    found = measure(experience, has_value=False)
    assert found["reward"] == pytest.approx(experience.rewards.mean().item())
    assert found["entropy_nats"] == pytest.approx(-torch.cat(log_p).mean().item())
    assert found["tokens"] == pytest.approx(np.mean([len(one.ids) for one in experience.samples]))
    assert found["unended"] == np.mean([not one.has_end for one in experience.samples])
    assert found["explained_variance"] is None


def test_the_entropy_is_that_of_the_distribution_on_average():
    model = randomised(a_model()).eval()
    samples = sample(model, BARE, PROMPTS[:1] * 4000, max_new_tokens=1, seed=0)
    experience = gather(Policy(model), model, samples, torch.zeros(len(samples)))
    ids = torch.tensor(samples[0].prompt_ids.tolist())
    log_p = (hidden_states(model.backbone, ids)[-1] @ model.backbone.embedding.weight.T).log_softmax(-1)
    exact, spread = -(log_p.exp() * log_p).sum().item(), experience.log_p.std().item() / len(samples) ** 0.5
    assert measure(experience, has_value=False)["entropy_nats"] == pytest.approx(exact, abs=4 * spread)


def test_explained_variance_is_one_for_a_value_that_knows_and_zero_for_one_that_is_constant():
    _, _, experience = an_experience()
    returns = torch.randn(experience.mask.shape, dtype=torch.float64) * experience.mask
    knows, constant = replace(experience, returns=returns, values=returns + 3 * experience.mask), experience.mask * 7.0
    assert measure(knows, has_value=True)["explained_variance"] == pytest.approx(1)
    ignorant = replace(experience, returns=returns, values=constant.double())
    assert measure(ignorant, has_value=True)["explained_variance"] == pytest.approx(0)


def test_an_adaptive_price_rises_where_the_policy_is_too_far_and_falls_where_it_is_near():
    assert adapted(0.1, 6.0, None) == 0.1
    assert adapted(0.1, 5.5, 5.0) == pytest.approx(0.1 * (1 + 0.1 * 0.1))
    assert adapted(0.1, 500.0, 5.0) == pytest.approx(0.1 * 1.02)
    assert adapted(0.1, -3.0, 5.0) == pytest.approx(0.1 * 0.98)


# PPO


@pytest.mark.parametrize("decay", [0.0, 0.7, 1.0])
def test_advantages_are_their_sum(decay):
    generator = torch.Generator().manual_seed(0)
    lengths = [5, 1, 3]
    mask = torch.arange(5) < torch.tensor(lengths)[:, None]
    rewards, values = (torch.randn(3, 5, generator=generator, dtype=torch.float64) * mask for _ in range(2))
    found = generalised_advantages(rewards, values, decay)
    for n, length in enumerate(lengths):
        value = [*values[n, :length].tolist(), 0.0]
        for t in range(length):
            terms = [decay ** (k - t) * (rewards[n, k].item() + value[k + 1] - value[k]) for k in range(t, length)]
            assert found[n, t].item() == pytest.approx(sum(terms), abs=1e-12)
    assert not found[~mask].any()


def test_what_is_still_to_come_is_the_reward_less_the_price_of_distance():
    _, _, experience = an_experience()
    judged = PPO(decay=1.0).judge(experience, 3, 0.3)
    for n, reward in enumerate(experience.rewards.tolist()):
        real = experience.mask[n]
        apart = (experience.log_p[n] - experience.first_log_p[n])[real].tolist()
        to_come = [reward - 0.3 * sum(apart[t:]) for t in range(len(apart))]
        assert judged.returns[n][real].tolist() == pytest.approx(to_come, abs=1e-9)
    whitened = judged.advantages[judged.mask]
    assert whitened.mean().item() == pytest.approx(0, abs=1e-9) and whitened.std().item() == pytest.approx(1, abs=1e-6)
    raw = (judged.returns - judged.values)[judged.mask]
    assert np.corrcoef(raw, whitened)[0, 1] == pytest.approx(1)


def test_the_reward_stands_behind_each_responses_own_last_token():
    _, _, experience = an_experience()
    judged = PPO(decay=0.0).judge(experience, 3, 0.3)
    for n, reward in enumerate(experience.rewards.tolist()):
        real = experience.mask[n]
        apart = (experience.log_p[n] - experience.first_log_p[n])[real].tolist()
        earned = [-0.3 * each for each in apart[:-1]] + [reward - 0.3 * apart[-1]]
        next_values = [*experience.values[n][real].tolist()[1:], 0.0]
        expected = [one + value for one, value in zip(earned, next_values, strict=True)]
        assert judged.returns[n][real].tolist() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("advantage", [1.5, -1.5])
@pytest.mark.parametrize("ratio", [0.5, 0.95, 1.0, 1.05, 2.0])
def test_a_gain_is_clipped_only_where_it_would_go_further_out(advantage, ratio):
    r = torch.tensor(ratio, dtype=torch.float64, requires_grad=True)
    gain, clipped = clipped_gain(r, torch.tensor(advantage, dtype=torch.float64), 0.1)
    expected, outside = kept_in(r, advantage, 0.1)
    assert gain.item() == pytest.approx(expected.item()) and clipped.item() == outside
    gain.backward()
    assert r.grad.item() == pytest.approx(0 if outside else advantage)


def test_the_loss_of_ppo_is_that_of_a_loop_over_tokens_and_knows_its_clip():
    policy, _, experience = an_experience()
    method = PPO(clip=0.1, value_weight=0.25)
    experience = since_learned(method.judge(experience, 3, 0.05))
    loss, clipped = method.loss(*policy(packed(experience.samples, policy.device)), experience, 0.05)
    total, held = [], []
    for n, one in enumerate(experience.samples):
        ids = torch.tensor([*one.prompt_ids.tolist(), *one.ids.tolist()])
        values = policy.value(hidden_states(policy.language_model.backbone, ids)[len(one.prompt_ids) - 1 : -1])[:, 0]
        for t, log_p in enumerate(log_p_alone(policy.language_model, one)):
            ratio = (log_p - experience.log_p[n, t]).exp()
            gain, outside = kept_in(ratio, experience.advantages[n, t].item(), 0.1)
            total.append(0.25 * (values[t] - experience.returns[n, t]) ** 2 - gain)
            held.append(bool(outside))
    assert 0 < sum(held) < len(held) and clipped.tolist() == held
    same_gradient(policy, loss, torch.stack(total).mean())


# RLOO


def test_an_advantage_of_rloo_is_what_a_response_earns_above_the_mean_of_the_others():
    _, _, experience = an_experience(has_value=False)
    judged = RLOO().judge(experience, 3, 0.3)
    for n in range(9):
        earned = [
            experience.rewards[i].item() - 0.3 * (experience.log_p[i] - experience.first_log_p[i]).sum().item()
            for i in range(3 * (n // 3), 3 * (n // 3) + 3)
        ]
        others = [value for i, value in enumerate(earned) if i != n % 3]
        expected = earned[n % 3] - np.mean(others)
        real = judged.mask[n]
        assert judged.advantages[n][real].tolist() == pytest.approx([expected] * int(real.sum()))
        assert not judged.advantages[n][~real].any()


def test_the_loss_of_rloo_is_that_of_a_loop_over_responses_and_knows_its_clip():
    policy, _, experience = an_experience(has_value=False)
    method = RLOO(clip=0.1)
    experience = since_learned(method.judge(experience, 3, 0.3))
    loss, clipped = method.loss(*policy(packed(experience.samples, policy.device)), experience, 0.3)
    total, held = [], []
    for n, one in enumerate(experience.samples):
        ratio = (log_p_alone(policy.language_model, one).sum() - experience.log_p[n].sum()).exp()
        gain, outside = kept_in(ratio, experience.advantages[n, 0].item(), 0.1)
        total.append(-gain)
        held.append(bool(outside))
    assert 0 < sum(held) < len(held) and clipped.tolist() == held
    same_gradient(policy, loss, torch.stack(total).mean())


def test_the_first_step_of_rloo_is_reinforce():
    policy, _, experience = an_experience(has_value=False)
    judged = RLOO().judge(experience, 3, 0.3)
    loss, _ = RLOO().loss(*policy(packed(judged.samples, policy.device)), judged, 0.3)
    ours = torch.autograd.grad(loss, list(policy.language_model.parameters()))
    log_p = torch.stack([log_p_alone(policy.language_model, one).sum() for one in judged.samples])
    theirs = torch.autograd.grad(-(judged.advantages[:, 0] * log_p).mean(), list(policy.language_model.parameters()))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9)


def test_the_gradient_of_rloo_is_that_of_what_is_expected():
    """Over all pairs of responses of one token, each as often as the policy draws it, it is ∇E[r], of any baseline."""
    logits = torch.tensor([0.3, -0.2, 0.9], dtype=torch.float64, requires_grad=True)
    earns = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    p = logits.softmax(0)
    total = torch.zeros(3, dtype=torch.float64)
    one = Sample((), "", np.zeros(1, np.int32), np.zeros(1, np.int32), True)
    for i, j in product(range(3), repeat=2):
        old, rewards = (
            torch.stack([logits[[i, j]].detach() * 0, logits[[i, j]].detach() * 0])[0][:, None],
            earns[[i, j]],
        )
        mask = torch.ones(2, 1, dtype=torch.bool)
        log_p = logits.log_softmax(0)[[i, j]]
        experience = Experience(
            [one, one], rewards, mask, log_p.detach()[:, None], log_p.detach()[:, None], old, old, old
        )
        judged = RLOO().judge(experience, 2, 0.0)
        loss, _ = RLOO().loss(log_p, torch.zeros(2), judged, 0.0)
        total += (p[i] * p[j]).detach() * torch.autograd.grad(loss, logits)[0]
    expected = torch.autograd.grad(-(logits.softmax(0) * earns).sum(), logits)[0]
    torch.testing.assert_close(total, expected)


# GRPO


def test_an_advantage_of_grpo_is_how_far_a_reward_stands_from_its_group():
    _, _, experience = an_experience(has_value=False)
    judged = GRPO().judge(experience, 3, 0.3)
    for n in range(9):
        rewards = experience.rewards[3 * (n // 3) : 3 * (n // 3) + 3].tolist()
        expected = (rewards[n % 3] - np.mean(rewards)) / (np.std(rewards, ddof=1) + 1e-4)
        real = judged.mask[n]
        assert judged.advantages[n][real].tolist() == pytest.approx([expected] * int(real.sum()))
        assert not judged.advantages[n][~real].any()
    alike = GRPO().judge(replace(experience, rewards=torch.ones(9)), 3, 0.3)
    assert not alike.advantages.any()


def test_the_loss_of_grpo_is_that_of_a_loop_over_tokens_and_responses():
    policy, first, experience = an_experience(has_value=False)
    method = GRPO(clip=0.1)
    experience = since_learned(method.judge(experience, 3, 0.3))
    loss, clipped = method.loss(*policy(packed(experience.samples, policy.device)), experience, 0.3)
    total, held = [], []
    for n, one in enumerate(experience.samples):
        ours, theirs = log_p_alone(policy.language_model, one), log_p_alone(first, one).detach()
        terms = []
        for t in range(len(one.ids)):
            ratio = (ours[t] - experience.log_p[n, t]).exp()
            gain, outside = kept_in(ratio, experience.advantages[n, t].item(), 0.1)
            k3 = (theirs[t] - ours[t]).exp() - (theirs[t] - ours[t]) - 1
            terms.append(0.3 * k3 - gain)
            held.append(bool(outside))
        total.append(torch.stack(terms).mean())
    assert 0 < sum(held) < len(held) and clipped.tolist() == held
    same_gradient(policy, loss, torch.stack(total).mean())


@pytest.mark.parametrize("method", [RLOO(), GRPO()])
def test_a_method_that_compares_responses_refuses_one_to_a_prompt(method):
    with pytest.raises(InputError, match=f"samples_per_prompt=1 must be at least 2: {method.name} compares a response"):
        PolicyTrainer(a_model(), BARE, PROMPTS, vowels, PolicyConfig(), method)


# DPO


def comparisons() -> list[Comparison]:
    return [
        Comparison(PROMPTS[0], ("good", "bad one", "worst of all"), (3.0, 2.0, 1.0)),
        Comparison(PROMPTS[2], ("no", "yes!"), (0.0, 1.0), probability=0.8),
        Comparison(PROMPTS[1], ("a", "b"), (1.0, 0.0), weight=2.0),
    ]


def test_the_first_step_of_dpo_has_the_loss_and_the_gradient_of_a_loop_over_pairs():
    policy, first = moved_policy(has_value=False)
    items = list(tokenize(comparisons(), BARE))
    learner = DPO(first, BARE, items, DPOConfig(kl_weight=0.3))
    with torch.no_grad():
        for ours, moved in zip(learner.policy.parameters(), policy.parameters(), strict=True):
            ours.copy_(moved)
    assert all(
        torch.equal(a, b) for a, b in zip(learner.first.parameters(), moved_policy()[1].parameters(), strict=True)
    )
    total, weights, right, pairs, best, worst = 0.0, 0.0, 0.0, 0, [], []
    for comparison, item in zip(comparisons(), items, strict=True):
        r = [
            0.3 * (log_p_alone(policy.language_model, s).sum() - log_p_alone(learner.first, s).sum())
            for s in (Sample((), "", item.prompt, ids, True) for ids in item.responses)
        ]
        losses = []
        for i, j in product(range(len(r)), repeat=2):
            if comparison.scores[i] > comparison.scores[j]:
                p = comparison.probability
                x = r[i] - r[j]
                losses.append(-p * torch.nn.functional.logsigmoid(x) - (1 - p) * torch.nn.functional.logsigmoid(-x))
                right, pairs = right + float(x > 0), pairs + 1
        total, weights = total + comparison.weight * torch.stack(losses).mean(), weights + comparison.weight
        best.append(r[int(np.argmax(comparison.scores))].item())
        worst.append(r[int(np.argmin(comparison.scores))].item())
    expected = total / weights
    gradients = torch.autograd.grad(expected, list(policy.language_model.parameters()))
    norm = math.sqrt(sum(g.square().sum().item() for g in gradients))
    [found] = [next(learner.run())]
    assert found.loss == pytest.approx(expected.item()) and found.gradient_norm == pytest.approx(norm)
    assert found.accuracy == pytest.approx(right / pairs)
    assert (found.chosen, found.rejected) == pytest.approx((np.mean(best), np.mean(worst)))


def test_dpo_begins_at_log_two_and_learns_the_order_of_its_pairs():
    items = list(tokenize(comparisons(), BARE))
    found = list(DPO(a_model(), BARE, items, DPOConfig(epochs=40, learning_rate=3e-3)).run())
    assert found[0].loss == pytest.approx(math.log(2), rel=1e-5) and found[0].accuracy == 0.5
    assert found[-1].loss < 0.5 and found[-1].accuracy == 1.0 and found[-1].chosen > found[-1].rejected
    assert [one.iteration for one in found] == list(range(1, 41))


def test_chosen_is_what_a_label_finds_better():
    """A pair whose label is rather false than true is one the other way round."""
    pair = comparisons()[0]
    told = []
    for one in (pair, replace(pair, scores=pair.scores[::-1], probability=0.0)):
        trainer = DPO(
            a_model(), BARE, list(tokenize([one] * 2, BARE)), DPOConfig(epochs=9, batch=2, learning_rate=0.01)
        )
        told.append(list(trainer.run())[-1])
    for last in told:
        assert last.accuracy == 1 and last.chosen > 0 > last.rejected
    assert told[0].chosen == pytest.approx(told[1].chosen, rel=1e-4)


def test_an_epoch_of_dpo_meets_every_comparison_once():
    items = list(tokenize(comparisons() * 3, BARE))
    learner = DPO(a_model(), BARE, items, DPOConfig(epochs=2, batch=4))
    assert (learner.steps_per_epoch, learner.iterations) == (3, 6)
    met = []
    for learner.done in range(6):
        met.append([id(item) for item in learner._batch()])
    for epoch in (met[:3], met[3:]):
        assert sorted(n for step in epoch for n in step) == sorted(map(id, items))
    assert met[:3] != met[3:]
