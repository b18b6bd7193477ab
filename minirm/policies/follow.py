"""A policy's learning on disk: a fine-tuned language model in, a policy out, how it went, and what it writes now."""

import contextlib
import hashlib
import json
import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from minirm.data.comparison import Comparison
from minirm.errors import InputError
from minirm.evaluation.report import Section, Table, write_report
from minirm.evaluation.scoring import RewardScorer
from minirm.files.disk import read_json, write_json, write_tensors, write_text
from minirm.files.pretrained import AnyTokenizer
from minirm.files.splits import has_prompt, prompt_key
from minirm.models.language_model import LanguageModel
from minirm.policies.learner import Learner
from minirm.policies.log import PolicyLog
from minirm.policies.sampling import Dialogue, Reward, Sample, rewards_of
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
LearnerOf = Callable[[LanguageModel, AnyTokenizer], Learner]
Prompts = tuple[list[Dialogue], list[Dialogue]]
"""Those to learn from, and those that are shown before and after."""
TEXTS = 10
"""Prompts of which the report shows what was written."""


@dataclass(frozen=True)
class Written:
    """What a policy wrote for a prompt before and after it learned, with rewards, and whether it had to be stopped."""

    prompt: str
    before: str
    reward_before: float
    unended_before: bool
    after: str
    reward_after: float
    unended_after: bool


