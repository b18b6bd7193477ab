"""minirm ppo: a language model learns from a reward."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table
from tyro.conf import OmitArgPrefixes, Positional

from minirm.cli import STOPPED
from minirm.cli.console import new_console
from minirm.cli.watcher import Stopper
from minirm.errors import InputError, name_paths
from minirm.files import disk
from minirm.files.records import read_comparisons
from minirm.hub.load import load
from minirm.policies.follow import Follow, Judged, mean_rewards, reward_of
from minirm.policies.ppo import Iteration, PPOConfig
from minirm.policies.sampling import Dialogue
from minirm.runs import run_folder
from minirm.worlds.films import praise
from minirm.worlds.grammar import World

SHOWN_SAMPLES = 4


@dataclass(frozen=True)
class Ppo:
    """Let a language model learn from a reward by PPO, near the model that it was, and show what it wrote and writes.

    Stopped by Ctrl-C, which saves, or by a crash, the same command goes on.
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
        """Train, print each iteration, and at the end a table of prompts and outputs before and after."""
        disk.check_folder(self.out)
        reward = reward_of(load(self.reward)) if self.reward else lambda prompts, texts: list(map(praise, texts))
        inputs = {"reward": str(self.reward), "data": name_paths(self.data)}
        digest = run_folder.model_digest(self.reward) if self.reward else None
        follow = Follow(self.policy, self.out, *self._prompts(), reward, self.dials, inputs, digest)
        console = new_console()
        with Stopper() as stopper:
            self._print_iterations(follow.run(stopper), console)
        if not follow.judged:
            console.print("stopped and saved; the same command goes on", soft_wrap=True)
            return STOPPED
        _print_judged(follow.judged, console)
        console.print(f"run: {self.out}", soft_wrap=True)
        return 0

    def _print_iterations(self, iterations: Iterator[Iteration], console: Console) -> None:
        began, first = time.monotonic(), 0
        for one in iterations:
            first, most = first or one.iteration, self.dials.iterations
            left = (time.monotonic() - began) / (one.iteration - first + 1) * (most - one.iteration)
            figures = f"reward {one.reward:.3f}, {one.kl_nats:.2f} nats away, {one.tokens:.0f} tokens a response"
            console.print(f"{one.iteration} of {most}: {figures}, about {left:,.0f} s left")

    def _prompts(self) -> tuple[list[Dialogue], list[Dialogue]]:
        """Return the prompts to learn from, and those for before and after."""
        if not self.data:
            return tuple([one.comparison.prompt for one in World().sample(512, split)] for split in ("train", "test"))
        prompts = list(dict.fromkeys(row.prompt for row in read_comparisons(self.data)))
        if len(prompts) < 2:
            raise InputError(f"{name_paths(self.data)}: one distinct prompt only: two are needed to show one")
        shown = -(-len(prompts) // 10)
        return prompts[:-shown], prompts[-shown:]


def _print_judged(judged: Sequence[Judged], console: Console) -> None:
    table = Table("prompt", "before", "reward", "after", "reward")
    for one in judged[:SHOWN_SAMPLES]:
        table.add_row(one.prompt, one.before, f"{one.reward_before:.3f}", one.after, f"{one.reward_after:.3f}")
    console.print(table)
    before, after = mean_rewards(judged)
    console.print(f"mean reward over {len(judged)} prompts not trained on: {before:.3f} before, {after:.3f} after")
