"""The commands: each is a dataclass whose fields are its options and whose `run` does it, in the file of its name."""

from minirm.commands.data import Data
from minirm.commands.demo import Demo
from minirm.commands.eval import Eval
from minirm.commands.export import Export
from minirm.commands.ppo import Ppo
from minirm.commands.score import Score
from minirm.commands.tokenizer import TrainTokenizer
from minirm.commands.train import Resume, Train

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
}

Command = Demo | Train | Resume | Eval | Score | Export | Data | TrainTokenizer | Ppo
