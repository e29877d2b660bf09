"""From token states to one vector: how tokens are weighted, and what is added to a linear map."""

from typing import Literal

import torch
from torch import Tensor, nn

Adaptation = Literal["linear", "mlp", "convolution"]

_NEIGHBOURS = 1


class Mlp(nn.Module):
    """A hidden layer over the pooled state."""

    def __init__(self, hidden: int, vector_dim: int) -> None:
        super().__init__()
        self.inner = nn.Linear(hidden, hidden)
        self.out = _silent(hidden, vector_dim)

    def forward(self, hidden: Tensor, share: Tensor) -> Tensor:
        """States (n, length, hidden) and shares (n, length) -> (n, vector_dim)."""
        return self.out(nn.functional.gelu(self.inner(pool(hidden, share))))


class Convolution(nn.Module):
    """A filter over each token and its neighbours, then the pooling.

    Written as a product over shifted copies, which ONNX Runtime adds up in one order whatever the
    length is; its convolution does not.
    """

    def __init__(self, hidden: int, vector_dim: int) -> None:
        super().__init__()
        width = 2 * _NEIGHBOURS + 1
        self.filter = nn.Linear(width * hidden, 2 * vector_dim)
        self.out = _silent(2 * vector_dim, vector_dim)

    def forward(self, hidden: Tensor, share: Tensor) -> Tensor:
        """States (n, length, hidden) and shares (n, length) -> (n, vector_dim)."""
        hidden = hidden * (share > 0).unsqueeze(2)  # what is padding must look like the outside
        edge = torch.zeros_like(hidden[:, :1])
        before = torch.cat([edge, hidden[:, :-1]], dim=1)
        after = torch.cat([hidden[:, 1:], edge], dim=1)
        seen = self.filter(torch.cat([before, hidden, after], dim=2))
        return self.out(pool(nn.functional.gelu(seen), share))


def addition(kind: Adaptation, hidden: int, vector_dim: int) -> nn.Module | None:
    """What an adaptation adds to the linear map; None for "linear". It starts at nothing, so that
    every adaptation starts from the same vectors."""
    if kind == "mlp":
        return Mlp(hidden, vector_dim)
    if kind == "convolution":
        return Convolution(hidden, vector_dim)
    return None


def shares(attention_mask: Tensor, dtype: torch.dtype, *, causal: bool) -> Tensor:
    """How much each token counts in a text's state, (n, length), rows that sum to one.

    All alike where every token has seen the whole text, as sentence encoders are trained
    (Reimers and Gurevych, 2019, arXiv:1908.10084); by position where a token has seen only what
    stands before it (Muennighoff, 2022, arXiv:2202.08904). The last token alone is no choice for a
    model that was not trained for it: its state predicts the next word.
    """
    share = attention_mask.float()  # half precision does not count that far
    if causal:
        share = share * torch.cumsum(share, dim=1)
    return (share / share.sum(1, keepdim=True).clamp(min=1.0)).to(dtype)


def pool(hidden: Tensor, share: Tensor) -> Tensor:
    """States (n, length, hidden) weighted by shares (n, length) -> (n, hidden)."""
    # A product in place of a sum, which ONNX Runtime adds up in another order for a batch of one.
    return torch.matmul(share.unsqueeze(1), hidden).squeeze(1)


def _silent(inputs: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
