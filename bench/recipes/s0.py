"""S0, zero-shot reward: a language model that answers a question rewards a policy, and the policy learns to praise.

No reward model is trained. The judge is a language model that was instructed on one question, "Is this movie review
positive?", and its reward is P(yes) / (P(yes) + P(no)) behind a review. The policy has read as many reviews that praise
as reviews that blame, to requests that do not say which is wanted, and follows the judge by PPO, held near what it was.
What a review really says is read off by the grammar that wrote the known-truth world's reviews, so that a policy which
only fools its judge would be found out. With --from, a pretrained, instructed language model is the judge as it is.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import count
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from bench.architectures.statistics import Resampled, resample, two_way_interval
from bench.recipes.common import (
    Page,
    Setting,
    about_intervals,
    conversations_file,
    difference_in_words,
    excerpt,
    in_words,
    table,
    told_apart,
)
from bench.recipes.pictures import series
from minirm.config import ModelConfig, PackingConfig, TrainConfig
from minirm.data.comparison import Turn
from minirm.hub.load import load_zero_shot
from minirm.metrics import Interval
from minirm.policies.ppo import PPO
from minirm.policies.sampling import Dialogue
from minirm.policies.trainer import PolicyConfig, PolicyTrainer
from minirm.policies.zero_shot import ZeroShotScorer
from minirm.runs.run_config import DataConfig, RunConfig
from minirm.runs.run_folder import load_language_model
from minirm.worlds.films import praise, read_prompt
from minirm.worlds.grammar import World, WorldConfig

QUESTION = [{"role": "user", "content": "Review: {response} Is this movie review positive?"}]
CONTEXT = 192
SHOWN = 3
"""Reviews of which the page shows the words."""
JUDGE, TRUTH = "P(yes), what the judge rewards", "share of opinions that praise, read off"
JUDGES_WORLD = 1
"""Seed of the draw that the judge learns from; the policy's is 0."""


@dataclass(frozen=True)
class Plan:
    """How much of everything."""

    layers: int = 2
    width: int = 128
    reviews: int = 6000
    """That policy and judge each learn from."""
    epochs: int = 3
    prompts: int = 512
    test: int = 200
    """Requests for films that neither has met."""
    seeds: int = 3
    ppo: PolicyConfig = field(default_factory=lambda: PolicyConfig(iterations=60, kl_weight=0.1))
    start: Path | None = None
    """A pretrained folder that judges, instead of a language model that was instructed on the question."""

    def scaled(self, times: int) -> "Plan":
        """Return so many times as many reviews, and models as many times as wide."""
        return replace(self, reviews=self.reviews * times, test=self.test * times, width=self.width * times)


PLAN = Plan()
PRETRAINED = Plan(seeds=1)
QUICK = Plan(
    1,
    16,
    reviews=40,
    prompts=8,
    test=4,
    seeds=1,
    ppo=PolicyConfig(iterations=2, prompts_per_iteration=4, max_new_tokens=8),
)


