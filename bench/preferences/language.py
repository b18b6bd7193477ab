"""Language first: runs of `minirm train --stage lm` on any texts, from which reward models then start."""

import tempfile
from dataclasses import replace
from pathlib import Path

from bench.recipes.common import Setting
from minirm.config import ModelConfig, PackingConfig, TrainConfig, sized
from minirm.runs.prepare import prepare
from minirm.runs.run_config import LANGUAGE_MODEL, DataConfig, RunConfig
from minirm.tokens.stream import Stream

MODELS = {
    "narrow": sized("tiny", width=64, heads=2, max_positions=512),
    "tiny": sized("tiny", max_positions=512),
    "small": sized("small", max_positions=512),
}
"""Name → a model that learns the language."""
PACKING = PackingConfig(tokens_per_batch=4096, max_tokens=512)
RATE_TIMES_WIDTH = 0.25
"""A wider model learns at a lower rate: 0.002 at D = 128."""


def language_model(setting: Setting, texts: Path, model: ModelConfig, tokens: float) -> Path:
    """Return the folder of a finished language model that has read so many tokens of texts, repeated where they end."""
    data = DataConfig(
        (texts,),
        validation_share=1.0,
        vocab_size=2048,
        cache=setting.cache / "prepared",
        language_model_responses="all",
        language_model_tokens="all",
    )
    stage = TrainConfig(learning_rate=RATE_TIMES_WIDTH / model.width, precision="bfloat16")
    config = RunConfig(data, model, PACKING, stage, TrainConfig(), stage="lm")
    each = setting.result("tokens of an epoch", str(texts), lambda: _tokens_of_an_epoch(config))
    config = replace(config, language_model=replace(stage, epochs=tokens / each))
    return setting.trained(config, "language")


def _tokens_of_an_epoch(config: RunConfig) -> int:
    with tempfile.TemporaryDirectory() as folder:
        store = prepare(config, Path(folder)).stores[f"training {LANGUAGE_MODEL}"]
        return int(Stream(store, config.packing).lengths.sum())
