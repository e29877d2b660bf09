"""What one version consists of: graphs, tokeniser, Triton's model.py and configurations, goldens, a
sample of exposures, the model card and the manifest."""

import platform
import shutil
from dataclasses import dataclass, replace
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from shopcast_build.learning.base_model import BaseModel
from shopcast_build.learning.batches import ExposureBatches
from shopcast_build.learning.encoder import layer_stack
from shopcast_build.learning.export import ParityError, export_behavior, export_encoder
from shopcast_build.learning.graphs import ROWS, Graphs
from shopcast_build.learning.scorer import Scorer
from shopcast_build.learning.scorer_graph import into_graph
from shopcast_build.learning.settings import BuildSettings
from shopcast_build.learning.shopper_model import ShopperModel
from shopcast_build.learning.trees import Rows
from shopcast_build.release.card import draw_plots, write_card
from shopcast_build.release.goldens import choose_goldens
from shopcast_build.release.parity import Decisions, measure_parity, refuse
from shopcast_build.release.sample import FILE, ExposureSample, draw_sample, spread
from shopcast_domain.base_rates import BaseRates
from shopcast_domain.features import FEATURES, HISTORY_NUMBERS, Floats
from shopcast_domain.manifest import (
    BEHAVIOR,
    ENCODER,
    Artefact,
    Calibration,
    Gate,
    Manifest,
    Teacher,
    Tokeniser,
    Training,
)
from shopcast_domain.tokeniser import TOKENISER, ItemTokeniser
from shopcast_repository import triton_config
from shopcast_repository.digests import sha256
from shopcast_repository.served import write_configs
from shopcast_repository.triton_config import GRAPH

TRITON_MODEL = Path(triton_config.__file__).with_name("triton_model.py")
_CHECKED, _STALE = 128, 1e-4
_SOFTWARE = ("numpy", "onnx", "onnxruntime", "scikit-learn", "torch", "transformers")


@dataclass(frozen=True, slots=True)
class Release:
    """A trained model and all that its manifest has to say. texts: the catalogue's item texts.
    batches: the exposures of the test period; probabilities: what the model says of them, float64
    (n, 3)."""

    model: ShopperModel
    scorer: Scorer
    base: BaseModel
    tokeniser: ItemTokeniser
    calibration: Calibration
    decision_weights: tuple[float, float, float]
    trained_outcomes: tuple[Any, ...]
    metrics: dict[str, dict[str, float]]
    training: Training
    gate: Gate
    created: datetime
    shopcast_version: str
    settings: BuildSettings
    batches: ExposureBatches
    probabilities: Floats
    texts: tuple[str, ...]
    base_rates: BaseRates
    teacher: Teacher | None = None


def write_release(release: Release, encoder: Path, behavior: Path, version: int) -> Manifest:
    """Fill the two version folders and return the manifest. Raises ParityError."""
    settings, model = release.settings, release.model.cpu().eval()
    export_encoder(model.encoder, encoder / GRAPH, max_tokens=settings.encoder.max_tokens)
    export_behavior(model.behavior, behavior / GRAPH, vector_dim=settings.encoder.vector_dim)
    served = into_graph(onnx.load(behavior / GRAPH), release.scorer)
    (behavior / GRAPH).write_bytes(served.SerializeToString(deterministic=True))
    (encoder / TOKENISER).write_text(release.base.tokeniser, encoding="utf-8")
    for folder in (encoder, behavior):
        shutil.copyfile(TRITON_MODEL, folder / "model.py")
    sample = _sample(release)
    sample.save(behavior / FILE)
    limits = Tokeniser(
        sha256=sha256(encoder / TOKENISER),
        vocabulary=release.tokeniser.vocabulary,
        max_tokens=settings.encoder.max_tokens,
        pad_id=release.base.pad_id,
    )
    graphs = Graphs(encoder, behavior, limits, threads=settings.threads or 0)
    decisions = Decisions(release.calibration, release.decision_weights)
    vectors = graphs.encode(sample.texts.tolist())
    parity = measure_parity(
        graphs,
        sample,
        vectors,
        decisions,
        max_tokens=limits.max_tokens,
        max_events=settings.history.events,
    )
    refuse(parity)
    manifest = Manifest(
        created=release.created,
        shopcast_version=release.shopcast_version,
        software=software(),
        encoder_version=version,
        behavior_version=version,
        trained_outcomes=release.trained_outcomes,
        vector_dim=settings.encoder.vector_dim,
        history_events=settings.history.events,
        feature_events=settings.history.feature_events,
        features=FEATURES,
        history_numbers=HISTORY_NUMBERS,
        tokeniser=limits,
        calibration=release.calibration,
        decision_weights=release.decision_weights,
        artefact=Artefact(
            backends={ENCODER: "python", BEHAVIOR: "python"},
            layers=len(layer_stack(model.encoder.bert)),
            parameters=sum(weight.numel() for weight in model.encoder.parameters()),
            teacher=release.teacher,
        ),
        training=release.training,
        metrics=release.metrics,
        parity=parity,
        gate=release.gate,
        base_rates=release.base_rates,
        files={},
        goldens=choose_goldens(graphs, sample, vectors, release.calibration),
    )
    write_configs(manifest, {ENCODER: encoder, BEHAVIOR: behavior})
    draw_plots(
        release.probabilities,
        release.batches.examples.outcome,
        release.batches.examples.platform,
        release.training.platforms,
        behavior,
    )
    write_card(manifest, behavior)
    return manifest


def software() -> dict[str, str]:
    """Versions of what makes a model what it is."""
    return {name: metadata.version(name) for name in _SOFTWARE} | {
        "python": platform.python_version()
    }


@torch.inference_mode()
def _sample(release: Release) -> ExposureSample:
    """A sample of the test period, and what torch says of it."""
    model = release.model
    _check_vectors(model)
    sample = draw_sample(release.batches, release.texts, model.vectors.numpy())
    vectors = torch.from_numpy(sample.vectors)
    logits = []
    for batch in sample.batches(ROWS):
        tensors = {name: torch.from_numpy(array) for name, array in batch.items()}
        head = model.behavior(
            vectors[tensors["history_text"]],
            tensors["history_kind"],
            tensors["history_numbers"],
            tensors["history_mask"],
            vectors[tensors["text"]][:, None],
            tensors["features"][:, None],
        )[:, 0]
        logits.append((head + model.no_chance).numpy())
    rows = Rows(sample.features, sample.vectors[sample.text], sample.outcome)
    scored = release.scorer.logits(np.concatenate(logits), rows)
    return replace(sample, probabilities=release.calibration.apply(scored))


def _check_vectors(model: ShopperModel) -> None:
    """The table of vectors must be what the encoder says now, of some texts at least."""
    texts = torch.from_numpy(1 + spread(len(model.table) - 1, _CHECKED))
    for rows in texts.split(ROWS):
        read = (part.cpu() for part in model.table.rows(rows.to(model.table.tokens.device)))
        off = (model.encoder(*read) - model.vectors[rows]).abs().max()
        if not off < _STALE:
            raise ParityError(
                f"the vectors that the scorer was fitted on differ from the encoder's by {off:.2g}:"
                " nothing was published; this is a mistake of the build, please report it"
            )
