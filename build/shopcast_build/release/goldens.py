"""Golden exposures: what a version answered when it was published."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shopcast_build.learning.graphs import Graphs, Matrix
from shopcast_build.release.sample import ExposureSample
from shopcast_domain.features import Floats
from shopcast_domain.manifest import Calibration, Golden, GoldenEvent

_COUNT = 6
_EVENTS = 16
_DRAWS, _NOISE, _STEADY = 4, 1e-4, 1e-3
_AMONG = 512


def choose_goldens(
    graphs: Graphs, sample: ExposureSample, vectors: Matrix, calibration: Calibration
) -> tuple[Golden, ...]:
    """Exposures of a sample from the longest history to none, cut short, as the graphs score them.

    vectors: what the graphs make of the sample's texts. Of those that trees score, only such as
    noise in the vectors does not move: on another CPU a vector's last digits differ.
    """
    short = replace(
        sample,
        history_text=sample.history_text[:, :_EVENTS],
        history_kind=sample.history_kind[:, :_EVENTS],
        history_numbers=sample.history_numbers[:, :_EVENTS],
        history_mask=sample.history_mask[:, :_EVENTS],
    )
    among = np.linspace(0, len(sample) - 1, min(_AMONG, len(sample))).astype(int)
    steady = _steady(graphs, short, vectors, calibration)
    by_history = among[np.argsort(-sample.history_mask[among].sum(1), kind="stable")]
    rows = [int(row) for row in by_history if sample.text[row] != 0 and steady[row]]
    chosen = np.linspace(0, len(rows) - 1, min(_COUNT, len(rows))).astype(int)
    return tuple(_golden(graphs, short, rows[i], calibration) for i in chosen)


def _probabilities(
    graphs: Graphs, sample: ExposureSample, vectors: Matrix, calibration: Calibration
) -> Floats:
    logits = [graphs.score(batch, vectors) for batch in sample.batches(_AMONG)]
    return calibration.apply(np.concatenate(logits))


def _steady(
    graphs: Graphs, sample: ExposureSample, vectors: Matrix, calibration: Calibration
) -> NDArray[np.bool_]:
    """Which exposures keep their probabilities when vectors are a little off."""
    expected = _probabilities(graphs, sample, vectors, calibration)
    noise = np.random.default_rng(0)
    moved = np.zeros(len(expected))
    for _ in range(_DRAWS):
        off = vectors + np.float32(_NOISE) * noise.standard_normal(vectors.shape, np.float32)
        found = _probabilities(graphs, sample, off, calibration)
        moved = np.maximum(moved, np.abs(found - expected).max(1))
    return moved < _STEADY


def _golden(graphs: Graphs, sample: ExposureSample, row: int, calibration: Calibration) -> Golden:
    events = int(sample.history_mask[row].sum())
    told = [int(sample.history_text[row, event]) for event in range(events)]
    texts = [str(sample.texts[number]) for number in (int(sample.text[row]), *told)]
    vectors = graphs.encode(texts)
    length = max(1, events)
    one: dict[str, NDArray[Any]] = {
        "text": np.zeros(1, dtype=np.int64),
        "features": sample.features[[row]],
        "history_text": np.arange(1, length + 1)[None] if events else np.zeros((1, 1), np.int64),
        "history_kind": sample.history_kind[[row], :length],
        "history_numbers": sample.history_numbers[[row], :length],
        "history_mask": sample.history_mask[[row], :length],
    }
    return Golden(
        text=texts[0],
        token_ids=tuple(graphs.tokeniser.encode(texts[:1])[0]),
        vector=tuple(vectors[0].tolist()),
        features=tuple(sample.features[row].tolist()),
        history=tuple(
            GoldenEvent(
                text=texts[1 + event],
                kind=int(sample.history_kind[row, event]),
                numbers=tuple(sample.history_numbers[row, event].tolist()),
            )
            for event in range(events)
        ),
        probabilities=tuple(calibration.apply(graphs.score(one, vectors))[0].tolist()),
    )
