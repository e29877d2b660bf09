"""Trains the contenders of a study."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from shopcast_build.data.errors import DataError
from shopcast_build.learning.base_model import BaseModel
from shopcast_build.learning.evaluation import Judged, gradient_boosting, majority
from shopcast_build.learning.examples import Examples
from shopcast_build.learning.learner import without_history
from shopcast_build.learning.preparation import Parts
from shopcast_build.learning.reporter import Reporter
from shopcast_build.learning.settings import BuildSettings
from shopcast_build.study.contenders import (
    AFTER,
    BEFORE,
    CHOICES,
    MAJORITY,
    NO_HISTORY,
    NO_TEXT,
    PUBLISHED,
    TEXTBOOK,
    TREES,
    UNTRAINED,
    WORDS,
    Contender,
    contender,
)
from shopcast_build.study.fusion import train_arms
from shopcast_build.study.heads import Heads
from shopcast_build.study.material import Material
from shopcast_build.study.published import PublishedModel
from shopcast_build.study.resampling import DRAWS
from shopcast_build.study.schema import Fusion, StepPoint
from shopcast_build.study.textbook import textbook_recipe
from shopcast_build.study.words import word_regression

SHARES = (0.1, 0.3)
"""Of the people, whose exposures a learning curve trains on, beside all."""


_HEADS = {UNTRAINED, BEFORE, AFTER, NO_HISTORY, NO_TEXT, "fusion", "learning"}


@dataclass(frozen=True, slots=True)
class StudyOptions:
    """contenders: some of CHOICES. seeds: trainings of each contender that is trained often.
    draws: resamplings of the people. textbook_steps: of fine-tuning the textbook recipe."""

    contenders: tuple[str, ...] = CHOICES
    seeds: int = 3
    draws: int = DRAWS
    textbook_steps: int = 60

    def needs_base_model(self) -> bool:
        """Whether a contender is made of the pretrained encoder."""
        return bool((_HEADS | {TEXTBOOK}) & set(self.contenders))

    def __post_init__(self) -> None:
        unknown = sorted(set(self.contenders) - set(CHOICES))
        if unknown:
            raise DataError(
                f"There is no contender {', '.join(unknown)}; choose among {', '.join(CHOICES)}."
            )


class Contest:
    """Trains the contenders that are asked for."""

    def __init__(
        self,
        material: Material,
        base: BaseModel | None,
        options: StudyOptions,
        reporter: Reporter,
        published: PublishedModel | None,
    ) -> None:
        self._material, self._options, self._reporter = material, options, reporter
        self._base, self._published = base, published
        settings, timeline = material.settings, material.timeline
        self._seeds = [settings.seed + n for n in range(options.seeds)]
        self._heads: Heads | None = None
        if base is not None and _HEADS & set(options.contenders):
            texts = timeline.catalogue.texts
            with reporter.stage(f"encode {len(texts) - 1:,} item texts") as progress:
                self._heads = Heads(base, texts, settings, progress)
        self._trained: dict[str, Contender] = {}
        self.steps: list[StepPoint] = []

    def train(self) -> tuple[list[Contender], Fusion | None]:
        """Every contender, in the order in which readers meet them."""
        material, timeline, parts = self._material, self._material.timeline, self._material.parts
        if self._published is not None:
            with self._reporter.stage("the published graphs") as progress:
                judged = self._published.judge(timeline, parts)
                progress(1, 1)
            outcome = parts.validation.outcome
            weights = self._published.decision_weights
            self._trained[PUBLISHED] = contender(PUBLISHED, [judged], outcome, decision=weights)
        heads = self._heads
        if heads is not None:
            alone = parts.each(without_history)
            ways: dict[str, Callable[[int], Judged]] = {
                AFTER: self._tuned,
                BEFORE: lambda seed: heads.head(timeline, parts, seed),
                UNTRAINED: lambda seed: heads.untrained(timeline, parts, seed),
                NO_HISTORY: lambda seed: heads.head(timeline, alone, seed),
                NO_TEXT: lambda seed: heads.without_text(timeline, parts, seed),
            }
            for key, way in ways.items():
                if key == AFTER and not _tunes(material.settings):
                    continue
                self._repeat(key, way)
        self._repeat(TREES, lambda seed: self._numeric_trees(parts, seed))
        if WORDS in self._options.contenders:
            with self._reporter.stage("words") as progress:
                self._add(WORDS, [word_regression(timeline, parts, seed=self._seeds[0])])
                progress(1, 1)
        if TEXTBOOK in self._options.contenders and self._base is not None:
            self._textbook(self._base)
        if MAJORITY in self._options.contenders:
            asked = parts.validation.platform, parts.test.platform
            known = parts.refit or parts.train
            self._add(MAJORITY, [majority(known.outcome, known.platform, *asked)])
        fusion = None
        if heads is not None and "fusion" in self._options.contenders:
            arms, fusion = train_arms(material, heads, self._options.seeds, self._reporter)
            self._trained |= {arm.key: arm for arm in arms}
        return list(self._trained.values()), fusion

    def learning_curves(self) -> list[tuple[Contender, int]]:
        """The head on frozen vectors and the trees, trained on some of the people."""
        parts, found = self._material.parts, []
        heads, timeline = self._heads, self._material.timeline
        ways: dict[str, Callable[[Parts, int], Judged]] = {TREES: self._numeric_trees}
        if heads is not None:
            ways[BEFORE] = lambda some, seed: heads.head(timeline, some, seed)
        for share in (*SHARES, 1.0):
            some = some_people(parts, share, seed=self._material.settings.seed)
            # An outcome that nobody of the few had would leave the model without it.
            if len(np.unique(some.train.outcome)) < len(np.unique(parts.train.outcome)):
                continue
            size = len(some.refit or some.train)
            with self._reporter.stage(f"learn from {size:,} exposures") as progress:
                for done, (key, way) in enumerate(ways.items(), 1):
                    one = self._trained.get(key) if share == 1.0 else None
                    if one is None:
                        runs = [way(some, seed) for seed in self._seeds]
                        one = contender(key, runs, parts.validation.outcome)
                    found.append((replace(one, key=f"{key}@{size}"), size))
                    progress(done, len(ways))
        return found

    def _tuned(self, seed: int) -> Judged:
        assert self._heads is not None  # noqa: S101 - asked for only with heads
        judged, curve = self._heads.tuned(self._material.timeline, self._material.parts, seed)
        self.steps += [
            point.model_copy(update={"stage": f"{point.stage}, seed {seed}"}) for point in curve
        ]
        return judged

    def _numeric_trees(self, parts: Parts, seed: int) -> Judged:
        return gradient_boosting(
            (parts.train.features, parts.train.outcome),
            (parts.validation.features, parts.validation.outcome),
            parts.test.features,
            seed=seed,
            members=self._material.settings.scorer.members,
            again=(parts.refit.features, parts.refit.outcome) if parts.refit else None,
        )

    def _repeat(self, key: str, way: Callable[[int], Judged]) -> None:
        if key not in self._options.contenders:
            return
        with self._reporter.stage(key) as progress:
            runs = []
            for done, seed in enumerate(self._seeds, 1):
                runs.append(way(seed))
                progress(done, len(self._seeds))
        self._add(key, runs)

    def _add(self, key: str, runs: list[Judged]) -> None:
        self._trained[key] = contender(key, runs, self._material.parts.validation.outcome)

    def _textbook(self, base: BaseModel) -> None:
        parts = self._material.parts
        steps = self._options.textbook_steps
        with self._reporter.stage("the textbook recipe") as progress:
            found = textbook_recipe(
                base,
                self._material.timeline,
                parts,
                steps=steps,
                seed=self._seeds[0],
                progress=progress,
            )
        self._trained[TEXTBOOK] = contender(
            TEXTBOOK,
            [found.judged],
            parts.validation.outcome[found.validation_rows],
            note=(
                f"BERT over one text, the item and then the history; {steps} steps over"
                f" {found.exposures:,} exposures, judged on {int(found.asked.sum()):,}"
            ),
            asked=found.asked,
        )


def some_people(parts: Parts, share: float, *, seed: int) -> Parts:
    """The parts with the training exposures of a share of the people only, chosen at random; those
    of a smaller share are among those of a larger one."""
    people = np.unique((parts.refit or parts.train).person)
    order = np.random.default_rng(seed).permutation(len(people))
    chosen = people[order[: max(1, round(share * len(people)))]]

    def of_chosen(examples: Examples) -> Examples:
        return examples.take(np.flatnonzero(np.isin(examples.person, chosen)))

    return replace(
        parts, train=of_chosen(parts.train), refit=parts.refit and of_chosen(parts.refit)
    )


def _tunes(settings: BuildSettings) -> bool:
    return settings.encoder.steps > 0
