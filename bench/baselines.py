"""What needs no neural network: a reward model that does not beat these has learned nothing worth its training.

All turn comparisons into one list of rewards per comparison, as `evaluate` takes them: the length of a response, what
it has in common with its prompt, and linear functions of its words, learned from pairs or from scores. Beside them an
oracle, told who wrote a response. And the grouped folds in which they are measured.
"""

import re
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from itertools import compress

import numpy as np

from minirm.data.comparison import Comparison
from minirm.errors import InputError
from minirm.evaluation.pairs import pair_table
from minirm.files.splits import validation_mask

PAIRS_PER_COMPARISON, MOST_PAIRS = 40, 100_000
"""A ranking of 56 has 1,540 pairs: as rows of TF-IDF they would fill the memory."""


def draw_prompts(keys: Collection[bytes], share: float, seed: int) -> frozenset[bytes]:
    """Return the keys of the prompts to hold out, drawn as `validation_mask` draws them."""
    keys = sorted(keys)
    return frozenset(compress(keys, validation_mask(keys, share, seed)))


def length_rewards(comparisons: Sequence[Comparison]) -> list[list[float]]:
    """Return each response's length in characters as its reward: the longer one wins."""
    return [[float(len(response)) for response in comparison.responses] for comparison in comparisons]


def overlap_rewards(comparisons: Sequence[Comparison]) -> list[list[float]]:
    """Return as a reward the F1 of the words that a response shares with its prompt: 2 · shared / (both lengths)."""

    def words(text: str) -> Counter[str]:
        return Counter(re.findall(r"\w+", text.lower()))

    return _beside_prompts(comparisons, words, lambda shared, p, r: 2 * shared / max(1, p + r))


def chrf_rewards(comparisons: Sequence[Comparison], *, longest: int = 6, beta: float = 2.0) -> list[list[float]]:
    """Return as a reward chrF, its response against its prompt: F_β of the character n-grams, mean over n = 1 … 6.

    Source: Popović 2015, with white space left out, β = 2.
    """

    def grams(n: int) -> Callable[[str], Counter[str]]:
        def count(text: str) -> Counter[str]:
            letters = "".join(text.split())
            return Counter(letters[i : i + n] for i in range(len(letters) - n + 1))

        return count

    def f_score(shared: int, prompt: int, response: int) -> float:
        return (1 + beta**2) * shared / max(1, beta**2 * prompt + response)

    of_n = [_beside_prompts(comparisons, grams(n), f_score) for n in range(1, longest + 1)]
    return [np.mean(rewards, axis=0).tolist() for rewards in zip(*of_n, strict=True)]


def _beside_prompts(
    comparisons: Sequence[Comparison], count: Callable[[str], Counter[str]], score: Callable[[int, int, int], float]
) -> list[list[float]]:
    """Return score(pieces shared, pieces of the prompt, pieces of the response) for each response."""
    rewards = []
    for comparison in comparisons:
        prompt = count("\n".join(turn.text for turn in comparison.prompt))
        found = [count(response) for response in comparison.responses]
        rewards.append([score((prompt & one).total(), prompt.total(), one.total()) for one in found])
    return rewards


class TfidfReward:
    """Logistic regression on the difference between the TF-IDF features of a better and a worse response.

    The reward of a response is its features times the weights, so a pair's log-odds are the difference of two rewards.
    The prompt is not looked at.

    Args:
        features: the most frequent words and word pairs that are kept.
        use_log_length: adds log(1 + characters) as one more feature.
        words: the pattern of a word; scikit-learn's leaves out what is one letter long, and marks.
        seed: for the choice of pairs where a comparison has more than `PAIRS_PER_COMPARISON`.
    """

    def __init__(
        self, *, features: int = 50_000, use_log_length: bool = False, words: str = r"(?u)\b\w\w+\b", seed: int = 0
    ):
        _require_scikit_learn()
        from sklearn.feature_extraction.text import TfidfVectorizer

        how = {"ngram_range": (1, 2), "max_features": features, "sublinear_tf": True, "token_pattern": words}
        self._vectorizer = TfidfVectorizer(**how)
        self._use_log_length = use_log_length
        self._seed = seed

    def fit(self, comparisons: Sequence[Comparison]) -> "TfidfReward":
        """Learn from every strictly ordered pair (at most `PAIRS_PER_COMPARISON` of a comparison); return self.

        Raises:
            InputError: no comparison has two different scores.
        """
        better, worse = _ordered_rows(comparisons, self._seed)
        if not better.size:
            raise InputError(f"{len(comparisons)} comparisons, none with two different scores: nothing to learn from")
        from sklearn.linear_model import LogisticRegression

        responses = _responses(comparisons)
        self._vectorizer.fit(responses)
        features = self._features(responses)
        sign = np.where(np.arange(better.size) % 2 == 0, 1, -1)  # two classes, as the solver wants them
        differences = features[better] - features[worse]  # (pairs, features)
        # no intercept: exchanging the two responses must exchange the two probabilities
        regression = LogisticRegression(fit_intercept=False, max_iter=1000)
        self._weights = regression.fit(differences.multiply(sign[:, None]).tocsr(), sign).coef_[0]
        return self

    def fit_scores(self, comparisons: Sequence[Comparison]) -> "TfidfReward":
        """Learn from the scores themselves instead, each minus the mean of its comparison (ridge, α = 1); return self.

        Nothing is drawn: every response counts once, however many there are to a prompt.
        """
        from sklearn.linear_model import Ridge

        responses = _responses(comparisons)
        scores = np.concatenate([np.array(one.scores) - np.mean(one.scores) for one in comparisons])
        self._vectorizer.fit(responses)
        self._weights = Ridge(alpha=1.0, solver="sparse_cg").fit(self._features(responses), scores).coef_
        return self

    def rewards(self, comparisons: Sequence[Comparison]) -> list[list[float]]:
        """Return one reward per response, in logits, one list per comparison."""
        if not comparisons:
            return []
        rewards = self._features(_responses(comparisons)) @ self._weights
        ends = np.cumsum([len(comparison.responses) for comparison in comparisons])
        return [part.tolist() for part in np.split(rewards, ends[:-1])]

    def _features(self, responses: list[str]):
        """Return the sparse (responses, features) matrix."""
        from scipy.sparse import csr_matrix, hstack

        words = self._vectorizer.transform(responses)
        if not self._use_log_length:
            return words
        lengths = np.array([[np.log1p(len(response))] for response in responses])
        return hstack([words, csr_matrix(lengths)], format="csr")