def run(setting: Setting, plan: Plan) -> Page:
    """Train judge and policies, let the policies follow the judge, and return what they wrote before and after."""
    judge = plan.start or _language_model(setting, plan, "judge", questions(plan.reviews), seed=0)
    scorer = load_zero_shot(judge, QUESTION, *("yes", "no") if plan.start is None else ("Yes", "No"))
    tests = list(reviews(half_positive(plan.test), "test"))
    asked = f"answers of {told_apart(judge)}"
    likely = setting.result(asked, tests, lambda: scorer.score(None, [text for _, text in tests]))
    right = float(np.mean([(p > 0.5) == (praise(text) > 0.5) for p, (_, text) in zip(likely, tests, strict=True)]))
    texts = conversations(reviews({1.0: plan.reviews // 2, 0.0: plan.reviews // 2}, "train"))
    found = []
    for seed in range(plan.seeds):
        policy = _language_model(setting, plan, "policy", texts, seed)
        identity = [told_apart(judge), policy.name, asdict(plan.ppo), plan.prompts, plan.test]
        found.append(setting.result("s0 ppo", identity, lambda p=policy, s=seed: follow(p, scorer, plan, s)))
        print(f"seed {seed}: P(yes) {_mean(found, 'before')[-1]:.3f} → {_mean(found, 'after')[-1]:.3f}", flush=True)
    figures = _figures(found)
    return Page(
        "S0: PPO against a zero-shot reward",
        [*_about(plan, right), *_before_and_after(figures, found), *_words(found[0])],
        {f"{name}, {when}": two_way_interval(value) for (name, when), value in figures.items()},
        _picture(found),
    )


def follow(policy: Path, scorer: ZeroShotScorer, plan: Plan, seed: int) -> dict:
    """Let a policy follow the judge, and return each iteration, and what it wrote for the test's requests."""
    model, tokenizer = load_language_model(policy)
    ppo = PolicyTrainer(
        model,
        tokenizer,
        requests(plan.prompts, "train"),
        lambda prompts, texts: scorer.score(None, texts),
        replace(plan.ppo, seed=seed),
        PPO(),
    )
    shown, written = requests(plan.test, "test"), {}
    written["before"] = [one.response for one in ppo.write(shown, seed=seed)]
    iterations = [asdict(one) for one in ppo.run()]
    written["after"] = [one.response for one in ppo.write(shown, seed=seed)]
    rewards = {when: scorer.score(None, texts) for when, texts in written.items()}
    return {"requests": [prompt[0].text for prompt in shown], "iterations": iterations} | {
        when: [{"text": t, JUDGE: r, TRUTH: praise(t)} for t, r in zip(written[when], rewards[when], strict=True)]
        for when in written
    }


def _language_model(setting: Setting, plan: Plan, what: str, texts: str, seed: int) -> Path:
    """Return a language model that was fine-tuned, from nothing, on what assistants say in these conversations."""
    config = RunConfig(
        DataConfig((setting.keep(f"{what}.json", texts),), validation_share=5.0),
        ModelConfig(layers=plan.layers, width=plan.width, max_positions=CONTEXT),
        PackingConfig(tokens_per_batch=2048, max_tokens=CONTEXT),
        TrainConfig(epochs=plan.epochs, learning_rate=3e-3, seed=seed),
        TrainConfig(seed=seed),
        stage="lm",
    )
    return setting.trained(config, f"s0 {what} seed {seed}")


# ── Texts ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def reviews(wanted: Mapping[float, int], split: str, seed: int = 0) -> Iterator[tuple[str, str]]:
    """Yield requests and reviews of the known-truth world: of each share of praise as many as are wanted."""
    world, wanted = World(WorldConfig(facts=0, responses=4, seed=seed)), dict(wanted)
    for index in count():
        comparison = world.comparison(split, index).comparison
        for text in comparison.responses:
            if not any(wanted.values()):
                return
            if wanted.get(praise(text), 0):
                wanted[praise(text)] -= 1
                yield _request(comparison.prompt), text


def requests(number: int, split: str) -> list[Dialogue]:
    """Return requests that do not say whether praise or blame is wanted."""
    drawn = World(WorldConfig(facts=0)).sample(number, split)
    return [(Turn("user", _request(one.comparison.prompt)),) for one in drawn]


def _request(prompt: Dialogue) -> str:
    return f"Please review {read_prompt(prompt[0].text).film.title}."


def questions(number: int) -> str:
    """Return a file in which the judge's question is answered for reviews that the policy never reads."""
    [ask] = QUESTION
    return conversations(
        (ask["content"].replace("{response}", text), "yes" if praise(text) > 0.5 else "no")
        for _, text in reviews(half_positive(number), "train", JUDGES_WORLD)
    )


def half_positive(number: int) -> dict[float, int]:
    """Return how many reviews of each share of praise the judge meets; what praises and blames is not positive."""
    return {1.0: number // 2, 0.5: number // 4, 0.0: number - number // 2 - number // 4}


def conversations(turns: Iterable[tuple[str, str]]) -> str:
    """Return a file for fine-tuning, one request and one answer to each conversation."""
    return conversations_file([Turn("user", said), Turn("assistant", answer)] for said, answer in turns)


# ── The page ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _figures(found: Sequence[dict]) -> dict[tuple[str, str], Resampled]:
    """Return judge's and true praise before and after, by seed and film."""
    group = np.unique(found[0]["requests"], return_inverse=True)[1]
    figures = {}
    for name in (JUDGE, TRUTH):
        for when in ("before", "after"):
            values = np.array([[one[name] for one in seed[when]] for seed in found])  # (S, requests)
            figures[name, when] = resample(lambda keep, v=values: v[:, keep].mean(1), group)
    return figures


def _mean(found: Sequence[dict], when: str) -> list[float]:
    return [float(np.mean([one[JUDGE] for one in seed[when]])) for seed in found]


def _about(plan: Plan, right: float) -> list[str]:
    who = "Judge and policies" if plan.start is None else f"Judge: {plan.start.name}, asked. Policies"
    return [
        f"Known-truth world. {who}: {plan.layers} layers, D = {plan.width}, from nothing, {plan.epochs} epochs "
        f"of {plan.reviews:,} answers or reviews each; positive is what only praises. The judge answers "
        f"{right:.1%} of {plan.test:,} test reviews right. "
        f"PPO: {plan.ppo.iterations} iterations of {plan.ppo.prompts_per_iteration} reviews, a nat costs "
        f"{plan.ppo.kl_weight} of the reward. Figures are of {plan.test:,} requests for films that nobody has met. "
        f"{about_intervals(plan.seeds)}",
        "",
    ]


def _before_and_after(figures: dict[tuple[str, str], Resampled], found: Sequence[dict]) -> list[str]:
    rows = []
    for name in (JUDGE, TRUTH):
        before, after = figures[name, "before"], figures[name, "after"]
        rows.append([name, in_words(before), in_words(after), difference_in_words(after, before)])
    for name, key in (("nats from the first policy, last iteration", "kl_nats"), ("tokens of a review", "tokens")):
        ends = [[seed["iterations"][place][key] for seed in found] for place in (0, -1)]
        rows.append([name, *(f"{np.mean(end):.1f}" for end in ends), ""])
    return ["## Before and after", "", *table(["", "before", "after", "change"], rows)]


def _words(first: dict) -> list[str]:
    rows = []
    for n, request in enumerate(first["requests"][:SHOWN]):
        for when in ("before", "after"):
            one = first[when][n]
            text = " ".join(one["text"].split()).replace("|", "\\|")
            rows.append([excerpt(request), when, text, f"{one[JUDGE]:.3f}", str(one[TRUTH])])
    header = ["prompt", "", "output", "reward, P(yes)", "praise, read off"]
    return ["## What the first seed's policy writes", "", *table(header, rows)]


def _picture(found: Sequence[dict]) -> Figure:
    """Return the mean reward by iteration, with the seeds' extremes."""
    iterations = len(found[0]["iterations"])
    line = {}
    for n in range(0, iterations, max(1, iterations // 8)):
        rewards = [seed["iterations"][n]["reward"] for seed in found]
        line[n + 1] = Interval(float(np.mean(rewards)), min(rewards), max(rewards))
    return series({"mean, and extremes of the seeds": line}, "iteration of PPO", "P(yes) by the judge")
