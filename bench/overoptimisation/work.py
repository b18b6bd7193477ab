"""What is computed, piece by piece: first policy, proxies, draws, policies that learn. What is finished is kept.

The first policy is a language model that was fine-tuned on the known-truth world's reviews, good ones and bad ones. A
proxy begins with its weights and learns from comparisons whose labels are drawn from true utilities. Every text has a
utility: `World.utility` reads it off the text, and a text that is no review loses what its sentences are odd.
"""
# A process has one plan, and what its methods remember is to be remembered:
# ruff: noqa: B019

import inspect
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.architectures.provenance import code_digest
from bench.overoptimisation.plan import Followed, Plan, Proxy, Way
from bench.recipes.common import Setting
from minirm.config import ModelConfig, PackingConfig, TrainConfig
from minirm.data.comparison import Comparison
from minirm.evaluation.scoring import RewardScorer
from minirm.files.records import to_json
from minirm.hub.load import load
from minirm.models.language_model import LanguageModel
from minirm.models.reward_model import RewardModel
from minirm.policies.best_of_n import best_of_n
from minirm.policies.follow import reward_of
from minirm.policies.grpo import GRPO
from minirm.policies.ppo import PPO
from minirm.policies.rloo import RLOO
from minirm.policies.sampling import Dialogue, Reward, sample
from minirm.policies.trainer import PolicyTrainer
from minirm.runs.run_config import DataConfig, RunConfig
from minirm.runs.run_folder import load_language_model
from minirm.training.loop import Trainer
from minirm.training.objectives import LanguageModelObjective, RewardObjective
from minirm.worlds.grammar import Judged, World, WorldConfig

CONTEXT = 192
POLICY, VALIDATION, TEST, BEST, FIRST, SHOWN, LEARNING, PILOT, TRAINING = range(1, 10)
"""What draws of the world are for: each has seeds of its own, and so prompts of its own; `TRAINING` is the highest.

Proxies of `PILOT` are those by which the plan's learning rate and passes were chosen; nothing is measured of them.
"""
SCORED_AT_ONCE = 64
"""Responses to one prompt."""


