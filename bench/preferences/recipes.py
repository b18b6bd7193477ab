"""How a model is trained on each set of people's and a judge's preferences; and what a language model is asked."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bench.judgements import merged_by_wins
from minirm.config import LoraConfig, ModelConfig, PackingConfig, TrainConfig, sized
from minirm.data.comparison import Comparison
from minirm.files.splits import prompt_key
from minirm.hub.reading import is_pretrained, read_start

LORA = LoraConfig(rank=8, alpha=16.0, matrices=("query", "key", "value", "output", "up", "down"))


@dataclass(frozen=True)
class Recipe:
    """How a model is trained on one data set."""

    model: ModelConfig
    packing: PackingConfig
    language_model: TrainConfig
    reward: TrainConfig
    vocab_size: int = 4096
    merged: Callable[[Sequence[Comparison]], list[Comparison]] = list
    """What the pairs of a prompt become before they are trained on."""
    seeds: int = 1
    """Models that differ in their seed; from nothing each, unless they begin with …"""
    start: Path | None = None
    """… a run, all of whose weights learn on, or …"""
    lora: LoraConfig | None = None
    """… a pretrained folder, of which adapters and the head learn …"""
    adapter_epochs: float = 2.0
    """… in so many passes, over what the pairs of a prompt become by …"""
    adapter_merged: Callable[[Sequence[Comparison]], list[Comparison]] = list
    """… this: rankings read each response once, where pairs cost a large model hours."""

    def begun_with(self, folder: Path) -> "Recipe":
        """Return the recipe by which a model of elsewhere learns from the same comparisons.

        Args:
            folder: a run of `minirm train --stage lm`, which goes on as this recipe does; or a pretrained folder.
        Raises:
            InputError: the folder is not there, or is no model that minirm computes.
        """
        model = read_start(folder).model
        longest = min(self.packing.max_tokens, model.max_positions)
        packing = replace(self.packing, max_tokens=longest, share_prompt=not model.bidirectional)
        begun = replace(
            self, start=folder, model=model, packing=packing, language_model=replace(self.language_model, epochs=0.0)
        )
        if not is_pretrained(folder):
            return begun
        reward = replace(self.reward, epochs=self.adapter_epochs, learning_rate=5e-4, average_read=None)
        return replace(begun, reward=reward, lora=LORA, merged=self.adapter_merged, seeds=1)


def around_shared_response(pairs: Sequence[Comparison]) -> list[Comparison]:
    """Return the pairs of each prompt that share a response as one comparison, and the others as they are.

    The shared response scores ½, what was preferred to it 1, and what it was preferred to 0: the judgements stay, and
    each of them implies that the former are better than the latter. A response is then read once, not in every pair.
    """
    by_prompt: dict[bytes, list[Comparison]] = {}
    for pair in pairs:
        by_prompt.setdefault(prompt_key(pair), []).append(pair)
    merged = []
    for rows in by_prompt.values():
        [(shared, count)] = Counter(text for pair in rows for text in set(pair.responses)).most_common(1)
        scores = {shared: 0.5}
        for pair in rows:
            scored = dict(zip(pair.responses, pair.scores, strict=True))
            against = scored.pop(shared, None)
            if against is None or count == 1 or len(scored) != 1:
                merged.append(pair)
                continue
            [(other, score)] = scored.items()
            scores.setdefault(other, float(score > against))
        if len(scores) > 1:
            merged.append(replace(rows[0], responses=tuple(scores), scores=tuple(scores.values())))
    return merged


ARGUMENTS = Recipe(
    sized("tiny", max_positions=256, dropout=0.1),
    PackingConfig(tokens_per_batch=2048, max_tokens=256),
    TrainConfig(epochs=0.0),
    TrainConfig(epochs=2.0, learning_rate=3e-4, average_read=True, evaluate_every=0.25),
    vocab_size=2048,
    seeds=2,
    adapter_merged=merged_by_wins,
)
RECIPES = {
    "hh-harmless": Recipe(
        sized("tiny", style="llama", layers=1, width=256, max_positions=256),
        PackingConfig(tokens_per_batch=4096, max_tokens=256),
        TrainConfig(epochs=0.5, learning_rate=2e-3),
        TrainConfig(epochs=1.0, learning_rate=1e-4, schedule="constant", average_read=True),
        vocab_size=2048,
        seeds=8,
    ),
    "alpaca-pairs": Recipe(
        sized("tiny", layers=1, width=256, max_positions=512, dropout=0.4),
        PackingConfig(tokens_per_batch=16384, max_tokens=512),
        TrainConfig(epochs=0.0),
        TrainConfig(epochs=1.0, learning_rate=1e-3, average_read=True),
        merged=around_shared_response,
        seeds=6,
        adapter_merged=around_shared_response,
    ),
    "wmt19-darr": Recipe(
        sized("tiny", max_positions=256, dropout=0.1, token_types=True),
        PackingConfig(tokens_per_batch=4096, max_tokens=256),
        TrainConfig(epochs=0.0),
        TrainConfig(epochs=1.0, learning_rate=3e-4, average_read=True, evaluate_every=0.25),
        merged=merged_by_wins,
        seeds=3,
        adapter_epochs=1.0,
        adapter_merged=merged_by_wins,
    ),
    **dict.fromkeys(("ukpconvarg1-strict", "ibm-argq-pairs", "ibm-eviconv"), ARGUMENTS),
    "nycc-k16": Recipe(
        sized("tiny", max_positions=128),
        PackingConfig(tokens_per_batch=8192, max_tokens=128),
        TrainConfig(epochs=0.0),
        TrainConfig(epochs=1.0, learning_rate=1e-3, average_read=True, evaluate_every=0.25),
        seeds=2,
        adapter_epochs=0.25,
    ),
    "alpaca-rankings": Recipe(
        sized("tiny", max_positions=512, dropout=0.2),
        PackingConfig(tokens_per_batch=16384, max_tokens=512),
        TrainConfig(epochs=0.1, learning_rate=2e-3),
        TrainConfig(epochs=1.0, learning_rate=3e-4, average_read=True),
    ),
}


def _model(**fields: object) -> Callable[[Recipe], Recipe]:
    return lambda recipe: replace(recipe, model=replace(recipe.model, **fields))


def _reward(**fields: object) -> Callable[[Recipe], Recipe]:
    return lambda recipe: replace(recipe, reward=replace(recipe.reward, **fields))


REMEDIES: dict[str, Callable[[Recipe], Recipe]] = {
    "pairs merged into rankings": lambda recipe: replace(recipe, merged=merged_by_wins),
    "dropout 0.4": _model(dropout=0.4),
    "D = 64": _model(width=64, heads=2),
    "n-grams beside": _model(ngrams=2),
    "no average read": _reward(average_read=False),
    "weight decay 1": _reward(weight_decay=1.0),
    "label smoothing 0.1": _reward(label_smoothing=0.1),
    "language-model loss beside": _reward(language_model_weight=0.3),
    "no early stopping": _reward(evaluate_every=1e6),
}
"""What may help where comparisons are few, each one change of a recipe; ensembles are in every table."""

QUESTIONS = {
    **dict.fromkeys(
        ("ukpconvarg1-strict", "ibm-argq-pairs"),
        "Topic: {prompt}\n\nArgument: {response}\n\nIs this a convincing argument of high quality? Answer yes or no.",
    ),
    "ibm-eviconv": ("Claim: {prompt}\n\nEvidence: {response}\n\nIs this evidence convincing? Answer yes or no."),
    "wmt19-darr": (
        "Reference translation: {prompt}\n\nTranslation: {response}\n\n"
        "Does the translation say the same as the reference? Answer yes or no."
    ),
    "hh-harmless": "Dialogue:\n\n{prompt}\n\nReply: {response}\n\nIs this a good and harmless reply? Answer yes or no.",
    "nycc-k16": "Cartoon: {prompt}\n\nCaption: {response}\n\nIs this caption funny? Answer yes or no.",
}
"""What an instructed language model is asked about a response; the answers are Yes and No."""
