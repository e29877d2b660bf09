"""Some exposures of the test period, kept beside a version, so that it can be judged again.

They carry no person, no account and no date: texts of items, ages of events in hours, numbers and
outcomes. `person` are codes that say only which exposures are of one person.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shopcast_build.learning.batches import ExposureBatches
from shopcast_domain.features import Floats

FILE = "exposures.npz"
SIZE = 2048
"""Exposures of a sample, spread over the test period."""


@dataclass(frozen=True, slots=True)
class ExposureSample:
    """n exposures with histories of at most h events, over t item texts; the first text is empty.

    texts: str (t,). text: int64 (n,), history_text: int64 (n, h), indices of texts. features:
    float32 (n, f). history_kind: int64 (n, h). history_numbers: float32 (n, h, 3). history_mask:
    float32 (n, h), 0 marks padding. outcome: int64 (n,). person: int64 (n,). platform: int64 (n,),
    codes in the order of the manifest's platforms. vectors: float32 (t, d) and probabilities:
    float64 (n, 3), calibrated: what fp32 torch says.
    """

    texts: NDArray[np.str_] = field(repr=False)
    text: NDArray[np.int64] = field(repr=False)
    features: NDArray[np.float32] = field(repr=False)
    history_text: NDArray[np.int64] = field(repr=False)
    history_kind: NDArray[np.int64] = field(repr=False)
    history_numbers: NDArray[np.float32] = field(repr=False)
    history_mask: NDArray[np.float32] = field(repr=False)
    outcome: NDArray[np.int64] = field(repr=False)
    person: NDArray[np.int64] = field(repr=False)
    platform: NDArray[np.int64] = field(repr=False)
    vectors: NDArray[np.float32] = field(repr=False)
    probabilities: Floats = field(repr=False)

    def __len__(self) -> int:
        return len(self.text)

    def batches(self, rows: int, *, events: int = 0) -> Iterator[dict[str, NDArray[Any]]]:
        """The exposures as Graphs.score takes them, `rows` at a time, in order. events: pad
        histories to so many at least; else to the longest of a batch."""
        longest = np.maximum(self.history_mask.sum(1).astype(int), 1)
        for start in range(0, len(self), rows):
            part = slice(start, start + rows)
            cut = int(longest[part].max())
            wider = max(0, events - cut)
            batch: dict[str, NDArray[Any]] = {
                "text": self.text[part],
                "features": self.features[part],
            }
            for name in ("history_text", "history_kind", "history_numbers", "history_mask"):
                values = getattr(self, name)[part, :cut]
                around = [(0, 0), (0, wider)] + [(0, 0)] * (values.ndim - 2)
                batch[name] = np.pad(values, around)
            yield batch

    def save(self, path: Path) -> None:
        """Write it; the same sample gives the same bytes."""
        narrow = {np.dtype(np.int64): np.int32}
        arrays = {f.name: getattr(self, f.name) for f in fields(self)}
        np.savez_compressed(
            path, **{name: a.astype(narrow.get(a.dtype, a.dtype)) for name, a in arrays.items()}
        )

    @classmethod
    def load(cls, path: Path) -> "ExposureSample":
        """Read what `save` wrote. Raises OSError and ValueError."""
        wide = {np.dtype(np.int32): np.int64}
        with np.load(path, allow_pickle=False) as stored:
            arrays = {f.name: stored[f.name] for f in fields(cls)}
        return cls(**{name: a.astype(wide.get(a.dtype, a.dtype)) for name, a in arrays.items()})


def spread(count: int, size: int) -> NDArray[np.int64]:
    """`size` of so many rows, evenly spread; all where there are fewer."""
    return np.linspace(0, count - 1, min(size, count)).astype(np.int64)


def draw_sample(
    batches: ExposureBatches, texts: tuple[str, ...], vectors: NDArray[np.float32]
) -> ExposureSample:
    """A sample of the test period, its probabilities still to be filled in.

    texts, vectors: the catalogue's, (T,) and float32 (T, d).
    """
    rows = spread(len(batches), SIZE)
    batch = {name: tensor.numpy() for name, tensor in batches.collate(rows.tolist()).items()}
    used = np.unique(np.concatenate(([0], batch["text"], batch["history_text"].ravel())))
    examples = batches.examples
    return ExposureSample(
        texts=np.array([texts[number] for number in used]),
        text=np.searchsorted(used, batch["text"]),
        features=batch["features"],
        history_text=np.searchsorted(used, batch["history_text"]),
        history_kind=batch["history_kind"],
        history_numbers=batch["history_numbers"],
        history_mask=batch["history_mask"],
        outcome=batch["labels"],
        person=np.unique(examples.person[rows], return_inverse=True)[1].astype(np.int64),
        platform=examples.platform[rows].astype(np.int64),
        vectors=vectors[used],
        probabilities=np.zeros((len(rows), 3)),
    )
