"""The stretches a training consists of, as data."""

from dataclasses import dataclass

from shopcast_build.learning import processes
from shopcast_build.learning.settings import BuildSettings

_CLOSEST_STEPS = 20
"""A head is judged no more often than this: within fewer steps chance decides what is better."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One stretch of training.

    title: what progress, curves, checkpoints and errors call it. learn_texts: the encoder learns
    too, not only the head. steps: of the optimiser. head_learning_rate, encoder_learning_rate: at
    their peak, the latter for what lies on top of the encoder. evaluate_every: steps between two
    looks at validation.
    """

    title: str
    learn_texts: bool
    steps: int
    head_learning_rate: float
    evaluate_every: int
    encoder_learning_rate: float = 0.0


def head_stage(title: str, exposures: int, settings: BuildSettings) -> Stage:
    """Train the head on vectors as they are. exposures: those of one pass."""
    steps = settings.head.epochs * steps_of_pass(exposures, settings)
    return Stage(
        title,
        learn_texts=False,
        steps=steps,
        head_learning_rate=settings.head.learning_rate,
        evaluate_every=max(_CLOSEST_STEPS, steps // settings.stopping.evaluations),
    )


def young_head_stage(title: str, exposures: int, settings: BuildSettings) -> Stage:
    """One pass over the head: far enough to teach the encoder, not so far that nothing is left."""
    steps = steps_of_pass(exposures, settings)
    return Stage(title, False, steps, settings.head.learning_rate, evaluate_every=steps)


def joint_stage(title: str, settings: BuildSettings) -> Stage:
    """Fine-tune the encoder with the head, whose learning rate is halved: it has begun already."""
    steps = settings.encoder.steps
    return Stage(
        title,
        learn_texts=True,
        steps=steps,
        head_learning_rate=settings.head.learning_rate / 2,
        evaluate_every=max(1, steps // settings.stopping.encoder_evaluations),
        encoder_learning_rate=settings.encoder.learning_rate,
    )


def steps_of_pass(exposures: int, settings: BuildSettings) -> int:
    """Steps that see as many exposures as there are, over all processes."""
    optimiser = settings.optimiser
    return max(1, exposures // (optimiser.batch_size * optimiser.accumulation * processes.count()))
