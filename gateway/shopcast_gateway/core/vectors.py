"""Item vectors: from memory, from the directory, or encoded once however many ask for them."""

import asyncio
import hashlib
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np

from shopcast_domain.item_text import text_digest
from shopcast_domain.manifest import ENCODER, Manifest
from shopcast_gateway.core.batching import Batcher, Bounds, Entry
from shopcast_gateway.core.exposure import Vectors
from shopcast_gateway.core.model import CALL_LIMIT_S, ENCODE_BATCH, Model
from shopcast_gateway.core.pace import IN_TIME, Pace
from shopcast_gateway.core.stages import SOURCES, SPENT, UNRECORDED, Recorder, timed
from shopcast_gateway.directory.protocol import Directory
from shopcast_gateway.directory.types import Vector
from shopcast_gateway.errors import DeadlineExpired, GatewayError, Overloaded, Unavailable

MEMORY_LIMIT = 200_000
"""Vectors kept in memory: 51 MB at 64 dimensions, without Python's own overhead."""

_LOOK_UP_SHARE = 0.5  # of the time, which the directory may take: texts can be encoded without it
_LATELY = 2_000  # texts; a set of so many is kept twice
_MOST_WAITING = 2_000  # texts; at 250 a second on one CPU thread, the last waits 8 s
_BATCH_S = 0.2  # that one batch takes, so far as it is seen: who comes meanwhile waits as long
_SMALLEST = 8  # texts; a batch of fewer takes a CPU nearly as long
_BOUNDS = Bounds(rows=ENCODE_BATCH, small=64 * ENCODE_BATCH)  # of characters

_digest = lru_cache(65_536)(text_digest)  # 16 MB with texts of 80 characters, 0.1 GB at worst

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Text:
    digest: bytes
    text: str


@dataclass(slots=True)
class _Awaited:
    """A text that is being encoded, and how many wait for it."""

    entry: Entry[_Text, Vector]
    waiters: int = 0


