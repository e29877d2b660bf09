"""The layers of BERT that do not learn: run once per text, their output kept.

With two of six layers learning this makes a step of fine-tuning about twice as cheap, and gives the
same vectors (to 1e-6).
"""

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from shopcast_build.learning.encoder import ItemEncoder, TokenTable, encode_all, layer_stack

MEMORY_LIMIT = 2**30
"""Bytes of hidden states kept at most; a larger catalogue runs every layer at every step."""


Module = TypeVar("Module", bound=nn.Module)


class _Kept(nn.Module):
    """Stands in for the embeddings: hands out hidden states that were kept."""

    hidden: Tensor

    def forward(self, *_: object, **__: object) -> Tensor:
        return self.hidden


class KeptTrunk:
    """Hidden states of a catalogue below the layers that learn: float32 (n, length, hidden)."""

    def __init__(self, encoder: ItemEncoder, table: TokenTable, hidden: Tensor, cut: int) -> None:
        self._encoder, self._table, self._hidden = encoder, table, hidden
        self._kept = _Kept()
        self._top = _upper(encoder.bert, cut, self._kept)

    def encode(self, text: Tensor) -> Tensor:
        """What encoder(*table.rows(text)) gives, from the kept states: (n, vector_dim)."""
        ids, mask = self._table.rows(text)
        self._kept.hidden = self._hidden[text, : ids.shape[1]]
        last = self._top(input_ids=ids, attention_mask=mask).last_hidden_state
        return self._encoder.project(last, mask)


def keep_trunk(encoder: ItemEncoder, table: TokenTable, trained_layers: int) -> KeptTrunk | None:
    """None where the architecture is not BERT's, every layer learns, or memory would not do."""
    bert = encoder.bert
    cut = len(layer_stack(bert)) - trained_layers
    size = table.input_ids.numel() * bert.config.hidden_size * 4
    if cut <= 0 or size > MEMORY_LIMIT or not _is_bert(bert):
        return None
    hidden = torch.zeros(*table.input_ids.shape, bert.config.hidden_size)

    def run(text: Tensor) -> Tensor:
        ids, mask = table.rows(text)
        states = bert(ids, attention_mask=mask, output_hidden_states=True).hidden_states[cut]
        hidden[text, : ids.shape[1]] = states.to(hidden.device)
        return states[:, 0, :1]

    encode_all(run, table)
    return KeptTrunk(encoder, table, hidden.to(table.input_ids.device), cut)


def _is_bert(bert: PreTrainedModel) -> bool:
    layers = getattr(getattr(bert, "encoder", None), "layer", None)
    return hasattr(bert, "embeddings") and layers is not None and layers is layer_stack(bert)


def _upper(bert: PreTrainedModel, cut: int, kept: _Kept) -> PreTrainedModel:
    """A view of BERT, sharing its weights, that starts above layer `cut`."""
    top, encoder = _view(bert), _view(bert.get_submodule("encoder"))
    encoder.layer = layer_stack(bert)[cut:]
    top.encoder, top.embeddings = encoder, kept
    return top


def _view(module: Module) -> Module:
    view = copy.copy(module)
    view.__dict__["_modules"] = dict(module._modules)
    return view
