"""States of texts kept in a folder, so that a build that was killed does not encode them again.

A piece of work is one safetensors file, written whole or not at all: the digests of its texts and
their states. No text and nothing of a person is in it.
"""

import hashlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from shopcast_build.data.disk import writing
from shopcast_domain.item_text import text_digest

_SUFFIX = ".safetensors"
_DIGEST_BYTES = 16


class KeptStates:
    """The states that one encoder and tokeniser give, float32 (width,) each, by text.

    folder: where those of every encoder lie; `key` tells them apart. Whatever writes there raises
    DataError where the disk takes no more.
    """

    def __init__(self, folder: Path, key: str, width: int) -> None:
        self._folder, self._width = folder / key, width
        with writing(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)

    def load(self, texts: Sequence[str]) -> tuple[Tensor, NDArray[np.bool_]]:
        """States (n, width), mapped from a file that vanishes with the process, and which of them
        were there: bool (n,). The others are zeros. A file that cannot be read counts as absent."""
        where = {text_digest(text): row for row, text in enumerate(texts)}
        with writing(self._folder), tempfile.TemporaryFile(dir=self._folder) as scratch:
            # A hole in a mapped file kills the process where the disk is full by then.
            os.posix_fallocate(scratch.fileno(), 0, 4 * len(texts) * self._width)
            states = np.memmap(
                scratch, dtype=np.float32, mode="w+", shape=(len(texts), self._width)
            )
        known = np.zeros(len(texts), dtype=np.bool_)
        for path in sorted(self._folder.glob(f"*{_SUFFIX}")):
            try:
                with safe_open(path, framework="numpy") as file:
                    digests, kept = file.get_tensor("digests"), file.get_tensor("states")
            except (OSError, SafetensorError):
                continue
            if kept.shape != (len(digests), self._width):
                continue
            pairs = [
                (row, n)
                for n, digest in enumerate(digests)
                if (row := where.get(digest.tobytes())) is not None
            ]
            if pairs:
                rows, positions = np.array(pairs).T
                states[rows], known[rows] = kept[positions], True
        return torch.from_numpy(states), known

    def save(self, texts: Sequence[str], states: Tensor) -> None:
        """Keep the states, (n, width), of some texts. Safe beside other processes."""
        joined = b"".join(map(text_digest, texts))
        digests = np.frombuffer(joined, dtype=np.uint8)
        name = hashlib.blake2b(joined, digest_size=16).hexdigest()
        draft = self._folder / f"{name}.{os.getpid()}.part"
        tensors = {
            "digests": torch.from_numpy(digests.reshape(-1, _DIGEST_BYTES).copy()),
            "states": states.contiguous().cpu(),
        }
        with writing(self._folder):
            save_file(tensors, draft)
            draft.replace(self._folder / f"{name}{_SUFFIX}")


def state_key(model: nn.Module, *others: str) -> str:
    """A digest of a model's weights and of what else its states depend on."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    for other in others:
        digest.update(f"{len(other)}\n{other}".encode())
    return digest.hexdigest()
