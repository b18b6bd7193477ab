"""Which architecture makes a better reward model, and at what price.

python -m bench architectures --quick                        minutes: one world, four networks
python -m bench architectures                                two and three quarter hours of two cores
python -m bench architectures --full                         overnight: every subject, five seeds
python -m bench architectures --match flops                  or seconds, shape; parameters is the default
python -m bench architectures --backbone my_file.py:Mine     yours beside the others
python -m bench architectures --data pairs.jsonl             your comparisons
"""

from bench.architectures.command import main

__all__ = ["main"]
