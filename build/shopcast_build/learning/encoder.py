"""The text encoder: one item text to one unit vector."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from shopcast_build.learning.adaptation import Adaptation, addition, pool, shares

_PIECE = 16_384  # texts


class ItemEncoder(nn.Module):
    """A pretrained model, the pooling of its token states, an adaptation layer, unit length.

    causal: whether a token of the model sees only what stands before it, as in a GPT.
    """

    def __init__(
        self, bert: PreTrainedModel, vector_dim: int, adaptation: Adaptation = "linear"
    ) -> None:
        super().__init__()
        self.bert = bert
        self.causal = not _sees_ahead(bert)
        self.projection = nn.Linear(bert.config.hidden_size, vector_dim)
        self.addition = addition(adaptation, bert.config.hidden_size, vector_dim)

    def states(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """int64 (n, length) each -> float32 (n, length, hidden): the last hidden states."""
        return self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state

    def pooled(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """int64 (n, length) each -> float32 (n, hidden): the state of a text."""
        hidden = self.states(input_ids, attention_mask)
        return pool(hidden, self._shares(hidden, attention_mask))

    def project(self, hidden: Tensor, attention_mask: Tensor) -> Tensor:
        """The last hidden states, (n, length, hidden), to vectors, (n, vector_dim)."""
        share = self._shares(hidden, attention_mask)
        vectors = self.projection(pool(hidden, share))
        if self.addition is not None:
            vectors = vectors + self.addition(hidden, share)
        return nn.functional.normalize(vectors, dim=-1)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """int64 (n, length) each -> float32 (n, vector_dim), rows of unit length."""
        return self.project(self.states(input_ids, attention_mask), attention_mask)

    def start_projection(self, pooled: NDArray[np.float32]) -> None:
        """Set the projection to the principal components of a catalogue, so that cosines between
        projected vectors start close to those of the full ones. pooled: float32 (n, hidden)."""
        width = pooled.shape[1]
        total, spread = np.zeros(width), np.zeros((width, width))
        for first in range(0, len(pooled), _PIECE):  # a large catalogue has no room for a copy
            total += pooled[first : first + _PIECE].sum(0, dtype=np.float64)
        centre = total / len(pooled)
        for first in range(0, len(pooled), _PIECE):
            away = pooled[first : first + _PIECE] - centre
            spread += away.T @ away
        dim = min(self.projection.out_features, *pooled.shape)
        components = np.linalg.eigh(spread).eigenvectors.T[::-1][:dim].copy()  # (dim, hidden)
        with torch.no_grad():
            self.projection.weight.zero_()
            self.projection.bias.zero_()
            self.projection.weight[:dim] = torch.from_numpy(components)
            self.projection.bias[:dim] = torch.from_numpy(-components @ centre)

    def start_vectors(self, pooled: Tensor) -> Tensor:
        """What a fresh projection makes of pooled states, wherever they are: (n, hidden) ->
        (n, vector_dim)."""
        device = self.projection.weight.device
        with torch.no_grad():
            pieces = [self.projection(piece.to(device)) for piece in pooled.split(_PIECE)]
            return nn.functional.normalize(torch.cat(pieces), dim=-1)

    def _shares(self, hidden: Tensor, attention_mask: Tensor) -> Tensor:
        return shares(attention_mask, hidden.dtype, causal=self.causal)


def layer_stack(bert: nn.Module) -> nn.ModuleList:
    """The transformer layers: the longest ModuleList, whatever the architecture calls it."""
    stacks = [module for module in bert.modules() if isinstance(module, nn.ModuleList)]
    return max(stacks, key=len, default=nn.ModuleList())


@torch.no_grad()
def _sees_ahead(bert: PreTrainedModel) -> bool:
    """Whether a first token's state depends on what follows. Tried, not looked up: no setting says
    it the same way in every architecture."""
    training = bert.training
    ids = torch.tensor([[3, 4, 5], [3, 4, 6]], device=bert.device)
    states = bert.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
    bert.train(training)
    return not torch.allclose(states[0, 0], states[1, 0], rtol=0, atol=1e-6)
