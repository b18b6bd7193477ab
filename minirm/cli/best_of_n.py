"""minirm best-of-n: the simplest way to follow a reward, and what it would earn for every n."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from msgspec import Meta
from numpy.typing import NDArray
from rich.table import Table
from tyro.conf import Positional

from minirm.cli.console import UNPAIRED, new_console
from minirm.cli.watcher import counting
from minirm.config_rules import Count, Seed, check
from minirm.errors import InputError
from minirm.files import disk
from minirm.files.disk import write_whole
from minirm.hub.load import load
from minirm.intervals import FEWEST_UNBOUNDED, bootstrap_interval
from minirm.policies.best_of_n import Drawn, best_of_n, expected_best, kl_bound
from minirm.policies.follow import reward_of
from minirm.policies.prompts import read_prompts
from minirm.runs.job import pick_device
from minirm.runs.run_folder import load_language_model


@dataclass(frozen=True)
class BestOfN:
    """Draw n responses to each prompt and keep the one that a reward likes best.

    The table says what the best of 1, 2, 4, … and n would earn on average, without bias, from the same samples; the
    file says it of every number up to n, prompt by prompt.
    """

    policy: Positional[Path]
    """Run of minirm train --stage lm, or of a policy."""
    reward: Path
    """Run of a reward model."""
    prompts: tuple[Path, ...]
    """Files or folders of prompts, or of records that have one."""
    n: Count = 16
    """Responses that are drawn to each prompt."""
    max_new_tokens: Count = 96
    """Where a response without an end is stopped."""
    temperature: Annotated[float, Meta(ge=0.01, le=100)] = 1.0
    """Divides the logits; at 1 responses are drawn as probable as the model finds them."""
    out: Path | None = None
    """File for JSON Lines: each prompt, its best response and its reward, all responses and theirs, and what the best
    of 1, 2, 3, … n would earn on average."""
    seed: Seed = 0
    """Of the draws."""

    def __post_init__(self) -> None:
        check(self)

    def run(self) -> int:
        """Draw, choose, and print what each n earns."""
        if self.out is not None:
            disk.check_file(self.out)
        scorer = load(self.reward)
        model, tokenizer = load_language_model(self.policy, pick_device())
        prompts = read_prompts(self.prompts)
        try:
            model.check_room(tokenizer.encode_prompts(prompts), self.max_new_tokens)
        except InputError as error:
            raise InputError(f"{self.policy}: {error}") from None
        with counting("drawing", self.n * len(prompts)) as scorer.advance:
            limits = {"max_new_tokens": self.max_new_tokens, "temperature": self.temperature}
            drawn = best_of_n(model, tokenizer, prompts, reward_of(scorer), n=self.n, seed=self.seed, **limits)
        earned = expected_best([one.rewards for one in drawn])  # (P, N)
        if self.out is not None:
            records = map(_record, drawn, earned.tolist())
            lines = "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in records)
            write_whole(self.out, lambda path: path.write_text(lines, encoding="utf-8", errors=UNPAIRED))
        console, stopped = new_console(), sum(one.unended for one in drawn)
        console.print(self._table(earned))
        responses = f"{self.n} responses each; {stopped:,} of {earned.size:,}"
        console.print(f"{len(drawn)} prompts, {responses} were stopped without an end")
        return 0

    def _table(self, earned: NDArray) -> Table:
        """Return what the best of 1, 2, 4, … and n earns, of (P, N) estimates."""
        away = "KL, at most" if self.temperature == 1 else f"KL from temperature {self.temperature:g}, at most"
        table = Table("best of", "reward", "95% interval", away)
        for k in sorted({min(self.n, 2**i) for i in range(self.n.bit_length() + 1)}):
            mean, low, high = bootstrap_interval(earned[:, k - 1])
            few = f"none below {FEWEST_UNBOUNDED} prompts"
            interval = f"[{low:.3f}, {high:.3f}]" if len(earned) >= FEWEST_UNBOUNDED else few
            table.add_row(f"{k}", f"{mean:.3f}", interval, f"{kl_bound(k):.3f} nats")
        return table


def _record(one: Drawn, earned: list[float]) -> dict:
    prompt = [{"role": turn.role, "content": turn.text} for turn in one.prompt]
    best = {"response": one.responses[one.best], "reward": one.rewards[one.best]}
    drawn = {"responses": one.responses, "rewards": one.rewards, "unended": one.unended}
    return {"prompt": prompt, **best, **drawn, "best_of": earned}
