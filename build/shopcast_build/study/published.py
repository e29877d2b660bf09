"""A published version, judged as it is: its own graphs in ONNX Runtime, its own calibration."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader
from transformers.utils.hub import cached_file

from shopcast_build.data.errors import DataError
from shopcast_build.learning.base_model import BUNDLED
from shopcast_build.learning.batches import ExposureBatches
from shopcast_build.learning.evaluation import Judged
from shopcast_build.learning.examples import Examples
from shopcast_build.learning.exposures import Split
from shopcast_build.learning.graphs import Graphs
from shopcast_build.learning.preparation import Parts
from shopcast_build.learning.settings import BuildSettings, ExposureSettings
from shopcast_build.learning.timeline import Timeline
from shopcast_domain.features import FEATURES, HISTORY_NUMBERS, Floats
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
_WINDOWS = ("purchase_horizon_days", "return_window_days")


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
    if why := _reads_others(manifest):
        raise DataError(
            f"Version {manifest.behavior_version} in {repository} {why}; publish it again with"
            " `platform build-model`."
        )
    return manifest


def why_not_judged(
    manifest: Manifest, split: Split, exposures: ExposureSettings, currency: str | None = None
) -> str | None:
    """Why a version cannot be judged on the test of a split, as the rest of a sentence; None: it
    can be.

    A test proves something only of a model that did not learn from it. All outcomes that a version
    learned from, those of validation and of a fit after it too, were known when its own test began.
    exposures: how those of the split were cut. currency: of their prices, where it is known.
    """
    if why := _reads_others(manifest) or in_other_currency(manifest, currency):
        return why
    told = manifest.training.settings.get("exposures", {})
    if any(told.get(name) != getattr(exposures, name) for name in _WINDOWS):
        return "learned what becomes of exposures within other windows"
    known, begins = manifest.training.test[0], split.test[0]
    if begins < known:
        return (
            f"learned from outcomes known by {known:%Y-%m-%d %H:%M}, and the test begins on"
            f" {begins:%Y-%m-%d %H:%M}"
        )
    return None


def in_other_currency(manifest: Manifest, currency: str | None) -> str | None:
    """Whether a version would take prices for what they are not, as the rest of a sentence."""
    own = manifest.training.currency
    if own is None or currency is None or own == currency:
        return None
    return f"was built with prices in {own}, and these are in {currency}"


def _reads_others(manifest: Manifest) -> str | None:
    if manifest.features == FEATURES and manifest.history_numbers == HISTORY_NUMBERS:
        return None
    return "reads other features than this software computes"


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


def base_model_of(manifest: Manifest) -> str:
    """What to load as the base model of a version. Raises DataError where a name is all there is:
    that of a folder, which may be anywhere."""
    name = manifest.training.base_model
    if name == BUNDLED or "/" in name or Path(name).is_dir():
        return name
    try:
        cached_file(name, "config.json", local_files_only=True)
    except OSError:
        raise DataError(
            f"Version {manifest.behavior_version} was built from a base model called {name}, which"
            " is neither here nor in the cache of a model hub: give its folder, or its hub id, with"
            " --base-model."
        ) from None
    return name


class PublishedModel:
    """The graphs of one version. manifest: what it was published with."""

    def __init__(self, repository: Path, manifest: Manifest, threads: int = 0) -> None:
        self.manifest = manifest
        self._graphs = Graphs(
            repository / ENCODER / str(manifest.encoder_version),
            repository / BEHAVIOR / str(manifest.behavior_version),
            manifest.tokeniser,
            threads=threads,
        )

    @property
    def decision_weights(self) -> tuple[float, float, float]:
        """Those of its manifest."""
        return self.manifest.decision_weights

    def judge(self, timeline: Timeline, parts: Parts) -> Judged:
        """What it says of validation and test."""
        validation, test = self.probabilities(timeline, parts.validation, parts.test)
        return Judged("published", validation, test)

    def probabilities(self, timeline: Timeline, *parts: Examples) -> list[Floats]:
        """What it says of exposures, float64 (M, 3), part by part."""
        vectors = self._graphs.encode(timeline.catalogue.texts)
        return [
            self.manifest.calibration.apply(self._logits(timeline, examples, vectors))
            for examples in parts
        ]

    def _logits(
        self, timeline: Timeline, examples: Examples, vectors: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        batches = ExposureBatches(examples, timeline, self.manifest.history_events)
        loader = DataLoader(batches, batch_size=_EXPOSURES, collate_fn=batches.collate)
        return np.concatenate(
            [
                self._graphs.score({n: t.numpy() for n, t in batch.items()}, vectors)
                for batch in loader
            ]
        )