class ItemVectors:
    """Vectors of item texts under one encoder."""

    def __init__(
        self,
        model: Model,
        directory: Directory,
        *,
        limit: int = MEMORY_LIMIT,
        recorder: Recorder = UNRECORDED,
    ) -> None:
        self._recorder = recorder
        self._model = model
        self._directory = directory
        self._limit = limit
        self._encoder = encoder_identity(model.manifest)
        self._memory: OrderedDict[bytes, Vector] = OrderedDict()
        self._in_flight: dict[bytes, _Awaited] = {}
        self._lately: tuple[set[str], set[str]] = set(), set()  # the second is older
        self._texts: Batcher[_Text, Vector] = Batcher(
            self._encode_batch,
            size=lambda one: len(one.text),
            fits=lambda sizes: len(sizes) <= self._most_at_once() and _BOUNDS.fit(sizes),
            calls=model.calls,
            model=ENCODER,
            recorder=recorder,
        )
        self._pace = Pace()
        self._writes: set[asyncio.Task[None]] = set()

    async def get(
        self, texts: Sequence[str], *, timeout_s: float, look_up: bool = True
    ) -> tuple[Vectors, int]:
        """The vector of each text, float32 (n, d), zeros for ''; and how many texts were encoded.

        look_up: whether to ask the directory for those that are not in memory.
        Raises DeadlineExpired, Overloaded where they could not be encoded in time, and what
        Scoring.infer raises.
        """
        digests = [_digest(text) if text else b"" for text in texts]
        wanted = {d: t for d, t in zip(digests, texts, strict=True) if d}
        found = {d: self._memory[d] for d in wanted if d in self._memory}
        for digest in found:
            self._memory.move_to_end(digest)
        self._note(wanted.values())
        stored: Mapping[bytes, Vector] = {}
        encoded = 0
        began = time.monotonic()
        try:
            async with asyncio.timeout(timeout_s):
                missing = [d for d in wanted if d not in found]
                if missing:
                    stored = await self._stored(missing, timeout_s) if look_up else {}
                    self._remember(stored)
                    found |= stored
                    # Others may have encoded some meanwhile.
                    found |= {d: self._memory[d] for d in missing if d in self._memory}
                    unseen = {d: wanted[d] for d in missing if d not in found}
                    encoded = len(unseen)
                    left_s = timeout_s - (time.monotonic() - began)
                    found |= await self._encode(unseen, left_s)
        except TimeoutError:
            raise DeadlineExpired("encoding item texts took longer than the deadline") from None
        counts = (len(wanted) - len(stored) - encoded, len(stored), encoded)
        for source, count in zip(SOURCES, counts, strict=True):
            if count:
                self._recorder.vectors(source, count)
        dim = self._model.manifest.vector_dim
        found[b""] = np.zeros(dim, dtype=np.float32)
        rows = [found[digest] for digest in digests]
        vectors = np.concatenate(rows) if rows else np.zeros(0, dtype=np.float32)
        return vectors.reshape(len(texts), dim), encoded

    async def take_over(self, other: "ItemVectors", *, timeout_s: float) -> None:
        """Have at hand what another had, before it is asked for: with another encoder, the texts
        that were asked for lately are encoded, as many as there is time for."""
        if self._encoder == other._encoder:
            self._remember(other._memory)
            return
        try:
            async with asyncio.timeout(timeout_s):
                texts = list(set().union(*other._lately))
                for start in range(0, len(texts), ENCODE_BATCH):
                    await self.get(texts[start : start + ENCODE_BATCH], timeout_s=timeout_s)
        except Exception as error:  # whatever it is, they are encoded once they are asked for
            _log.warning(
                "not all texts that were asked for lately were encoded: %s", type(error).__name__
            )

    def _note(self, texts: Collection[str]) -> None:
        now, _ = self._lately
        now.update(texts)
        if len(now) > _LATELY:
            self._lately = set(), now

    async def close(self) -> None:
        """Wait for the vectors that are being kept."""
        await self._texts.close()
        await asyncio.gather(*self._writes, return_exceptions=True)

    async def _stored(self, digests: list[bytes], timeout_s: float) -> Mapping[bytes, Vector]:
        """What was kept; nothing when the directory is away or takes half of the time: texts can be
        encoded again."""
        limit_s = _LOOK_UP_SHARE * timeout_s
        try:
            with timed("look_up", self._recorder):
                async with asyncio.timeout(limit_s):
                    return await self._directory.vectors(self._encoder, digests)
        except TimeoutError:
            _log.warning("item vectors were not looked up within %.2f s", limit_s)
        except Unavailable as error:
            _log.warning("item vectors could not be looked up: %s", error)
        return {}

    async def _encode(self, unseen: dict[bytes, str], timeout_s: float) -> dict[bytes, Vector]:
        """Vectors of texts nobody has encoded yet; a text already under way is waited for."""
        if unseen:
            await self._texts.check(timeout_s)
        self._admit(len(unseen.keys() - self._in_flight.keys()), timeout_s)
        awaited = [
            self._await(digest, text, timeout_s, place)
            for place, (digest, text) in enumerate(unseen.items())
        ]
        try:
            # A waiter that gives up must not take the text away from the others.
            rows = await asyncio.gather(*(asyncio.shield(one.entry.future) for one in awaited))
        finally:
            for one in awaited:
                one.waiters -= 1
                if not one.waiters:
                    one.entry.future.cancel()
        if (spent := SPENT.get()) is not None:
            for one in awaited:
                spent.waited(ENCODER, one.entry.spent)
        return dict(zip(unseen, rows, strict=True))

    def _admit(self, fresh: int, timeout_s: float) -> None:
        """Raises Overloaded where more texts wait than may, or than can be encoded in time. Texts
        that take too long by themselves are let in: who asks again finds some of them encoded."""
        if not self._in_flight:
            return
        all_ = len(self._in_flight) + fresh
        in_time = max(self._pace.units(IN_TIME * timeout_s), self._most_at_once())
        if all_ > _MOST_WAITING or fresh <= in_time < all_ - self._texts.after(fresh):
            self._recorder.refusal("texts")
            raise Overloaded(f"{len(self._in_flight)} texts wait to be encoded")

    def _most_at_once(self) -> float:
        """Texts of a batch."""
        seen = self._pace.units(_BATCH_S / self._texts.calls)
        return min(max(seen, _SMALLEST), ENCODE_BATCH)

    def _await(self, digest: bytes, text: str, timeout_s: float, place: int) -> _Awaited:
        awaited = self._in_flight.get(digest)
        if awaited is None or awaited.entry.future.done():  # it is taken out in a later turn
            entry = self._texts.put(_Text(digest, text), timeout_s=timeout_s, place=place)
            awaited = self._in_flight[digest] = _Awaited(entry)
            entry.future.add_done_callback(partial(self._ended, digest, awaited))
        else:
            self._texts.hurry(awaited.entry, timeout_s=timeout_s, place=place)
        awaited.waiters += 1
        return awaited

    def _ended(self, digest: bytes, awaited: _Awaited, _: "asyncio.Future[Vector]") -> None:
        if self._in_flight.get(digest) is awaited:
            del self._in_flight[digest]

    async def _encode_batch(
        self, batch: Sequence[_Text], left_s: Callable[[], float]
    ) -> list[Vector]:
        texts = [one.text for one in batch]
        done = 0
        try:
            rows = await self._model.encode(texts, timeout_s=CALL_LIMIT_S, left_s=left_s)
            done = len(texts)
        finally:
            self._pace.ended(done, more=self._texts.others)
        vectors = {one.digest: row for one, row in zip(batch, rows, strict=True)}
        self._remember(vectors)
        write = asyncio.create_task(self._keep(vectors))
        self._writes.add(write)
        write.add_done_callback(self._writes.discard)
        return list(rows)

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
