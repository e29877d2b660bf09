"""Item vectors: where they come from, and what many requests at once make of one text."""

import asyncio
import gc
import logging
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, pre_tokenizers

from shopcast_domain.item_text import text_digest
from shopcast_domain.manifest import Manifest
from shopcast_domain.tokeniser import ItemTokeniser
from shopcast_gateway.core import batching, silence
from shopcast_gateway.core import vectors as core_vectors
from shopcast_gateway.core.model import ENCODE_BATCH, Model
from shopcast_gateway.core.pace import Pace
from shopcast_gateway.core.vectors import ItemVectors
from shopcast_gateway.errors import DeadlineExpired, Overloaded, Unavailable

WORDS = [f"w{number}" for number in range(200)]
DIM = 8


class Encoder:
    """Answers with the number of a text's only word, in every dimension.

    Held: no answer is given before `release` is set. failing: how many calls fail first.
    """

    def __init__(self, *, failing: int = 0) -> None:
        self.release = asyncio.Event()
        self.release.set()
        self.asked = asyncio.Event()
        self.failing = failing
        self.batches: list[list[int]] = []

    async def infer(
        self,
        model: str,
        version: int,
        inputs: Mapping[str, NDArray[Any]],
        output: str,
        *,
        timeout_s: float,
        wanted_s: float | None = None,
    ) -> NDArray[np.float32]:
        assert (model, output) == ("encoder", "vectors")
        ids = inputs["input_ids"][:, 0]
        self.batches.append(ids.tolist())
        self.asked.set()
        await self.release.wait()
        if self.failing:
            self.failing -= 1
            raise Unavailable("the model server is away or broken")
        return np.tile(ids[:, None].astype(np.float32), (1, DIM))

    async def load(self, model: str, version: int) -> None:
        raise NotImplementedError

    async def close(self) -> None:
        raise NotImplementedError