@dataclass
class Follow:
    """Lets a language model learn; `run` yields what each iteration found, and `written` holds the end of it."""

    policy: Path
    out: Path
    prompts: Sequence[Dialogue]
    """Prompts that it learns from."""
    shown: Sequence[Dialogue]
    """Prompts that it does not learn from, for before and after."""
    reward: Reward
    method: str
    learner: LearnerOf
    """Makes the learner of the policy."""
    dials: dict
    """All that decides how it learns."""
    max_new_tokens: int
    seed: int
    """Of what is shown."""
    inputs: dict[str, str]
    """Where reward and prompts come from: a run that was begun with others is not gone on with."""
    reward_digest: str | None
    """What tells the reward from another at the same place."""
    written: list[Written] = field(default_factory=list)
    is_stopped: bool = False
    iterations: int = 0
    """How many there are in all; known once it runs."""

    def run(self, observer: Observer) -> Iterator[object]:
        """Train, and write the policy as a run folder of its own, with samples.jsonl beside it.

        A run that was stopped goes on from the last state that it saved: where the observer stopped it, else at most
        half a minute before.

        Args:
            observer: told when there begins to be something to save; may stop the run after any iteration, and
                `written` then stays empty.
        Raises:
            InputError: the folder holds something else than the beginning of this run, or the policy is no language
                model, or can't write so much behind one of the prompts, or diverges; or see `rewards_of`.
        """
        with claim(self.out, self._asked) as job:
            model, learner = self._load_policy()
            before = self._judged(learner.write(self.shown, seed=self.seed))
            if state := job.restore(observer.note):
                learner.restore(state)
            self.iterations = learner.iterations
            observer.begin(self.method, learner.done, learner.iterations)
            with contextlib.closing(PolicyLog(self.out, learner.done)) as self.log:
                yield from self._learn(learner, job, observer)
                if self.is_stopped:
                    return
                self.written = self._compare(before, self._judged(learner.write(self.shown, seed=self.seed)))
                job.begin()  # so that a part of the end is known for what it is
                self.log.write()
            self._finish(job, model.state_dict())

    def _learn(self, learner: Learner, job: Job, observer: Observer) -> Iterator[object]:
        """Yield what each iteration found, until the end or until the observer stops it, and save on the way."""
        saved = time.monotonic()
        for found in learner.run():
            self.log.add(found, learner.latest)
            yield found
            self.is_stopped = observer.should_stop()
            if self.is_stopped or time.monotonic() - saved > SECONDS_BETWEEN_SAVES:
                job.begin()
                self.log.write()
                job.save(*learner.state())
                saved = time.monotonic()
            if self.is_stopped:
                return

    def _judged(self, samples: list[Sample]) -> list[list]:
        """Return texts, their rewards, and whether they had to be stopped."""
        texts = [one.response for one in samples]
        return [texts, rewards_of(self.reward, self.shown, texts), [not one.has_end for one in samples]]

    def _compare(self, before: list[list], after: list[list]) -> list[Written]:
        prompts = [prompt[-1].text if prompt else "" for prompt in self.shown]
        return [Written(*values) for values in zip(prompts, *before, *after, strict=True)]

    def _load_policy(self) -> tuple[LanguageModel, Learner]:
        """Return the policy, with room behind every prompt that it is to answer, and its learner."""
        model, self.tokenizer = load_language_model(self.policy, pick_device())
        read_json(self.policy / DATA)  # what is handed on at the end is known to be there
        self.known = frozenset(map(bytes, read_prompts(self.policy / PROMPTS)))
        learner = self.learner(model, self.tokenizer)
        try:
            prompts = self.tokenizer.encode_prompts([*learner.prompts, *self.shown])
            model.check_room(prompts, self.max_new_tokens)
        except InputError as error:
            raise InputError(f"{self.policy}: {error}") from None
        return model, learner

    @cached_property
    def _asked(self) -> dict:
        """All that decides the run, once: as it was when the run looked at its folder."""
        prompts = json.dumps([list(self.prompts), list(self.shown)]).encode()
        digests = {
            "policy": model_digest(self.policy),
            "data": hashlib.blake2b(prompts, digest_size=16).hexdigest(),
            "reward": self.reward_digest,
        }
        named = {"method": self.method, "policy": str(self.policy), **self.inputs, **self.dials}
        return named | {f"{name}{DIGEST}": digest for name, digest in digests.items()}

    def _finish(self, job: Job, weights: dict) -> None:
        for name in (CONFIG, DATA):
            shutil.copyfile(self.policy / name, self.out / name)
        write_tokenizer(self.out, self.tokenizer)
        here = (Comparison(prompt, ("",), (0.0,)) for prompt in self.prompts)
        write_prompts(self.out / PROMPTS, self.known | {prompt_key(one) for one in here if has_prompt(one)})
        write_tensors(self.out / WEIGHTS, weights)
        lines = "".join(json.dumps(vars(one), ensure_ascii=False) + "\n" for one in self.written)
        write_text(self.out / SAMPLES, lines)
        self._report()
        write_json(self.out / METRICS, {**means(self.written), "asked": self._asked})
        job.finish()

    def _report(self) -> None:
        """Write the page: reward and endings before and after, the curves, and texts side by side."""
        found = means(self.written)
        before, after = found["reward_before"], found["reward_after"]
        verdict = (
            f"Mean reward over {len(self.written)} prompts that {self.method} did not learn from: {before:.3f} before, "
            f"{after:.3f} after."
        )
        rows = [(name, found[f"{name}_before"], found[f"{name}_after"]) for name in ("reward", "unended")]
        texts = [(t.prompt, t.before, t.reward_before, t.after, t.reward_after) for t in self.written[:TEXTS]]
        sections = [
            Section("Before and after", [Table(("mean over prompts", "before", "after"), rows)]),
            Section("How it learned", self.log.pictures()),
            Section("What it wrote", [Table(("prompt", "before", "reward", "after", "reward"), texts)]),
        ]
        title = f"{self.policy} learned by {self.method}"
        write_report(self.out / "report.html", title=title, verdict=verdict, sections=sections)


def means(written: Sequence[Written]) -> dict[str, float]:
    """Return the mean reward, and the share of responses that were stopped without an end, before and after."""
    names = ("reward_before", "reward_after", "unended_before", "unended_after")
    return {name: math.fsum(getattr(one, name) for one in written) / len(written) for name in names}


def reward_of(scorer: RewardScorer) -> Reward:
    """Return the rewards of a reward run as a function of prompts and responses."""

    def reward(prompts: Sequence[Dialogue], responses: Sequence[str]) -> list[float]:
        singles = [Comparison(prompt, (text,), (0.0,)) for prompt, text in zip(prompts, responses, strict=True)]
        return [value for (value,) in scorer.score_comparisons(singles)]

    return reward
