"""Encoder and behaviour model as one, for training."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from shopcast_build.learning import processes
from shopcast_build.learning.augmentation import Augmentation
from shopcast_build.learning.encoder import ItemEncoder
from shopcast_build.learning.examples import Progress
from shopcast_build.learning.loss import Objective, soft_cross_entropy
from shopcast_build.learning.token_table import TokenTable, encode_all
from shopcast_build.learning.trunk import KeptTrunk
from shopcast_build.learning.tuning import Tuning
from shopcast_domain.manifest import NO_CHANCE

_CHUNK = 64


class ShopperModel(nn.Module):
    """Encoder and behaviour model as one, for training.

    Candidates' texts are encoded with gradient while `learn_texts` is set; histories always read
    the table of vectors, which is refreshed now and then. `objective` is what training minimises;
    None: plain cross-entropy. `tuning` and `augmentation` are those of the stage of training, if
    any. `trained`: bool (3,), those that occur.
    """

    vectors: Tensor
    no_chance: Tensor

    def __init__(
        self,
        encoder: ItemEncoder,
        behavior: nn.Module,
        table: TokenTable,
        trained: Sequence[bool],
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.behavior = behavior
        self.table = table
        self.trunk: KeptTrunk | None = None
        self.learn_texts = False
        self.objective: Objective | None = None
        self.tuning: Tuning | None = None
        self.augmentation: Augmentation | None = None
        no_chance = [0.0 if occurs else NO_CHANCE for occurs in trained]
        self.register_buffer("no_chance", torch.tensor(no_chance), persistent=False)
        dim = encoder.projection.out_features
        self.register_buffer("vectors", torch.zeros(len(table), dim), persistent=False)

    def refresh(self, progress: Progress = lambda done, total: None) -> None:
        """Encode the whole catalogue anew; several processes share the work."""
        training = self.encoder.training
        self.encoder.eval()
        self.vectors = encode_all(
            processes.shared_out(self._encode),
            self.table,
            batch_size=_CHUNK * processes.count(),
            progress=progress,
        )
        self.encoder.train(training)

    def forward(
        self,
        text: Tensor,
        features: Tensor,
        history_text: Tensor,
        history_kind: Tensor,
        history_numbers: Tensor,
        history_mask: Tensor,
        labels: Tensor,
        targets: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """One candidate per exposure: text, labels int64 (b,); features float32 (b, f); the history
        as BehaviorModel has it, with texts int64 (b, h) in place of vectors. targets: chances to
        learn in place of the labels, float32 (b, 3).

        Returns the logits, float32 (b, 3), and their loss: while training the objective, or where
        there are targets the cross-entropy against them; else the mean cross-entropy.
        """
        if self.training and self.augmentation:
            history_mask = self.augmentation.drop_events(history_mask)
        logits = self.behavior(
            self.vectors[history_text],
            history_kind,
            history_numbers,
            history_mask,
            self._candidate_vectors(text).unsqueeze(1),
            features.unsqueeze(1),
        ).squeeze(1)
        logits = logits + self.no_chance
        if self.training and targets is not None:
            loss = soft_cross_entropy(logits, targets)
        else:
            minimised = self.objective if self.training else None
            loss = (minimised or nn.functional.cross_entropy)(logits, labels)
        if self.training and self.tuning:
            loss = loss + self.tuning.penalty()
        return {"loss": loss, "logits": logits}

    def _candidate_vectors(self, text: Tensor) -> Tensor:
        if not (self.learn_texts and self.training):
            return self.vectors[text]
        distinct, where = torch.unique(text, return_inverse=True)
        # In chunks of like length: padding is work.
        order = torch.argsort(self.table.lengths[distinct], stable=True)
        changes = self.augmentation is not None and self.augmentation.changes_texts
        encode = self._encode_changed if changes else self._encode
        encoded = torch.cat([encode(rows) for rows in distinct[order].split(_CHUNK)])
        encoded = encoded[torch.argsort(order)]
        return (encoded * (distinct != 0).unsqueeze(1))[where]  # the empty text is zeros

    def _encode(self, text: Tensor) -> Tensor:
        if self.trunk is not None:
            return self.trunk.encode(text)
        return self.encoder(*self.table.rows(text))

    def _encode_changed(self, text: Tensor) -> Tensor:
        assert self.augmentation is not None  # noqa: S101 - for the type checker
        return self.encoder(*self.table.changed_rows(text, self.augmentation.change_texts))
