"""Real preferences: a reward model from nothing, against what needs no neural network, on the same pairs.

python -m bench preferences NAME                     one of the sets of `bench.judgements.SETS`
python -m bench preferences NAME --from FOLDER …     beside it, from language models' runs and pretrained folders
python -m bench preferences NAME --ask FOLDER        beside it, what a language model answers that was never trained
python -m bench preferences NAME --inner             on a part of the first split's training groups: to choose recipes
python -m bench preferences people                   all sets of people's judgements, and a table of them all
python -m bench.preferences.curve PAGE.json …        what `--language` gave, a table and a picture of pages written so
python -m bench preferences NAME --quick             on forty comparisons: to see that it runs

Each set is split by group (a topic, a contest, a prompt) as `bench.judgements` says; the data is read from --data.
Results go to bench/results/NAME.json and NAME.md. Finished trainings are kept in --cache: the same command goes on
from there.
"""

from bench.preferences.command import main

__all__ = ["main"]
