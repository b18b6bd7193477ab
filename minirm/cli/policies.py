"""minirm ppo, rloo, grpo: a language model learns from a reward. minirm dpo: from comparisons themselves."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table
from tyro.conf import OmitArgPrefixes, Positional

from minirm.cli import STOPPED
from minirm.cli.console import new_console
from minirm.cli.watcher import Stopper
from minirm.config import PackingConfig
from minirm.errors import InputError
from minirm.files import disk
from minirm.files.pretrained import AnyTokenizer
from minirm.files.reading import names_of
from minirm.files.records import read_comparisons
from minirm.files.survey import usable
from minirm.hub.load import load
from minirm.models.language_model import LanguageModel
from minirm.policies.dpo import DPO, DPOConfig
from minirm.policies.follow import Follow, LearnerOf, Prompts, means, reward_of
from minirm.policies.grpo import GRPO
from minirm.policies.learner import Learner
from minirm.policies.ppo import PPO
from minirm.policies.prompts import read_prompts
from minirm.policies.rloo import RLOO
from minirm.policies.sampling import Dialogue, Reward
from minirm.policies.trainer import PolicyConfig, PolicyTrainer
from minirm.runs import run_folder
from minirm.runs.config_json import to_json
from minirm.tokens.packing import fit, tokenize
from minirm.worlds.films import praise
from minirm.worlds.grammar import World

SHOWN_SAMPLES = 4
LINES = 60
"""Lines about iterations that a run prints at most."""


@dataclass(frozen=True)
class Inputs:
    """What is learned from, and where it goes."""

    policy: Positional[Path]
    """Run of minirm train --stage lm."""
    out: Path
    """Folder for the policy, a run folder as well; empty, absent, or where this command was stopped."""
    reward: Path | None = None
    """Run of a reward model. By default, what share of a film review's opinions is praise, whatever the data."""
    data: tuple[Path, ...] = ()
    """Files or folders with prompts (dpo: with comparisons); the last tenth is for before and after. By default, the
    known-truth world's."""

    def reward_function(self) -> Reward:
        """Return the reward as a function of prompts and responses."""
        return reward_of(load(self.reward)) if self.reward else lambda prompts, texts: list(map(praise, texts))

    def job(self, method: str, prompts: Prompts, reward: Reward, learner: LearnerOf, *dials: object) -> Follow:
        """Return the job of a method; the first of its dials say how long a response may be, and the seed."""
        inputs = {"reward": str(self.reward), "data": names_of(self.data)}
        digest = run_folder.model_digest(self.reward) if self.reward else None
        asked = {name: value for some in dials for name, value in to_json(some).items()}
        ends = dials[0].max_new_tokens, dials[0].seed
        return Follow(self.policy, self.out, *prompts, reward, method, learner, asked, *ends, inputs, digest)


@dataclass(frozen=True)
class Ppo:
    """Let a language model learn from a reward by PPO, near the model that it was, and show what it wrote and writes.

    Stopped by Ctrl-C, which saves, or by a crash, the same command goes on.
    """

    inputs: OmitArgPrefixes[Inputs]
    dials: OmitArgPrefixes[PolicyConfig] = field(default_factory=PolicyConfig)
    method: OmitArgPrefixes[PPO] = field(default_factory=PPO)

    def run(self) -> int:
        """Train, print iterations, and at the end a table of prompts and outputs before and after."""
        disk.check_folder(self.inputs.out)
        reward = self.inputs.reward_function()
        if self.inputs.data:
            prompts = _split(read_prompts(self.inputs.data), names_of(self.inputs.data))
        else:
            prompts = tuple([one.comparison.prompt for one in World().sample(512, side)] for side in ("train", "test"))

        def learner(model: LanguageModel, tokenizer: AnyTokenizer) -> Learner:
            return PolicyTrainer(model, tokenizer, prompts[0], reward, self.dials, self.method)

        return _run(self.inputs.job(self.method.name, prompts, reward, learner, self.dials, self.method))


@dataclass(frozen=True)
class Rloo(Ppo):
    """The same by RLOO: each response is judged by the other responses to its prompt; no value is learned."""

    dials: OmitArgPrefixes[PolicyConfig] = field(
        default_factory=lambda: PolicyConfig(prompts_per_iteration=16, samples_per_prompt=4)
    )
    method: OmitArgPrefixes[RLOO] = field(default_factory=RLOO)


