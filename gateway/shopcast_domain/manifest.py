"""manifest.json: the contract between a published model and whoever serves it."""

from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shopcast_domain.features import Floats

MANIFEST = "manifest.json"
CONFIG = "config.pbtxt"
ENCODER = "encoder"
BEHAVIOR = "behavior"
NO_CHANCE = -1e9
"""The logit of an outcome the model was never trained on."""

Probability = Annotated[float, Field(ge=0, le=1)]


class ManifestError(Exception):
    """A manifest is missing, unreadable or of a newer schema. One sentence."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Tokeniser(_Part):
    """The tokeniser.json beside the encoder: its digest, and the longest sequence it may make."""

    sha256: str
    vocabulary: int
    max_tokens: int
    pad_id: int


class Calibration(_Part):
    """probabilities = softmax(scale * logits + bias), fitted on validation.

    Outcomes that were not trained have a bias of NO_CHANCE.
    """

    scale: Annotated[float, Field(gt=0)]
    bias: tuple[float, float, float]

    def apply(self, logits: NDArray[np.float32]) -> Floats:
        """logits: (N, 3). Returns float64 (N, 3); rows sum to one within 1e-12."""
        z = self.scale * logits.astype(np.float64) + np.array(self.bias)
        z -= z.max(axis=-1, keepdims=True)
        e = np.exp(z)
        return e / e.sum(axis=-1, keepdims=True)


class GoldenEvent(_Part):
    """An event of a golden history. numbers: as HISTORY_NUMBERS."""

    text: str
    kind: Annotated[int, Field(ge=0, le=3)]
    numbers: tuple[float, float, float]


class Golden(_Part):
    """A real exposure without its person, and what the model answered when it was built.

    token_ids and vector are those of `text`; probabilities are calibrated.
    """

    text: str
    token_ids: tuple[int, ...]
    vector: tuple[float, ...]
    features: tuple[float, ...]
    history: tuple[GoldenEvent, ...]
    probabilities: tuple[Probability, Probability, Probability]


class Tolerance(_Part):
    """How far a replay may stray: a vector's element, a probability."""

    vector: float = 2e-3
    probability: float = 2e-3


class Training(_Part):
    """Where the model comes from.

    published_as: which of the models judged in `metrics` it is. encoder: whose item vectors it
    reads. scorer: what scores inside `behavior`; trees do not go into TensorRT. exposures: by part;
    "refit" are those the published model was fitted to in the end, where they are more.
    """

    base_model: str
    published_as: str
    encoder: Literal["pretrained", "fine-tuned"]
    scorer: Literal["head", "trees", "blend"]
    log_start: datetime
    log_end: datetime
    train: tuple[datetime, datetime]
    validation: tuple[datetime, datetime]
    test: tuple[datetime, datetime]
    gap_days: float
    exposures: dict[str, int]
    platforms: tuple[str, ...]
    settings: dict[str, Any]


class Manifest(_Part):
    """One release: a behaviour model and the encoder it belongs to.

    files: path relative to the repository -> sha256 hex, for every file of both versions but the
    manifests. metrics: name of the model judged -> metric -> value, on the test period.
    """

    schema_version: Literal[1] = 1
    created: datetime
    shopcast_version: str
    encoder_version: Annotated[int, Field(ge=1)]
    behavior_version: Annotated[int, Field(ge=1)]
    outcomes: tuple[Literal["view"], Literal["buy"], Literal["return"]] = ("view", "buy", "return")
    trained_outcomes: tuple[Literal["view", "buy", "return"], ...]
    vector_dim: Annotated[int, Field(ge=1, le=4096)]
    history_events: Annotated[int, Field(ge=1, le=1024)]
    feature_events: Annotated[int, Field(ge=1, le=4096)]
    features: tuple[str, ...]
    history_numbers: tuple[str, ...]
    tokeniser: Tokeniser
    calibration: Calibration
    decision_weights: tuple[float, float, float]
    training: Training
    metrics: dict[str, dict[str, float]]
    parity: dict[str, float]
    files: dict[str, str]
    tolerance: Tolerance = Tolerance()
    goldens: tuple[Golden, ...] = Field(min_length=1)


def manifest_path(repository: Path, model: str, version: int) -> Path:
    """Where the manifest of a model version lies."""
    return repository / model / str(version) / MANIFEST


def read_manifest(path: Path) -> Manifest:
    """Raises ManifestError with one sentence when there is no valid manifest at `path`."""
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise ManifestError(f"{path} is missing: the version was not published whole") from None
    except OSError as error:
        raise ManifestError(f"{path} cannot be read: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise ManifestError(
            f"{path} is not a manifest this version can read ({where}: {first['msg']}):"
            " publish the model again with `platform build-model`"
        ) from None


def published_versions(repository: Path) -> list[int]:
    """Behaviour versions that have a manifest, oldest first. The manifest of the behaviour model is
    moved into place last, so a version that has one is whole."""
    folder = repository / BEHAVIOR
    if not folder.is_dir():
        return []
    return sorted(
        int(entry.name)
        for entry in folder.iterdir()
        if entry.name.isdigit() and (entry / MANIFEST).is_file()
    )
