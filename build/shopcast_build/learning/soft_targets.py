"""What the head may learn in place of outcomes: how likely trees call them that never saw the
person.

Trees learn from few exposures what a network needs many for; their chances tell it more of an
exposure than what came of it. (Hinton et al., 2015, arXiv:1503.02531; out of fold, since trees
know the outcomes that they were fitted to.)
"""

from dataclasses import dataclass

import numpy as np

from shopcast_build.data.errors import DataError
from shopcast_build.learning.examples import Examples, Progress
from shopcast_build.learning.preparation import Parts
from shopcast_build.learning.settings import BuildSettings
from shopcast_build.learning.trees import Matrix, Rows, TextComponents, Trees
from shopcast_domain.events import Outcome
from shopcast_domain.features import Ints

FOLDS = 5
"""Parts of the people; of each, trees speak that were fitted to the others."""


@dataclass(frozen=True, slots=True)
class SoftTargets:
    """The chance of each outcome, float32 (M, 3), for the exposures of two parts; None where
    outcomes are learned."""

    train: Matrix | None = None
    refit: Matrix | None = None


def told_by_trees(
    parts: Parts, vectors: Matrix, settings: BuildSettings, progress: Progress
) -> SoftTargets:
    """vectors: float32 (texts, d), of the catalogue. Raises DataError where there are too few
    people, or outcomes, to leave some out."""
    text = TextComponents.of(vectors[1:], settings.scorer.text_components, seed=0)

    def rows(examples: Examples, some: Ints | slice = slice(None)) -> Rows:
        return Rows(examples.features[some], vectors[examples.text[some]], examples.outcome[some])

    train, refit = parts.train, parts.refit
    people = 1 + max(int(one.person.max()) for one in (train, refit) if one is not None)
    fold_of = np.random.default_rng(settings.seed).integers(FOLDS, size=people)
    found = _nothing(train)
    again = None if refit is None else _nothing(refit)
    for fold in range(FOLDS):
        inside = fold_of[train.person] == fold
        others = np.flatnonzero(~inside)
        known = np.unique(train.outcome[others])
        judged = np.flatnonzero(np.isin(parts.validation.outcome, known))
        if len(known) < 2 or not len(judged):
            raise DataError(
                "too few people or outcomes for trees to leave some out: set head.targets to"
                ' "outcomes", or give a longer log'
            )
        trees = Trees.fit(
            rows(train, others), rows(parts.validation, judged), text=text, seed=settings.seed
        )
        found[inside] = _chances(trees, rows(train, np.flatnonzero(inside)))
        if refit is not None and again is not None:
            inside = fold_of[refit.person] == fold
            growth = (~inside).sum() / len(others)
            grown = trees.refit(rows(refit, np.flatnonzero(~inside)), growth=growth)
            again[inside] = _chances(grown, rows(refit, np.flatnonzero(inside)))
        progress(fold + 1, FOLDS)
    return SoftTargets(found, again)


def _nothing(examples: Examples) -> Matrix:
    return np.zeros((len(examples), len(Outcome)), dtype=np.float32)


def _chances(trees: Trees, rows: Rows) -> Matrix:
    """float32 (M, 3); 0 for outcomes that never occurred."""
    if not len(rows.outcome):
        return np.zeros((0, len(Outcome)), dtype=np.float32)
    logits = trees.logits(rows)
    chances = np.zeros_like(logits)
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    chances[:, trees.outcomes] = odds[:, trees.outcomes]
    return np.asarray(chances / chances.sum(axis=1, keepdims=True), dtype=np.float32)
