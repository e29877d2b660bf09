"""What one version consists of: graphs, tokeniser, Triton's model.py, goldens and the manifest."""

import hashlib
import shutil
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from shopcast_build.learning.base_model import BaseModel
from shopcast_build.learning.batches import ExposureBatches
from shopcast_build.learning.export import (
    BEHAVIOR_INPUTS,
    ENCODER_INPUTS,
    check_parity,
    export_behavior,
    export_encoder,
    open_session,
)
from shopcast_build.learning.scorer import Scorer
from shopcast_build.learning.scorer_graph import into_graph
from shopcast_build.learning.settings import BuildSettings
from shopcast_build.learning.shopper_model import ShopperModel
from shopcast_build.learning.trees import Rows
from shopcast_domain.features import FEATURES, HISTORY_NUMBERS
from shopcast_domain.manifest import (
    Calibration,
    Golden,
    GoldenEvent,
    Manifest,
    Tokeniser,
    Training,
)
from shopcast_domain.tokeniser import TOKENISER, ItemTokeniser

_TRITON_MODEL = Path(__file__).with_name("triton_model.py")
_VECTOR_LIMIT = 1e-4
_LOGIT_LIMIT = 1e-3
_TREES_SHARE = 0.98
_PARITY_EXPOSURES = 512
_GOLDENS = 6
_DRAWS, _NOISE, _STEADY = 4, 1e-4, 1e-3
_GOLDEN_EVENTS = 16


@dataclass(frozen=True, slots=True)
class Release:
    """A trained model and all that its manifest has to say. texts: the catalogue's item texts."""

    model: ShopperModel
    scorer: Scorer
    base: BaseModel
    tokeniser: ItemTokeniser
    calibration: Calibration
    decision_weights: tuple[float, float, float]
    trained_outcomes: tuple[Any, ...]
    metrics: dict[str, dict[str, float]]
    training: Training
    created: datetime
    shopcast_version: str
    settings: BuildSettings
    batches: ExposureBatches
    texts: tuple[str, ...]


def write_release(release: Release, encoder: Path, behavior: Path, version: int) -> Manifest:
    """Fill the two version folders and return the manifest. Raises ParityError."""
    settings, model = release.settings, release.model.cpu().eval()
    export_encoder(model.encoder, encoder / "model.onnx", max_tokens=settings.encoder.max_tokens)
    graph = behavior / "model.onnx"
    export_behavior(model.behavior, graph, vector_dim=settings.encoder.vector_dim)
    served = into_graph(onnx.load(graph), release.scorer)
    graph.write_bytes(served.SerializeToString(deterministic=True))
    (encoder / TOKENISER).write_text(release.base.tokeniser, encoding="utf-8")
    for folder in (encoder, behavior):
        shutil.copyfile(_TRITON_MODEL, folder / "model.py")
    replay = _Served(release, encoder / "model.onnx", graph)
    return Manifest(
        created=release.created,
        shopcast_version=release.shopcast_version,
        encoder_version=version,
        behavior_version=version,
        trained_outcomes=release.trained_outcomes,
        vector_dim=settings.encoder.vector_dim,
        history_events=settings.history.events,
        feature_events=settings.history.feature_events,
        features=FEATURES,
        history_numbers=HISTORY_NUMBERS,
        tokeniser=Tokeniser(
            sha256=hashlib.sha256(release.base.tokeniser.encode()).hexdigest(),
            vocabulary=release.tokeniser.vocabulary,
            max_tokens=settings.encoder.max_tokens,
            pad_id=release.base.pad_id,
        ),
        calibration=release.calibration,
        decision_weights=release.decision_weights,
        training=release.training,
        metrics=release.metrics,
        parity=replay.parity(),
        files={},
        goldens=replay.goldens(),
    )


