"""Item texts to token ids, the same way in training and serving."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from shopcast_domain.features import Ints

TOKENISER = "tokenizer.json"


class ItemTokeniser:
    """A Hugging Face fast tokeniser, set up once: truncates, never pads, and reads `[SEP]` and the
    like in a text as plain words, because titles are untrusted.

    https://huggingface.co/docs/tokenizers/api/tokenizer
    """

    def __init__(self, definition: str, *, max_tokens: int, pad_id: int) -> None:
        self._tokenizer: Tokenizer = Tokenizer.from_str(definition)
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_length=max_tokens)
        self._tokenizer.encode_special_tokens = True
        self.pad_id = pad_id

    @classmethod
    def load(cls, path: Path, *, max_tokens: int, pad_id: int) -> "ItemTokeniser":
        """Read a tokenizer.json."""
        return cls(path.read_text(encoding="utf-8"), max_tokens=max_tokens, pad_id=pad_id)

    @property
    def vocabulary(self) -> int:
        """Number of tokens, added ones included."""
        return self._tokenizer.get_vocab_size()

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids per text, special tokens included, at most max_tokens each."""
        # encode_batch lets go of the GIL; encode does not, also for one text.
        return [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]

    def pad(self, token_ids: Sequence[Sequence[int]]) -> tuple[Ints, Ints]:
        """Ids and attention mask of a batch, padded to its longest: int64 (n, longest) each."""
        longest = max(map(len, token_ids))
        ids = np.full((len(token_ids), longest), self.pad_id, dtype=np.int64)
        mask = np.zeros_like(ids)
        for row, tokens in enumerate(token_ids):
            ids[row, : len(tokens)] = tokens
            mask[row, : len(tokens)] = 1
        return ids, mask
