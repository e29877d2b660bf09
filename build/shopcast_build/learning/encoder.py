"""The text encoder: one item text to one unit vector."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from shopcast_domain.tokeniser import ItemTokeniser


class ItemEncoder(nn.Module):
    """BERT, the mean over its tokens, a projection, unit length.

    Mean pooling with a mask is what all-MiniLM-L6-v2 was trained with (Reimers and Gurevych, 2019).
    """

    def __init__(self, bert: PreTrainedModel, vector_dim: int) -> None:
        super().__init__()
        self.bert = bert
        self.projection = nn.Linear(bert.config.hidden_size, vector_dim)

    def pooled(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """int64 (n, length) each -> float32 (n, hidden): the mean over the tokens of a text."""
        hidden = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return _mean(hidden, attention_mask)

    def project(self, hidden: Tensor, attention_mask: Tensor) -> Tensor:
        """The last hidden states, (n, length, hidden), to vectors, (n, vector_dim)."""
        pooled = _mean(hidden, attention_mask)
        return nn.functional.normalize(self.projection(pooled), dim=-1)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """int64 (n, length) each -> float32 (n, vector_dim), rows of unit length."""
        pooled = self.pooled(input_ids, attention_mask)
        return nn.functional.normalize(self.projection(pooled), dim=-1)

    def train_top(self, layers: int) -> None:
        """Let only the projection and the top `layers` transformer layers learn."""
        self.bert.requires_grad_(False)
        stack = layer_stack(self.bert)
        for layer in stack[max(len(stack) - layers, 0) :]:
            layer.requires_grad_(True)

    def start_projection(self, pooled: NDArray[np.float32]) -> None:
        """Set the projection to the principal components of a catalogue, so that cosines between
        projected vectors start close to those of the full ones. pooled: float32 (n, hidden)."""
        centre = pooled.mean(0)
        dim = min(self.projection.out_features, *pooled.shape)
        components = np.linalg.svd(pooled - centre, full_matrices=False)[2][:dim]  # (dim, hidden)
        with torch.no_grad():
            self.projection.weight[:dim] = torch.from_numpy(components)
            self.projection.weight[dim:] = 0.0
            self.projection.bias.zero_()
            self.projection.bias[:dim] = torch.from_numpy(-components @ centre)


def _mean(hidden: Tensor, attention_mask: Tensor) -> Tensor:
    share = attention_mask.to(hidden.dtype)
    share = share / share.sum(1, keepdim=True).clamp(min=1.0)  # (n, length)
    # A product in place of a sum, which ONNX Runtime adds up in another order for a batch of one.
    return torch.matmul(share.unsqueeze(1), hidden).squeeze(1)


def layer_stack(bert: PreTrainedModel) -> nn.ModuleList:
    """The transformer layers: the longest ModuleList, whatever the architecture calls it."""
    stacks = [module for module in bert.modules() if isinstance(module, nn.ModuleList)]
    return max(stacks, key=len, default=nn.ModuleList())


class TokenTable:
    """The catalogue's texts as padded token ids on one device. Entry 0 is the empty text."""

    def __init__(
        self, texts: Sequence[str], tokeniser: ItemTokeniser, device: torch.device
    ) -> None:
        ids, mask = tokeniser.pad(tokeniser.encode(texts))
        self.input_ids = torch.from_numpy(ids).to(device)
        self.attention_mask = torch.from_numpy(mask).to(device)
        self.lengths = self.attention_mask.sum(1)

    def __len__(self) -> int:
        return len(self.lengths)

    def share_of(self, token_id: int | None) -> float:
        """Share of one token among all tokens of the catalogue; 0 for None."""
        if token_id is None:
            return 0.0
        return float((self.input_ids == token_id).sum() / self.lengths.sum())

    def rows(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """Ids and mask of some texts, cut to the longest of them."""
        longest = int(self.lengths[text].max())
        return self.input_ids[text, :longest], self.attention_mask[text, :longest]


@torch.no_grad()
def encode_all(
    run: Callable[[Tensor], Tensor],
    table: TokenTable,
    *,
    batch_size: int = 64,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Tensor:
    """Run every text of a table, given by index, through `run`; entry 0, the empty text, is zeros.

    Sorting by length first saves about half of the time (padding is work). Returns (n, d).
    """
    order = torch.argsort(table.lengths, stable=True)
    order = order[order != 0]
    parts = []
    for rows in torch.split(order, batch_size):
        parts.append(run(rows))
        progress(sum(len(p) for p in parts), len(order))
    found = torch.cat(parts)
    vectors = torch.zeros(len(table), found.shape[1], device=found.device)
    vectors[order] = found
    return vectors