class _Served:
    """The exported graphs, run as they will be in service."""

    def __init__(self, release: Release, encoder: Path, behavior: Path) -> None:
        self._release = release
        self._encoder, self._behavior = open_session(encoder), open_session(behavior)

    def parity(self) -> dict[str, float]:
        """Largest differences from torch on real exposures of the test period."""
        release = self._release
        batch = self._batch(min(_PARITY_EXPOSURES, len(release.batches)))
        texts = torch.unique(batch["text"])
        texts = texts[texts != 0][:_PARITY_EXPOSURES]
        with torch.inference_mode():
            encoder, table = release.model.encoder, release.model.table
            expected = encoder(*table.rows(texts)).numpy()
            head = release.model(**batch)["logits"].numpy()
        item = release.model.vectors[batch["text"]].numpy()
        rows = Rows(batch["features"].numpy(), item, batch["labels"].numpy())
        logits = release.scorer.logits(head, rows)
        found = self._encode([release.texts[int(t)] for t in texts])
        trained = release.model.no_chance.numpy() == 0
        return {
            "vector": check_parity("encoder", expected, found, _VECTOR_LIMIT),
            "logit": check_parity(
                "behaviour model",
                logits[:, trained],
                self._score(batch)[:, trained],
                _LOGIT_LIMIT,
                # A vector's last bit may lead a tree down another branch.
                share=1.0 if release.scorer.trees is None else _TREES_SHARE,
            ),
        }

    def goldens(self) -> tuple[Golden, ...]:
        """Test exposures from the longest history to none, cut short.

        Of those that trees score, only such as noise in the vectors does not move: on another CPU
        a vector's last digits differ.
        """
        release = self._release
        batch = self._batch(min(_PARITY_EXPOSURES, len(release.batches)))
        by_history = torch.argsort(batch["history_mask"].sum(1), descending=True, stable=True)
        steady = self._steady(batch)
        rows = [int(r) for r in by_history if batch["text"][r] != 0 and steady[r]]
        spread = [
            rows[i] for i in np.linspace(0, len(rows) - 1, min(_GOLDENS, len(rows))).astype(int)
        ]
        return tuple(self._golden({k: v[[r], ...] for k, v in batch.items()}) for r in spread)

    def _steady(self, batch: dict[str, torch.Tensor]) -> NDArray[np.bool_]:
        """Which exposures of a batch keep their probabilities when vectors are a little off."""
        apply, vectors = self._release.calibration.apply, self._release.model.vectors
        expected = apply(self._score(batch))
        noise = torch.Generator().manual_seed(0)
        moved = np.zeros(len(expected))
        for _ in range(_DRAWS):
            off = vectors + _NOISE * torch.randn(vectors.shape, generator=noise)
            moved = np.maximum(moved, np.abs(apply(self._score(batch, off)) - expected).max(1))
        return moved < _STEADY

    def _golden(self, one: dict[str, torch.Tensor]) -> Golden:
        for name in ("history_text", "history_kind", "history_numbers", "history_mask"):
            one[name] = one[name][:, :_GOLDEN_EVENTS]
        release = self._release
        text = release.texts[int(one["text"][0])]
        present = int(one["history_mask"].sum())
        probabilities = release.calibration.apply(self._score(one))[0]
        history = tuple(
            GoldenEvent(
                text=release.texts[int(one["history_text"][0, e])],
                kind=int(one["history_kind"][0, e]),
                numbers=tuple(one["history_numbers"][0, e].tolist()),
            )
            for e in range(present)
        )
        return Golden(
            text=text,
            token_ids=tuple(release.tokeniser.encode([text])[0]),
            vector=tuple(self._encode([text])[0].tolist()),
            features=tuple(one["features"][0].tolist()),
            history=history,
            probabilities=tuple(probabilities.tolist()),
        )

    def _batch(self, count: int) -> dict[str, torch.Tensor]:
        # Spread over the test period.
        rows = np.linspace(0, len(self._release.batches) - 1, count).astype(int)
        return self._release.batches.collate(rows.tolist())

    def _encode(self, texts: list[str]) -> NDArray[np.float32]:
        ids, mask = self._release.tokeniser.pad(self._release.tokeniser.encode(texts))
        feed = dict(zip(ENCODER_INPUTS, (ids, mask), strict=True))
        return self._encoder.run(["vectors"], feed)[0]

    def _score(
        self, batch: dict[str, torch.Tensor], vectors: torch.Tensor | None = None
    ) -> NDArray[np.float32]:
        vectors = self._release.model.vectors if vectors is None else vectors
        inputs = (
            vectors[batch["history_text"]],
            batch["history_kind"],
            batch["history_numbers"],
            batch["history_mask"],
            vectors[batch["text"]].unsqueeze(1),
            batch["features"].unsqueeze(1),
        )
        feed = {n: t.numpy() for n, t in zip(BEHAVIOR_INPUTS, inputs, strict=True)}
        return self._behavior.run(["logits"], feed)[0][:, 0]
