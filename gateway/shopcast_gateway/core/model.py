"""A published release as the gateway uses it: texts to vectors, histories and candidates to
probabilities."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shopcast_domain.events import Outcome
from shopcast_domain.features import Floats, Ints
from shopcast_domain.manifest import BEHAVIOR, ENCODER, Manifest
from shopcast_domain.padding import pad_axis, padded_size
from shopcast_domain.tokeniser import ItemTokeniser
from shopcast_gateway.backend.protocol import Backend
from shopcast_gateway.errors import ContractMismatch

ENCODE_BATCH = 64
"""Texts of one call to the encoder: its max_batch_size."""

Vectors = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class History:
    """The events the behaviour model attends to. vectors: float32 (h, d). kind: int64 (h,).
    numbers: float32 (h, 3), as history_numbers gives them. h may be 0."""

    vectors: Vectors
    kind: Ints
    numbers: NDArray[np.float32]


class Model:
    """One release, scored through a backend."""

    def __init__(self, manifest: Manifest, tokeniser: ItemTokeniser, backend: Backend) -> None:
        self.manifest = manifest
        self.tokeniser = tokeniser
        self._backend = backend
        self._padding = manifest.artefact.padding

    async def encode(self, texts: Sequence[str], *, timeout_s: float) -> Vectors:
        """Vectors of 1 to ENCODE_BATCH texts, none of them empty: float32 (n, d).

        Raises what Backend.infer raises.
        """
        ids, mask = self.tokeniser.pad(self.tokeniser.encode(texts))
        tokens = padded_size(ids.shape[1], self._padding.get("tokens", ()))
        ids = pad_axis(ids, 1, tokens, self.tokeniser.pad_id)
        mask = pad_axis(mask, 1, tokens)
        vectors = await self._backend.infer(
            ENCODER,
            self.manifest.encoder_version,
            {"input_ids": ids, "attention_mask": mask},
            "vectors",
            timeout_s=timeout_s,
        )
        return _of_shape(vectors, (len(texts), self.manifest.vector_dim))

    async def score(
        self,
        history: History,
        vectors: Vectors,
        features: NDArray[np.float32],
        *,
        timeout_s: float,
    ) -> Floats:
        """Calibrated probabilities of n candidates for one person: float64 (n, 3).

        vectors: float32 (n, d). features: float32 (n, features). Raises what Backend.infer raises.
        """
        logits = await self._backend.infer(
            BEHAVIOR,
            self.manifest.behavior_version,
            _padded(_behavior_inputs(history, vectors, features), self._padding),
            "logits",
            timeout_s=timeout_s,
        )
        count = len(features)
        candidates = padded_size(count, self._padding.get("candidates", ()))
        logits = _of_shape(logits, (1, candidates, len(Outcome)))[0, :count]
        return self.manifest.calibration.apply(logits)


def _of_shape(answer: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    if answer.shape != shape:
        raise ContractMismatch(f"the model answered {answer.shape} in place of {shape}")
    return answer


def _padded(
    inputs: dict[str, NDArray[Any]], padding: Mapping[str, Sequence[int]]
) -> dict[str, NDArray[Any]]:
    """Events and candidates padded up to the sizes that are served: masked events, and items whose
    answers are cut off."""
    if not padding:
        return inputs
    found = {}
    for name, array in inputs.items():
        axis = "events" if name.startswith("history") else "candidates"
        size = padded_size(array.shape[1], padding.get(axis, ()))
        found[name] = pad_axis(array, 1, size)
    return found


def _behavior_inputs(
    history: History, vectors: Vectors, features: NDArray[np.float32]
) -> dict[str, NDArray[Any]]:
    """A batch of one person. An empty history becomes one masked event: no axis may be empty."""
    events = len(history.kind)
    if events == 0:
        history = History(
            vectors=np.zeros((1, vectors.shape[1]), dtype=np.float32),
            kind=np.zeros(1, dtype=np.int64),
            numbers=np.zeros((1, history.numbers.shape[1]), dtype=np.float32),
        )
    inputs: dict[str, NDArray[Any]] = {
        "history_vectors": history.vectors,
        "history_kind": history.kind,
        "history_numbers": history.numbers,
        "history_mask": np.full(len(history.kind), float(events > 0), dtype=np.float32),
        "candidate_vectors": vectors,
        "candidate_features": features,
    }
    return {name: array[np.newaxis] for name, array in inputs.items()}
