"""minirm ppo: a language model learns from a reward."""

import time
from dataclasses import dataclass, field
from pathlib import Path

from rich.table import Table
from tyro.conf import OmitArgPrefixes, Positional

from minirm import checkpoint
from minirm.commands.console import new_console
from minirm.errors import InputError, name_paths
from minirm.films import praise
from minirm.records import read_comparisons
from minirm.rlhf.follow import Follow, mean_rewards, reward_of
from minirm.rlhf.ppo import PPOConfig
from minirm.rlhf.sampling import Dialogue
from minirm.scoring import load
from minirm.synthetic import World

SHOWN_SAMPLES = 4


@dataclass(frozen=True)
class Ppo:
    """Let a language model learn from a reward by PPO, near the model that it was, and show what it wrote and writes.

    Stopped by Ctrl-C or a crash, the same command goes on.
    """

    policy: Positional[Path]
    """Run of minirm train --stage lm."""
    out: Path
    """Folder for the policy, a run folder as well; empty, absent, or where this command was stopped."""
    reward: Path | None = None
    """Run of a reward model. By default, what share of a film review's opinions is praise."""
    data: tuple[Path, ...] = ()
    """Files or folders with prompts; the last tenth is for before and after. By default, the known-truth world's."""
    dials: OmitArgPrefixes[PPOConfig] = field(default_factory=PPOConfig)

    def run(self) -> int:
        """Train, and print a table of prompts and outputs before and after."""
        checkpoint.check_folder(self.out)
        reward = reward_of(load(self.reward)) if self.reward else lambda prompts, texts: list(map(praise, texts))
        inputs = {"reward": str(self.reward), "data": name_paths(self.data)}
        follow = Follow(self.policy, self.out, *self._prompts(), reward, self.dials, inputs)
        console, began, first = new_console(), time.monotonic(), 0
        for one in follow.run():
            first, iterations = first or one.iteration, self.dials.iterations
            left = (time.monotonic() - began) / (one.iteration - first + 1) * (iterations - one.iteration)
            figures = f"reward {one.reward:.3f}, {one.kl_nats:.2f} nats away, {one.tokens:.0f} tokens a response"
            console.print(f"{one.iteration} of {iterations}: {figures}, about {left:,.0f} s left")
        table = Table("prompt", "before", "reward", "after", "reward")
        for one in follow.judged[:SHOWN_SAMPLES]:
            rewards = (f"{reward:.3f}" for reward in (one.reward_before, one.reward_after))
            table.add_row(one.prompt, one.before, next(rewards), one.after, next(rewards))
        console.print(table)
        before, after = mean_rewards(follow.judged)
        console.print(
            f"mean reward over {len(follow.judged)} prompts not trained on: {before:.3f} before, {after:.3f} after"
        )
        console.print(f"run: {self.out}", soft_wrap=True)
        return 0

    def _prompts(self) -> tuple[list[Dialogue], list[Dialogue]]:
        """Return the prompts to learn from, and those for before and after."""
        if not self.data:
            return tuple([one.comparison.prompt for one in World().sample(512, split)] for split in ("train", "test"))
        prompts = list(dict.fromkeys(row.prompt for row in read_comparisons(self.data)))
        if len(prompts) < 2:
            raise InputError(f"{name_paths(self.data)}: one distinct prompt only: two are needed to show one")
        shown = -(-len(prompts) // 10)
        return prompts[:-shown], prompts[-shown:]
