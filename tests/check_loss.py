"""Is your loss right? Checks it by what holds of every loss of rewards, and says in words what does not.

    python -m tests.check_loss my_file.py:my_loss

A loss of pairs takes (chosen, rejected), each (B,); one of lists takes (rewards, scores, mask), each (B, K); both
return (B,) losses. What must hold ends the command with status 1 where it doesn't; what may be meant otherwise is said.
"""

import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from minirm.losses import all_pairs_loss, bradley_terry_loss

NAN = float("nan")
DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
Loss = Callable[..., Tensor]
Sample = tuple[Tensor, ...]


def sample(of_lists: bool, dtype: torch.dtype = torch.float64) -> Sample:
    """Return four pairs, or four rows of five responses with ties, padding, a tied row and a single response."""
    generator = torch.Generator().manual_seed(0)
    if not of_lists:
        return tuple(torch.randn(4, generator=generator, dtype=torch.float64).to(dtype) for _ in range(2))
    rewards = torch.randn(4, 5, generator=generator, dtype=torch.float64).to(dtype)
    scores = torch.tensor([[4.0, 3, 2, 1, 0], [1, 1, 0, 2, 0], [1, 1, 1, 1, 1], [2, 0, 0, 0, 0]])
    mask = torch.tensor([[True] * 5, [True, True, True, True, False], [True] * 5, [True, False, False, False, False]])
    return rewards, scores, mask


def gradients(loss: Loss, inputs: Sample) -> tuple[Tensor, ...]:
    """Return the derivatives in the rewards."""
    count = 1 if len(inputs) == 3 else 2
    leaves = [x.detach().clone().requires_grad_() for x in inputs[:count]]
    return torch.autograd.grad(loss(*leaves, *inputs[count:]).sum(), leaves)


def alike(found: Tensor, expected: Tensor, tolerance: float = 1e-9) -> bool:
    return torch.allclose(found.double(), expected.double(), rtol=tolerance, atol=tolerance, equal_nan=True)


def gives_one_loss_for_each(loss: Loss, inputs: Sample) -> bool:
    return loss(*inputs).shape == (len(inputs[0]),)


def has_the_derivative_that_it_says(loss: Loss, inputs: Sample) -> bool:
    count = 1 if len(inputs) == 3 else 2
    leaves = [x.detach().clone().requires_grad_() for x in inputs[:count]]
    return torch.autograd.gradcheck(lambda *r: loss(*r, *inputs[count:]), leaves, raise_exception=False)


def keeps_rows_apart(loss: Loss, inputs: Sample) -> bool:
    alone = torch.cat([loss(*(x[i : i + 1] for x in inputs)) for i in range(len(inputs[0]))])
    return alike(alone, loss(*inputs))


def is_finite_at_ten_thousand(loss: Loss, inputs: Sample) -> bool:
    for dtype in DTYPES:
        rewards = [(1e4 * x.sign()).to(dtype) for x in inputs[: 1 if len(inputs) == 3 else 2]]
        far = (*rewards, *inputs[len(rewards) :])
        if not all(x.isfinite().all() for x in (loss(*far), *gradients(loss, far))):
            return False
    return True


def computes_in_float32_or_better(loss: Loss, inputs: Sample) -> bool:
    """At several levels and spreads; what the rewards are rounded to is not the loss's fault."""
    count = 1 if len(inputs) == 3 else 2
    for dtype in DTYPES:
        for level, spread in ((0, 1), (0, 100), (256, 1), (10_000, 1), (10_000, 100)):
            rewards = [(level + spread * x).to(dtype) for x in inputs[:count]]
            exact = loss(*(x.double() for x in rewards), *inputs[count:])
            if not alike(loss(*rewards, *inputs[count:]), exact, 1e-5):
                return False
    return True


def is_one_graph(loss: Loss, inputs: Sample) -> bool:
    torch.compiler.reset()
    return alike(torch.compile(loss, fullgraph=True, backend="aot_eager")(*inputs), loss(*inputs))


def looks_at_no_value_to_know_a_shape(loss: Loss, inputs: Sample) -> bool:
    return loss(*(x.to("meta") for x in inputs)).shape == (len(inputs[0]),)


def ignores_what_is_behind_the_mask(loss: Loss, inputs: Sample) -> bool:
    rewards, scores, mask = inputs
    dirty = rewards.masked_fill(~mask, NAN), scores.masked_fill(~mask, NAN), mask
    same = alike(loss(*dirty), loss(*inputs))
    return same and alike(gradients(loss, dirty)[0], gradients(loss, inputs)[0])


def ignores_the_order_of_responses(loss: Loss, inputs: Sample) -> bool:
    order = torch.tensor([3, 0, 4, 2, 1])
    return alike(loss(*(x[:, order] for x in inputs)), loss(*inputs))


def ignores_a_shift_of_all_rewards(loss: Loss, inputs: Sample) -> bool:
    count = 1 if len(inputs) == 3 else 2
    return alike(loss(*(x + 3 for x in inputs[:count]), *inputs[count:]), loss(*inputs))


def sets_a_wrong_order_right(loss: Loss, inputs: Sample, by: float = 1.0) -> bool:
    if len(inputs) == 2:
        better, worse = gradients(loss, (torch.full_like(inputs[0], -by), torch.full_like(inputs[0], by)))
        return bool((better < 0).all() and (worse >= 0).all())
    _, scores, mask = inputs
    found = gradients(loss, (-by * scores.double(), scores, mask))[0][0]  # of five, the best one lowest
    return bool(found[0] < 0 <= found[-1])


