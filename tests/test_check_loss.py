"""The check of a guest's loss passes minirm's own, and names what is wrong with others."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from minirm.links import hinge_loss, noise_corrected_loss, probit_loss, squared_loss
from minirm.listwise import lambdarank_loss, listnet_loss
from minirm.losses import all_pairs_loss, bradley_terry_loss, plackett_luce_loss
from minirm.ratings import ordinal_loss, rating_loss, step_loss
from tests import check_loss
from tests.check_loss import MUST, findings


def davidson_tie(first, second):
    from minirm.losses import davidson_loss

    return davidson_loss(first, second, torch.zeros_like(first), tie_weight=0.5)


OWN = {
    "bradley_terry": bradley_terry_loss,
    "probit": probit_loss,
    "hinge": hinge_loss,
    "squared": squared_loss,
    "noise_corrected": partial(noise_corrected_loss, noise=0.1),
    "davidson, tie": davidson_tie,
    "all_pairs": all_pairs_loss,
    "plackett_luce": plackett_luce_loss,
    "listnet": listnet_loss,
    "lambdarank": lambdarank_loss,
    "rating": rating_loss,
    "ordinal": partial(ordinal_loss, thresholds=torch.tensor([-2.0, -1.0, 1.0, 2.0], dtype=torch.float64)),
    "step": lambda rewards, scores, mask: step_loss(rewards, scores / 4, mask),
}


@pytest.mark.parametrize("name", OWN)
def test_every_loss_of_minirm_passes_its_own_check(name: str):
    if name == "ordinal":  # its thresholds have no values on "meta"
        found = {c: m for c, m in findings(OWN[name]).items() if c is not check_loss.looks_at_no_value_to_know_a_shape}
    else:
        found = findings(OWN[name])
    assert {check.__name__: meaning for check, meaning in found.items() if meaning and check in MUST} == {}


WRONG = {
    "gives_one_loss_for_each": lambda c, r: F.softplus(r - c).mean(),
    "has_the_derivative_that_it_says": lambda c, r: F.softplus(r - c.detach()),
    "keeps_rows_apart": lambda c, r: F.softplus(r - c - c.mean()),
    "is_finite_at_ten_thousand": lambda c, r: -torch.log(torch.sigmoid(c.double() - r)),
    "computes_in_float32_or_better": lambda c, r: F.softplus(r - c),
    "is_one_graph": lambda c, r: F.softplus(r - c) if c.sum().item() > -99 else c,
    "sets_a_wrong_order_right": lambda c, r: F.softplus(c.double() - r.double()),
    "still_does_at_ten_thousand": lambda c, r: F.softplus((r.double() - c.double()).clamp(-50, 50)),
    "ignores_a_shift_of_all_rewards": lambda c, r: (c - 1) ** 2 + r**2,
    "ignores_what_is_behind_the_mask": lambda r, s, m: (F.softplus(-r) * m).sum(1),
    "looks_at_no_value_to_know_a_shape": lambda r, s, m: torch.stack([row[real].sum() for row, real in zip(r, m)]),  # noqa: B905
    "ignores_the_order_of_responses": lambda r, s, m: r[:, 0] - r[:, -1],
    "uses_only_the_order_of_scores": lambda r, s, m: rating_loss(r, s, m),
}


def listmle_in_float32(r, s, m):
    order = s.masked_fill(~m, -1e9).argsort(dim=1, descending=True, stable=True)
    r = (r if r.dtype == torch.float64 else r.float()).masked_fill(~m, -1e9).gather(1, order)
    return (r.flip(1).logcumsumexp(1).flip(1) - r).masked_fill(~m.gather(1, order), 0.0).sum(1)


def test_a_loss_that_is_wrong_only_in_low_precision_or_beside_a_large_level_is_found_out():
    for late in (lambda c, r: F.softplus((r - c).double()), listmle_in_float32):
        wrong = {check.__name__ for check, meaning in findings(late).items() if meaning and check in MUST}
        assert "computes_in_float32_or_better" in wrong


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_with_a_loss_is_named(name: str):
    found = {check.__name__: meaning for check, meaning in findings(WRONG[name]).items()}
    assert found[name]


def test_the_command_says_it_in_words(tmp_path, capsys):
    path = tmp_path / "mine.py"
    path.write_text("def mine(chosen, rejected):\n    return -(chosen - rejected).sigmoid().log()\n")
    assert check_loss.main([f"{path}:mine"]) == 1
    said = capsys.readouterr().out
    assert "r_c − r_r = +1: loss   0.3133, derivative in r_c  -0.2689" in said
    assert "WRONG   is finite at ten thousand\n            log(sigmoid(x)) is −∞ for large −x: write softplus" in said
    assert "holds   ignores a shift of all rewards" in said
    path.write_text(
        "import torch.nn.functional as F\n\ndef mine(c, r):\n    return F.softplus(r.double() - c.double())\n"
    )
    assert check_loss.main([f"{path}:mine"]) == 0
    assert "nothing that must hold is broken" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "said"),
    [("def mine(c, r):\n    return c.nothing()\n", "fails on float64 tensors: AttributeError"), ("def", "imported")],
)
def test_a_loss_that_does_not_run_is_said_once(text, said, tmp_path, capsys):
    path = tmp_path / "mine.py"
    path.write_text(text)
    assert check_loss.main([f"{path}:mine"]) in (1, 2)
    out, err = capsys.readouterr()
    assert said in out + err and (out + err).count("\n") == 1


@pytest.mark.parametrize("place", ["nowhere.py:loss", "loss"])
def test_a_place_without_a_loss_is_refused_in_one_line(place, capsys):
    assert check_loss.main([place]) == 2
    assert capsys.readouterr().err == f"check_loss: {place}: must be FILE.py:FUNCTION, and the file be there\n"
