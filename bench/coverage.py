"""How often `bootstrap_interval` holds the truth, by simulation; run by `python -m bench losses --coverage`.

Values and accuracies of prompts with one pair, or with 1 to 6 pairs that share their prompt's luck wholly, by a third,
or not. Beside it stand the plain percentile bootstrap over prompts and Student's t on the prompts' means.
"""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t

from bench.timing import machine
from minirm.intervals import FEWEST_UNBOUNDED, bootstrap_interval

PROMPTS = (5, 10, 20, 30, 100)
Draw = Callable[[np.random.Generator, int], tuple[NDArray, NDArray, float]]


def pairs_of(prompts: int, rng: np.random.Generator, several: bool) -> NDArray:
    """Return the prompt of each pair: one to each, or 1 to 6."""
    return np.repeat(np.arange(prompts), rng.integers(1, 7, prompts) if several else 1)


def normal(several: bool) -> Draw:
    def draw(rng: np.random.Generator, prompts: int) -> tuple[NDArray, NDArray, float]:
        prompt = pairs_of(prompts, rng, several)
        return prompt, rng.normal(size=prompts)[prompt] + rng.normal(size=len(prompt)), 0.0

    return draw


def exponential(rng: np.random.Generator, prompts: int) -> tuple[NDArray, NDArray, float]:
    return np.arange(prompts), rng.exponential(size=prompts), 1.0


def log_loss(rng: np.random.Generator, prompts: int) -> tuple[NDArray, NDArray, float]:
    """Draw −log σ(d) with d ~ N(1, 3²): the truth is the integral over d."""
    z, weight = np.polynomial.hermite_e.hermegauss(200)
    truth = weight @ np.logaddexp(0, -(1 + 3 * z)) / weight.sum()
    return np.arange(prompts), np.logaddexp(0, -rng.normal(1, 3, prompts)), float(truth)


def accuracy(mean: float, shared: float | None) -> Draw:
    """Return a draw of right and wrong pairs; `shared` of their variance is the prompt's, None: one to a prompt."""

    def draw(rng: np.random.Generator, prompts: int) -> tuple[NDArray, NDArray, float]:
        prompt = pairs_of(prompts, rng, shared is not None)
        chance = np.full(prompts, mean)
        if shared == 1:
            chance = (rng.random(prompts) < mean).astype(float)
        elif shared:
            chance = rng.beta(mean * (1 / shared - 1), (1 - mean) * (1 / shared - 1), prompts)
        return prompt, (rng.random(len(prompt)) < chance[prompt]).astype(float), mean

    return draw


def difference(mean: float) -> Draw:
    """Return a draw of differences of two models that are right together or not, on one pair to a prompt."""

    def draw(rng: np.random.Generator, prompts: int) -> tuple[NDArray, NDArray, float]:
        return (
            np.arange(prompts),
            rng.choice([-1.0, 0.0, 1.0], prompts, p=[0.05, 0.95 - 0.05 - mean, mean + 0.05]),
            mean,
        )

    return draw


CASES: dict[str, Draw] = {
    "normal values, one to a prompt": normal(False),
    "normal values, 1 to 6 that share half their variance": normal(True),
    "exponential values, one to a prompt": exponential,
    "log loss of reward differences from N(1, 3²), one to a prompt": log_loss,
    **{f"accuracy {p}, one pair": accuracy(p, None) for p in (0.6, 0.8, 0.9, 0.95, 0.98)},
    **{
        f"accuracy {p}, 1 to 6 pairs, {s:.2g} of the variance shared": accuracy(p, s)
        for s in (0.0, 1 / 3, 1.0)
        for p in (0.6, 0.8, 0.95, 0.98)
    },
    "difference 0.1 of two accuracies": difference(0.1),
}


def percentile(values: NDArray, prompt: NDArray, resamples: int, rng: np.random.Generator) -> tuple[float, float]:
    """Return the plain percentile bootstrap over prompts."""
    totals, sizes = np.bincount(prompt, values), np.bincount(prompt)
    drawn = rng.integers(len(totals), size=(resamples, len(totals)))
    return tuple(np.quantile(totals[drawn].sum(1) / sizes[drawn].sum(1), [0.025, 0.975]))


def student(values: NDArray, prompt: NDArray) -> tuple[float, float]:
    """Return Student's interval of the prompts' means."""
    means = np.bincount(prompt, values) / np.bincount(prompt)
    half = t.ppf(0.975, len(means) - 1) * means.std(ddof=1) / np.sqrt(len(means))
    return means.mean() - half, means.mean() + half


def simulate(draws: int, resamples: int) -> list[dict]:
    """Return for each case and number of prompts how often each interval holds the truth, and its mean width."""
    rows = []
    for name, draw in CASES.items():
        for prompts in PROMPTS:
            held, width = np.zeros((2, 3))
            for seed in range(draws):
                rng = np.random.default_rng([prompts, seed])
                prompt, values, truth = draw(rng, prompts)
                ours = bootstrap_interval(values, prompt, resamples=resamples, seed=seed)[1:]
                ends = np.array([ours, percentile(values, prompt, resamples, rng), student(values, prompt)])
                held += (ends[:, 0] <= truth + 1e-12) & (truth - 1e-12 <= ends[:, 1])
                width += ends[:, 1] - ends[:, 0]
            shares, widths = (held / draws).round(4).tolist(), (width / draws).round(4).tolist()
            rows.append({"case": name, "prompts": prompts, "held": shares, "width": widths})
        print(name, *(f"{row['prompts']}: {row['held'][0]:.3f}" for row in rows[-len(PROMPTS) :]), flush=True)
    return rows


def main(out: Path, command: str, *, draws: int = 1000, resamples: int = 1000) -> None:
    """Simulate, and write coverage.json and coverage.md into a folder."""
    rows, facts = simulate(draws, resamples), machine()
    out.mkdir(parents=True, exist_ok=True)
    record = {"command": command, "machine": facts, "draws": draws, "resamples": resamples, "rows": rows}
    (out / "coverage.json").write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    (out / "coverage.md").write_text("\n".join(document(record)) + "\n")


def document(record: dict) -> list[str]:
    """Return the lines of coverage.md."""
    rows = record["rows"]
    printed = [row for row in rows if row["prompts"] >= FEWEST_UNBOUNDED or row["case"].startswith(("acc", "diff"))]
    lowest = min(printed, key=lambda row: row["held"][0])
    lines = [
        "# How often intervals hold the truth",
        "",
        f"`{record['command']}`: {record['draws']:,} data sets to each number, nominal 0.95, standard",
        f"error {np.sqrt(0.95 * 0.05 / record['draws']):.4f}. Each cell: `bootstrap_interval` / percentile bootstrap /",
        "Student's t on the prompts' means; in brackets the mean width of the first.",
        "",
        f"Lowest: {lowest['held'][0]:.3f}, {lowest['case']}, {lowest['prompts']} prompts; values without bounds count",
        f"from {FEWEST_UNBOUNDED} prompts on, since for fewer no interval is printed.",
        "",
        "| | " + " | ".join(f"{G} prompts" for G in PROMPTS) + " |",
        "|---|" + "---|" * len(PROMPTS),
    ]
    for name in CASES:
        cells = [row for row in rows if row["case"] == name]
        texts = (" / ".join(f"{h:.3f}" for h in row["held"]) + f" ({row['width'][0]:.2f})" for row in cells)
        lines.append(f"| {name} | " + " | ".join(texts) + " |")
    return lines