def still_does_at_ten_thousand(loss: Loss, inputs: Sample) -> bool:
    return sets_a_wrong_order_right(loss, inputs, 1e4)


def uses_only_the_order_of_scores(loss: Loss, inputs: Sample) -> bool:
    rewards, scores, mask = inputs
    return alike(loss(rewards, 7 * scores**2 - 3, mask), loss(*inputs))


def is_that_of_minirm(loss: Loss, inputs: Sample) -> bool:
    return alike(loss(*inputs), (all_pairs_loss if len(inputs) == 3 else bradley_terry_loss)(*inputs), 1e-6)


MUST = {
    gives_one_loss_for_each: "return (B,): the caller reduces, for he alone knows the weights",
    has_the_derivative_that_it_says: "autograd and finite differences disagree: look for .detach(), .data or a jump",
    keeps_rows_apart: "a row's loss changes with the other rows: gradient accumulation would change the training",
    is_finite_at_ten_thousand: "log(sigmoid(x)) is −∞ for large −x: write softplus(−x), and no exp of a reward",
    computes_in_float32_or_better: "begin with rewards.float(), before any difference; exp and log of a row: take what "
    "all rewards share off first, or add up in float64",
    sets_a_wrong_order_right: "a step against the gradient must raise a better reward that is too low: a turned sign?",
    is_one_graph: "torch.compile(fullgraph=True) fails or differs: no .item(), no branch on a value",
    looks_at_no_value_to_know_a_shape: "a shape depends on values (boolean indexing, nonzero), or a value is asked for",
    ignores_what_is_behind_the_mask: "NaN in padding reaches value or gradient: masked_fill before any arithmetic",
    ignores_the_order_of_responses: "the same responses in another order have another loss",
}
MAY = {
    ignores_a_shift_of_all_rewards: "a loss of comparisons leaves the level of rewards free; one of ratings fixes it",
    still_does_at_ten_thousand: "of a pair that is wrong by far nothing is learned: a clamp? or meant, for outliers?",
    uses_only_the_order_of_scores: "the size of scores counts",
    is_that_of_minirm: "it is another than bradley_terry_loss (pairs) or all_pairs_loss (lists)",
}
OF_LISTS = {ignores_what_is_behind_the_mask, ignores_the_order_of_responses, uses_only_the_order_of_scores}


def findings(loss: Loss) -> dict[Callable, str]:
    """Return each check and what it found: "" where it holds, else what that means, with the error where one came."""
    of_lists = required_arguments(loss) == 3
    found = {}
    for check, meaning in (MUST | MAY).items():
        if check in OF_LISTS and not of_lists:
            continue
        try:
            found[check] = "" if check(loss, sample(of_lists)) else meaning
        except Exception as error:  # whatever a loss of others does
            found[check] = (
                f"{meaning} ({type(error).__name__}: {str(error).splitlines()[0][:90] if str(error) else ''})"
            )
    return found


def required_arguments(loss: Loss) -> int:
    """Return how many arguments without a default a loss takes."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(loss).parameters.values()
    return sum(p.kind in kinds and p.default is inspect.Parameter.empty for p in parameters)


def read_loss(place: str) -> Loss:
    """Return the function that `file.py:name` names.

    Raises:
        ValueError: there is no such file or function, it can't be imported, or takes neither two nor three arguments.
    """
    path, _, name = place.rpartition(":")
    if not path or not Path(path).is_file():
        raise ValueError(f"{place}: must be FILE.py:FUNCTION, and the file be there")
    spec = importlib.util.spec_from_file_location("loss_of_a_guest", path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ValueError(f"{path}: can't be imported: {type(error).__name__}: {error}") from None
    loss = getattr(module, name, None)
    if not callable(loss):
        raise ValueError(f"{path}: has no function {name}")
    if required_arguments(loss) not in (2, 3):
        raise ValueError(f"{place}: must take (chosen, rejected) or (rewards, scores, mask)")
    return loss


def main(words: list[str]) -> int:
    """Print what holds of a loss and what does not; return 1 if something does not that must."""
    if len(words) != 1:
        print(__doc__.split("\n\n")[1].strip())
        return 2
    try:
        loss = read_loss(words[0])
    except ValueError as error:
        print(f"check_loss: {error}", file=sys.stderr)
        return 2
    try:
        loss(*sample(required_arguments(loss) == 3))
    except Exception as error:
        print(f"{words[0]}: fails on float64 tensors: {type(error).__name__}: {str(error).splitlines()[0]}")
        return 1
    if required_arguments(loss) == 2 and gives_one_loss_for_each(loss, sample(False)):
        differences = torch.tensor([-2.0, -1, 0, 1, 2], dtype=torch.float64)
        zero = torch.zeros_like(differences)
        slopes = gradients(loss, (differences, zero))[0]
        for d, value, slope in zip(differences, loss(differences, zero), slopes, strict=True):
            print(f"  r_c − r_r = {d:+.0f}: loss {value:8.4f}, derivative in r_c {slope:8.4f}")
    found = findings(loss)
    for check, meaning in found.items():
        word = "holds " if not meaning else "WRONG " if check in MUST else "differs"
        print(f"  {word:7} {check.__name__.replace('_', ' ')}" + (f"\n            {meaning}" if meaning else ""))
    wrong = sum(bool(meaning) for check, meaning in found.items() if check in MUST)
    print(
        f"{words[0]}: " + (f"{wrong} of {len(found)} must be mended" if wrong else "nothing that must hold is broken")
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
