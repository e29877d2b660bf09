"""Which weights are kept: scores of raw predictions on validation."""

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

from shopcast_build.learning.evaluation import Mask, fit_decision, macro_f1, rank
from shopcast_domain.features import Floats, Ints


def validation_metric(
    name: str, logits: NDArray[np.float32], outcome: Ints, looked: Mask | None = None
) -> float:
    """macro_f1 (of the decision that suits it best), auc or pr_auc (the mean over the outcomes, one
    against the rest, see evaluation.rank); nan for logits that are no numbers. logits: float32
    (M, 3). looked: the views and carts, bool (M,), None where all are."""
    if not np.isfinite(logits).all():
        return float("nan")
    probabilities = _softmax(logits)
    if name == "macro_f1":
        weights = fit_decision(probabilities, outcome)
        return macro_f1(outcome, (probabilities * weights).argmax(1))
    measure = {"auc": roc_auc_score, "pr_auc": average_precision_score}[name]
    found = [
        rank(probabilities[:, label], outcome == label, looked, measure)
        for label in np.unique(outcome)
    ]
    told = [area for area in found if area is not None]
    return float(np.mean(told)) if told else 1.0  # nothing to tell apart


def _softmax(logits: NDArray[np.float32]) -> Floats:
    z = logits.astype(np.float64)
    z = np.exp(z - z.max(1, keepdims=True))
    return z / z.sum(1, keepdims=True)
