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

from minirm.data.records import Comparison
from minirm.data.splits import has_prompt, prompt_key, prompt_set
from minirm.disk import read_json, read_tensors, write_json, write_tensors, write_whole
from minirm.errors import InputError
from minirm.evaluation.report import Section, Table, write_report
from minirm.evaluation.scoring import RewardScorer
from minirm.models.language_model import LanguageModel
from minirm.policies.learner import Learner
from minirm.policies.log import PolicyLog
from minirm.policies.sampling import Dialogue, Reward, Sample
from minirm.runs.job import pick_device
from minirm.runs.journal import Observer
from minirm.runs.run_folder import (
    CONFIG,
    DATA,
    METRICS,
    PROMPTS,
    TOKENIZER,
    WEIGHTS,
    load_language_model,
    model_digest,
    prompt_array,
    read_prompts,
    write_prompts,
)
from minirm.tokens.tokenizer import Tokenizer

SAMPLES = "samples.jsonl"
BEGUN, STATE = "policy.json", "policy.safetensors"
"""What a run was begun with, which stays; and where it stands, until it is finished and has its metrics.json."""
SECONDS_BETWEEN_SAVES = 30
TEXTS = 10
"""Prompts of which the report shows what was written."""
DIGEST = "_digest"
"""How the names of what no option says end: what the files hold."""


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
    learner: Callable[[LanguageModel, Tokenizer], Learner]
    """Makes the learner of the policy."""
    dials: dict
    """All that decides how it learns."""
    max_new_tokens: int
    seed: int
    """Of what is shown."""
    inputs: dict[str, str] = field(default_factory=dict)
    """Where reward and prompts come from: a run that was begun with others is not gone on with."""
    reward_digest: str | None = None
    """What tells the reward from another at the same place."""
    written: list[Written] = field(default_factory=list)
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
                model, or can't write so much behind one of the prompts, or diverges.
        """
        self._check_folder()
        model, tokenizer = self._load_policy()
        learner = self.learner(model, tokenizer)
        before = learner.write(self.shown, seed=self.seed)
        if (self.out / STATE).is_file():
            self._restore(learner)
        self.log = PolicyLog(self.out, learner.done)
        with contextlib.closing(self.log):
            saved, self.iterations = time.monotonic(), learner.iterations
            observer.begin(self.method, learner.done, learner.iterations)
            for found in learner.run():
                self.log.add(found, learner.latest)
                yield found
                stop = observer.should_stop()
                if stop or time.monotonic() - saved > SECONDS_BETWEEN_SAVES:
                    self._save(learner)
                    saved = time.monotonic()
                if stop:
                    return
            self.written = self._compare(before, learner.write(self.shown, seed=self.seed))
            self._write(model.state_dict())

    def _compare(self, before: list[Sample], after: list[Sample]) -> list[Written]:
        columns = [[prompt[-1].text if prompt else "" for prompt in self.shown]]
        for samples in (before, after):
            texts = [one.response for one in samples]
            columns += [texts, self.reward(self.shown, texts), [not one.has_end for one in samples]]
        return [Written(*values) for values in zip(*columns, strict=True)]

    def _load_policy(self) -> tuple[LanguageModel, Tokenizer]:
        """Return the policy, which can write behind every prompt, and its tokenizer."""
        model, tokenizer = load_language_model(self.policy, pick_device())
        read_json(self.policy / DATA)  # what is handed on at the end is known to be there
        self.known = prompt_set(read_prompts(self.policy / PROMPTS))
        try:
            prompts = tokenizer.encode_prompts([*self.prompts, *self.shown])
            model.check_room(prompts, self.max_new_tokens)
        except InputError as error:
            raise InputError(f"{self.policy}: {error}") from None
        return model, tokenizer

    def _save(self, learner: Learner) -> None:
        write_json(self.out / BEGUN, self._begun_with)
        self.log.write()
        write_tensors(self.out / STATE, learner.state())

    def _restore(self, learner: Learner) -> None:
        path = self.out / STATE
        tensors = read_tensors(path)
        counts = (tensor for name, tensor in tensors.items() if name == "done" or name.endswith(".step"))
        finite = all(bool(tensor.isfinite().all()) for tensor in tensors.values())
        if not finite or min(map(int, counts), default=0) < 0:
            raise InputError(f"{path}: holds numbers that no policy saves: begin anew in another folder")
        try:
            learner.restore(tensors)
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
        named = {"method": self.method, "policy": str(self.policy), **self.inputs, **self.dials}
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
        for name in (CONFIG, TOKENIZER, DATA):
            shutil.copy(self.policy / name, self.out / name)
        here = (Comparison(prompt, ("",), (0.0,)) for prompt in self.prompts)
        keys = self.known | {prompt_key(one) for one in here if has_prompt(one)}
        write_prompts(self.out / PROMPTS, prompt_array(keys))
        write_tensors(self.out / WEIGHTS, weights)
        lines = "".join(json.dumps(vars(one), ensure_ascii=False) + "\n" for one in self.written)
        write_whole(self.out / SAMPLES, lambda path: path.write_text(lines, encoding="utf-8"))
        self.log.write()
        self._report()
        write_json(self.out / METRICS, means(self.written))
        (self.out / STATE).unlink(missing_ok=True)

    def _report(self) -> None:
        """Write the page: reward and endings before and after, the curves, and texts side by side."""
        found = means(self.written)
        before, after = found["reward_before"], found["reward_after"]
        verdict = (
            f"Mean reward over {len(self.written)} prompts not learned from: {before:.3f} before, {after:.3f} after."
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


def _change(name: str, before: object, now: dict) -> str:
    """Return what is to be said of something that is not as it was when the run began."""
    if name.endswith(DIGEST):
        what = name.removesuffix(DIGEST)
        return f"what {what}={now[what]} holds changed since this run began: begin anew in another folder"
    return f"was begun with {name}={before}, not {name}={now[name]}"


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
