"""Best of n: the simplest way to follow a reward. Draw n responses, keep the one that it likes best."""

from collections.abc import Sequence
from dataclasses import dataclass

from minirm.files.pretrained import AnyTokenizer
from minirm.models.language_model import LanguageModel
from minirm.policies.sampling import Dialogue, Reward, sample


@dataclass(frozen=True)
class Best:
    """The best response of n to a prompt."""

    response: str
    reward: float
    rewards: tuple[float, ...]
    """Of all n, in the order in which they were drawn."""


def best_of_n(
    language_model: LanguageModel,
    tokenizer: AnyTokenizer,
    prompts: Sequence[Dialogue],
    reward: Reward,
    *,
    n: int,
    max_new_tokens: int,
    seed: int = 0,
) -> list[Best]:
    """Return the best of n responses to each prompt. Source: Stiennon et al., arXiv:2009.01325, appendix G.

    The policy that this makes is ln n − (n − 1)/n nats from the language model, at most (Beirami et al.,
    arXiv:2401.01879, which proves the bound).
    """
    repeated = [prompt for prompt in prompts for _ in range(n)]
    samples = sample(language_model, tokenizer, repeated, max_new_tokens=max_new_tokens, seed=seed)
    rewards = reward(repeated, [one.response for one in samples])
    found = []
    for start in range(0, len(samples), n):
        mine = tuple(rewards[start : start + n])
        best = max(range(n), key=mine.__getitem__)
        found.append(Best(samples[start + best].response, mine[best], mine))
    return found
