"""A run of PPO on disk: a fine-tuned language model in, a policy that follows a reward out, and what it writes now."""

import hashlib
import json
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from minirm.config_rules import to_json
from minirm.data.comparison import Comparison
from minirm.data.splits import has_prompt, prompt_key, prompt_set
from minirm.errors import InputError
from minirm.evaluation.scoring import RewardScorer
from minirm.files.disk import read_json, write_json, write_tensors, write_text
from minirm.files.pretrained import AnyTokenizer
from minirm.models.language_model import LanguageModel
from minirm.policies.ppo import PPO, Iteration, PPOConfig
from minirm.policies.sampling import Dialogue, Reward
from minirm.runs.claim import DIGEST, Job, claim
from minirm.runs.job import pick_device
from minirm.runs.journal import Observer
from minirm.runs.run_folder import (
    CONFIG,
    DATA,
    METRICS,
    PROMPTS,
    WEIGHTS,
    load_language_model,
    model_digest,
    read_prompts,
    write_prompts,
    write_tokenizer,
)

SAMPLES = "samples.jsonl"
SECONDS_BETWEEN_SAVES = 30


@dataclass(frozen=True)
class Judged:
    """What a policy wrote for a prompt before and after it learned, and the rewards of both."""

    prompt: str
    before: str
    reward_before: float
    after: str
    reward_after: float


@dataclass
class Follow:
    """Lets a language model learn from a reward; `run` yields each iteration, and `judged` holds the end of it."""

    policy: Path
    out: Path
    prompts: Sequence[Dialogue]
    shown: Sequence[Dialogue]
    """Prompts that it does not learn from, for before and after."""
    reward: Reward
    config: PPOConfig
    inputs: dict[str, str] = field(default_factory=dict)
    """Where reward and prompts come from: a run that was begun with others is not gone on with."""
    reward_digest: str | None = None
    """What tells the reward from another at the same place."""
    judged: list[Judged] = field(default_factory=list)

    def run(self, observer: Observer) -> Iterator[Iteration]:
        """Train, and write the policy as a run folder of its own, with samples.jsonl beside it.

        A run that was stopped goes on from the last state that it saved: where the observer stopped it, else at most
        half a minute before.

        Args:
            observer: told when there begins to be something to save; may stop the run after any iteration, and
                `judged` then stays empty.
        Raises:
            InputError: the folder holds something else than the beginning of this run, or the policy is no language
                model, or can't write so much behind one of the prompts, or diverges.
        """
        with claim(self.out, self._asked) as job:
            model, tokenizer = self._load_policy()
            ppo = PPO(model, tokenizer, self.prompts, self.reward, self.config)
            before = [one.response for one in ppo.write(self.shown, seed=self.config.seed)]
            if state := job.restore(observer.note):
                ppo.restore(state)
            saved = time.monotonic()
            observer.begin("ppo", ppo.done, self.config.iterations)
            for iteration in ppo.run():
                yield iteration
                stop = observer.should_stop()
                if stop or time.monotonic() - saved > SECONDS_BETWEEN_SAVES:
                    job.begin()
                    job.save(*ppo.state())
                    saved = time.monotonic()
                if stop:
                    return
            after = [one.response for one in ppo.write(self.shown, seed=self.config.seed)]
            rewards = self.reward(self.shown, before), self.reward(self.shown, after)
            texts = [prompt[-1].text if prompt else "" for prompt in self.shown]
            self.judged = [Judged(*row) for row in zip(texts, before, rewards[0], after, rewards[1], strict=True)]
            self._finish(job, model.state_dict())

    def _load_policy(self) -> tuple[LanguageModel, AnyTokenizer]:
        """Return the policy, which can write behind every prompt, and its tokenizer."""
        model, tokenizer = load_language_model(self.policy, pick_device())
        self.tokenizer = tokenizer
        read_json(self.policy / DATA)  # what is handed on at the end is known to be there
        self.known = prompt_set(read_prompts(self.policy / PROMPTS))
        try:
            prompts = tokenizer.encode_prompts([*self.prompts, *self.shown])
            model.check_room(prompts, self.config.max_new_tokens)
        except InputError as error:
            raise InputError(f"{self.policy}: {error}") from None
        return model, tokenizer

    @cached_property
    def _asked(self) -> dict:
        """All that decides the run, once: as it was when the run looked at its folder."""
        prompts = json.dumps([list(self.prompts), list(self.shown)]).encode()
        digests = {
            "policy": model_digest(self.policy),
            "data": hashlib.blake2b(prompts, digest_size=16).hexdigest(),
            "reward": self.reward_digest,
        }
        named = {"policy": str(self.policy), **self.inputs, **to_json(self.config)}
        return named | {f"{name}{DIGEST}": digest for name, digest in digests.items()}

    def _finish(self, job: Job, weights: dict) -> None:
        job.begin()  # so that a part of the end is known for what it is
        for name in (CONFIG, DATA):
            shutil.copyfile(self.policy / name, self.out / name)
        write_tokenizer(self.out, self.tokenizer)
        here = (Comparison(prompt, ("",), (0.0,)) for prompt in self.prompts)
        write_prompts(self.out / PROMPTS, self.known | {prompt_key(one) for one in here if has_prompt(one)})
        write_tensors(self.out / WEIGHTS, weights)
        lines = "".join(json.dumps(vars(one), ensure_ascii=False) + "\n" for one in self.judged)
        write_text(self.out / SAMPLES, lines)
        rewards = dict(zip(("reward_before", "reward_after"), mean_rewards(self.judged), strict=True))
        write_json(self.out / METRICS, {**rewards, "asked": self._asked})
        job.finish()


def mean_rewards(judged: Sequence[Judged]) -> tuple[float, float]:
    """Return the mean reward before and after."""
    count = len(judged)
    return sum(one.reward_before for one in judged) / count, sum(one.reward_after for one in judged) / count


def reward_of(scorer: RewardScorer) -> Reward:
    """Return the rewards of a reward run as a function of prompts and responses."""

    def reward(prompts: Sequence[Dialogue], responses: Sequence[str]) -> list[float]:
        singles = [Comparison(prompt, (text,), (0.0,)) for prompt, text in zip(prompts, responses, strict=True)]
        return [value for (value,) in scorer.score_comparisons(singles)]

    return reward
