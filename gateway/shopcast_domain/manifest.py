"""manifest.json: the contract between a published model and whoever serves it."""

import json
import re
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from shopcast_domain.base_rates import BaseRates
from shopcast_domain.features import Floats

MANIFEST = "manifest.json"
CONFIG = "config.pbtxt"
FALLBACK = "fallback.pbtxt"
"""Beside the config.pbtxt of a target that not every machine runs: how to serve it in its place."""
ENCODER = "encoder"
BEHAVIOR = "behavior"
NO_CHANCE = -1e9
"""The logit of an outcome the model was never trained on."""

SCHEMA_VERSION = 1
_VERSION = re.compile(r"[1-9][0-9]{0,8}", re.ASCII)

Probability = Annotated[float, Field(ge=0, le=1)]
Target = Literal["python", "onnxruntime", "onnxruntime-tensorrt", "tensorrt"]
"""What runs the graphs inside Triton: ONNX Runtime in the Python backend, Triton's own ONNX Runtime
backend, the same with TensorRT as its execution provider, or a TensorRT plan."""
Device = Literal["cpu", "cuda"]
Precision = Literal["fp32", "fp16", "int8"]


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
    """probabilities = softmax(scale * logits + bias). The scale is fitted on validation; with the
    bias the model is right on average over what it learned from.

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

    base_model_licence: as its files state it, "unknown" where they do not. published_as: which of
    the models judged in `metrics` it is. encoder: whose item vectors it reads. scorer: what scores
    inside `behavior`; trees do not go into TensorRT. data_sha256: fingerprint of the events,
    exposures and item texts it was made from and judged on. exposures: by part; "refit" are those
    the published model was fitted to in the end, where they are more. currency: what the mapping
    converted prices to, in which requests and events are to give them; None: each platform's own.
    """

    base_model: str
    base_model_licence: str
    published_as: str
    encoder: Literal["pretrained", "fine-tuned", "distilled"]
    scorer: Literal["head", "trees", "blend"]
    log_start: datetime
    log_end: datetime
    data_sha256: str
    train: tuple[datetime, datetime]
    validation: tuple[datetime, datetime]
    test: tuple[datetime, datetime]
    gap_days: float
    exposures: dict[str, int]
    platforms: tuple[str, ...]
    settings: dict[str, Any]
    currency: str | None = None


class Plan(_Part):
    """What a TensorRT plan is tied to: it runs nowhere else."""

    gpu: str
    compute_capability: str
    tensorrt: str


class Teacher(_Part):
    """What a smaller encoder learned from. published_as: which of the models in `metrics` the
    larger one would have been. cosine: mean similarity of vectors on texts the smaller one was not
    shown. faster: how many times as many texts it encodes in the same time, where it was built.
    """

    published_as: str
    encoder: Literal["pretrained", "fine-tuned"]
    layers: int
    parameters: int
    cosine: float
    faster: float


class Artefact(_Part):
    """How the graphs of a version are run.

    backends: by model, what runs it, where `target` does not fit both. padding: sizes that a named
    axis is padded up to, in rising order; an axis without any is sent as it comes. derived_from:
    the version it was exported from; None: it came from a build. layers, parameters: of the
    encoder. teacher: of a distilled one.
    """

    target: Target = "python"
    device: Device = "cpu"
    precision: Precision = "fp32"
    backends: dict[str, Target]
    padding: dict[str, tuple[int, ...]] = {}
    plan: Plan | None = None
    derived_from: int | None = None
    layers: int
    parameters: int
    teacher: Teacher | None = None


class ParityRow(_Part):
    """How far calibrated probabilities are from those of fp32 torch, the same exposures being
    scored one by one, in batches, or in batches with more padding.

    worst, p999: the largest shift of a probability, and that which one exposure in a thousand
    exceeds. same_label: share of exposures with the same decision. auc_change: of telling purchases
    from views, or returns from keeps; None where the sample holds one kind only.
    """

    how: Literal["alone", "batch", "padded"]
    worst: Probability
    p999: Probability
    same_label: Probability
    auc_change: float | None


class Parity(_Part):
    """What the parity gate measured. between: the largest shift of a probability between two ways
    of scoring the same exposure. bound: what it and every worst shift may be at most."""

    exposures: int
    rows: tuple[ParityRow, ...]
    between: Probability
    bound: Probability

    @property
    def passed(self) -> bool:
        """Whether nothing moves by more than the bound."""
        return self.moved <= self.bound

    @property
    def moved(self) -> float:
        """By how much a probability moves at most, against torch or between two ways."""
        return max(self.between, *(row.worst for row in self.rows))


class Check(_Part):
    """One question that was asked before publishing, and the answer in one sentence."""

    name: str
    passed: bool
    finding: str


class Gate(_Part):
    """Whether a version was fit to publish. forced: it was published although it was not."""

    checks: tuple[Check, ...]
    forced: bool = False

    @property
    def failures(self) -> tuple[Check, ...]:
        """The checks that did not pass."""
        return tuple(check for check in self.checks if not check.passed)


class Manifest(_Part):
    """One release: a behaviour model and the encoder it belongs to.

    software: versions of what it was built with, by package. files: path relative to the repository
    -> sha256 hex, for every file of both versions but the manifests. metrics: name of the model
    judged -> metric -> value, on the test period. base_rates: what is answered while the model
    server is away; None in versions built before there were any.
    """

    schema_version: Literal[1] = 1
    created: datetime
    shopcast_version: str
    software: dict[str, str]
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
    artefact: Artefact
    training: Training
    metrics: dict[str, dict[str, float]]
    parity: Parity
    gate: Gate
    base_rates: BaseRates | None = None
    files: dict[str, str]
    tolerance: Tolerance = Tolerance()
    goldens: tuple[Golden, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _files_are_its_own(self) -> "Manifest":
        """A manifest is a file like any other: what it names is read, so only from its folders."""
        own = (f"{ENCODER}/{self.encoder_version}/", f"{BEHAVIOR}/{self.behavior_version}/")
        for name in self.files:
            if not name.startswith(own) or ".." in PurePosixPath(name).parts:
                raise ValueError(f"files names {name!r}, which is not in the version's folders")
        return self


def manifest_path(repository: Path, model: str, version: int) -> Path:
    """Where the manifest of a model version lies."""
    return repository / model / str(version) / MANIFEST


def read_manifest(path: Path) -> Manifest:
    """Raises ManifestError with one sentence when there is no valid manifest at `path`."""
    try:
        text = path.read_bytes()
        _check_schema(path, text)
        return Manifest.model_validate_json(text)
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


def _check_schema(path: Path, text: bytes) -> None:
    try:
        found = json.loads(text)["schema_version"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return  # what is wrong with it is for the validation to say
    if isinstance(found, int) and found > SCHEMA_VERSION:
        raise ManifestError(
            f"{path} has schema {found} and this version of shopcast reads up to {SCHEMA_VERSION}:"
            " upgrade shopcast here, or publish the model with this version"
        )


def published_versions(repository: Path) -> list[int]:
    """Behaviour versions that have a manifest, oldest first. The manifest of the behaviour model is
    moved into place last, so a version that has one is whole."""
    return [
        version
        for version in version_folders(repository / BEHAVIOR)
        if manifest_path(repository, BEHAVIOR, version).is_file()
    ]


def version_folders(model: Path) -> list[int]:
    """The numbers of a model's version folders, whole or not, in rising order."""
    if not model.is_dir():
        return []
    return sorted(int(entry.name) for entry in model.iterdir() if _VERSION.fullmatch(entry.name))
