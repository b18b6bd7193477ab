"""Everything that decides a run: its data, its model, its two stages, and what these ask of each other."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from minirm.config import LOOK_AHEAD, LoraConfig, ModelConfig, PackingConfig, TrainConfig
from minirm.config_rules import Count, check, require

Stage = Literal["lm", "reward", "both"]
LANGUAGE_MODEL, REWARD = "language model", "reward"
STAGES = {"lm": (LANGUAGE_MODEL,), "reward": (REWARD,), "both": (LANGUAGE_MODEL, REWARD)}
"""The stages that a run goes through."""

REWARD_ONLY = (
    "loss", "weighting", "label_smoothing", "centering", "language_model_weight", "average_read", "tie_width", "grades",
)  # fmt: skip
"""What a language-model stage has no use for."""


def check_fit(model: ModelConfig, packing: PackingConfig) -> None:
    """Refuse batches that a model can't read.

    Raises:
        InputError: they may be longer than the model's positions, or an encoder is to share prompts.
    """
    longest, room = packing.max_tokens, model.max_positions
    require(longest <= room, f"max_tokens={longest} must not exceed the model's max_positions={room}")
    shares = model.bidirectional and packing.share_prompt
    require(not shares, "share_prompt=True must be False for style=bert: a prompt's tokens look at the response")


@dataclass(frozen=True)
class DataConfig:
    """Which comparisons are read, and which are kept for validation."""

    data: tuple[Path, ...]
    """Files or folders of comparisons."""
    validation: tuple[Path, ...] = ()
    """Files for validation. Empty: `validation_share` of the prompts of `data`."""
    validation_share: Annotated[float, Meta(gt=0, lt=100)] = 10.0
    """Percent of the prompts that are kept for validation, above 0 and below 100."""
    format: str | None = None
    """Format of the files by name; None recognises it by content."""
    fields: tuple[str, ...] = ()
    """What fields hold: prompt=question chosen=answer_a …; unread=FIELD for one that is not to be read."""
    cache: Path | None = None
    """Folder where prepared data is kept for later runs on the same files with the same tokenizer and packing. None:
    in the run's own folder, until it is finished."""
    vocab_size: Count | None = None
    """Size of the vocabulary. None: 8192, or fewer if the data gives fewer. A number must be reached exactly."""
    language_model_responses: Literal["preferred", "all"] = "preferred"
    """Language-model stage: learn from the best response of each prompt, or from all of them."""
    language_model_tokens: Literal["assistant", "all"] | None = None
    """Language-model stage: learn what assistants wrote, in every one of their turns, or every token. None: assistant
    for a run that trains a language model alone (supervised fine-tuning), all where a reward stage follows. A
    torch_decoder learns responses alone."""

    def __post_init__(self) -> None:
        check(self)
        require(len(self.data) > 0, "data: at least one file or folder must be given")


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides a run."""

    data: DataConfig
    model: ModelConfig
    packing: PackingConfig
    language_model: TrainConfig
    """First stage; epochs=0 leaves it out."""
    reward: TrainConfig
    """Second stage, from the weights of the first."""
    lora: LoraConfig | None = None
    """Only adapters and the head learn, in the second stage; with `start`, in both. None: everything."""
    stage: Stage = "both"
    """lm: the first stage alone, supervised fine-tuning. reward: the second alone. both: one after the other."""
    start: Path | None = None
    """Run whose weights, tokenizer and model are taken over. None: weights are drawn anew."""

    def __post_init__(self) -> None:
        check(self)
        self._check_encoder()
        check_fit(self.model, self.packing)
        require(len(self.stages) > 0, f"stage={self.stage} and language_model.epochs=0 leave nothing to train")
        based = self.lora is None or self.start is not None or self.stages == STAGES["both"]
        require(based, "lora: adapters need weights to adapt: those of another run, or of a language-model stage")
        learns = self.model.predicts_prompts or self.data.language_model_tokens != "all"
        require(
            learns, "language_model_tokens=all must be assistant for backbone=torch_decoder: its prompts are memory"
        )
        self._check_average_read()
        for name in REWARD_ONLY:
            value, unset = getattr(self.language_model, name), getattr(TrainConfig, name)
            require(value == unset, f"language_model.{name}={value} must be {unset}: the reward stage alone knows it")
        by_step = self.reward.loss == "step" and self.model.style in LOOK_AHEAD
        require(not by_step, f"style={self.model.style} must not go with loss=step: a step would see those behind it")
        words, weight = self.model.ngrams, self.reward.language_model_weight
        by_step = words > 0 and self.reward.loss == "step"
        require(not by_step, f"ngrams={words} must be 0 for loss=step: they are of a whole response")
        predicts = self.model.style not in LOOK_AHEAD and self.model.predicts_prompts and self.model.tied_head
        what = f"backbone={self.model.backbone}, style={self.model.style}, tied_head={self.model.tied_head}"
        require(predicts or not weight, f"reward.language_model_weight={weight} must be 0 for {what}")

    def _check_encoder(self) -> None:
        """Refuse an encoder what sees both ways can't do, with all that is to be set in one line."""
        shared, epochs = self.packing.share_prompt, self.language_model.epochs if LANGUAGE_MODEL in self.stages else 0
        wants = f"share_prompt={shared} must be False, language_model.epochs={epochs} must be 0"
        flags = "--no-share-prompt --stage reward"
        fits = not self.model.bidirectional or not (shared or epochs != 0)
        require(fits, f"style=bert sees prompt and response both ways: {wants} ({flags})")
        fits = self.model.style not in LOOK_AHEAD or epochs == 0
        require(fits, f"style=prefix predicts no token: language_model.epochs={epochs} must be 0 (--stage reward)")

    def _check_average_read(self) -> None:
        """Refuse the read of a decoder's last layer where there is none, or where it could not learn."""
        backbone, style, asked = self.model.backbone, self.model.style, self.reward.average_read
        why = f"backbone={backbone}, style={style}: only a decoder begins so"
        require(self._decodes or not asked, f"average_read=True must be False for {why}")
        learns = self.lora is None
        require(learns or not asked, "average_read=True must be False for lora: what is drawn anew could not learn")

    @property
    def _decodes(self) -> bool:
        return self.model.backbone == "transformer" and not self.model.bidirectional

    @property
    def reads_the_average(self) -> bool:
        """Whether the reward stage's last layer begins as an average: as asked for, or where it suits."""
        from_nothing = self._decodes and self.start is None and self.lora is None
        return from_nothing if self.reward.average_read is None else self.reward.average_read

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages that the run goes through, in order."""
        return tuple(s for s in STAGES[self.stage] if s == REWARD or self.language_model.epochs != 0)

    @property
    def seed(self) -> int:
        """Seed of the weights and of what is kept for validation: the last stage's."""
        return self.reward.seed if REWARD in self.stages else self.language_model.seed

    @property
    def only_assistant(self) -> bool:
        """Whether the language-model stage learns nothing but what assistants wrote."""
        default = "assistant" if self.stage == "lm" else "all"
        return (self.data.language_model_tokens or default) == "assistant"
