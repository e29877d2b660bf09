"""What training examples lose or swap at random. Never used to evaluate, encode or export."""

import re
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from shopcast_build.learning.settings import AugmentationSettings

_BETWEEN = " | "  # the parts of an item text
_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\s{_UNSPACED}]+")


class Augmentation:
    """Changes events and texts of one stage of training, at random by torch's own generator, so
    that a seed gives the same changes."""

    def __init__(self, settings: AugmentationSettings) -> None:
        self._settings = settings
        # The longest first, or "shoe" would hide "running shoe".
        known = sorted(filter(None, settings.synonyms), key=len, reverse=True)
        self._others = [settings.synonyms[word] for word in known]
        # A group each: what is found need not be, in any case, what stands here (İ matches i).
        groups = "|".join(f"({_whole(word)}|{_whole(word.casefold())})" for word in known)
        self._known = re.compile(groups or r"(?!)", re.IGNORECASE)

    @property
    def changes_texts(self) -> bool:
        """Whether texts have to be read anew at every step."""
        swaps = self._settings.synonym_chance > 0 and bool(self._others)
        return swaps or self._settings.word_dropout > 0

    def drop_events(self, mask: Tensor) -> Tensor:
        """A history mask, float (b, h), without some of its events."""
        if not self._settings.event_dropout:
            return mask
        return mask * (torch.rand_like(mask) >= self._settings.event_dropout)

    def change_texts(self, texts: Sequence[str]) -> list[str]:
        """Texts with some words swapped for synonyms and some left out."""
        rng = np.random.default_rng(int(torch.randint(2**31, ())))
        return [self._drop_words(self._swap(text, rng), rng) for text in texts]

    def _swap(self, text: str, rng: np.random.Generator) -> str:
        def other(found: re.Match[str]) -> str:
            others = self._others[(found.lastindex or 0) - 1]
            if not others or rng.random() >= self._settings.synonym_chance:
                return found.group()
            return others[rng.integers(len(others))]

        return self._known.sub(other, text)

    def _drop_words(self, text: str, rng: np.random.Generator) -> str:
        """Without some words: what stands between blanks, or one character where a script has no
        blanks. One word at least stays."""
        words = list(_WORD.finditer(text.replace(_BETWEEN, "   ")))
        stays = rng.random(len(words)) >= self._settings.word_dropout
        if not len(words) or stays.all():
            return text
        if not stays.any():
            stays[rng.integers(len(words))] = True
        kept = list(text)
        for word in (words[n] for n in np.flatnonzero(~stays)):
            kept[word.start() : word.end()] = [""] * (word.end() - word.start())
        parts = (" ".join(part.split()) for part in "".join(kept).split(_BETWEEN))
        return _BETWEEN.join(part for part in parts if part)


def _whole(word: str) -> str:
    """A pattern of a word that is not part of a longer one, where its script has blanks."""
    start = r"\b" if re.match(rf"[^\W{_UNSPACED}]", word) else ""
    end = r"\b" if re.search(rf"[^\W{_UNSPACED}]$", word) else ""
    return f"{start}{re.escape(word)}{end}"
