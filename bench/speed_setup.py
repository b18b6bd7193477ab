"""What the speed bench measures on: shapes, sizes and texts, and the proof that the peers compute the same rewards."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from bench.contenders import Work
from bench.peers import fast_tokenizer, hugging_face_twin, score_in_batches, whole_texts
from bench.texts import FILES, Corpus, read_corpus, sequences
from minirm.config import ModelConfig, sized
from minirm.errors import InputError
from minirm.models.reward_model import RewardModel
from minirm.runs.job import computes_bfloat16
from minirm.tokens.packing import pack

HH, PAIRS, RANKINGS = FILES
TOLERANCE = 1e-4
FP32, BF16 = "float32", "bfloat16"


@dataclass(frozen=True)
class Settings:
    """How much is measured, and on what."""

    data: Path
    rounds: int
    model: ModelConfig
    wide: ModelConfig
    """The larger shape of the section on arithmetic."""
    per_step: int
    """Pairs in an optimizer step."""
    steps: int
    """Optimizer steps in a pass."""
    growing: dict[str, tuple[int, ...]]
    """The sizes of the section on growth."""

    @property
    def precisions(self) -> tuple[str, ...]:
        """float32, and bfloat16 where this processor multiplies in it: elsewhere a pass would take hours."""
        return (FP32, BF16) if computes_bfloat16(torch.device("cpu")) else (FP32,)

    @property
    def fewer_rounds(self) -> int:
        """For what takes long."""
        return max(2, self.rounds - 2)

    def corpus(self, name: str, responses: int = 2) -> Corpus:
        """Return a corpus on which the peers' rewards were seen to be minirm's."""
        limit, vocab_size = self.model.max_positions, self.model.vocab_size
        corpus = read_corpus(name, self.data, vocab_size=vocab_size, max_tokens=limit, responses=responses)
        check_twin(corpus.spread(2, 4), self.model)
        return corpus

    def work(self, corpus: Corpus, *, steps: int | None = None, per_step: int | None = None) -> Work:
        """Return training on a part of the corpus that has the lengths of the whole."""
        per_step, steps = per_step or self.per_step, steps or self.steps
        return Work(corpus.spread(steps, per_step).encoded, corpus.tokenizer, self.model, per_step)

    def long_work(self, corpus: Corpus) -> Work:
        """Return eight times as many steps: most are of a shape that none before had, as in training itself."""
        return self.work(corpus, steps=8 * self.steps)


FULL = Settings(
    Path(), 5, sized("small"), sized("medium"), per_step=16, steps=3,
    growing={"T": (256, 512, 1024, 2048, 4096), "K": (2, 4, 9, 16, 32, 64), "D": (64, 128, 256, 512, 1024),
             "L": (1, 2, 4, 8, 16)},
)  # fmt: skip
TINY = ModelConfig(layers=2, width=64, heads=2, vocab_size=1024)
QUICK = Settings(
    Path(), 2, TINY, replace(TINY, layers=3), per_step=4, steps=2,
    growing={"T": (256, 512), "K": (2, 4), "D": (32, 64), "L": (1, 2)},
)  # fmt: skip


@torch.inference_mode()
def check_twin(corpus: Corpus, config: ModelConfig) -> None:
    """Raise InputError unless the peers read the same ids and, with the same weights, give the same rewards."""
    torch.manual_seed(0)
    model = RewardModel(config).eval()
    twin = hugging_face_twin(model, corpus.tokenizer.pad_id)
    rows = [row for item in corpus.encoded for row in sequences(item)]
    texts = [text for comparison in corpus.comparisons for text in whole_texts(comparison)]
    ids = fast_tokenizer(corpus.tokenizer)(texts)["input_ids"]
    if ids != [row.tolist() for row in rows]:
        raise InputError(f"{corpus.name}: the peers' tokenizer gives other ids than minirm's; no times are compared")
    batch = pack(corpus.encoded)
    ours, theirs = model(batch)[batch.mask], torch.tensor(score_in_batches(twin, rows, 4))
    apart = (ours - theirs).abs().max().item()
    if not apart <= TOLERANCE:
        raise InputError(
            f"{corpus.name}: with the same weights the peers' rewards differ by {apart:.2g} from minirm's, "
            f"more than {TOLERANCE:g}; no times are compared"
        )
    print(
        f"  {corpus.name}: the same ids; rewards of minirm and of Hugging Face's GPT-2 within {apart:.1g}", flush=True
    )
