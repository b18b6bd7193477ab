"""Nothing is dropped in silence, and what a file holds is counted right."""

from collections import Counter

import pytest

from minirm.data.comparison import Comparison, Turn
from minirm.files.survey import IDENTICAL, MERGED, SINGLE, TIED, Lengths, describe, usable

ASK, OTHER = (Turn("user", "Why?"),), (Turn("user", "How?"),)
PAIR = Comparison(ASK, ("Because.", "No."), (1.0, 0.0))


def used(*comparisons, **options):
    counts = Counter()
    return list(usable(comparisons, counts, **options)), counts


def test_a_pair_with_an_order_is_used_as_it_is():
    kept, counts = used(PAIR)
    assert kept[0] is PAIR
    assert counts == {}


@pytest.mark.parametrize(
    ("responses", "scores", "reason"),
    [
        (("a",), (0.0,), SINGLE),
        (("a", "a"), (1.0, 0.0), IDENTICAL),
        (("a", "a", "a"), (1.0, 0.0, 2.0), IDENTICAL),
        (("a", "b"), (2.0, 2.0), TIED),
        (("a", "b", "a"), (1.0, 2.0, 3.0), TIED),
    ],
)
def test_what_cannot_be_learned_from_is_dropped_with_its_reason(responses, scores, reason):
    assert used(Comparison(ASK, responses, scores)) == ([], {reason: 1})


def test_ties_are_kept_for_a_loss_that_uses_them():
    tied = Comparison(ASK, ("a", "b"), (2.0, 2.0))
    assert used(tied, keep_ties=True) == ([tied], {})


def test_repeated_responses_become_one_with_their_mean_score():
    kept, counts = used(Comparison(ASK, ("a", "b", "a", "a"), (1.0, 5.0, 2.0, 3.0), margin=0.5))
    assert kept == [Comparison(ASK, ("a", "b"), (2.0, 5.0), margin=0.5)]
    assert counts == {MERGED: 2}


def test_a_summary_counts_comparisons_pairs_and_ties():
    comparisons = [
        PAIR,
        PAIR,
        Comparison(ASK, ("No.", "Because."), (1.0, 0.0), probability=0.5),
        Comparison(OTHER, ("a", "bb", "cccc"), (3.0, 1.0, 1.0), margin=1.0, weight=2.0, subset="hard"),
        Comparison(OTHER, ("a", "b"), (1.0, 1.0)),
        Comparison((), ("a", "a"), (1.0, 0.0)),
        Comparison((), ("a",), (0.0,)),
    ]
    summary = describe(comparisons, other=[Comparison(OTHER, ("x",), (0.0,)), Comparison((), ("x",), (0.0,))])
    assert (summary.comparisons, summary.pairs, summary.tied_pairs, summary.tied_comparisons) == (7, 6, 2, 1)
    assert summary.responses_per_comparison == {1: 1, 2: 5, 3: 1}
    assert (summary.prompts, summary.without_prompt, summary.shared_prompts) == (2, 2, 1)
    assert (summary.repeated_comparisons, summary.conflicting_pairs) == (1, 1)
    assert (summary.soft_labels, summary.margins, summary.weights) == (1, 1, 1)
    assert summary.subsets == {"hard": 1}
    assert summary.dropped == {TIED: 1, IDENTICAL: 1, SINGLE: 1}
    assert summary.prompt_characters == Lengths(mean=20 / 7, median=4, maximum=4)
    assert summary.response_characters == Lengths(mean=45 / 14, median=2, maximum=8)


def test_a_summary_of_nothing_is_all_zeros():
    summary = describe([])
    assert summary.comparisons == 0
    assert summary.response_characters == Lengths(0.0, 0, 0)
    assert summary.shared_prompts is None


def test_pairs_within_rankings_that_contradict_a_pair_are_conflicts():
    ranking = Comparison(ASK, ("No.", "Maybe.", "Because."), (3.0, 2.0, 1.0))
    assert describe([PAIR, ranking]).conflicting_pairs == 1
    assert describe([PAIR, Comparison(OTHER, ranking.responses, ranking.scores)]).conflicting_pairs == 0
