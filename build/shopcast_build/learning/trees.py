"""Gradient-boosted trees over the numbers of an exposure and, if wanted, its item's text."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.ensemble import HistGradientBoostingClassifier

from shopcast_domain.events import Outcome
from shopcast_domain.features import Ints

Matrix = NDArray[np.float32]

_MOST_ROUNDS = 400
_PATIENCE = 20
_APART = 1_000_003  # seeds of members of one model
_NOISE = 1e-6  # of a text component: values closer than this are one
_MARGIN = 1e-3


def member_seeds(seed: int, members: int) -> list[int]:
    """The seeds of what is averaged; models of neighbouring seeds have no member in common."""
    return [(seed + _APART * member) % 2**31 for member in range(members)]


@dataclass(frozen=True, slots=True)
class TextComponents:
    """The principal components of a catalogue's vectors: what trees can split of a text.

    mean: float32 (d,). axes: float32 (d, k).
    """

    mean: Matrix
    axes: Matrix

    @classmethod
    def of(cls, vectors: Matrix, count: int, seed: int) -> "TextComponents":
        """vectors: float32 (n, d), one per item text."""
        count = min(count, *vectors.shape)
        found = PCA(count, random_state=seed).fit(vectors.astype(np.float64))
        return cls(found.mean_.astype(np.float32), found.components_.T.astype(np.float32))

    def apply(self, vectors: Matrix) -> Matrix:
        """float32 (n, d) -> (n, k)."""
        return np.asarray((vectors - self.mean) @ self.axes, dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Rows:
    """What trees learn from: features float32 (M, f), vectors float32 (M, d) of the items' texts,
    outcome int64 (M,)."""

    features: Matrix
    vectors: Matrix
    outcome: Ints


@dataclass(frozen=True, slots=True)
class Trees:
    """Fitted trees: ensembles of different seeds, whose logits are averaged. text: None where they
    read numbers only."""

    members: tuple[HistGradientBoostingClassifier, ...]
    text: TextComponents | None

    @classmethod
    def fit(
        cls,
        train: Rows,
        validation: Rows,
        *,
        text: TextComponents | None,
        seed: int,
        members: int = 1,
    ) -> "Trees":
        """Add trees until the loss on validation has not fallen for a while."""
        x, x_validation = (_columns(rows, text) for rows in (train, validation))
        growing = {"early_stopping": True, "n_iter_no_change": _PATIENCE}
        found = (_classifier(_MOST_ROUNDS, one, **growing) for one in member_seeds(seed, members))
        return cls(
            tuple(
                _widened(
                    one.fit(x, train.outcome, X_val=x_validation, y_val=validation.outcome),
                    x,
                    train.features.shape[1],
                )
                for one in found
            ),
            text,
        )

    def refit(self, train: Rows, *, growth: float) -> "Trees":
        """Fitted to other rows, `growth` times as many: so many times more trees, too."""
        x = _columns(train, self.text)
        found = []
        for one in self.members:
            rounds = min(max(1, round(one.n_iter_ * growth)), _MOST_ROUNDS)
            again = _classifier(rounds, one.random_state, early_stopping=False)
            again.fit(x, train.outcome)
            found.append(_widened(again, x, train.features.shape[1]))
        return Trees(tuple(found), self.text)

    @property
    def outcomes(self) -> list[int]:
        """Those that occurred, in the order of a member's columns."""
        return [int(outcome) for outcome in self.members[0].classes_]

    def logits(self, rows: Rows) -> Matrix:
        """float32 (M, 3), up to a constant per row; 0 for outcomes that never occurred."""
        x = _columns(rows, self.text)
        raw = np.mean([one.decision_function(x) for one in self.members], axis=0)
        if raw.ndim == 1:  # two outcomes: the log odds of the second
            raw = np.stack([np.zeros_like(raw), raw], axis=1)
        logits = np.zeros((len(raw), len(Outcome)), dtype=np.float32)
        logits[:, self.outcomes] = raw
        return logits


def _classifier(rounds: int, seed: int, **stopping: bool | int) -> HistGradientBoostingClassifier:
    return HistGradientBoostingClassifier(
        max_iter=rounds,
        learning_rate=0.05,
        min_samples_leaf=50,
        l2_regularization=1.0,
        max_features=0.5,
        random_state=seed,
        **stopping,
    )


def _widened(
    fitted: HistGradientBoostingClassifier, x: Matrix, numbers: int
) -> HistGradientBoostingClassifier:
    """Move every threshold away from the training value it lies on, into the gap above.

    Thresholds are quantiles, so the value of a popular item is often one itself, and the last bit
    of its vector, which another runtime or processor computes otherwise, would decide the branch.
    What the trees say of the training values stays the same; by _MARGIN at most, so that a count
    that never occurred in training stays on the side where it was. numbers: how many of the columns
    are, and so the same to the last bit; the others are components of texts.
    """
    values = [np.unique(column.astype(np.float64)) for column in x.T]
    for trees in fitted._predictors:  # as skl2onnx reads them, too
        for tree in trees:
            nodes = tree.nodes
            for node in np.flatnonzero(~nodes["is_leaf"].astype(bool)):
                column, threshold = nodes["feature_idx"][node], nodes["num_threshold"][node]
                known, noise = values[column], _NOISE if column >= numbers else 0.0
                above = np.searchsorted(known, threshold + noise, side="right")
                if 0 < above < len(known):
                    below = known[above - 1]
                    away = min((known[above] - below) / 2, _MARGIN)
                    nodes["num_threshold"][node] = below + away
    return fitted


def _columns(rows: Rows, text: TextComponents | None) -> Matrix:
    if text is None:
        return rows.features
    return np.concatenate([rows.features, text.apply(rows.vectors)], axis=1)
