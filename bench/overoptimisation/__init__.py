"""How far a reward model can be followed before the truth turns away, in a world where the truth is known.

python -m bench overoptimisation --quick     minutes: three sizes of data, two seeds, a small policy
python -m bench overoptimisation             hours: 250 to 16,000 comparisons, three seeds, best of 1,024

plan      how much of everything, and which rewards are followed by which method
work      policy, proxies, draws and policies that learn, each kept when it is finished
curves    truth and proxy against √KL, the turn, the fits of arXiv:2210.10760
ranking   which reward model one should follow: measures of a proxy against the truth that is reached with it
page      all of it in words, tables and pictures
"""

from bench.overoptimisation.command import main

__all__ = ["main"]
