"""The behaviour model: a shopper's events and candidate items to logits."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from shopcast_domain.features import FEATURES, HISTORY_NUMBERS, KINDS

WIDTH = 64
_HEADS = 4
_BINS = 12
_SCALES_H = (24.0, 24.0 * 14)


class PiecewiseLinear(nn.Module):
    """Piecewise-linear encoding of numeric features (Gorishniy et al., 2022, arXiv:2203.05556).

    Each feature becomes one number per bin: 0 below the bin, 1 above it, linear within. The edges
    are quantiles of the training data, so the encoding is also the normalisation.
    """

    edges: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("edges", torch.zeros(features, _BINS + 1))

    def fit(self, values: NDArray[np.float32]) -> None:
        """Take the edges from training features, float32 (n, features)."""
        edges = np.quantile(values, np.linspace(0, 1, _BINS + 1), axis=0).T  # (features, bins + 1)
        self.edges.copy_(torch.from_numpy(np.ascontiguousarray(edges, dtype=np.float32)))

    def forward(self, values: Tensor) -> Tensor:
        """float32 (..., features) -> (..., features * bins)."""
        low, high = self.edges[:, :-1], self.edges[:, 1:]
        width = (high - low).clamp(min=1e-4)
        inside = ((values.unsqueeze(-1) - low) / width).clamp(0.0, 1.0)
        return inside.flatten(-2)


class SoftCounts(nn.Module):
    """How often, by kind of event, the person met something *like* a candidate.

    Like a count of events with the candidate's category, but with a learned closeness of vectors in
    place of equality, so that it crosses platforms whose ids and category names differ.
    """

    size = 3 * 2 * KINDS * (1 + len(_SCALES_H))

    def __init__(self) -> None:
        super().__init__()
        self.threshold = nn.Parameter(torch.tensor([0.3, 0.6, 0.85]))
        self.slope = nn.Parameter(torch.tensor([10.0, 12.0, 20.0]))

    def forward(self, similarity: Tensor, is_kind: Tensor, age_h: Tensor, here: Tensor) -> Tensor:
        """similarity: (b, n, h) cosines. is_kind: (b, h, 4), zeros for padding. age_h, here:
        (b, h). Returns (b, n, size): log(1 + soft count) by closeness, platform, kind and scale.
        """
        close = torch.sigmoid(
            self.slope[:, None, None] * (similarity.unsqueeze(1) - self.threshold[:, None, None])
        )  # (b, 3, n, h)
        fresh = [torch.ones_like(age_h), *(torch.exp(-age_h / scale) for scale in _SCALES_H)]
        weight = torch.stack([f * w for f in fresh for w in (torch.ones_like(here), here)], -1)
        what = (is_kind.unsqueeze(-1) * weight.unsqueeze(-2)).flatten(-2)  # (b, h, 4 * 6)
        counts = torch.matmul(close, what.unsqueeze(1))  # (b, 3, n, 24)
        return torch.log1p(counts.transpose(1, 2).flatten(-2))


class BehaviorModel(nn.Module):
    """Candidates attend to the person's events; numeric features come in beside them."""

    def __init__(self, vector_dim: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.numbers = PiecewiseLinear(len(FEATURES))
        self.soft_counts = SoftCounts()
        self.kind = nn.Embedding(KINDS, WIDTH)
        self.event_vector = nn.Linear(vector_dim, WIDTH)
        self.event_numbers = nn.Linear(len(HISTORY_NUMBERS), WIDTH)
        self.event_norm = nn.LayerNorm(WIDTH)
        self.nothing = nn.Parameter(torch.zeros(1, 1, WIDTH))  # what an empty history attends to
        self.item_vector = nn.Linear(vector_dim, WIDTH)
        self.item_numbers = nn.Linear(len(FEATURES) * _BINS, WIDTH)
        self.item_norm = nn.LayerNorm(WIDTH)
        self.query = nn.Linear(WIDTH, WIDTH)
        self.key_value = nn.Linear(WIDTH, 2 * WIDTH)
        self.attended = nn.Linear(WIDTH, WIDTH)
        self.head = nn.Sequential(
            nn.Linear(2 * WIDTH + SoftCounts.size, 2 * WIDTH),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(2 * WIDTH, 3),
        )
        self.wide = nn.Linear(len(FEATURES) * _BINS, 3)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        history_vectors: Tensor,
        history_kind: Tensor,
        history_numbers: Tensor,
        history_mask: Tensor,
        candidate_vectors: Tensor,
        candidate_features: Tensor,
    ) -> Tensor:
        """Score n candidates for each of b people with h events; h is at least 1.

        history_vectors: float32 (b, h, d). history_kind: int64 (b, h). history_numbers: float32
        (b, h, 3). history_mask: float32 (b, h), 0 marks padding. candidate_vectors: float32
        (b, n, d). candidate_features: float32 (b, n, features).
        Returns logits, float32 (b, n, 3).
        """
        b = candidate_vectors.shape[0]  # len() would be frozen into an exported graph
        mask = history_mask.unsqueeze(-1)  # (b, h, 1)
        numeric = self.numbers(candidate_features)  # (b, n, features * bins)

        similarity = torch.matmul(candidate_vectors, history_vectors.transpose(1, 2))  # (b, n, h)
        is_kind = nn.functional.one_hot(history_kind, KINDS).to(mask.dtype) * mask
        age_h = torch.expm1(history_numbers[..., 0])
        counts = self.soft_counts(similarity, is_kind, age_h, history_numbers[..., 1])

        events = self.event_norm(
            self.event_vector(history_vectors)
            + self.kind(history_kind)
            + self.event_numbers(history_numbers)
        )
        events = torch.cat([self.nothing.expand(b, -1, -1), events], 1)  # (b, 1 + h, w)
        present = torch.cat([torch.ones_like(history_mask[:, :1]), history_mask], 1)
        item = self.item_norm(self.item_vector(candidate_vectors) + self.item_numbers(numeric))
        attended = self._attend(item, events, present)
        combined = torch.cat([item, attended, counts], -1)
        return self.head(self.dropout(combined)) + self.wide(numeric)

    def _attend(self, item: Tensor, events: Tensor, present: Tensor) -> Tensor:
        """Multi-head attention of candidates (b, n, w) over events (b, 1 + h, w)."""
        b, n, w = item.shape
        key, value = self.key_value(events).chunk(2, -1)
        q = self.query(item).view(b, n, _HEADS, -1).transpose(1, 2)  # (b, heads, n, w / heads)
        k = key.view(b, -1, _HEADS, w // _HEADS).transpose(1, 2)
        v = value.view(b, -1, _HEADS, w // _HEADS).transpose(1, 2)
        scores = torch.matmul(q, k.transpose(2, 3)) / (w // _HEADS) ** 0.5
        scores = scores + (present[:, None, None, :] - 1.0) * 1e9
        mixed = torch.matmul(torch.softmax(scores, -1), v)
        return self.attended(mixed.transpose(1, 2).reshape(b, n, w))


class HeadEnsemble(nn.Module):
    """Heads of different seeds as one: the mean of their logits."""

    def __init__(self, heads: Sequence[nn.Module]) -> None:
        super().__init__()
        self.heads = nn.ModuleList(heads)

    def forward(
        self,
        history_vectors: Tensor,
        history_kind: Tensor,
        history_numbers: Tensor,
        history_mask: Tensor,
        candidate_vectors: Tensor,
        candidate_features: Tensor,
    ) -> Tensor:
        """As BehaviorModel.forward."""
        history = (history_vectors, history_kind, history_numbers, history_mask)
        logits = [head(*history, candidate_vectors, candidate_features) for head in self.heads]
        return torch.stack(logits).mean(0)
