"""Item vectors: from memory, from the directory, or encoded once however many ask for them."""

import asyncio
import hashlib
import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence

import numpy as np

from shopcast_domain.item_text import text_digest
from shopcast_domain.manifest import ENCODER, Manifest
from shopcast_gateway.core.model import ENCODE_BATCH, Model, Vectors
from shopcast_gateway.directory.protocol import Directory
from shopcast_gateway.directory.types import Vector
from shopcast_gateway.errors import DeadlineExpired, GatewayError, Unavailable

MEMORY_LIMIT = 200_000
"""Vectors kept in memory: 51 MB at 64 dimensions, without Python's own overhead."""

_ENCODE_TIMEOUT_S = 30.0
"""Bound of one encoder call, whoever waits for it; each waiter has its own deadline besides."""

_log = logging.getLogger(__name__)


class ItemVectors:
    """Vectors of item texts under one encoder."""

    def __init__(self, model: Model, directory: Directory, *, limit: int = MEMORY_LIMIT) -> None:
        self._model = model
        self._directory = directory
        self._limit = limit
        self._encoder = encoder_identity(model.manifest)
        self._memory: OrderedDict[bytes, Vector] = OrderedDict()
        self._in_flight: dict[bytes, asyncio.Task[dict[bytes, Vector]]] = {}
        self._writes: set[asyncio.Task[None]] = set()

    async def get(
        self, texts: Sequence[str], *, timeout_s: float, look_up: bool = True
    ) -> tuple[Vectors, int]:
        """The vector of each text, float32 (n, d), zeros for ''; and how many texts were encoded.

        look_up: whether to ask the directory for those that are not in memory.
        Raises DeadlineExpired, and what Backend.infer raises.
        """
        digests = [text_digest(text) if text else b"" for text in texts]
        wanted = {d: t for d, t in zip(digests, texts, strict=True) if d}
        found = {d: self._memory[d] for d in wanted if d in self._memory}
        for digest in found:
            self._memory.move_to_end(digest)
        encoded = 0
        try:
            async with asyncio.timeout(timeout_s):
                missing = [d for d in wanted if d not in found]
                if missing:
                    stored: Mapping[bytes, Vector] = await self._stored(missing) if look_up else {}
                    self._remember(stored)
                    found |= stored
                    # Others may have encoded some meanwhile.
                    found |= {d: self._memory[d] for d in missing if d in self._memory}
                    unseen = {d: wanted[d] for d in missing if d not in found}
                    encoded = len(unseen)
                    found |= await self._encode(unseen)
        except TimeoutError:
            raise DeadlineExpired("encoding item texts took longer than the deadline") from None
        dim = self._model.manifest.vector_dim
        vectors = np.zeros((len(texts), dim), dtype=np.float32)
        for row, digest in enumerate(digests):
            if digest:
                vectors[row] = found[digest]
        return vectors, encoded

    async def close(self) -> None:
        """Wait for the vectors that are being kept."""
        for task in self._in_flight.values():
            task.cancel()
        await asyncio.gather(*self._in_flight.values(), *self._writes, return_exceptions=True)

    async def _stored(self, digests: list[bytes]) -> Mapping[bytes, Vector]:
        """What was kept; nothing when the directory is away: texts can be encoded again."""
        try:
            return await self._directory.vectors(self._encoder, digests)
        except Unavailable as error:
            _log.warning("item vectors could not be looked up: %s", error)
            return {}

    async def _encode(self, unseen: dict[bytes, str]) -> dict[bytes, Vector]:
        """Vectors of texts nobody has encoded yet; a text already under way is waited for."""
        # Shortest first, so that a batch pads little.
        fresh = sorted(
            (d for d in unseen if d not in self._in_flight), key=lambda d: len(unseen[d])
        )
        for start in range(0, len(fresh), ENCODE_BATCH):
            batch = {d: unseen[d] for d in fresh[start : start + ENCODE_BATCH]}
            task = asyncio.create_task(self._encode_batch(batch))
            task.add_done_callback(_heed)
            self._in_flight |= dict.fromkeys(batch, task)
        tasks = {self._in_flight[d] for d in unseen}
        # A waiter that gives up must not take the batch away from the others.
        done = await asyncio.gather(*(asyncio.shield(task) for task in tasks))
        return {d: vectors[d] for vectors in done for d in vectors.keys() & unseen.keys()}

    async def _encode_batch(self, batch: dict[bytes, str]) -> dict[bytes, Vector]:
        try:
            rows = await self._model.encode(list(batch.values()), timeout_s=_ENCODE_TIMEOUT_S)
            vectors = dict(zip(batch, rows, strict=True))
            self._remember(vectors)
            write = asyncio.create_task(self._keep(vectors))
            self._writes.add(write)
            write.add_done_callback(self._writes.discard)
            return vectors
        finally:
            for digest in batch:
                del self._in_flight[digest]

    async def _keep(self, vectors: dict[bytes, Vector]) -> None:
        try:
            await self._directory.keep_vectors(self._encoder, vectors)
        except GatewayError as error:  # it will be encoded again some day; nothing is lost
            _log.warning("item vectors could not be kept: %s", error)

    def _remember(self, vectors: Mapping[bytes, Vector]) -> None:
        self._memory.update(vectors)
        while len(self._memory) > self._limit:
            self._memory.popitem(last=False)


def encoder_identity(manifest: Manifest) -> str:
    """Names an encoder by its files: a rebuilt repository starts again at version 1."""
    folder = f"{ENCODER}/{manifest.encoder_version}/"
    files = sorted(
        (name.removeprefix(folder), digest)
        for name, digest in manifest.files.items()
        if name.startswith(folder)
    )
    return hashlib.blake2b(repr(files).encode(), digest_size=16).hexdigest()


def _heed(task: "asyncio.Task[dict[bytes, Vector]]") -> None:
    """Take note of a failure: when every waiter has given up, nobody else does."""
    if not task.cancelled():
        task.exception()
