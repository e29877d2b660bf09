"""What scores inside `behavior`: the head, trees over numbers and text, or the blend of both."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from shopcast_build.learning.trees import Rows, Trees
from shopcast_domain.manifest import Calibration

ScorerKind = Literal["head", "trees", "blend"]


@dataclass(frozen=True, slots=True)
class Part:
    """One of the two that are blended: logits count as weight * (scale * logits + bias)."""

    weight: float
    calibration: Calibration

    def apply(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """(..., 3) -> (..., 3)."""
        scale, bias = self.constants
        return (logits * scale + bias).astype(np.float32)

    @property
    def constants(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Scale, float32 (), and bias, float32 (3,)."""
        scale = np.float32(self.weight * self.calibration.scale)
        bias = np.array(self.calibration.bias, dtype=np.float32) * np.float32(self.weight)
        return np.asarray(scale), bias


@dataclass(frozen=True, slots=True)
class Scorer:
    """How the logits of the head and of the trees become one. trees: None with kind 'head'."""

    kind: ScorerKind
    trees: Trees | None = None
    head_part: Part | None = None
    trees_part: Part | None = None

    def logits(self, head: NDArray[np.float32], rows: Rows) -> NDArray[np.float32]:
        """head: the head's logits, float32 (M, 3), of the same exposures as rows."""
        if self.trees is None:
            return head
        total = np.zeros_like(head)
        if self.head_part is not None:
            total += self.head_part.apply(head)
        if self.trees_part is not None:
            total += self.trees_part.apply(self.trees.logits(rows))
        return total


def blend(trees: Trees, head: Calibration, own: Calibration) -> Scorer:
    """The mean of the calibrated logits of head and trees."""
    return Scorer("blend", trees, Part(0.5, head), Part(0.5, own))


def trees_alone(trees: Trees, own: Calibration) -> Scorer:
    """Trees without the head."""
    return Scorer("trees", trees, None, Part(1.0, own))
