"""The atlas of losses: each one and its slope against the difference of rewards, side by side.

Drawn by `python -m bench losses`. Above each pair of axes stands what is varied: the label's noise, the margin, the tie
width, the function. Below a loss is its slope: how hard, and which way, a pair pulls its better reward.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from matplotlib.figure import Figure
from torch import Tensor

from minirm.links import hinge_loss, noise_corrected_loss, probit_loss, squared_loss
from minirm.listwise import lambdarank_loss, listnet_loss
from minirm.losses import all_pairs_loss, bradley_terry_loss, davidson_loss, plackett_luce_loss, rao_kupper_loss
from minirm.ratings import graded_preference_loss, ordinal_loss, rating_loss, step_loss

Curve = Callable[[Tensor], Tensor]
COLORS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7"]
DASHES = ["-", "--", "-.", ":"]
REACH = 6.0


@dataclass(frozen=True)
class Panel:
    """One pair of axes: curves by name, over x."""

    title: str
    curves: dict[str, Curve]
    x: str = "r_chosen − r_rejected"
    twins: bool = False
    """Each two curves share a color, the second one dashed."""

    def styles(self) -> list[dict]:
        """Return how each curve is drawn."""
        picked = [(n // 2, n % 2) if self.twins else (n, n) for n in range(len(self.curves))]
        return [{"color": COLORS[color], "linestyle": DASHES[dash], "linewidth": 2} for color, dash in picked]


def against_zero(loss: Callable[..., Tensor], **dials: object) -> Curve:
    """Return a loss of pairs as a function of their difference."""
    return lambda d: loss(d, torch.zeros_like(d), **dials)


def judged(loss: Callable[..., Tensor], outcome: int, **dials: object) -> Curve:
    return lambda d: loss(d, torch.zeros_like(d), torch.full_like(d, outcome), **dials)


def of_single(loss: Callable[..., Tensor], label: float, **dials: object) -> Curve:
    """Return a loss of single responses as a function of their reward."""

    def curve(r: Tensor) -> Tensor:
        return loss(r[:, None], torch.full_like(r[:, None], label), torch.ones(len(r), 1, dtype=torch.bool), **dials)

    return curve


def of_list(loss: Callable[..., Tensor]) -> Curve:
    """Return a loss of three responses with scores 2, 1, 0, of which the best one moves and the others stay at ±½."""

    def curve(r: Tensor) -> Tensor:
        others = torch.tensor([0.5, -0.5], dtype=r.dtype).expand(len(r), 2)
        scores = torch.tensor([2.0, 1.0, 0.0]).expand(len(r), 3)
        return loss(torch.cat([r[:, None], others], 1), scores, torch.ones(len(r), 3, dtype=torch.bool))

    return curve


def panels() -> list[Panel]:
    """Return what the atlas shows."""
    grades = torch.tensor([-3.0, -1.0, 1.0, 3.0], dtype=torch.float64)
    apart = torch.tensor([1.0, 3.0], dtype=torch.float64)
    smoothed = {f"p = {p}": against_zero(bradley_terry_loss, probability=p) for p in (1.0, 0.9, 0.7, 0.5)}
    corrected = {f"ε = {e}": against_zero(noise_corrected_loss, noise=e) for e in (0.0, 0.1, 0.2, 0.3)}
    widths = [(eta, o, f"{name}, η = {eta}") for eta in (0.5, 2.0) for o, name in ((1, "first better"), (0, "tie"))]
    rao_kupper = {name: judged(rao_kupper_loss, o, tie_width=eta) for eta, o, name in widths}
    davidson = {name: judged(davidson_loss, o, tie_weight=math.expm1(eta)) for eta, o, name in widths}
    lists = {"all_pairs": all_pairs_loss, "plackett_luce": plackett_luce_loss}
    lists |= {"listnet": listnet_loss, "lambdarank": lambdarank_loss}
    links = {"bradley_terry": bradley_terry_loss, "probit": probit_loss, "hinge": hinge_loss, "squared": squared_loss}
    words = {2: "much better", 1: "slightly better", 0: "tie", -1: "slightly worse"}
    return [
        Panel("links (margin 0, hard label)", {name: against_zero(loss) for name, loss in links.items()}),
        Panel("bradley_terry: label right with p", smoothed),
        Panel("noise_corrected: labels wrong at ε", corrected),
        Panel(
            "bradley_terry: margin", {f"m = {m}": against_zero(bradley_terry_loss, margin=m) for m in (0.0, 1.0, 3.0)}
        ),
        Panel("lists: the best of three moves", {n: of_list(loss) for n, loss in lists.items()}, "reward of the best"),
        Panel("rao_kupper", rao_kupper, "r_first − r_second", twins=True),
        Panel("davidson, ν = e^η − 1", davidson, "r_first − r_second", twins=True),
        Panel(
            "graded_preference, θ = 1, 3",
            {word: judged(graded_preference_loss, g, thresholds=apart) for g, word in words.items()},
            "r_first − r_second",
        ),
        Panel(
            "ordinal, θ = ∓3, ∓1",
            {f"grade {g}": of_single(ordinal_loss, g, thresholds=grades) for g in (0, 1, 2, 4)},
            "reward",
        ),
        Panel(
            "rating and step",
            {"rating 1": of_single(rating_loss, 1.0)}
            | {f"step, y = {y}": of_single(step_loss, y) for y in (1.0, 0.5, 0.0)},
            "reward",
        ),
    ]


def slope(curve: Curve, x: Tensor) -> Tensor:
    """Return the derivative of a curve at each x."""
    x = x.clone().requires_grad_()
    return torch.autograd.grad(curve(x).sum(), x)[0]


def atlas(columns: int = 5) -> Figure:
    """Return the picture: in each band losses above, their slopes below."""
    shown = panels()
    bands = math.ceil(len(shown) / columns)
    figure = Figure(figsize=(3.5 * columns, 6.2 * bands), layout="constrained")
    axes = figure.subplots(
        2 * bands, columns, sharex=True, gridspec_kw={"height_ratios": [3, 2] * bands}, squeeze=False
    )
    x = torch.linspace(-REACH, REACH, 601, dtype=torch.float64)
    for number, panel in enumerate(shown):
        band, column = divmod(number, columns)
        values, slopes = axes[2 * band][column], axes[2 * band + 1][column]
        for (name, curve), style in zip(panel.curves.items(), panel.styles(), strict=True):
            values.plot(x, curve(x).detach(), label=name, **style)
            slopes.plot(x, slope(curve, x), **style)
        values.set_title(panel.title, fontsize=11)
        values.set_ylim(-1.6, 9.4)  # room for the legend
        slopes.set_ylim(-2.2, 2.2)
        slopes.set_xlabel(panel.x)
        values.legend(fontsize=9, loc="upper center", framealpha=1.0)
        for one in (values, slopes):
            one.axhline(0, color="#697080", linewidth=0.8)
            one.axvline(0, color="#697080", linewidth=0.8)
            one.grid(color="#e3e6eb", linewidth=0.6)
            one.tick_params(labelbottom=True, labelsize=8)
    for band in range(bands):
        axes[2 * band][0].set_ylabel("loss, nats")
        axes[2 * band + 1][0].set_ylabel("slope")
    return figure
