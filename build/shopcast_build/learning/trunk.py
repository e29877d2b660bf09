"""The layers that do not learn: run once per text, their output kept.

With two of six layers learning this makes a step of fine-tuning about twice as cheap, and gives the
same vectors (to 1e-6). What is kept is without dropout, as the layers below are not trained.
"""

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

from shopcast_build.learning.encoder import ItemEncoder, layer_stack
from shopcast_build.learning.token_table import TokenTable, encode_all

MEMORY_LIMIT = 2**30
"""Bytes of hidden states kept at most; a larger catalogue runs every layer at every step."""

_TRIED_TEXTS = 8
_SAME = 1e-4

Module = TypeVar("Module", bound=nn.Module)


class _Kept(nn.Module):
    """Stands in for the embeddings: hands out hidden states that were kept."""

    hidden: Tensor

    def forward(self, *_: object, **__: object) -> Tensor:
        return self.hidden


class KeptTrunk:
    """Hidden states of a catalogue below the layers that learn: float32 (all tokens, hidden).

    entry: the module whose output those states are, for who wants to change them on their way.
    """

    def __init__(self, encoder: ItemEncoder, table: TokenTable, hidden: Tensor, cut: int) -> None:
        self._encoder, self._table, self._hidden = encoder, table, hidden
        self.entry = _Kept()
        layers = layer_stack(encoder.bert)
        self._top = _upper(encoder.bert, cut, self.entry) if cut < len(layers) else None

    def encode(self, text: Tensor) -> Tensor:
        """What encoder(*table.rows(text)) gives, from the kept states: (n, vector_dim)."""
        ids, mask = self._table.rows(text)
        places, _ = self._table.places(text)
        self.entry.hidden = self._hidden[places]
        if self._top is None:
            last = self.entry()
        else:
            last = self._top(input_ids=ids, attention_mask=mask).last_hidden_state
        return self._encoder.project(last, mask)


def keep_trunk(encoder: ItemEncoder, table: TokenTable) -> KeptTrunk | None:
    """Keep what lies below the lowest layer that learns, by `requires_grad`.

    None where the lowest layer learns, memory would not do, or the architecture does not let its
    top run alone. Where nothing of it learns, any architecture will do.
    """
    bert, layers = encoder.bert, layer_stack(encoder.bert)
    cut = _first_learning(bert, layers)
    size = len(table.tokens) * bert.config.hidden_size * 4
    if cut == 0 or size > MEMORY_LIMIT or (cut < len(layers) and not _is_bert(bert)):
        return None
    training = encoder.training
    encoder.eval()
    trunk = KeptTrunk(encoder, table, _states_below(encoder, table, cut), cut)
    agrees = _agrees(trunk, encoder, table)
    encoder.train(training)
    return trunk if agrees else None


def _first_learning(bert: nn.Module, layers: nn.ModuleList) -> int:
    """How many layers from below do not learn; 0 when something beside the layers does."""
    inside = {id(p) for p in layers.parameters()}
    if any(p.requires_grad and id(p) not in inside for p in bert.parameters()):
        return 0
    for number, layer in enumerate(layers):
        if any(p.requires_grad for p in layer.parameters()):
            return number
    return len(layers)


def _states_below(encoder: ItemEncoder, table: TokenTable, cut: int) -> Tensor:
    """float32 (all tokens, hidden): what layer `cut` reads, or the last states."""
    bert = encoder.bert
    last = cut == len(layer_stack(bert))
    hidden = torch.zeros(len(table.tokens), bert.config.hidden_size, device=table.tokens.device)

    def run(text: Tensor) -> Tensor:
        ids, mask = table.rows(text)
        if last:
            states = encoder.states(ids, mask)
        else:
            states = bert(ids, attention_mask=mask, output_hidden_states=True).hidden_states[cut]
        real = mask == 1
        hidden[table.places(text)[0][real]] = states[real]
        return states[:, 0, :1]

    encode_all(run, table)
    return hidden


@torch.no_grad()
def _agrees(trunk: KeptTrunk, encoder: ItemEncoder, table: TokenTable) -> bool:
    """Whether the upper part alone says what the whole does: some architectures do things between
    embeddings and layers, or after the first of them."""
    text = torch.linspace(1, len(table) - 1, _TRIED_TEXTS, device=table.lengths.device).long()
    try:
        found = trunk.encode(text)
    except Exception:  # an architecture that only looks like BERT's may fail in any way
        return False
    return bool((found - encoder(*table.rows(text))).abs().max() < _SAME)


def _is_bert(bert: nn.Module) -> bool:
    layers = getattr(getattr(bert, "encoder", None), "layer", None)
    return hasattr(bert, "embeddings") and layers is not None and layers is layer_stack(bert)


def _upper(bert: Module, cut: int, kept: _Kept) -> Module:
    """A view of BERT, sharing its weights, that starts above layer `cut`."""
    top, encoder = _view(bert), _view(bert.get_submodule("encoder"))
    encoder.layer = layer_stack(bert)[cut:]
    top.encoder, top.embeddings = encoder, kept
    return top


def _view(module: Module) -> Module:
    view = copy.copy(module)
    view.__dict__["_modules"] = dict(module._modules)
    return view
