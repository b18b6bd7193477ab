"""How much of everything, and which rewards are followed by which method."""

from dataclasses import dataclass, field, replace
from typing import NamedTuple

from minirm.policies.grpo import GRPO
from minirm.policies.ppo import PPO
from minirm.policies.rloo import RLOO
from minirm.policies.trainer import Method, PolicyConfig


class Proxy(NamedTuple):
    """A reward model."""

    comparisons: int
    """That it learned from."""
    seed: int
    """Of their draw: proxies of more comparisons have those of fewer among theirs."""
    member: int = 0
    """Of an ensemble: another order of the same comparisons, and another head to begin with."""


class Followed(NamedTuple):
    """A reward that is followed: of one proxy, or of several."""

    name: str
    comparisons: int
    """0: the truth itself."""
    members: int = 1
    lower: bool = False
    """Several: their mean less their standard deviation, and not their mean."""

    def proxies(self, seed: int) -> list[Proxy]:
        """Return what it is made of; nothing: the truth."""
        return [Proxy(self.comparisons, seed, member) for member in range(self.members)] if self.comparisons else []


class Way(NamedTuple):
    """A method, and its price of distance."""

    name: str
    method: Method
    kl_weight: float
    """β, in standard deviations of the reward over what the first policy writes, for a nat."""
    samples_per_prompt: int


BEST_OF_N = "best of n"
TRUTH = Followed("the truth", 0)


@dataclass(frozen=True)
class Plan:
    """How much of everything."""

    sizes: tuple[int, ...] = (250, 1000, 4000, 16000)
    """Comparisons that a proxy learns from …"""
    epochs: tuple[float, ...] = (6.0, 4.0, 4.0, 3.0)
    """… and how often it meets them."""
    validation: int = 200
    """Further comparisons, by which the best evaluation of each proxy is chosen."""
    ensemble: int = 4
    """Members of the ensemble …"""
    ensemble_comparisons: int = 1000
    """… which all learn from the same so many comparisons."""
    seeds: int = 3
    """Draws of comparisons; each has its own proxies, and policies that follow them."""
    layers: int = 2
    width: int = 128
    reviews: int = 6000
    """Prompts, with two responses each, from which the first policy learns …"""
    review_epochs: float = 2.0
    """… so often."""
    test: int = 1000
    """Comparisons of 8 responses, on which proxies are judged."""
    prompts: int = 40
    """Prompts of best of n …"""
    draws: int = 1024
    """… and N, the responses to each."""
    first: int = 8192
    """Prompts for which the first policy writes once: where the truth begins."""
    window: int = 5
    """Iterations that make a point of a curve."""
    shown: int = 10
    """Prompts of which the page shows texts."""
    policy: PolicyConfig = field(default_factory=lambda: PolicyConfig(iterations=80, learning_rate=3e-5))
    """The rate was chosen by gold, on other comparisons (`work.PILOT`). There were 120 iterations, until seven policies
    without a price, of those that are measured, had the truth at its floor after 60."""
    price: float = 0.1
    """β of every method with a price."""

    @property
    def followed(self) -> list[Followed]:
        """Every reward that is followed."""
        several, n = self.ensemble_comparisons, self.ensemble
        sizes = [Followed(f"{size:,} comparisons", size) for size in self.sizes]
        mean = Followed(f"{n} × {several:,}: mean", several, n)
        lower = Followed(f"{n} × {several:,}: lower bound", several, n, lower=True)
        return [*sizes, mean, lower, TRUTH]

    @property
    def ways(self) -> list[Way]:
        """Every method that follows every reward."""
        free = Way("PPO", PPO(), 0.0, 1)
        return [free, free._replace(name="PPO with a price", kl_weight=self.price), Way("RLOO", RLOO(), 0.0, 4)]

    @property
    def learned(self) -> list[tuple[Way, Followed, int]]:
        """Every policy that learns; GRPO, and RLOO with a price, follow the best proxy alone."""
        alone = [Way("RLOO with a price", RLOO(), self.price, 4), Way("GRPO with a price", GRPO(), self.price, 8)]
        best = max((one for one in self.followed if one.members == 1), key=lambda one: one.comparisons)
        pairs = [(way, one) for way in self.ways for one in self.followed] + [(way, best) for way in alone]
        return [(way, one, seed) for way, one in pairs for seed in range(self.seeds)]

    def dials(self, way: Way, seed: int) -> PolicyConfig:
        """Return how a policy learns: as many responses in an iteration, whatever the method."""
        prompts = self.policy.prompts_per_iteration // way.samples_per_prompt
        k = way.samples_per_prompt
        return replace(
            self.policy, prompts_per_iteration=prompts, samples_per_prompt=k, kl_weight=way.kl_weight, seed=seed
        )


DEFAULT = Plan()
QUICK = Plan(
    sizes=(250, 1000, 4000),
    epochs=(6.0, 3.0, 1.0),
    ensemble=2,
    seeds=2,
    width=64,
    reviews=5000,
    test=150,
    prompts=20,
    draws=256,
    first=512,
    window=2,
    policy=PolicyConfig(iterations=20, prompts_per_iteration=32, learning_rate=5e-4, max_new_tokens=80),
)
