"""Bottleneck adapters: a narrow pair of layers behind each transformer layer.

Houlsby et al., 2019, arXiv:1902.00751; one per layer, as Pfeiffer et al., 2021, arXiv:2005.00247.
"""

from typing import Any

from torch import Tensor, nn

_NAME = "bottleneck"


class Bottleneck(nn.Module):
    """States plus what a narrow pair of layers makes of them; it starts as the identity."""

    def __init__(self, hidden: int, width: int) -> None:
        super().__init__()
        self.down = nn.Linear(hidden, width)
        self.up = nn.Linear(width, hidden)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, states: Tensor) -> Tensor:
        """(n, length, hidden) -> the same shape."""
        return states + self.up(nn.functional.gelu(self.down(states)))


def insert_bottlenecks(layers: nn.ModuleList, hidden: int, width: int) -> None:
    """Put a bottleneck behind each layer; layers that have one keep it."""
    for layer in layers:
        if not hasattr(layer, _NAME):
            device = next(layer.parameters()).device
            layer.add_module(_NAME, Bottleneck(hidden, width).to(device))
            layer.register_forward_hook(_through)


def bottlenecks(module: nn.Module) -> list[Bottleneck]:
    """Those within a module."""
    return [part for part in module.modules() if isinstance(part, Bottleneck)]


def _through(layer: nn.Module, _: Any, output: Any) -> Any:
    narrow: Bottleneck = layer.get_submodule(_NAME)  # type: ignore[assignment]
    if isinstance(output, tuple):  # some architectures hand attention weights along
        return (narrow(output[0]), *output[1:])
    return narrow(output)