@dataclass(frozen=True)
class Grpo(Ppo):
    """The same by GRPO: rewards count by how far they stand from the mean of their prompt's; no value is learned."""

    dials: OmitArgPrefixes[PolicyConfig] = field(
        default_factory=lambda: PolicyConfig(prompts_per_iteration=8, samples_per_prompt=8)
    )
    method: OmitArgPrefixes[GRPO] = field(default_factory=GRPO)


@dataclass(frozen=True)
class Dpo:
    """Let a language model learn from comparisons by DPO, without a reward model; the reward only judges its texts."""

    inputs: OmitArgPrefixes[Inputs]
    dials: OmitArgPrefixes[DPOConfig] = field(default_factory=DPOConfig)

    def run(self) -> int:
        """Train, print steps, and at the end a table of prompts and outputs before and after."""
        disk.check_folder(self.inputs.out)
        counts: Counter[str] = Counter()
        if self.inputs.data:
            comparisons = list(usable(read_comparisons(self.inputs.data), counts))
        else:
            comparisons = [one.comparison for one in World().sample(4096, "train")]
        prompts = _split([one.prompt for one in comparisons], names_of(self.inputs.data))
        shown = set(prompts[1])
        learned = [one for one in comparisons if one.prompt not in shown]

        def learner(model: LanguageModel, tokenizer: AnyTokenizer) -> Learner:
            longest = PackingConfig(max_tokens=model.config.max_positions)
            return DPO(model, tokenizer, list(fit(tokenize(learned, tokenizer), longest, counts)), self.dials)

        return _run(self.inputs.job("DPO", prompts, self.inputs.reward_function(), learner, self.dials), counts)


def _split(prompts: Sequence[Dialogue], name: str) -> Prompts:
    """Return the prompts to learn from, and those for before and after."""
    distinct = list(dict.fromkeys(prompts))
    if len(distinct) < 2:
        raise InputError(f"{name}: must hold at least 2 distinct prompts, one of them to show, not {len(distinct)}")
    shown = -(-len(distinct) // 10)
    return distinct[:-shown], distinct[-shown:]


def _run(follow: Follow, counts: Counter[str] | None = None) -> int:
    console = new_console()
    reward = follow.inputs["reward"] if follow.reward_digest else "praise in film reviews, since no --reward is given"
    console.print(f"{'judged by' if follow.method == 'DPO' else 'follows'}: {reward}", soft_wrap=True)
    with Stopper() as stopper:
        _print_iterations(follow, stopper, console)
    for what, count in sorted((counts or {}).items()):
        console.print(f"{what}: {count:,}", soft_wrap=True)
    if not follow.written:
        console.print("stopped and saved; the same command goes on", soft_wrap=True)
        return STOPPED
    _print_written(follow, console)
    console.print(f"run: {follow.out}, report: {follow.out / 'report.html'}", soft_wrap=True)
    return 0


def _print_iterations(follow: Follow, stopper: Stopper, console: Console) -> None:
    began, first = time.monotonic(), 0
    for one in follow.run(stopper):
        first, most = first or one.iteration, follow.iterations
        every = -(-most // LINES)
        if one.iteration % every == 0 or one.iteration == most or stopper.stopped:
            left = (time.monotonic() - began) / (one.iteration - first + 1) * (most - one.iteration)
            console.print(f"{one.iteration} of {most}: {one}, about {left:,.0f} s left", soft_wrap=True)


def _print_written(follow: Follow, console: Console) -> None:
    written = follow.written
    table = Table("prompt", "before", "reward", "after", "reward")
    for one in written[:SHOWN_SAMPLES]:
        table.add_row(one.prompt, one.before, f"{one.reward_before:.3f}", one.after, f"{one.reward_after:.3f}")
    console.print(table)
    mean = means(written)
    rewards = f"{mean['reward_before']:.3f} before, {mean['reward_after']:.3f} after"
    stopped = f"{mean['unended_before']:.0%} before, {mean['unended_after']:.0%} after"
    prompts = f"{len(written)} prompts that {follow.method} did not learn from"
    console.print(f"mean reward over {prompts}: {rewards}; stopped without an end: {stopped}", soft_wrap=True)