@dataclass(frozen=True)
class Work:
    """Everything that a plan asks for; each method returns what it has, or computes it first."""

    setting: Setting
    plan: Plan

    @cached_property
    def world(self) -> World:
        """The truth."""
        return World()

    @cache
    def policy(self) -> Path:
        """Return the run of the first policy."""
        plan = self.plan
        config = RunConfig(
            DataConfig((self._file("reviews", draw(plan.reviews, POLICY)),), language_model_responses="all"),
            ModelConfig(layers=plan.layers, width=plan.width, max_positions=CONTEXT),
            PackingConfig(tokens_per_batch=2048, max_tokens=CONTEXT),
            TrainConfig(epochs=plan.review_epochs, learning_rate=3e-3),
            TrainConfig(),
            stage="lm",
        )
        return self.setting.trained(config, f"policy-{_code()}")

    @cache
    def proxy(self, one: Proxy) -> Path:
        """Return the run of a proxy."""
        plan = self.plan
        epochs = plan.epochs[plan.sizes.index(one.comparisons)]
        files = {
            "training": self._file("training", draw(one.comparisons, TRAINING + one.seed)),
            "validation": self._file("validation", draw(plan.validation, VALIDATION)),
        }
        config = RunConfig(
            DataConfig((files["training"],), (files["validation"],)),
            ModelConfig(layers=plan.layers, width=plan.width, max_positions=CONTEXT),
            PackingConfig(comparisons_per_batch=16, max_tokens=CONTEXT),
            TrainConfig(),
            TrainConfig(epochs=epochs, learning_rate=1e-3, evaluate_every=epochs / 4, average_read=True,
                        seed=10 * one.seed + one.member),
            stage="reward",
            start=self.policy(),
        )  # fmt: skip
        return self.setting.trained(config, f"proxy-{one.comparisons}-{one.seed}-{one.member}-{_code()}")

    def _file(self, name: str, judged: Sequence[Judged]) -> Path:
        lines = "".join(json.dumps(to_json(one.comparison), ensure_ascii=False) + "\n" for one in judged)
        return self.setting.keep(f"{name}.jsonl", lines)

    @cache
    def drawn(self) -> dict:
        """Return what the first policy writes: {"texts", "gold"} (P, N) for best of n, and "first", gold alone."""
        plan, policy = self.plan, self.policy()

        def compute() -> dict:
            model, tokenizer = load_language_model(policy)
            most = plan.policy.max_new_tokens
            found = best_of_n(model, tokenizer, self.prompts(), self.gold, n=plan.draws, max_new_tokens=most)
            first = [one.comparison.prompt for one in draw(plan.first, FIRST)]
            written = sample(model, tokenizer, first, max_new_tokens=most, seed=0)
            gold = self.gold(first, [one.response for one in written])
            return {"texts": [one.responses for one in found], "gold": [one.rewards for one in found], "first": gold}

        return self._result("drawn", [plan.prompts, plan.draws, plan.first, plan.policy.max_new_tokens], compute)

    def prompts(self) -> list[Dialogue]:
        """Return the prompts of best of n."""
        return [one.comparison.prompt for one in draw(self.plan.prompts, BEST)]

    def test(self) -> list[Judged]:
        """Return the comparisons on which proxies are judged."""
        return draw(self.plan.test, TEST, responses=8)

    @cache
    def judged(self, one: Proxy) -> dict[str, list[list[float]]]:
        """Return the rewards of a proxy: "drawn" (P, N) of what the first policy wrote, "test" (B, 8)."""
        run = self.proxy(one)

        def compute() -> dict:
            scorer = load(run)
            found = {"test": scorer.score_comparisons([each.comparison for each in self.test()]), "drawn": []}
            for prompt, texts in zip(self.prompts(), self.drawn()["texts"], strict=True):
                parts = [texts[i : i + SCORED_AT_ONCE] for i in range(0, len(texts), SCORED_AT_ONCE)]
                rows = [Comparison(prompt, tuple(part), (0.0,) * len(part)) for part in parts]
                found["drawn"].append([reward for row in scorer.score_comparisons(rows) for reward in row])
            return {name: [[float(f"{r:.6g}") for r in row] for row in rows] for name, rows in found.items()}

        return self._result("judged", [run.name, self.plan.prompts, self.plan.draws, self.plan.test], compute)

    # ── Rewards ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def rewards(self, followed: Followed, seed: int, of: str) -> NDArray:
        """Return what a reward says of "drawn" or "test" texts, in logits; 0 on average over "drawn"."""
        several = np.array([self.judged(one)[of] for one in followed.proxies(seed)])
        return combined(several - self._means(followed, seed)[:, None, None], followed)

    def _means(self, followed: Followed, seed: int) -> NDArray:
        return np.array([np.mean(self.judged(one)["drawn"]) for one in followed.proxies(seed)])

    def spread(self, followed: Followed, seed: int) -> tuple[float, float]:
        """Return mean and standard deviation of a reward over what the first policy wrote."""
        drawn = self.rewards(followed, seed, "drawn") if followed.comparisons else np.array(self.drawn()["gold"])
        return float(drawn.mean()), float(drawn.std())

    def reward(self, followed: Followed, seed: int) -> Reward:
        """Return a reward as a function, its mean 0 and its spread 1 over what the first policy writes."""
        mean, deviation = self.spread(followed, seed)
        if not followed.comparisons:
            return lambda prompts, texts: (np.array(self.gold(prompts, texts)) - mean) / deviation
        members = [reward_of(load(self.proxy(one))) for one in followed.proxies(seed)]
        means = self._means(followed, seed)

        def reward(prompts: Sequence[Dialogue], texts: Sequence[str]) -> NDArray:
            several = np.array([member(prompts, texts) for member in members])  # (members, N)
            return (combined(several - means[:, None], followed) - mean) / deviation

        return reward

    def gold(self, prompts: Sequence[Dialogue], texts: Sequence[str]) -> list[float]:
        """Return true utilities."""
        return [self.world.utility(prompt, text) for prompt, text in zip(prompts, texts, strict=True)]

    # ── Policies that learn ───────────────────────────────────────────────────────────────────────────────────────────

    def shown(self) -> list[Dialogue]:
        """Return the prompts of which texts are shown."""
        return [one.comparison.prompt for one in draw(self.plan.shown, SHOWN)]

    def learned(self, way: Way, followed: Followed, seed: int) -> dict:
        """Return what each iteration of a policy drew before it learned from it, and what it writes after each window.

        Returns:
            "kl_nats", "kl_k3_nats", "unended", "tokens": one each iteration. "gold", "proxy": a list each iteration, of
            every response. "texts": by window. `kl_nats` is right on average.
        """
        plan, policy, dials = self.plan, self.policy(), self.plan.dials(way, seed)
        proxies = [self.proxy(one).name for one in followed.proxies(seed)]
        identity = [
            policy.name,
            proxies,
            followed,
            way.name,
            asdict(way.method),
            asdict(dials),
            [plan.window, plan.prompts, plan.draws, plan.shown],
        ]

        def compute() -> dict:
            model, tokenizer = load_language_model(policy)
            many = 2 * dials.iterations * dials.prompts_per_iteration  # so that four of five are new
            prompts = [one.comparison.prompt for one in draw(many, LEARNING)]
            trainer = PolicyTrainer(model, tokenizer, prompts, self.reward(followed, seed), dials, way.method)
            names = ("kl_nats", "kl_k3_nats", "unended", "tokens", "gold", "proxy", "texts")
            found: dict[str, list] = {name: [] for name in names}
            for iteration in trainer.run():
                for name in names[:4]:
                    found[name].append(getattr(iteration, name))
                samples, rewards = zip(*trainer.latest, strict=True)
                gold = self.gold([one.prompt for one in samples], [one.response for one in samples])
                found["gold"].append(gold)
                found["proxy"].append([float(f"{reward:.5g}") for reward in rewards])
                if iteration.iteration % plan.window == 0:
                    found["texts"].append([one.response for one in trainer.write(self.shown(), seed=seed)])
            return found

        return self._result("learned", identity, compute)

    def _result(self, name: str, identity: object, compute: object) -> dict:
        return self.setting.result(name, [identity, self.policy().name, _code()], compute)


@cache
def draw(n: int, what_for: int, **dials: int) -> list[Judged]:
    """Return comparisons of the world for a purpose, or for training with a seed."""
    return World(WorldConfig(seed=what_for, **dials)).sample(n, "train")


def combined(several: NDArray, followed: Followed) -> NDArray:
    """Return one reward of several members', the first axis: their mean, less their spread for a lower bound."""
    return several.mean(0) - (several.std(0) if followed.lower else 0)


COMPUTES = (PPO, RLOO, GRPO, LanguageModel, RewardModel, LanguageModelObjective, RewardObjective, Trainer, RewardScorer)
"""What else the code uses, by way of files, runs and plans."""


def _code() -> str:
    others = ((Path(inspect.getfile(kind)), kind.__name__) for kind in COMPUTES)
    return code_digest((Path(__file__), "Work"), *others)
