"""A run of PPO on disk: a fine-tuned language model in, a policy that follows a reward out, and what it writes now."""

import hashlib
import json
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from minirm.data.records import Comparison
from minirm.data.splits import has_prompt, prompt_key, prompt_set
from minirm.disk import read_json, read_tensors, write_json, write_tensors, write_whole
from minirm.errors import InputError
from minirm.evaluation.scoring import RewardScorer
from minirm.models.language_model import LanguageModel
from minirm.policies.ppo import PPO, Iteration, PPOConfig
from minirm.policies.sampling import Dialogue, Reward
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
    prompt_array,
    read_prompts,
    write_prompts,
    write_tokenizer,
)
from minirm.tokens.pretrained import AnyTokenizer

SAMPLES = "samples.jsonl"
BEGUN, STATE = "ppo.json", "ppo.safetensors"
"""What a run was begun with, which stays; and where it stands, until it is finished and has its metrics.json."""
SECONDS_BETWEEN_SAVES = 30
DIGEST = "_digest"
"""How the names of what no option says end: what the files hold."""


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
        self._check_folder()
        model, tokenizer = self._load_policy()
        ppo = PPO(model, tokenizer, self.prompts, self.reward, self.config)
        before = [one.response for one in ppo.write(self.shown, seed=self.config.seed)]
        if (self.out / STATE).is_file():
            self._restore(ppo)
        saved = time.monotonic()
        observer.begin("ppo", ppo.done, self.config.iterations)
        for iteration in ppo.run():
            yield iteration
            stop = observer.should_stop()
            if stop or time.monotonic() - saved > SECONDS_BETWEEN_SAVES:
                self._save(ppo)
                saved = time.monotonic()
            if stop:
                return
        after = [one.response for one in ppo.write(self.shown, seed=self.config.seed)]
        rewards = self.reward(self.shown, before), self.reward(self.shown, after)
        texts = [prompt[-1].text if prompt else "" for prompt in self.shown]
        self.judged = [Judged(*row) for row in zip(texts, before, rewards[0], after, rewards[1], strict=True)]
        self._write(model.state_dict())

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

    def _save(self, ppo: PPO) -> None:
        write_json(self.out / BEGUN, self._begun_with)
        write_tensors(self.out / STATE, ppo.state())

    def _restore(self, ppo: PPO) -> None:
        path = self.out / STATE
        tensors = read_tensors(path)
        counts = (tensor for name, tensor in tensors.items() if name == "done" or name.endswith(".step"))
        finite = all(bool(tensor.isfinite().all()) for tensor in tensors.values())
        if not finite or min(map(int, counts), default=0) < 0:
            raise InputError(f"{path}: holds numbers that no run of PPO saves: begin anew in another folder")
        try:
            ppo.restore(tensors)
        except (KeyError, RuntimeError):
            raise InputError(f"{path}: holds another model than {self.policy}: begin anew in another folder") from None

    @cached_property
    def _begun_with(self) -> dict:
        """All that decides the run, once: as it was when the run looked at its folder."""
        prompts = json.dumps([list(self.prompts), list(self.shown)]).encode()
        digests = {
            "policy": model_digest(self.policy),
            "data": hashlib.blake2b(prompts, digest_size=16).hexdigest(),
            "reward": self.reward_digest,
        }
        named = {"policy": str(self.policy), **self.inputs, **vars(self.config)}
        return named | {f"{name}{DIGEST}": digest for name, digest in digests.items()}

    def _check_folder(self) -> None:
        """Refuse a folder that is neither free nor where this run was stopped; nothing is written."""
        path, now = self.out / BEGUN, self._begun_with
        if path.is_file() and not (self.out / METRICS).is_file():
            begun = read_json(path)
            changed = [name for name in now if begun.get(name) != now[name]]
            if changed:
                raise InputError(f"{path}: {_change(changed[0], begun.get(changed[0]), now)}")
        elif self.out.is_dir() and any(self.out.iterdir()):
            raise InputError(f"{self.out}: is not empty; name another folder")

    def _write(self, weights: dict) -> None:
        write_json(self.out / BEGUN, self._begun_with)
        for name in (CONFIG, DATA):
            shutil.copy(self.policy / name, self.out / name)
        write_tokenizer(self.out, self.tokenizer)
        here = (Comparison(prompt, ("",), (0.0,)) for prompt in self.prompts)
        keys = self.known | {prompt_key(one) for one in here if has_prompt(one)}
        write_prompts(self.out / PROMPTS, prompt_array(keys))
        write_tensors(self.out / WEIGHTS, weights)
        lines = "".join(json.dumps(vars(one), ensure_ascii=False) + "\n" for one in self.judged)
        write_whole(self.out / SAMPLES, lambda path: path.write_text(lines, encoding="utf-8"))
        write_json(
            self.out / METRICS, dict(zip(("reward_before", "reward_after"), mean_rewards(self.judged), strict=True))
        )
        (self.out / STATE).unlink(missing_ok=True)


def _change(name: str, before: object, now: dict) -> str:
    """Return what is to be said of something that is not as it was when the run began."""
    if name.endswith(DIGEST):
        what = name.removesuffix(DIGEST)
        return f"what {what}={now[what]} holds changed since this run began: begin anew in another folder"
    return f"was begun with {name}={before}, not {name}={now[name]}"


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
