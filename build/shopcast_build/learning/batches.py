"""Exposures as batches of tensors."""

import copy
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from shopcast_build.learning.examples import Examples
from shopcast_build.learning.timeline import Timeline
from shopcast_build.learning.trees import Matrix
from shopcast_domain.features import Ints, history_numbers

EVALUATE_BATCH = 1024


class ExposureBatches(Dataset[int]):
    """Rows of exposures, and the collation of some of them into the tensors of a batch."""

    def __init__(self, examples: Examples, timeline: Timeline, history_events: int) -> None:
        self.examples = examples
        self.timeline = timeline
        self.rows: Ints = np.arange(len(examples))
        self._targets: Matrix | None = None
        self._back = np.arange(1, history_events + 1)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> int:
        return int(self.rows[index])

    def only(self, rows: Ints) -> "ExposureBatches":
        """Some of the exposures, in the given order."""
        fewer = copy.copy(self)
        fewer.rows = rows
        return fewer

    @property
    def taught(self) -> bool:
        """Whether there are targets to learn in place of outcomes."""
        return self._targets is not None

    def with_targets(self, targets: Matrix) -> "ExposureBatches":
        """The same exposures with the chances to learn, float32 (M, 3), in place of outcomes."""
        taught = copy.copy(self)
        taught._targets = targets
        return taught

    def collate(self, chosen: Sequence[int]) -> dict[str, Tensor]:
        """The arguments of ShopperModel.forward; histories are newest first."""
        rows = np.asarray(chosen)
        ex, log = self.examples, self.timeline
        longest = max(1, int((ex.position[rows] - ex.first[rows]).max()))
        at = ex.position[rows, None] - self._back[:longest]  # (b, h)
        present = at >= ex.first[rows, None]
        at = np.where(present, at, 0)
        at_s = ex.at_s[rows, None]
        numbers = history_numbers(
            at_s - log.time_s[at],
            log.platform[at] == ex.platform[rows, None],
            log.price_of(at, at_s),
        )
        batch = {
            "text": torch.from_numpy(ex.text[rows]),
            "features": torch.from_numpy(ex.features[rows]),
            "history_text": torch.from_numpy(log.catalogue.text_at(log.item[at], at_s) * present),
            "history_kind": torch.from_numpy(log.kind[at].astype(np.int64) * present),
            "history_numbers": torch.from_numpy(numbers * present[..., None].astype(np.float32)),
            "history_mask": torch.from_numpy(present.astype(np.float32)),
            "labels": torch.from_numpy(ex.outcome[rows]),
        }
        if self._targets is not None:
            batch["targets"] = torch.from_numpy(self._targets[rows])
        return batch


def in_order(batches: ExposureBatches) -> Any:
    """Loads every exposure once, in order."""
    return DataLoader(batches, batch_size=EVALUATE_BATCH, collate_fn=cast(Any, batches.collate))