class WriterReward:
    """Logistic regression on who wrote a response, and on log(1 + characters): an oracle, since no other is told who.

    It bounds what can be had from a writer's manner and from length alone, without a look at what is said.
    """

    def __init__(self):
        _require_scikit_learn()
        from sklearn.linear_model import LogisticRegression

        self._regression = LogisticRegression(fit_intercept=False, max_iter=1000, C=10.0)

    def fit(self, comparisons: Sequence[Comparison], writers: Sequence[Sequence[str]]) -> "WriterReward":
        """Learn from pairs, the writers of each pair's responses being named in their order; return self."""
        self._names = {name: n for n, name in enumerate(sorted({name for pair in writers for name in pair}))}
        features = self._features(comparisons, writers).reshape(len(comparisons), 2, -1)
        scores = np.array([comparison.scores for comparison in comparisons])
        differences = features[:, 0] - features[:, 1]
        first_is_better = scores[:, 0] > scores[:, 1]
        both_ways = np.concatenate([differences, -differences])  # two classes, as the solver wants them
        self._regression.fit(both_ways, np.concatenate([first_is_better, ~first_is_better]))
        return self

    def rewards(self, comparisons: Sequence[Comparison], writers: Sequence[Sequence[str]]) -> list[list[float]]:
        """Return one reward per response, in logits, one list per pair."""
        return (self._features(comparisons, writers) @ self._regression.coef_[0]).reshape(-1, 2).tolist()

    def _features(self, comparisons: Sequence[Comparison], writers: Sequence[Sequence[str]]) -> np.ndarray:
        """Return (responses, writers + 1); a writer that was not learned from is nobody."""
        names = [name for pair in writers for name in pair]
        features = np.zeros((len(names), len(self._names) + 1))
        for row, name in enumerate(names):
            if name in self._names:
                features[row, self._names[name]] = 1
        features[:, -1] = np.log1p([len(response) for response in _responses(comparisons)])
        return features


def first_user_turn(comparison: Comparison) -> str:
    """Return the text of the prompt's first user turn, "" when there is none: what related dialogues share."""
    return next((turn.text for turn in comparison.prompt if turn.role == "user"), "")


def group_folds(
    comparisons: Sequence[Comparison], folds: int, key: Callable[[Comparison], str], *, seed: int = 0
) -> list[tuple[list[int], list[int]]]:
    """Return (training indices, test indices) per fold; comparisons with the same key stand in the same test fold.

    Large groups are dealt out first, each to the fold that is smallest so far; equal groups in an order drawn by seed.
    The same comparisons in another order give the same folds.

    Raises:
        InputError: fewer than two folds, or fewer groups than folds.
    """
    groups: dict[str, list[int]] = {}
    for index, comparison in enumerate(comparisons):
        groups.setdefault(key(comparison), []).append(index)
    if not 2 <= folds <= len(groups):
        raise InputError(f"folds={folds} must be at least 2 and at most the number of groups, {len(groups)}")
    names = sorted(groups)
    np.random.default_rng(seed).shuffle(names)
    tests: list[list[int]] = [[] for _ in range(folds)]
    for name in sorted(names, key=lambda name: -len(groups[name])):
        min(tests, key=len).extend(groups[name])
    everything = range(len(comparisons))
    return [(sorted(set(everything) - set(test)), sorted(test)) for test in tests]


def _require_scikit_learn() -> None:
    try:
        import sklearn  # noqa: F401
    except ImportError as error:
        raise InputError("the TF-IDF baseline needs scikit-learn: pip install 'minirm[peers]'") from error


def _responses(comparisons: Sequence[Comparison]) -> list[str]:
    return [response for comparison in comparisons for response in comparison.responses]


def _ordered_rows(comparisons: Sequence[Comparison], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the better and the worse response of each pair, as places in the flat list of responses."""
    pairs = pair_table(comparisons, length_rewards(comparisons))
    # drawn numbers, ordered within each comparison: the first of each are a random choice of its pairs
    order = np.lexsort((np.random.default_rng(seed).random(len(pairs.better)), pairs.comparison))
    counts = np.bincount(pairs.comparison, minlength=len(comparisons))
    rank = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    kept = np.sort(order[rank < max(1, min(PAIRS_PER_COMPARISON, MOST_PAIRS // len(comparisons)))])
    starts = np.cumsum([0, *(len(comparison.responses) for comparison in comparisons)])[pairs.comparison]
    return (starts + pairs.better)[kept], (starts + pairs.worse)[kept]
