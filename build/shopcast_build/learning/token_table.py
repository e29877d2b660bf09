"""The texts of a catalogue as tokens, and their way through the encoder."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from shopcast_build.learning.kept_states import KeptStates
from shopcast_domain.tokeniser import ItemTokeniser

_TOKENISE_AT_ONCE = 8_192
_KEEP_AT_ONCE = 4_096


class TokenTable:
    """The catalogue's texts as token ids on one device. Entry 0 is the empty text.

    Tokens lie end to end, without padding: int32 (all tokens,); lengths and starts: int64 (n,).
    """

    def __init__(
        self, texts: Sequence[str], tokeniser: ItemTokeniser, device: torch.device
    ) -> None:
        self.texts, self.tokeniser = texts, tokeniser
        lengths: list[int] = []
        tokens = []
        for first in range(0, len(texts), _TOKENISE_AT_ONCE):
            ids = tokeniser.encode(texts[first : first + _TOKENISE_AT_ONCE])
            lengths.extend(map(len, ids))
            tokens.append(np.fromiter((i for row in ids for i in row), dtype=np.int32))
        self.tokens = torch.from_numpy(np.concatenate(tokens)).to(device)
        self.lengths = torch.tensor(lengths, device=device)
        self.starts = torch.cumsum(self.lengths, 0) - self.lengths

    def __len__(self) -> int:
        return len(self.lengths)

    def __deepcopy__(self, _: object) -> "TokenTable":
        return self  # nothing of it ever changes, and a catalogue is large

    def share_of(self, token_id: int | None) -> float:
        """Share of one token among all tokens of the catalogue; 0 for None."""
        if token_id is None:
            return 0.0
        return float((self.tokens == token_id).sum() / max(1, len(self.tokens)))

    def places(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """Where the tokens of some texts lie, and their mask: int64 (n, longest) each."""
        steps = torch.arange(int(self.lengths[text].max()), device=text.device)
        mask = steps < self.lengths[text].unsqueeze(1)
        return torch.where(mask, self.starts[text].unsqueeze(1) + steps, 0), mask.long()

    def rows(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """Ids and mask of some texts, padded to the longest of them: int64 (n, longest) each."""
        places, mask = self.places(text)
        return torch.where(mask == 1, self.tokens[places].long(), self.tokeniser.pad_id), mask

    def changed_rows(
        self, text: Tensor, change: Callable[[Sequence[str]], list[str]]
    ) -> tuple[Tensor, Tensor]:
        """As rows(), of the texts after `change`."""
        changed = change([self.texts[i] for i in text.tolist()])
        ids, mask = self.tokeniser.pad(self.tokeniser.encode(changed))
        return torch.from_numpy(ids).to(text.device), torch.from_numpy(mask).to(text.device)


@torch.no_grad()
def encode_all(
    run: Callable[[Tensor], Tensor],
    table: TokenTable,
    *,
    batch_size: int = 64,
    progress: Callable[[int, int], None] = lambda done, total: None,
    kept: KeptStates | None = None,
) -> Tensor:
    """Run every text of a table, given by index, through `run`; entry 0, the empty text, is zeros.

    Sorting by length first saves about half of the time (padding is work). With `kept`, what is
    there already is not run again, what is run is put there, and the answer is mapped from a file
    in place of memory. Returns float32 (n, d).
    """
    order = torch.argsort(table.lengths, stable=True)
    order = order[order != 0]
    total, found = len(order), None
    if kept is not None:
        found, known = kept.load(table.texts)
        order = order[~torch.from_numpy(known).to(order.device)[order]]
    done = total - len(order)
    if done:
        progress(done, total)
    for piece in order.split(_KEEP_AT_ONCE) if len(order) else ():
        for rows in piece.split(batch_size):
            answer = run(rows)
            if found is None:
                found = torch.zeros(len(table), answer.shape[1], device=answer.device)
            found[rows.to(found.device)] = answer.to(found.device)
            done += len(rows)
            progress(done, total)
        if kept is not None and found is not None:
            kept.save([table.texts[i] for i in piece.tolist()], found[piece.to(found.device)])
    if found is None:
        raise ValueError("a catalogue needs a text beside the empty one")
    return found
