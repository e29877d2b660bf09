"""A published version, judged as it is: its own graphs in ONNX Runtime, its own calibration."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from shopcast_build.data.errors import DataError
from shopcast_build.learning.batches import ExposureBatches
from shopcast_build.learning.evaluation import Judged
from shopcast_build.learning.examples import Examples
from shopcast_build.learning.export import BEHAVIOR_INPUTS, open_session
from shopcast_build.learning.preparation import Parts
from shopcast_build.learning.settings import BuildSettings
from shopcast_build.learning.timeline import Timeline
from shopcast_domain.features import FEATURES
from shopcast_domain.manifest import (
    BEHAVIOR,
    ENCODER,
    Manifest,
    manifest_path,
    published_versions,
    read_manifest,
)
from shopcast_domain.tokeniser import TOKENISER, ItemTokeniser

_TEXTS = 64
_EXPOSURES = 512


def find_version(repository: Path, number: int | None) -> Manifest:
    """The manifest of a version, the newest for None. Raises DataError, ManifestError."""
    versions = published_versions(repository)
    if not versions:
        raise DataError(
            f"No model is published in {repository}; run `platform build-model` first, or leave"
            " --repository out."
        )
    if number is not None and number not in versions:
        known = ", ".join(map(str, versions))
        raise DataError(f"There is no version {number} in {repository}; it has {known}.")
    manifest = read_manifest(manifest_path(repository, BEHAVIOR, number or versions[-1]))
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
        encoder = repository / ENCODER / str(manifest.encoder_version)
        behavior = repository / BEHAVIOR / str(manifest.behavior_version)
        self._encoder = open_session(encoder / "model.onnx", threads)
        self._behavior = open_session(behavior / "model.onnx", threads)
        self._tokeniser = ItemTokeniser.load(
            encoder / TOKENISER,
            max_tokens=manifest.tokeniser.max_tokens,
            pad_id=manifest.tokeniser.pad_id,
        )

    @property
    def decision_weights(self) -> tuple[float, float, float]:
        """Those of its manifest."""
        return self._manifest.decision_weights

    def judge(self, timeline: Timeline, parts: Parts) -> Judged:
        """What it says of validation and test."""
        vectors = self._encode(timeline.catalogue.texts)
        calibration = self._manifest.calibration
        validation, test = (
            calibration.apply(self._logits(timeline, examples, vectors))
            for examples in (parts.validation, parts.test)
        )
        return Judged("published", validation, test)

    def _encode(self, texts: tuple[str, ...]) -> NDArray[np.float32]:
        """float32 (texts, d); the empty text is zeros."""
        ids = self._tokeniser.encode(texts)
        vectors = np.zeros((len(texts), self._manifest.vector_dim), dtype=np.float32)
        order = np.argsort([len(one) for one in ids[1:]], kind="stable") + 1
        for rows in np.array_split(order, -(-len(order) // _TEXTS)) if len(order) else ():
            padded, mask = self._tokeniser.pad([ids[row] for row in rows])
            feed = {"input_ids": padded, "attention_mask": mask}
            vectors[rows] = self._encoder.run(None, feed)[0]
        return vectors

    def _logits(
        self, timeline: Timeline, examples: Examples, vectors: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        batches = ExposureBatches(examples, timeline, self._manifest.history_events)
        found = []
        for batch in DataLoader(batches, batch_size=_EXPOSURES, collate_fn=batches.collate):
            arrays = {name: tensor.numpy() for name, tensor in batch.items()}
            feed = {
                "history_vectors": vectors[arrays["history_text"]],
                "history_kind": arrays["history_kind"],
                "history_numbers": arrays["history_numbers"],
                "history_mask": arrays["history_mask"],
                "candidate_vectors": vectors[arrays["text"]][:, None],
                "candidate_features": arrays["features"][:, None],
            }
            assert set(feed) == set(BEHAVIOR_INPUTS)  # noqa: S101
            found.append(self._behavior.run(None, feed)[0][:, 0])
        return np.concatenate(found)
