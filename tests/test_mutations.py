"""The list of mistakes in `mutations.py` stays true to the code, and the check itself works."""

import pytest

from tests.mutations import MUTATIONS, README, first_test_that_fails, mutate, source_of


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.mistake)
def test_each_mistake_can_be_made_and_is_in_the_table(mutation):
    compile(mutate(mutation, source_of(mutation.module)), mutation.module, "exec")
    assert f"| {mutation.mistake} | {mutation.module} | `test_" in README.read_text(), "run python -m tests.mutations"


@pytest.mark.parametrize(
    "mistake", ["the sign of the difference reversed", "ties counted as wrong", "is_safety ignored"]
)
def test_a_mistake_is_noticed(mistake: str):
    (mutation,) = (mutation for mutation in MUTATIONS if mutation.mistake == mistake)
    assert first_test_that_fails(mutation).startswith("test_")


def test_code_without_a_mistake_passes():
    (mutation,) = (mutation for mutation in MUTATIONS if mutation.mistake == "is_safety ignored")
    assert first_test_that_fails(mutation._replace(wrong=mutation.right)) == ""
