"""Language first: runs of `minirm train --stage lm` on a folder of texts, from which reward models then begin."""

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from bench.recipes.common import Setting
from minirm.config import PackingConfig, TrainConfig, sized
from minirm.errors import InputError
from minirm.runs.prepare import prepare
from minirm.runs.run_config import LANGUAGE_MODEL, DataConfig, RunConfig
from minirm.tokens.stream import Stream

MODELS = {
    "narrow": sized("tiny", width=64, heads=2, max_positions=512),
    "tiny": sized("tiny", max_positions=512),
    "small": sized("small", max_positions=512),
}
"""Name → a model that learns the language: 2 layers, D = 64; 2, D = 128; 4, D = 256."""
PACKING = PackingConfig(tokens_per_batch=4096, max_tokens=512)
VOCABULARY = 2048
RATE_TIMES_WIDTH = 0.25
"""A wider model learns at a lower rate: 0.002 at D = 128."""
HARDLY = 1e-12
"""The rate of the one step of a model that is to read nothing."""


@dataclass(frozen=True)
class Language:
    """A model, and how much it reads before it learns to judge."""

    model: str
    """One of `MODELS`."""
    millions: float
    """Of tokens. 0: none, so that it has the texts' vocabulary, and weights as they were drawn."""

    @classmethod
    def parse(cls, text: str) -> "Language":
        """Return what "tiny:20" names.

        Raises:
            InputError: it names no model, or no number of tokens.
        """
        model, _, millions = text.partition(":")
        if model not in MODELS or not millions.replace(".", "", 1).isdigit():
            raise InputError(f"--language {text}: must be MODEL:MILLIONS of tokens, MODEL one of {', '.join(MODELS)}")
        return cls(model, float(millions))

    @property
    def name(self) -> str:
        """What its row is called."""
        return f"{self.model}, {self.millions:g} M tokens first"

    def run(self, setting: Setting, texts: Path) -> Path:
        """Return the folder of the finished run, which read the texts again where they ended."""
        data = DataConfig(
            (texts,),
            validation_share=1.0,
            vocab_size=VOCABULARY,
            cache=setting.cache / "prepared",
            language_model_responses="all",
            language_model_tokens="all",
        )
        model = MODELS[self.model]
        stage = TrainConfig(learning_rate=RATE_TIMES_WIDTH / model.width, precision="bfloat16")
        config = RunConfig(data, model, PACKING, stage, TrainConfig(), stage="lm")
        each = setting.result("tokens of an epoch", str(texts), lambda: _tokens_of_an_epoch(config))
        epochs = self.millions * 1e6 / each or PACKING.tokens_per_batch / each
        rate = stage.learning_rate if self.millions else HARDLY
        stage = replace(stage, epochs=epochs, learning_rate=rate)
        return setting.trained(replace(config, language_model=stage), "language")


def _tokens_of_an_epoch(config: RunConfig) -> int:
    with tempfile.TemporaryDirectory() as folder:
        store = prepare(config, Path(folder)).stores[f"training {LANGUAGE_MODEL}"]
        return int(Stream(store, config.packing).lengths.sum())
