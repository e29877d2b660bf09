"""Fitting what may score inside `behavior`, and choosing among it on validation."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from shopcast_build.learning.calibration import fit_calibrations
from shopcast_build.learning.evaluation import Judged
from shopcast_build.learning.examples import Examples
from shopcast_build.learning.heads import FittedHead
from shopcast_build.learning.preparation import Parts
from shopcast_build.learning.reporter import Reporter
from shopcast_build.learning.scorer import Scorer, blend, trees_alone
from shopcast_build.learning.settings import BuildSettings
from shopcast_build.learning.trees import Rows, TextComponents, Trees
from shopcast_domain.features import Floats
from shopcast_domain.manifest import Calibration

TREES = "trees over numbers and text"
BLEND = "blend of head and trees"


@dataclass(frozen=True, slots=True)
class Scored:
    """A scorer, fitted to all that was known before the test, and judged. calibration: with a scale
    from validation."""

    judged: Judged
    scorer: Scorer = field(repr=False)
    calibration: Calibration


def fit_scorers(
    parts: Parts, head: FittedHead, name: str, settings: BuildSettings, reporter: Reporter
) -> dict[str, Scored]:
    """What `scorer.kind` allows, by name; `name` is that of the head."""
    kind = settings.scorer.kind
    found = {name: Scored(head.judged(name), Scorer("head"), head.final)}
    if kind == "head":
        return found
    vectors = head.model.vectors.cpu().numpy()

    def rows(examples: Examples) -> Rows:
        return Rows(examples.features, vectors[examples.text], examples.outcome)

    validation, test, known = (rows(one) for one in (parts.validation, parts.test, parts.known()))
    with reporter.stage("trees over numbers and text") as progress:
        text = TextComponents.of(vectors[1:], settings.scorer.text_components, seed=0)
        trees = Trees.fit(
            rows(parts.train),
            validation,
            text=text,
            seed=settings.seed,
            members=settings.scorer.members,
        )
        progress(1, 2)
        final = trees
        if parts.refit is not None:
            growth = len(parts.refit) / len(parts.train)
            final = trees.refit(rows(parts.refit), growth=growth)
        progress(2, 2)
    own, again = fit_calibrations(
        (trees.logits(validation), validation.outcome), (final.logits(known), known.outcome)
    )
    for label, chosen, scorer in (
        (TREES, trees_alone(trees, own), trees_alone(final, again)),
        (BLEND, blend(trees, head.chosen, own), blend(final, head.final, again)),
    ):
        logits = chosen.logits(head.validation, validation)
        learned = scorer.logits(head.known, known)
        first, last = fit_calibrations((logits, validation.outcome), (learned, known.outcome))
        judged = Judged(label, first.apply(logits), last.apply(scorer.logits(head.test, test)))
        found[label] = Scored(judged, scorer, last)
    wanted = {"trees": [TREES], "blend": [BLEND]}.get(kind, list(found))
    return {label: found[label] for label in wanted}


def best_scorer(scored: Mapping[str, Scored], validation: Examples) -> str:
    """The name of the one with the lowest log loss on validation."""
    return min(scored, key=lambda name: float(losses(scored[name].judged, validation).mean()))


def losses(judged: Judged, validation: Examples) -> Floats:
    """The log loss of every validation exposure, (M,)."""
    chosen = judged.validation[np.arange(len(validation)), validation.outcome]
    return -np.log(np.maximum(chosen, 1e-12))
