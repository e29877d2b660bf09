"""Fitting what may score inside `behavior`, and choosing among it on validation."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from shopcast_build.learning.calibration import fit_calibration
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
    """A scorer, fitted to all that was known before the test, and judged. calibration: fitted on
    validation."""

    judged: Judged
    scorer: Scorer = field(repr=False)
    calibration: Calibration


def fit_scorers(
    parts: Parts, head: FittedHead, name: str, settings: BuildSettings, reporter: Reporter
) -> dict[str, Scored]:
    """What `scorer.kind` allows, by name; `name` is that of the head."""
    kind = settings.scorer.kind
    found = {name: Scored(head.judged(name), Scorer("head"), head.calibration)}
    if kind == "head":
        return found
    vectors = head.model.vectors.cpu().numpy()

    def rows(examples: Examples) -> Rows:
        return Rows(examples.features, vectors[examples.text], examples.outcome)

    validation, test = rows(parts.validation), rows(parts.test)
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
    outcome = parts.validation.outcome
    own = fit_calibration(trees.logits(validation), outcome)
    for label, chosen, again in (
        (TREES, trees_alone(trees, own), trees_alone(final, own)),
        (BLEND, blend(trees, head.calibration, own), blend(final, head.calibration, own)),
    ):
        logits = chosen.logits(head.validation, validation)
        calibration = fit_calibration(logits, outcome)
        apply = calibration.apply
        judged = Judged(label, apply(logits), apply(again.logits(head.test, test)))
        found[label] = Scored(judged, again, calibration)
    wanted = {"trees": [TREES], "blend": [BLEND]}.get(kind, list(found))
    return {label: found[label] for label in wanted}


def best_scorer(scored: Mapping[str, Scored], validation: Examples) -> str:
    """The name of the one with the lowest log loss on validation."""
    return min(scored, key=lambda name: float(losses(scored[name].judged, validation).mean()))


def losses(judged: Judged, validation: Examples) -> Floats:
    """The log loss of every validation exposure, (M,)."""
    chosen = judged.validation[np.arange(len(validation)), validation.outcome]
    return -np.log(np.maximum(chosen, 1e-12))
