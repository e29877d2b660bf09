"""The stretches a training consists of."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Stage:
    """One stretch of training. learn_texts: fine-tune the encoder too, not only the head."""

    learn_texts: bool
    steps: int
    head_learning_rate: float
    evaluate_every: int
    patience: int = 3
