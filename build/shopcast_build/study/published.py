"""A published version, judged as it is: its own graphs in ONNX Runtime, its own calibration."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from shopcast_build.data.errors import DataError
from shopcast_build.learning.batches import ExposureBatches
from shopcast_build.learning.evaluation import Judged
from shopcast_build.learning.examples import Examples
from shopcast_build.learning.graphs import Graphs
from shopcast_build.learning.preparation import Parts
from shopcast_build.learning.settings import BuildSettings
from shopcast_build.learning.timeline import Timeline
from shopcast_domain.features import FEATURES, Floats
from shopcast_domain.manifest import (
    BEHAVIOR,
    ENCODER,
    Manifest,
    manifest_path,
    published_versions,
    read_manifest,
)
from shopcast_repository.serving import serving_version

_EXPOSURES = 512


def find_version(repository: Path, number: int | None) -> Manifest:
    """The manifest of a version, for None the one that serves. Raises DataError, ManifestError,
    RepositoryError."""
    versions = published_versions(repository)
    if not versions:
        raise DataError(
            f"No model is published in {repository}; run `platform build-model` first, or leave"
            " --repository out."
        )
    if number is not None and number not in versions:
        known = ", ".join(map(str, versions))
        raise DataError(f"There is no version {number} in {repository}; it has {known}.")
    chosen = number or serving_version(repository) or versions[-1]
    manifest = read_manifest(manifest_path(repository, BEHAVIOR, chosen))
    if manifest.features != FEATURES:
        raise DataError(
            f"Version {manifest.behavior_version} in {repository} reads other features than this"
            " software computes; publish it again with `platform build-model`."
        )
    return manifest


def settings_of(manifest: Manifest) -> BuildSettings:
    """The settings a version was built with. Raises DataError when they are of another software."""
    try:
        return BuildSettings.model_validate(manifest.training.settings)
    except ValueError:
        raise DataError(
            f"The settings of version {manifest.behavior_version} are of another version of this"
            " software; publish it again with `platform build-model`, or give them with --settings"
            " and leave --repository out."
        ) from None


class PublishedModel:
    """The graphs of one version."""

    def __init__(self, repository: Path, manifest: Manifest, threads: int = 0) -> None:
        self._manifest = manifest
        self._graphs = Graphs(
            repository / ENCODER / str(manifest.encoder_version),
            repository / BEHAVIOR / str(manifest.behavior_version),
            manifest.tokeniser,
            threads=threads,
        )

    @property
    def decision_weights(self) -> tuple[float, float, float]:
        """Those of its manifest."""
        return self._manifest.decision_weights

    def judge(self, timeline: Timeline, parts: Parts) -> Judged:
        """What it says of validation and test."""
        validation, test = self.probabilities(timeline, parts.validation, parts.test)
        return Judged("published", validation, test)

    def probabilities(self, timeline: Timeline, *parts: Examples) -> list[Floats]:
        """What it says of exposures, float64 (M, 3), part by part."""
        vectors = self._graphs.encode(timeline.catalogue.texts)
        return [
            self._manifest.calibration.apply(self._logits(timeline, examples, vectors))
            for examples in parts
        ]

    def _logits(
        self, timeline: Timeline, examples: Examples, vectors: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        batches = ExposureBatches(examples, timeline, self._manifest.history_events)
        loader = DataLoader(batches, batch_size=_EXPOSURES, collate_fn=batches.collate)
        return np.concatenate(
            [
                self._graphs.score({n: t.numpy() for n, t in batch.items()}, vectors)
                for batch in loader
            ]
        )
