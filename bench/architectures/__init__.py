"""Which architecture makes a better reward model, and at what price.

python -m bench architectures --quick                        minutes: five skills and a world, four networks
python -m bench architectures                                hours: every skill, the world, people's judgements
python -m bench architectures --full                         overnight: more of each, five seeds, more sizes
python -m bench architectures --skills match recall:14       single skills, at a dial of one's own
python -m bench architectures --match flops                  or seconds, shape; parameters is the default
python -m bench architectures --so-far                       trains nothing: a page of the subjects that are finished
python -m bench architectures --backbone my_file.py:Mine     yours beside the others
python -m bench architectures --data pairs.jsonl             your comparisons
"""

from bench.architectures.command import main

__all__ = ["main"]
