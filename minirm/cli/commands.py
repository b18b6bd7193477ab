"""The commands: each is a dataclass whose fields are its options and whose `run` does it, in the file of its name."""

from minirm.cli.best_of_n import BestOfN
from minirm.cli.data import Data
from minirm.cli.demo import Demo
from minirm.cli.eval import Eval
from minirm.cli.export import Export
from minirm.cli.policies import Dpo, Grpo, Ppo, Rloo
from minirm.cli.score import Score
from minirm.cli.tokenizer import TrainTokenizer
from minirm.cli.train import Resume, Train

__all__ = ["COMMANDS", "Command"]

COMMANDS = {
    "demo": Demo,
    "train": Train,
    "resume": Resume,
    "eval": Eval,
    "score": Score,
    "export": Export,
    "data": Data,
    "tokenizer": TrainTokenizer,
    "ppo": Ppo,
    "rloo": Rloo,
    "grpo": Grpo,
    "dpo": Dpo,
    "best-of-n": BestOfN,
}

Command = Demo | Train | Resume | Eval | Score | Export | Data | TrainTokenizer | Ppo | Rloo | Grpo | Dpo | BestOfN
