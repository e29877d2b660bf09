"""The two graphs of a release, run as they will be in service."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from shopcast_build.learning.export import BEHAVIOR_INPUTS, ENCODER_INPUTS, open_session
from shopcast_domain.manifest import Tokeniser
from shopcast_domain.padding import pad_axis, padded_size
from shopcast_domain.tokeniser import TOKENISER, ItemTokeniser

ROWS = 64
Matrix = NDArray[np.float32]
Padding = Mapping[str, Sequence[int]]


class Session(Protocol):
    """What runs one graph, as onnxruntime.InferenceSession does."""

    def run(self, outputs: Sequence[str], feed: Mapping[str, NDArray[Any]]) -> list[Any]:
        """The named outputs."""
        ...


class Graphs:
    """Texts to vectors, and histories with candidates to logits.

    encoder, behavior: the folders of a version's two models. threads: 0 lets ONNX Runtime choose.
    padding: sizes that the axes tokens, events and candidates are padded up to. opened: a folder to
    what runs the graph in it; None: ONNX Runtime on the CPU.
    """

    def __init__(
        self,
        encoder: Path,
        behavior: Path,
        limits: Tokeniser,
        *,
        threads: int = 0,
        padding: Padding | None = None,
        opened: Callable[[Path], Session] | None = None,
    ) -> None:
        self.limits, self._padding = limits, padding or {}
        self.tokeniser = ItemTokeniser.load(
            encoder / TOKENISER, max_tokens=limits.max_tokens, pad_id=limits.pad_id
        )
        opened = opened or (lambda folder: open_session(folder / "model.onnx", threads))
        self._encoder, self._behavior = opened(encoder), opened(behavior)

    def encode(
        self, texts: Sequence[str], *, rows: int = ROWS, tokens: int = 0, by_length: bool = True
    ) -> Matrix:
        """Vectors of texts, float32 (n, d); that of an empty text is zeros.

        rows: of a batch. tokens: pad to so many at least. by_length: shortest first, which is the
        fastest; else in the given order.
        """
        ids = self.tokeniser.encode(texts)
        told = np.array([row for row, text in enumerate(texts) if text], dtype=np.int64)
        if by_length:
            told = told[np.argsort([len(ids[row]) for row in told], kind="stable")]
        vectors: Matrix | None = None
        for batch in np.split(told, range(rows, len(told), rows)) if len(told) else ():
            padded, mask = self.tokeniser.pad([ids[row] for row in batch])
            size = self._size("tokens", max(tokens, padded.shape[1]))
            feed = (pad_axis(padded, 1, size, self.limits.pad_id), pad_axis(mask, 1, size))
            found = self._encoder.run(["vectors"], dict(zip(ENCODER_INPUTS, feed, strict=True)))[0]
            if vectors is None:
                vectors = np.zeros((len(texts), found.shape[1]), dtype=np.float32)
            vectors[batch] = found
        if vectors is None:
            raise ValueError("there is no text to encode")
        return vectors

    def score(self, exposures: Mapping[str, NDArray[Any]], vectors: Matrix) -> Matrix:
        """Logits of exposures, float32 (b, 3). exposures: as ExposureBatches.collate gives them,
        with indices of texts into `vectors`."""
        events = self._size("events", exposures["history_kind"].shape[1])
        candidates = self._size("candidates", 1)
        history = (
            vectors[exposures["history_text"]],
            exposures["history_kind"],
            exposures["history_numbers"],
            exposures["history_mask"],
        )
        items = (vectors[exposures["text"]][:, None], exposures["features"][:, None])
        inputs = (
            *(pad_axis(array, 1, events) for array in history),
            *(pad_axis(array, 1, candidates) for array in items),
        )
        feed = dict(zip(BEHAVIOR_INPUTS, inputs, strict=True))
        return self._behavior.run(["logits"], feed)[0][:, 0]

    def _size(self, axis: str, size: int) -> int:
        return padded_size(size, self._padding.get(axis, ()))
