"""Probabilities that mean what they say: fitting them, and measuring how far they are off."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from shopcast_domain.events import Outcome
from shopcast_domain.features import Floats, Ints
from shopcast_domain.manifest import NO_CHANCE, Calibration

Labelled = tuple[NDArray[np.float32], Ints]
"""Logits, (M, 3), and outcomes, (M,)."""

OUTCOMES = len(Outcome)
_LEAST_SCALE = 1e-3


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """Predictions of about the same probability.

    predicted: their mean. observed: the share of them that came true.
    """

    predicted: float
    observed: float
    count: int


def fit_calibration(
    logits: NDArray[np.float32], outcome: Ints, *, scale: float | None = None, prior: float = 1.0
) -> Calibration:
    """A scale and a bias per outcome that minimise the log loss.

    Temperature scaling (Guo et al., 2017, arXiv:1706.04599) with a bias, because priors drift. The
    loss is convex in both. scale: kept where it is given, and then the mean probability of each
    outcome becomes its share. prior: of how many observations the belief is worth that nothing has
    to be changed; it decides where an outcome has a handful of examples and vanishes where it has
    many. logits: (M, 3). Outcomes that do not occur get no chance.
    """
    free = np.flatnonzero(np.isin(np.arange(OUTCOMES), outcome))
    z = logits[:, free].astype(np.float64)  # (M, k)
    hit = (outcome[:, None] == free).astype(np.float64)  # (M, k)
    start = np.concatenate(([scale or 1.0], np.zeros(len(free))))

    def loss(parameters: Floats) -> tuple[float, Floats]:
        scale, bias = parameters[0], parameters[1:]
        shifted = scale * z + bias
        top = shifted.max(1, keepdims=True)
        log_total = top + np.log(np.exp(shifted - top).sum(1, keepdims=True))
        away = parameters - start
        value = -((shifted - log_total) * hit).sum() + prior / 2 * (away @ away)
        wrong = np.exp(shifted - log_total) - hit  # (M, k)
        gradient = np.concatenate(([(wrong * z).sum()], wrong.sum(0))) + prior * away
        return value / len(z), gradient / len(z)

    bounds = [(scale or _LEAST_SCALE, scale)] + [(None, None)] * len(free)
    found = minimize(
        loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"ftol": 1e-12}
    ).x
    bias = np.full(OUTCOMES, NO_CHANCE)
    bias[free] = found[1:] - found[1]  # only differences count
    return Calibration(scale=float(found[0]), bias=(float(bias[0]), float(bias[1]), float(bias[2])))


def fit_calibrations(validation: Labelled, known: Labelled) -> tuple[Calibration, Calibration]:
    """Of a model that validation judges, and of the final one, which is fitted again to what is
    `known` by then. Either: the logits of its model, and what came of them.

    The final one takes the scale of the first, as no model tells how sure it may be of what it was
    fitted to. Its biases make it right on average over that: those of validation say what the first
    did not know of validation's time, and the final one has learned that.
    """
    first = fit_calibration(*validation)
    return first, fit_calibration(*known, scale=first.scale)


def reliability(p: Floats, hit: NDArray[np.bool_], bins: int = 15) -> list[ReliabilityBin]:
    """Predicted and observed shares over bins of about equal size, from low to high.

    Equal predictions are always in one bin, so neither their order nor chance has a say. p: (M,),
    hit: (M,), whether it came true.
    """
    edges = np.quantile(p, np.arange(1, bins) / bins)
    number = np.searchsorted(edges, p, side="right")
    return [
        ReliabilityBin(float(p[rows].mean()), float(hit[rows].mean()), len(rows))
        for rows in (np.flatnonzero(number == n) for n in np.unique(number))
    ]


def expected_calibration_error(probabilities: Floats, outcome: Ints, bins: int = 15) -> float:
    """The gap between predicted and observed shares, the mean over exposures and over the outcomes
    that occur. probabilities: (M, 3)."""
    labels = np.unique(outcome)
    gaps = [
        abs(found.predicted - found.observed) * found.count
        for label in labels
        for found in reliability(probabilities[:, label], outcome == label, bins)
    ]
    return float(sum(gaps) / (len(labels) * len(outcome)))
