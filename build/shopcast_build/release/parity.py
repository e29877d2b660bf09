"""Whether exported graphs say what fp32 torch says, however they are asked."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from sklearn.metrics import roc_auc_score

from shopcast_build.learning.export import ParityError
from shopcast_build.learning.graphs import ROWS, Graphs, Matrix
from shopcast_build.release.sample import ExposureSample, spread
from shopcast_domain.events import Outcome
from shopcast_domain.features import Floats, Ints
from shopcast_domain.manifest import Calibration, Parity, ParityRow

BOUND = 0.01
"""How far a probability may move, unless told otherwise."""
_TEXTS = 256


def refuse(parity: Parity) -> None:
    """Raises ParityError when a probability moves by more than the bound."""
    if not parity.passed:
        raise ParityError(
            f"the exported graphs move a probability by {parity.moved:.4g}, more than the"
            f" {parity.bound:g} allowed, on {parity.exposures:,} exposures of the test period:"
            " nothing was published"
        )


@dataclass(frozen=True, slots=True)
class Decisions:
    """How logits become probabilities and a decision."""

    calibration: Calibration
    weights: tuple[float, float, float]

    def labels(self, probabilities: Floats) -> Ints:
        """The decided outcome of each row."""
        return (probabilities * np.array(self.weights)).argmax(1)


def measure_parity(
    graphs: Graphs,
    sample: ExposureSample,
    vectors: Matrix,
    decisions: Decisions,
    *,
    max_tokens: int,
    max_events: int,
    bound: float = BOUND,
) -> Parity:
    """Score the sample one by one, in batches as they come, and padded as far as can be; compare
    each with torch and with each other.

    vectors: what the graphs make of all texts, shortest first. Some texts are encoded anew in each
    of the three ways; all exposures are scored in each.
    """
    anew = 1 + spread(len(sample.texts) - 1, _TEXTS)
    texts = sample.texts[anew].tolist()
    ways: dict[Literal["alone", "batch", "padded"], tuple[int, int, int]] = {
        "alone": (1, 0, 0),
        "batch": (ROWS, 0, 0),
        "padded": (ROWS, max_tokens, max_events),
    }
    found: dict[str, Floats] = {}
    rows = []
    for how, (size, tokens, events) in ways.items():
        seen = vectors.copy()
        seen[anew] = graphs.encode(texts, rows=size, tokens=tokens, by_length=False)
        logits = [graphs.score(batch, seen) for batch in sample.batches(size, events=events)]
        found[how] = decisions.calibration.apply(np.concatenate(logits))
        rows.append(_row(how, found[how], sample, decisions))
    every = np.stack(list(found.values()))
    between = float((every.max(0) - every.min(0)).max())
    return Parity(exposures=len(sample), rows=tuple(rows), between=_round(between), bound=bound)


def _row(
    how: Literal["alone", "batch", "padded"],
    found: Floats,
    sample: ExposureSample,
    decisions: Decisions,
) -> ParityRow:
    expected = sample.probabilities
    shift = np.abs(found - expected).max(1)
    same = decisions.labels(found) == decisions.labels(expected)
    before, after = (headline_auc(p, sample.outcome) for p in (expected, found))
    change = None if before is None or after is None else _round(after - before)
    return ParityRow(
        how=how,
        worst=_round(float(shift.max())),
        p999=_round(float(np.quantile(shift, 0.999))),
        same_label=_round(float(same.mean())),
        auc_change=change,
    )


def headline_auc(probabilities: Floats, outcome: Ints) -> float | None:
    """AUC of telling purchases from mere views; in a sample without views, returns from keeps."""
    if (outcome == Outcome.VIEW).any():
        score, hit = 1.0 - probabilities[:, Outcome.VIEW], outcome != Outcome.VIEW
    else:
        score, hit = probabilities[:, Outcome.RETURN], outcome == Outcome.RETURN
    return float(roc_auc_score(hit, score)) if 0 < hit.sum() < len(hit) else None


def _round(number: float) -> float:
    return round(number, 7)