class Store:
    """A directory of vectors only. away: whether it keeps and gives none."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, bytes], NDArray[np.float32]] = {}
        self.reads: list[Sequence[bytes]] = []
        self.away = False
        self.gates: list[asyncio.Event] = []  # the next reads wait for these after they have looked

    async def vectors(
        self, encoder: str, digests: Sequence[bytes]
    ) -> Mapping[bytes, NDArray[np.float32]]:
        self.reads.append(digests)
        if self.away:
            raise Unavailable("the directory cannot be used now")
        found = {d: self.kept[encoder, d] for d in digests if (encoder, d) in self.kept}
        if self.gates:
            await self.gates.pop(0).wait()
        return found

    async def keep_vectors(
        self, encoder: str, vectors: Mapping[bytes, NDArray[np.float32]]
    ) -> None:
        if self.away:
            raise Unavailable("the directory cannot be used now")
        self.kept |= {(encoder, digest): vector for digest, vector in vectors.items()}


@pytest.fixture
def tokeniser() -> ItemTokeniser:
    vocabulary = {word: number for number, word in enumerate(["[UNK]", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return ItemTokeniser(tokenizer.to_str(), max_tokens=4, pad_id=0)


@pytest.fixture
def encoder() -> Encoder:
    return Encoder()


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def model(manifest: Manifest, tokeniser: ItemTokeniser, encoder: Encoder) -> Model:
    files = {"encoder/1/model.onnx": "ab" * 32, "behavior/1/model.onnx": "cd" * 32}
    return Model(manifest.model_copy(update={"files": files}), tokeniser, encoder)


@asynccontextmanager
async def opened(model: Model, store: Any, **settings: int) -> AsyncIterator[ItemVectors]:
    vectors = ItemVectors(model, store, **settings)
    yield vectors
    await vectors.close()


def numbers(vectors: NDArray[np.float32]) -> list[int]:
    """What the encoder made of each text: one more than the number of its word."""
    assert vectors.dtype == np.float32
    assert vectors.shape[1] == DIM
    assert (vectors == vectors[:, :1]).all()
    return [int(value) for value in vectors[:, 0]]


async def until_waiting(task: "asyncio.Task[Any]") -> None:
    """Let a task run until nothing but a gate of ours holds it up."""
    for _ in range(20):
        await asyncio.sleep(0)
    assert not task.done()


async def test_texts_get_their_vectors_in_order_and_no_text_gets_zeros(
    model: Model, store: Store
) -> None:
    async with opened(model, store) as vectors:
        found, encoded = await vectors.get(["w4", "", "w2", "w4"], timeout_s=5.0)
    assert numbers(found) == [5, 0, 3, 5]
    assert encoded == 2


async def test_what_is_late_once_it_is_tokenised_is_not_sent(
    model: Model, store: Store, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenise = model.tokeniser.encode

    def slowly(texts: Any) -> Any:
        time.sleep(0.2)
        return tokenise(texts)

    monkeypatch.setattr(model.tokeniser, "encode", slowly)
    async with opened(model, store) as vectors:
        with pytest.raises(DeadlineExpired):
            await vectors.get(["w4"], timeout_s=0.1)
        await asyncio.sleep(0.2)
        assert encoder.batches == []


async def test_who_asks_again_for_a_text_that_was_late_is_not_told_so_as_well(
    model: Model, store: Store
) -> None:
    async with opened(model, store) as vectors:
        with pytest.raises(DeadlineExpired):
            await vectors._encode({b"w4": "w4"}, 0.0)
        (awaited,) = [vectors._await(b"w4", "w4", 5.0, 0)]
        assert (await awaited.entry.future)[0] == 5


async def test_what_was_asked_for_lately_is_at_hand_in_another_encoder(
    model: Model, store: Store, encoder: Encoder
) -> None:
    changed = {"encoder/1/model.onnx": "ef" * 32}
    other = Model(model.manifest.model_copy(update={"files": changed}), model.tokeniser, encoder)
    async with opened(model, store) as before, opened(other, store) as after:
        await before.get(["w1", "", "w2"], timeout_s=5.0)
        await before.get(["w2", "w3"], timeout_s=5.0)
        await after.take_over(before, timeout_s=5.0)
        asked = len(encoder.batches)
        _, encoded = await after.get(["w3", "w1", "w2"], timeout_s=5.0)
        assert (encoded, len(encoder.batches)) == (0, asked)


async def test_the_same_encoder_needs_nothing_encoded_again(
    model: Model, store: Store, encoder: Encoder
) -> None:
    async with opened(model, store) as before, opened(model, store) as after:
        await before.get(["w1", "w2"], timeout_s=5.0)
        await after.take_over(before, timeout_s=5.0)
        store.away = True
        _, encoded = await after.get(["w2", "w1"], timeout_s=5.0)
        assert (encoded, len(encoder.batches)) == (0, 1)


async def test_taking_over_ends_in_time_whatever_hangs(
    model: Model, store: Store, encoder: Encoder
) -> None:
    other = Model(model.manifest.model_copy(update={"files": {}}), model.tokeniser, encoder)
    async with opened(model, store) as before, opened(other, store) as after:
        await before.get(["w1", "w2"], timeout_s=5.0)
        encoder.release.clear()
        await after.take_over(before, timeout_s=0.05)
        encoder.release.set()


async def test_few_of_the_texts_are_remembered_as_late_ones(
    model: Model, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(core_vectors, "_LATELY", 10)
    async with opened(model, store) as vectors:
        for number in range(200):
            await vectors.get([f"w{number % 9} x{number}"], timeout_s=5.0)
        assert len(set().union(*vectors._lately)) <= 22


async def test_nothing_to_encode_asks_nobody(model: Model, store: Store, encoder: Encoder) -> None:
    async with opened(model, store) as vectors:
        for texts in ([], ["", ""]):
            found, encoded = await vectors.get(texts, timeout_s=5.0)
            assert found.shape == (len(texts), DIM)
            assert not found.any()
            assert encoded == 0
    assert encoder.batches == []
    assert store.reads == []


async def test_a_text_is_encoded_once_and_then_remembered(
    model: Model, store: Store, encoder: Encoder
) -> None:
    async with opened(model, store) as vectors:
        first, _ = await vectors.get(["w1", "w2"], timeout_s=5.0)
        second, encoded = await vectors.get(["w2", "w1"], timeout_s=5.0)
        assert numbers(second) == numbers(first)[::-1] == [3, 2]
        assert encoded == 0
    assert len(encoder.batches) == 1
    assert len(store.reads) == 1


async def test_what_was_encoded_outlives_the_process(
    model: Model, store: Store, encoder: Encoder
) -> None:
    async with opened(model, store) as vectors:
        await vectors.get(["w1"], timeout_s=5.0)
    async with opened(model, store) as vectors:
        found, encoded = await vectors.get(["w1", "w2"], timeout_s=5.0)
    assert numbers(found) == [2, 3]
    assert encoded == 1
    assert encoder.batches == [[2], [3]]


async def test_another_encoder_of_the_same_version_does_not_get_these_vectors(
    model: Model, store: Store, encoder: Encoder
) -> None:
    async with opened(model, store) as vectors:
        await vectors.get(["w1"], timeout_s=5.0)
    # As when the repository is removed and a model built afresh, which is version 1 again.
    files = {"encoder/1/model.onnx": "ef" * 32}
    rebuilt = Model(model.manifest.model_copy(update={"files": files}), model.tokeniser, encoder)
    async with opened(rebuilt, store) as vectors:
        _, encoded = await vectors.get(["w1"], timeout_s=5.0)
    assert encoded == 1


async def test_many_requests_for_one_unseen_text_encode_it_once(
    model: Model, store: Store, encoder: Encoder
) -> None:
    encoder.release.clear()
    async with opened(model, store) as vectors:
        requests = [
            asyncio.create_task(vectors.get(["w1", f"w{2 + i % 2}"], timeout_s=5.0))
            for i in range(20)
        ]
        await until_waiting(requests[-1])
        encoder.release.set()
        answers = await asyncio.gather(*requests)
    for i, (found, encoded) in enumerate(answers):
        assert numbers(found) == [2, 3 + i % 2]
        assert encoded == 2
    assert sorted(number for batch in encoder.batches for number in batch) == [2, 3, 4]


async def test_a_text_encoded_while_the_directory_was_read_is_not_encoded_again(
    model: Model, store: Store, encoder: Encoder
) -> None:
    slow = asyncio.Event()
    async with opened(model, store) as vectors:
        store.gates.append(slow)
        late = asyncio.create_task(vectors.get(["w1"], timeout_s=5.0))
        await until_waiting(late)
        await vectors.get(["w1"], timeout_s=5.0)
        slow.set()
        found, encoded = await late
    assert numbers(found) == [2]
    assert encoded == 0
    assert encoder.batches == [[2]]


async def test_a_waiter_that_is_late_leaves_the_batch_to_the_others(
    model: Model, store: Store, encoder: Encoder
) -> None:
    encoder.release.clear()
    async with opened(model, store) as vectors:
        # The one that is late is the one that began the encoding.
        late = asyncio.create_task(vectors.get(["w1"], timeout_s=0.05))
        await encoder.asked.wait()
        patient = asyncio.create_task(vectors.get(["w1"], timeout_s=30.0))
        with pytest.raises(DeadlineExpired):
            await late
        assert not patient.done()
        encoder.release.set()
        found, _ = await patient
    assert numbers(found) == [2]
    assert len(encoder.batches) == 1


async def test_a_caller_that_hangs_up_leaves_the_batch_to_the_others(
    model: Model, store: Store, encoder: Encoder
) -> None:
    encoder.release.clear()
    async with opened(model, store) as vectors:
        gone = asyncio.create_task(vectors.get(["w1"], timeout_s=30.0))
        await encoder.asked.wait()
        patient = asyncio.create_task(vectors.get(["w1"], timeout_s=30.0))
        await until_waiting(patient)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        encoder.release.set()
        found, _ = await patient
    assert numbers(found) == [2]
    assert len(encoder.batches) == 1


async def test_no_time_left_is_late_but_what_is_remembered_is_given(
    model: Model, store: Store
) -> None:
    async with opened(model, store) as vectors:
        with pytest.raises(DeadlineExpired):
            await vectors.get(["w1"], timeout_s=-1.0)
        await vectors.get(["w1"], timeout_s=5.0)
        found, _ = await vectors.get(["w1"], timeout_s=0.0)
        assert numbers(found) == [2]


async def test_a_failure_reaches_every_waiter_and_the_next_request_tries_again(
    model: Model, store: Store, encoder: Encoder
) -> None:
    encoder.failing = 1
    encoder.release.clear()
    async with opened(model, store) as vectors:
        waiting = [asyncio.create_task(vectors.get(["w1"], timeout_s=5.0)) for _ in range(3)]
        await until_waiting(waiting[-1])
        encoder.release.set()
        failures = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(failure) for failure in failures] == [Unavailable] * 3
        found, encoded = await vectors.get(["w1"], timeout_s=5.0)
    assert numbers(found) == [2]
    assert encoded == 1
    assert len(encoder.batches) == 2


async def test_a_batch_that_fails_fails_its_request_and_spares_the_others(
    model: Model, store: Store, encoder: Encoder
) -> None:
    encoder.failing = 1
    texts = [f"w{number}" for number in range(ENCODE_BATCH + 10)]
    async with opened(model, store) as vectors:
        with pytest.raises(Unavailable):
            await vectors.get(texts, timeout_s=5.0)
        found, _ = await vectors.get(texts, timeout_s=5.0)
    assert numbers(found) == [number + 1 for number in range(len(texts))]


async def test_many_texts_are_encoded_in_batches_that_the_encoder_takes(
    model: Model, store: Store, encoder: Encoder
) -> None:
    texts = [f"w{number}" for number in range(150)]
    async with opened(model, store) as vectors:
        found, encoded = await vectors.get(texts, timeout_s=5.0)
    assert numbers(found) == [number + 1 for number in range(150)]
    assert encoded == 150
    assert max(map(len, encoder.batches)) <= ENCODE_BATCH
    assert sum(map(len, encoder.batches)) == 150


async def test_more_texts_than_can_be_encoded_in_time_are_refused(
    model: Model, store: Store, encoder: Encoder
) -> None:
    encoder.release.clear()
    async with opened(model, store) as vectors:
        running = asyncio.create_task(
            vectors.get([f"w1 {number}" for number in range(1_500)], timeout_s=30.0)
        )
        await encoder.asked.wait()
        with pytest.raises(Overloaded):
            await vectors.get([f"w2 {number}" for number in range(501)], timeout_s=30.0)
        more = asyncio.create_task(
            vectors.get([f"w3 {number}" for number in range(500)], timeout_s=30.0)
        )
        await until_waiting(more)
        encoder.release.set()
        assert (await running)[1] == 1_500
        assert (await more)[1] == 500
    assert sum(map(len, encoder.batches)) == 2_000


async def test_who_would_wait_too_long_for_others_is_refused(
    model: Model, store: Store, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Pace, "units", lambda _, time_s: 100 * time_s)
    encoder.release.clear()
    async with opened(model, store) as vectors:

        async def ask(name: str, texts: int, timeout_s: float) -> "asyncio.Task[Any]":
            asked = [f"w1 {name} {number}" for number in range(texts)]
            task = asyncio.create_task(vectors.get(asked, timeout_s=timeout_s))
            await until_waiting(task)
            return task

        large = await ask("large", 60, 30.0)
        while len(encoder.batches) < 2:  # noqa: ASYNC110 - tokenised in threads
            await asyncio.sleep(0.001)
        assert [len(batch) for batch in encoder.batches] == [10, 10], "a fifth of a second, of two"
        with pytest.raises(Overloaded):
            await vectors.get([f"w1 b {number}" for number in range(20)], timeout_s=0.5)
        running = [
            large,
            await ask("more time", 20, 30.0),
            await ask("little", 1, 0.5),
            await ask("too much by itself", 400, 5.0),
        ]
        encoder.release.set()
        assert [encoded for _, encoded in await asyncio.gather(*running)] == [60, 20, 1, 400]


async def test_who_needs_an_encoder_that_hangs_is_told_at_once(
    model: Model, store: Store, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(silence, "SILENT_S", 0.01)
    async with opened(model, store) as vectors:
        await vectors.get(["w1"], timeout_s=30.0)
        encoder.release.clear()
        running = [asyncio.create_task(vectors.get([f"w{n}"], timeout_s=30.0)) for n in (2, 3)]
        for task in running:
            await until_waiting(task)
        later = asyncio.create_task(vectors.get(["w4"], timeout_s=30.0))
        await until_waiting(later)
        await asyncio.sleep(0.03)
        for texts in (["w5"], ["w4"]):  # one that nobody has asked for, and one that waits
            with pytest.raises(Unavailable):
                await vectors.get(texts, timeout_s=0.02)
        assert numbers((await vectors.get(["w1"], timeout_s=0.02))[0]) == [2], "it is at hand"
        encoder.release.set()
        await asyncio.gather(*running, later)


async def test_a_text_nobody_waits_for_any_more_is_not_encoded(
    model: Model, store: Store, encoder: Encoder
) -> None:
    encoder.release.clear()
    async with opened(model, store) as vectors:
        running = []
        for number in (1, 2):  # as many calls as may run
            running.append(asyncio.create_task(vectors.get([f"w{number}"], timeout_s=30.0)))
            await until_waiting(running[-1])
        gone = asyncio.create_task(vectors.get(["w3", "w4"], timeout_s=30.0))
        shared = asyncio.create_task(vectors.get(["w4"], timeout_s=30.0))
        await until_waiting(shared)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        encoder.release.set()
        await asyncio.gather(*running, shared)
    assert 4 not in [number for batch in encoder.batches for number in batch]


async def test_the_memory_is_bounded_and_keeps_what_was_asked_for_last(
    model: Model, store: Store
) -> None:
    async with opened(model, store, limit=3) as vectors:
        found, _ = await vectors.get(["w1", "w2", "w3", "w4", "w5"], timeout_s=5.0)
        assert numbers(found) == [2, 3, 4, 5, 6], "a request may exceed the memory"

        def remembered() -> list[str]:
            return [f"w{n}" for n in range(1, 10) if text_digest(f"w{n}") in vectors._memory]

        assert len(remembered()) == 3
        oldest, *newer = remembered()
        await vectors.get([oldest], timeout_s=5.0)  # now the one asked for last
        await vectors.get(["w9"], timeout_s=5.0)
        assert remembered() == sorted([oldest, newer[1], "w9"])


async def test_what_cannot_be_looked_up_is_encoded(model: Model, store: Store) -> None:
    async with opened(model, store) as vectors:
        await vectors.get(["w1"], timeout_s=5.0)
    store.away = True
    async with opened(model, store) as vectors:
        found, encoded = await vectors.get(["w1"], timeout_s=5.0)
        assert (numbers(found), encoded) == ([2], 1)
    store.away = False
    async with opened(model, store) as vectors:
        assert (await vectors.get(["w1"], timeout_s=5.0, look_up=False))[1] == 1
        assert (await vectors.get(["w2", "w1"], timeout_s=5.0))[1] == 1


async def test_what_is_not_looked_up_in_time_is_encoded(model: Model, store: Store) -> None:
    store.gates.append(asyncio.Event())  # nobody sets it
    async with opened(model, store) as vectors:
        found, encoded = await vectors.get(["w1"], timeout_s=1.0)
        assert (numbers(found), encoded) == ([2], 1)
        assert (await vectors.get(["w1"], timeout_s=1.0))[1] == 0


async def test_a_directory_that_cannot_keep_vectors_costs_no_answer(
    model: Model, encoder: Encoder, caplog: pytest.LogCaptureFixture
) -> None:
    class ReadOnly(Store):
        async def keep_vectors(self, encoder: str, vectors: Mapping[bytes, Any]) -> None:
            raise Unavailable("the disk is full")

    with caplog.at_level(logging.WARNING):
        async with opened(model, ReadOnly()) as vectors:
            found, _ = await vectors.get(["w1"], timeout_s=5.0)
    assert numbers(found) == [2]
    assert [record.levelname for record in caplog.records] == ["WARNING"]


async def test_closing_waits_for_what_is_being_kept(model: Model) -> None:
    class Slow(Store):
        async def keep_vectors(self, encoder: str, vectors: Mapping[bytes, Any]) -> None:
            await asyncio.sleep(0.05)
            await super().keep_vectors(encoder, vectors)

    store = Slow()
    async with opened(model, store) as vectors:
        await vectors.get(["w1"], timeout_s=5.0)
        assert not store.kept
    assert [digest for _, digest in store.kept] == [text_digest("w1")]


@pytest.mark.parametrize("failing", [0, 1])
async def test_closing_leaves_no_task_and_no_forgotten_failure(
    model: Model,
    store: Store,
    encoder: Encoder,
    failing: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(batching, "END_S", 0.05)
    said: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: said.append(context))
    before = asyncio.all_tasks()
    encoder.failing = failing
    encoder.release.clear()
    async with opened(model, store) as vectors:
        texts = [f"w{number}" for number in range(2 * ENCODE_BATCH)]
        with pytest.raises(DeadlineExpired):
            await vectors.get(texts, timeout_s=0.02)  # nobody waits for its batches any more
        if failing:
            encoder.release.set()
            await asyncio.gather(*asyncio.all_tasks() - before, return_exceptions=True)
    assert asyncio.all_tasks() == before
    gc.collect()
    await asyncio.sleep(0)
    assert said == []
