"""The pretrained encoder over a catalogue: where every training starts."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from shopcast_build.learning import processes
from shopcast_build.learning.base_model import BaseModel
from shopcast_build.learning.checkpoints import Run
from shopcast_build.learning.encoder import ItemEncoder
from shopcast_build.learning.examples import Progress
from shopcast_build.learning.kept_states import KeptStates
from shopcast_build.learning.settings import BuildSettings
from shopcast_build.learning.token_table import TokenTable, encode_all
from shopcast_domain.tokeniser import ItemTokeniser


@dataclass(frozen=True, slots=True)
class Pretrained:
    """vectors: float32 (texts, d) of the texts in `table`; the first text is empty, zeros."""

    tokeniser: ItemTokeniser
    table: TokenTable
    encoder: ItemEncoder
    vectors: Tensor


def read_catalogue(
    base: BaseModel,
    texts: Sequence[str],
    settings: BuildSettings,
    progress: Progress,
    run: Run | None = None,
) -> Pretrained:
    """Encode every text and start the adaptation layer from their principal components.

    With a run, what it has encoded before is not encoded again.
    """
    shape, device = settings.encoder, processes.device()
    tokeniser = ItemTokeniser(base.tokeniser, max_tokens=shape.max_tokens, pad_id=base.pad_id)
    table = TokenTable(texts, tokeniser, device)
    torch.manual_seed(settings.seed)
    encoder = ItemEncoder(base.model, shape.vector_dim, shape.adaptation).to(device).eval()
    pooled = encode_all(
        lambda text: encoder.pooled(*table.rows(text)),
        table,
        progress=progress,
        kept=_kept_states(run, base, shape.max_tokens) if run else None,
    )
    encoder.start_projection(pooled[1:].cpu().numpy())
    vectors = encoder.start_vectors(pooled)
    vectors[0] = 0.0
    return Pretrained(tokeniser, table, encoder, vectors)


def _kept_states(run: Run, base: BaseModel, max_tokens: int) -> KeptStates:
    return KeptStates(run.states, base.key(str(max_tokens)), base.model.config.hidden_size)
