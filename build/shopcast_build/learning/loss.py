"""What training minimises."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from shopcast_build.learning.settings import LossSettings
from shopcast_domain.events import Outcome
from shopcast_domain.features import Ints

_POWER = {"none": 0.0, "sqrt_balanced": 0.5, "balanced": 1.0}


@dataclass(frozen=True, slots=True)
class Objective:
    """Cross-entropy, weighted by outcome and focused on what is hard.

    weights: float32 (3,), a mean of one over the training exposures. offset: float32 (3,), added to
    the logits in training only: the logarithms of how much more often each outcome counts than it
    occurs, through its weight or because others were left out. What the model itself then learns
    are the odds without that distortion (Menon et al., 2021, arXiv:2007.07314); with a focus this
    holds only about, and calibration does the rest.
    focus: the gamma of the focal loss (Lin et al., 2017, arXiv:1708.02002); 0: none.
    """

    weights: Tensor
    offset: Tensor
    focus: float = 0.0

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The mean over a batch. logits: float32 (b, 3). labels: int64 (b,)."""
        chances = torch.log_softmax(logits.float() + self.offset, -1)
        chosen = chances.gather(1, labels.unsqueeze(1)).squeeze(1)
        loss = -chosen
        if self.focus:
            # At zero a root has no gradient.
            loss = loss * (1 - chosen.exp()).clamp(min=1e-7) ** self.focus
        # Not divided by the sum of the weights: then batches could not be gathered into a step.
        return (loss * self.weights[labels]).mean()


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """The mean over a batch. logits, and targets, the chances to learn: float32 (b, 3)."""
    return -(targets * torch.log_softmax(logits.float(), -1)).sum(-1).mean()


def make_objective(
    settings: LossSettings, outcome: Ints, kept: Ints, device: torch.device
) -> Objective:
    """The loss for training on some of the exposures. outcome: int64 (M,) of all. kept: the rows
    trained on."""
    before, counts = (
        np.bincount(some, minlength=len(Outcome)).astype(float) for some in (outcome, outcome[kept])
    )
    occurs = counts > 0
    weights = np.ones(len(Outcome))
    weights[occurs] = (counts.sum() / counts[occurs]) ** _POWER[settings.class_weights]
    weights *= counts.sum() / (weights * counts).sum()
    share = np.divide(counts, before, out=np.ones(len(Outcome)), where=before > 0)
    offset = np.where(occurs, np.log(np.where(occurs, weights * share, 1.0)), 0.0)
    return Objective(
        weights=torch.tensor(weights, dtype=torch.float32, device=device),
        offset=torch.tensor(offset, dtype=torch.float32, device=device),
        focus=settings.focal_gamma if settings.kind == "focal" else 0.0,
    )


def keep_views(outcome: Ints, share: float, seed: int) -> Ints:
    """Rows of all exposures but for a random part of the views. share: of the views, kept."""
    if share == 1.0:
        return np.arange(len(outcome))
    views = np.flatnonzero(outcome == Outcome.VIEW)
    kept = np.random.default_rng(seed).permutation(views)[: max(1, round(share * len(views)))]
    others = np.flatnonzero(outcome != Outcome.VIEW)
    return np.sort(np.concatenate((kept, others)))
