"""A published release as the gateway uses it: texts to vectors, histories and candidates to
probabilities."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shopcast_domain.events import Outcome
from shopcast_domain.features import Floats
from shopcast_domain.manifest import BEHAVIOR, ENCODER, Manifest
from shopcast_domain.padding import pad_axis, padded_size
from shopcast_domain.tokeniser import ItemTokeniser
from shopcast_gateway.backend.protocol import Scoring
from shopcast_gateway.core.batching import SEND_MARGIN_S, Batcher, Bounds
from shopcast_gateway.core.exposure import Exposure, History, Scene, Vectors, scenes
from shopcast_gateway.core.stages import SPENT, Recorder, timed
from shopcast_gateway.errors import ContractMismatch, DeadlineExpired

ENCODE_BATCH = 64
"""Texts of one call to the encoder: its max_batch_size."""
SCORE_BATCH = 64
"""People of one call to the behaviour model: its max_batch_size."""
CALL_LIMIT_S = 60.0
"""Of one call to a model, whoever waits for it; each waiter has a deadline of its own."""
CALLS = 2
"""Calls to a model at once, of each server: one is computed while the next is on its way."""
_BOUNDS = Bounds(rows=SCORE_BATCH, small=2**18, largest=2**22)  # of numbers; 16 MiB

_IN_A_THREAD = 2**17
"""Numbers of a batch above which it is made up off the event loop."""


class Model:
    """One release, scored through a backend. calls: to each of its models at once, or what says
    how many."""

    def __init__(
        self,
        manifest: Manifest,
        tokeniser: ItemTokeniser,
        backend: Scoring,
        *,
        calls: int | Callable[[], int] = CALLS,
    ) -> None:
        self.manifest = manifest
        self.tokeniser = tokeniser
        self.calls = calls
        self._backend = backend
        self._padding = manifest.artefact.padding
        self._scores: Batcher[Scene | Exposure, Floats] = Batcher(
            self._score, size=lambda one: one.size, fits=_BOUNDS.fit, calls=calls, model=BEHAVIOR
        )

    def record(self, recorder: Recorder) -> None:
        """Tell a recorder of what is scored from now on."""
        self._scores.recorder = recorder

    async def encode(
        self, texts: Sequence[str], *, timeout_s: float, left_s: Callable[[], float] | None = None
    ) -> Vectors:
        """Vectors of 1 to ENCODE_BATCH texts, none of them empty: float32 (n, d).

        left_s: as of Batcher.run, where timeout_s is more than anybody has. Raises what
        Scoring.infer raises.
        """
        with timed("tokenise"):
            token_ids = await asyncio.to_thread(self.tokeniser.encode, texts)
            ids, mask = self.tokeniser.pad(token_ids)
        wanted_s = None if left_s is None else _in_time(left_s())
        tokens = padded_size(ids.shape[1], self._padding.get("tokens", ()))
        ids = pad_axis(ids, 1, tokens, self.tokeniser.pad_id)
        mask = pad_axis(mask, 1, tokens)
        with timed("encode"):
            vectors = await self._backend.infer(
                ENCODER,
                self.manifest.encoder_version,
                {"input_ids": ids, "attention_mask": mask},
                "vectors",
                timeout_s=timeout_s,
                wanted_s=wanted_s,
            )
        return _of_shape(vectors, (len(texts), self.manifest.vector_dim))

    async def check(self, timeout_s: float) -> None:
        """Raises Unavailable where scoring hangs, as Batcher.check."""
        await self._scores.check(timeout_s)

    async def score(self, one: Scene | Exposure, *, timeout_s: float) -> Floats:
        """Calibrated probabilities of n candidates for one person: float64 (n, 3).

        What is asked while calls are under way goes together, as one batch of people.
        Raises what Scoring.infer raises.
        """
        entry = self._scores.put(one, timeout_s=timeout_s)
        try:
            async with asyncio.timeout(timeout_s):
                found = await entry.future
        except TimeoutError:
            raise DeadlineExpired("scoring took longer than the deadline") from None
        if (spent := SPENT.get()) is not None:
            spent.waited(BEHAVIOR, entry.spent)
        return found

    async def try_encoder(self, *, timeout_s: float) -> None:
        """Encode one short text. Raises what Scoring.infer raises."""
        await self.encode(["shoe"], timeout_s=timeout_s)

    async def try_behavior(self, *, timeout_s: float) -> None:
        """Score one candidate for nobody, ahead of what waits to go as a batch. Raises what
        Scoring.infer raises."""
        dim = self.manifest.vector_dim
        numbers = np.zeros((0, len(self.manifest.history_numbers)), np.float32)
        history = History(np.zeros((0, dim), np.float32), np.zeros(0, np.int64), numbers)
        features = np.zeros((1, len(self.manifest.features)), np.float32)
        scene = Scene(history, np.zeros((1, dim), np.float32), features)
        await self._score([scene], timeout_s=timeout_s)

    async def _score(
        self,
        asked: Sequence[Scene | Exposure],
        left_s: Callable[[], float] | None = None,
        *,
        timeout_s: float = CALL_LIMIT_S,
    ) -> list[Floats]:
        if sum(one.size for one in asked) > _IN_A_THREAD:
            inputs = await asyncio.to_thread(self._inputs, asked)
        else:
            inputs = self._inputs(asked)
        wanted_s = None if left_s is None else _in_time(left_s())
        with timed("score"):
            logits = await self._backend.infer(
                BEHAVIOR,
                self.manifest.behavior_version,
                inputs,
                "logits",
                timeout_s=timeout_s,
                wanted_s=wanted_s,
            )
        candidates = inputs["candidate_features"].shape[1]
        logits = _of_shape(logits, (len(asked), candidates, len(Outcome)))
        probabilities = self.manifest.calibration.apply(logits)
        return [row[: len(one.vectors)] for row, one in zip(probabilities, asked, strict=True)]

    def _inputs(self, asked: Sequence[Scene | Exposure]) -> dict[str, NDArray[Any]]:
        exposures = [one for one in asked if isinstance(one, Exposure)]
        made = iter(scenes(exposures, self.manifest.feature_events))
        batch = [next(made) if isinstance(one, Exposure) else one for one in asked]
        return _behavior_inputs(batch, self._padding)


def _in_time(left_s: float) -> float:
    """Seconds left. Raises DeadlineExpired where that is too little to send anything."""
    if left_s <= SEND_MARGIN_S:
        raise DeadlineExpired("making up the batch took longer than the deadline")
    return left_s


def _of_shape(answer: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    if answer.shape != shape:
        raise ContractMismatch(f"the model answered {answer.shape} in place of {shape}")
    return answer


def _behavior_inputs(
    batch: Sequence[Scene], padding: Mapping[str, Sequence[int]]
) -> dict[str, NDArray[Any]]:
    """A batch of b people, padded to the longest history and the most candidates, or to the sizes
    that are served: masked events, and candidates whose answers are cut off. An empty history is
    one masked event: no axis may be empty."""
    b, first = len(batch), batch[0]
    events = max(1, *(len(scene.history.kind) for scene in batch))
    candidates = max(len(scene.features) for scene in batch)
    events = padded_size(events, padding.get("events", ()))
    candidates = padded_size(candidates, padding.get("candidates", ()))
    dim, numbers = first.vectors.shape[1], first.history.numbers.shape[1]
    inputs: dict[str, NDArray[Any]] = {
        "history_vectors": np.zeros((b, events, dim), dtype=np.float32),
        "history_kind": np.zeros((b, events), dtype=np.int64),
        "history_numbers": np.zeros((b, events, numbers), dtype=np.float32),
        "history_mask": np.zeros((b, events), dtype=np.float32),
        "candidate_vectors": np.zeros((b, candidates, dim), dtype=np.float32),
        "candidate_features": np.zeros((b, candidates, first.features.shape[1]), dtype=np.float32),
    }
    for row, scene in enumerate(batch):
        held, offered = len(scene.history.kind), len(scene.features)
        inputs["history_vectors"][row, :held] = scene.history.vectors
        inputs["history_kind"][row, :held] = scene.history.kind
        inputs["history_numbers"][row, :held] = scene.history.numbers
        inputs["history_mask"][row, :held] = 1
        inputs["candidate_vectors"][row, :offered] = scene.vectors
        inputs["candidate_features"][row, :offered] = scene.features
    return inputs
