"""The request path: what is asked of the model, and what the answer says it rests on."""

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, pre_tokenizers

from shopcast_domain.events import Account, EventKind, Item, Outcome
from shopcast_domain.features import FEATURES, MISSING, Candidates, Window
from shopcast_domain.manifest import NO_CHANCE, Calibration, Manifest
from shopcast_domain.tokeniser import ItemTokeniser
from shopcast_gateway.core import silence
from shopcast_gateway.core.histories import Histories
from shopcast_gateway.core.model import Model
from shopcast_gateway.core.prediction import ModelPredictor
from shopcast_gateway.core.protocol import Level, PlatformUse, Prediction, PredictQuery, Reason
from shopcast_gateway.core.reader import CLOCK_SKEW_S
from shopcast_gateway.core.vectors import ItemVectors
from shopcast_gateway.core.worlds import MAX_UNCERTAIN, worlds
from shopcast_gateway.directory.types import Purpose, Reading
from shopcast_gateway.errors import (
    ContractMismatch,
    DeadlineExpired,
    GatewayError,
    Overloaded,
    TooStale,
    Unavailable,
)

NOW_S = 1_790_000_000.0
DIM = 8
WORDS = [f"w{number}" for number in range(50)]
ANNA = Account("web", "anna@example.com")
AGE, HERE, PRICE = range(3)  # HISTORY_NUMBERS


@dataclass
class Past:
    """One event of the person's window, some seconds ago."""

    ago_s: float
    platform: str = "web"
    text: str = "w1"
    kind: EventKind = EventKind.VIEW
    price: float = float("nan")
    confidence: float = 1.0


class Directory:
    """Answers every read with the same person; only what lies before the asked moment."""

    def __init__(self, past: Sequence[Past] = (), *, person_known: bool = True) -> None:
        self.past = sorted(past, key=lambda event: event.ago_s)
        self.person_known = person_known
        self.texts: dict[str, str] = {}
        self.known: set[str] = set()
        self.delay_s = {"read": 0.0, "vectors": 0.0}
        self.failure: GatewayError | None = None

    async def read(
        self,
        account: Account,
        items: Sequence[Item],
        *,
        before_s: float,
        limit: int,
        purpose: Purpose = Purpose.PREDICTION,
        min_confidence: float = 0.0,
    ) -> Reading:
        self.asked = (purpose, min_confidence)
        await asyncio.sleep(self.delay_s["read"])
        if self.failure:
            raise self.failure
        past = [event for event in self.past if NOW_S - event.ago_s < before_s][:limit]
        names = sorted({account.platform, *(event.platform for event in past)})
        n, w = len(items), len(past)
        none = np.full(w, MISSING, dtype=np.int64)
        return Reading(
            person_known=self.person_known,
            window=Window(
                time_s=np.array([NOW_S - event.ago_s for event in past], dtype=np.float64),
                kind=np.array([event.kind for event in past], dtype=np.int64),
                platform=np.array([names.index(event.platform) for event in past], dtype=np.int64),
                item=none,
                category=none,
                brand=none,
                price=np.array([event.price for event in past], dtype=np.float64),
                quantity=np.ones(w),
            ),
            window_texts=tuple(event.text for event in past),
            window_platforms=tuple(event.platform for event in past),
            window_confidence=np.array([event.confidence for event in past], dtype=np.float64),
            candidates=Candidates(
                platform=names.index(account.platform),
                item=np.arange(n),
                category=np.full(n, MISSING),
                brand=np.full(n, MISSING),
                price=np.array([item.price or np.nan for item in items], dtype=np.float64),
                quantity=np.full(n, np.nan),
                item_tally=np.zeros((n, 4)),
                item_habit=np.zeros((n, 3), dtype=np.int64),
                category_tally=np.zeros((n, 4)),
                platform_tally=np.zeros(4),
            ),
            candidate_texts=tuple(item.title or self.texts.get(item.item_id, "") for item in items),
            candidate_categories=tuple(item.category or "" for item in items),
            candidate_known=tuple(item.item_id in self.known for item in items),
            suppressed=("app",) if purpose is Purpose.RISK else (),
        )

    async def vectors(
        self, encoder: str, digests: Sequence[bytes]
    ) -> Mapping[bytes, NDArray[np.float32]]:
        await asyncio.sleep(self.delay_s["vectors"])
        return {}

    async def keep_vectors(self, encoder: str, vectors: Mapping[bytes, Any]) -> None:
        pass


@dataclass
class Backend:
    """Scores a candidate by the number of its word; remembers what the behaviour model was sent."""

    delay_s: Mapping[str, float] = field(default_factory=dict)
    failure: GatewayError | None = None
    failing: Collection[str] = ("encoder", "behavior")
    sent: list[dict[str, NDArray[Any]]] = field(default_factory=list)
    timeouts_s: dict[str, float] = field(default_factory=dict)

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
        self.timeouts_s[model] = timeout_s
        if timeout_s <= 0:
            raise DeadlineExpired(f"no time is left to ask {model}")
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.sleep(self.delay_s.get(model, 0.0))
        except TimeoutError:
            raise DeadlineExpired("the model server did not answer in time") from None
        if self.failure and model in self.failing:
            raise self.failure
        if model == "encoder":
            words = inputs["input_ids"][:, :1].astype(np.float32)
            return np.tile(words, (1, DIM))
        self.sent += [
            {name: array[row] for name, array in inputs.items()}
            for row in range(len(inputs["history_kind"]))
        ]
        word = inputs["candidate_vectors"][..., :1] / 50
        return (word * np.float32([1, 2, 3])).astype(np.float32)

    async def load(self, model: str, version: int) -> None:
        raise NotImplementedError

    async def close(self) -> None:
        raise NotImplementedError


Ask = Callable[..., Any]


@pytest.fixture
def tokeniser() -> ItemTokeniser:
    vocabulary = {word: number for number, word in enumerate(["[UNK]", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return ItemTokeniser(tokenizer.to_str(), max_tokens=4, pad_id=0)


@pytest.fixture
def served(manifest: Manifest) -> Manifest:
    return manifest.model_copy(update={"encoder_version": 3, "behavior_version": 7})


@pytest.fixture
def ask(served: Manifest, tokeniser: ItemTokeniser) -> Ask:
    """Predict once, with a fresh predictor."""

    async def predict(
        directory: Any,
        *items: Item,
        backend: Backend | None = None,
        timeout_s: float = 10.0,
        manifest: Manifest = served,
        histories: Histories | None = None,
        **options: Any,
    ) -> Prediction:
        model = Model(manifest, tokeniser, backend or Backend())
        vectors = ItemVectors(model, directory)
        predictor = ModelPredictor(
            model,
            vectors,
            directory,
            Histories() if histories is None else histories,
            clock=lambda: NOW_S,
        )
        try:
            query = PredictQuery(ANNA, items, **options)
            return await predictor.predict(query, timeout_s=timeout_s)
        finally:
            await vectors.close()

    return predict


async def test_predictions_come_in_the_order_asked_and_sum_to_one(ask: Ask) -> None:
    items = [Item(f"i{number}", title=f"w{number}") for number in (30, 2, 17, 44, 9)]
    answer = await ask(Directory([Past(60.0)]), *items)
    assert [one.item_id for one in answer.predictions] == ["i30", "i2", "i17", "i44", "i9"]
    for one in answer.predictions:
        assert all(0 <= p <= 1 for p in one.probabilities)
        assert sum(one.probabilities) == pytest.approx(1.0, abs=1e-9)
    # The backend favours a return the more, the higher the word.
    risk = [one.probabilities[Outcome.RETURN] for one in answer.predictions]
    assert np.argsort(risk).tolist() == [1, 4, 2, 0, 3]


async def test_the_pieces_of_an_order_reach_the_model(ask: Ask) -> None:
    items = (Item("i", title="w9", price=2.0), Item("j", title="w8", price=1.0))
    order, looking = Backend(), Backend()
    await ask(Directory(), *items, backend=order, quantities=(3, 5))
    await ask(Directory(), *items, backend=looking)
    pieces, value = (FEATURES.index(name) for name in ("quantity", "basket_value"))
    (sent,) = order.sent
    np.testing.assert_allclose(sent["candidate_features"][:, pieces], np.log([4, 6]), rtol=1e-6)
    np.testing.assert_allclose(sent["candidate_features"][:, value], np.log(12), rtol=1e-6)
    np.testing.assert_array_equal(looking.sent[0]["candidate_features"][:, [pieces, value]], 0)


async def test_probabilities_are_calibrated(ask: Ask, served: Manifest) -> None:
    answer = await ask(Directory(), Item("i", title="w9"))
    z = served.calibration.scale * np.array([0.2, 0.4, 0.6]) + served.calibration.bias
    assert answer.predictions[0].probabilities == pytest.approx(np.exp(z) / np.exp(z).sum())


async def test_an_outcome_never_trained_gets_no_probability_and_the_answer_says_so(
    ask: Ask, served: Manifest
) -> None:
    without_return = served.model_copy(
        update={
            "trained_outcomes": ("view", "buy"),
            "calibration": Calibration(scale=1.0, bias=(0.0, 0.0, NO_CHANCE)),
        }
    )
    answer = await ask(Directory(), Item("i", title="w9"), manifest=without_return)
    assert answer.predictions[0].probabilities[Outcome.RETURN] == 0.0
    assert sum(answer.predictions[0].probabilities) == pytest.approx(1.0)
    assert answer.evidence.trained_outcomes == (Outcome.VIEW, Outcome.BUY)


async def test_the_evidence_names_models_platforms_counts_and_ages(ask: Ask) -> None:
    directory = Directory(
        [
            Past(7200.0, "web", "w1"),
            Past(60.0, "app", "w2"),
            Past(3600.0, "web", "w3"),
            Past(1800.0, "web", ""),
        ]
    )
    evidence = (await ask(directory, Item("i", title="w1"))).evidence
    assert (evidence.model_version, evidence.encoder_version) == ("7", "3")
    assert evidence.trained_outcomes == (Outcome.VIEW, Outcome.BUY, Outcome.RETURN)
    assert evidence.person_known
    assert evidence.events_used == 4
    assert evidence.newest_event_age_s == pytest.approx(60.0)
    assert evidence.platforms == (PlatformUse("app", 1, 60.0), PlatformUse("web", 3, 1800.0))
    assert evidence.texts_encoded == 3, "w1 is met twice and read once"
    int(evidence.prediction_id, 16)
    assert len(evidence.prediction_id) == 32


async def test_every_answer_has_an_id_of_its_own(ask: Ask) -> None:
    answers = [await ask(Directory(), Item("i")) for _ in range(3)]
    assert len({answer.evidence.prediction_id for answer in answers}) == 3


async def test_items_say_whether_they_and_their_texts_are_known(ask: Ask) -> None:
    directory = Directory()
    directory.known = {"seen", "seen without text"}
    directory.texts = {"seen": "w1"}
    answer = await ask(
        directory,
        Item("seen"),
        Item("seen without text"),
        Item("new", title="w2"),
        Item("new without text", price=5.0),
    )
    flags = [(one.item_known, one.text_known) for one in answer.predictions]
    assert flags == [(True, True), (True, False), (False, True), (False, False)]
    assert answer.evidence.texts_encoded == 2


async def test_a_cold_start_shopper_gets_an_answer_that_says_so(ask: Ask) -> None:
    backend = Backend()
    answer = await ask(Directory(person_known=False), Item("i", title="w1"), backend=backend)
    assert sum(answer.predictions[0].probabilities) == pytest.approx(1.0)
    evidence = answer.evidence
    assert not evidence.person_known
    assert (evidence.events_used, evidence.platforms) == (0, ())
    assert evidence.newest_event_age_s is None
    # No axis of a tensor may be empty: one event that is masked away.
    (sent,) = backend.sent
    assert sent["history_vectors"].shape == (1, DIM)
    assert sent["history_mask"].tolist() == [0.0]


async def test_the_model_is_sent_the_history_newest_first(ask: Ask) -> None:
    backend = Backend()
    directory = Directory(
        [
            Past(7200.0, "app", "w5", EventKind.BUY, price=20.0),
            Past(60.0, "web", "w3", EventKind.CART),
        ]
    )
    await ask(directory, Item("i", title="w1"), Item("j"), backend=backend)
    (sent,) = backend.sent
    assert sent["history_mask"].tolist() == [1.0, 1.0]
    assert sent["history_kind"].tolist() == [EventKind.CART, EventKind.BUY]
    assert sent["history_vectors"][:, 0].tolist() == [4.0, 6.0]
    assert sent["history_numbers"][:, HERE].tolist() == [1.0, 0.0]
    assert sent["history_numbers"][:, AGE] == pytest.approx(np.log1p([60 / 3600, 2.0]))
    assert sent["history_numbers"][:, PRICE] == pytest.approx([0.0, np.log1p(20.0)])
    assert sent["candidate_vectors"][:, 0].tolist() == [2.0, 0.0], "no text, no vector"
    assert sent["candidate_features"].shape == (2, len(FEATURES))


async def test_the_model_attends_to_fewer_events_than_the_features_count(
    ask: Ask, served: Manifest
) -> None:
    backend = Backend()
    directory = Directory([Past(60.0 * (n + 1), text=f"w{n}") for n in range(40)])
    answer = await ask(directory, Item("i"), backend=backend)
    (sent,) = backend.sent
    assert served.history_events == 4
    assert sent["history_vectors"][:, 0].tolist() == [1.0, 2.0, 3.0, 4.0], "the newest four"
    counted = sent["candidate_features"][0, FEATURES.index("person_views")]
    assert np.expm1(counted) == pytest.approx(served.feature_events)
    assert answer.evidence.events_used == served.feature_events


async def test_a_clock_a_little_ahead_of_ours_counts_as_now(ask: Ask) -> None:
    backend = Backend()
    directory = Directory([Past(-120.0, text="w1"), Past(3600.0, text="w2")])
    answer = await ask(directory, Item("i"), backend=backend)
    assert answer.evidence.events_used == 2
    assert answer.evidence.newest_event_age_s == 0.0
    assert answer.evidence.platforms == (PlatformUse("web", 2, 0.0),)
    (sent,) = backend.sent
    assert sent["history_numbers"][:, AGE] == pytest.approx([0.0, np.log1p(1.0)])
    assert sent["candidate_features"][0, FEATURES.index("person_event_age")] == 0.0


async def test_what_lies_further_ahead_has_not_happened(ask: Ask) -> None:
    answer = await ask(Directory([Past(-CLOCK_SKEW_S - 1.0)]), Item("i"))
    assert answer.evidence.events_used == 0


@pytest.mark.parametrize("slow", ["read", "encoder", "behavior"])
async def test_the_deadline_holds_at_every_step(ask: Ask, slow: str) -> None:
    directory, backend = Directory([Past(60.0)]), Backend(delay_s={slow: 30.0})
    if slow in directory.delay_s:
        directory.delay_s[slow] = 30.0
    began = time.monotonic()
    with pytest.raises(DeadlineExpired):
        await ask(directory, Item("i", title="w1"), backend=backend, timeout_s=0.2)
    assert time.monotonic() - began < 10.0


async def test_vectors_that_the_store_does_not_give_in_time_are_encoded(ask: Ask) -> None:
    directory = Directory([Past(60.0)])
    directory.delay_s["vectors"] = 30.0
    answer = await ask(directory, Item("i", title="w1"), timeout_s=1.0)
    assert answer.evidence.level is Level.FULL
    assert answer.evidence.texts_encoded


async def test_a_model_that_takes_too_long_is_not_waited_for_and_not_called_off(ask: Ask) -> None:
    backend = Backend(delay_s={"behavior": 0.2})
    began = time.monotonic()
    with pytest.raises(DeadlineExpired):
        await ask(Directory(), Item("i", title="w1"), backend=backend, timeout_s=0.1)
    assert time.monotonic() - began < 0.19
    await asyncio.sleep(0.2)
    assert len(backend.sent) == 1


@pytest.mark.parametrize("failure", [Unavailable("away"), Overloaded("full")])
async def test_what_fails_below_reaches_the_caller_as_it_is(
    ask: Ask, failure: GatewayError
) -> None:
    directory = Directory()
    with pytest.raises(type(failure)):
        await ask(directory, Item("i", title="w1"), backend=Backend(failure=failure))
    directory.failure = failure
    with pytest.raises(type(failure)):
        await ask(directory, Item("i", title="w1"))


async def test_an_answer_leaves_one_line_without_anything_personal(
    ask: Ask, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, logger="shopcast_gateway"):
        answer = await ask(Directory([Past(60.0)]), Item("i-77", title="w41"))
    (record,) = caplog.records
    line = record.getMessage()
    assert answer.evidence.prediction_id in line
    assert not [word for word in (ANNA.user_id, "i-77", "w41") if word in line]


# Whose events they are


async def test_what_is_less_than_certain_counts_by_how_sure_it_is(ask: Ask) -> None:
    """The backend scores by the history's first vector here, so that histories differ."""

    class Swayed(Backend):
        async def infer(
            self, model: str, version: int, inputs: Any, *others: Any, **options: Any
        ) -> NDArray[np.float32]:
            answer = await super().infer(model, version, inputs, *others, **options)
            if model == "behavior":
                answer = answer * inputs["history_vectors"][:, :1, :1]
            return answer

    async def risk(*past: Past, **options: Any) -> tuple[float, Prediction]:
        answer = await ask(Directory(past), Item("i", title="w9"), backend=Swayed(), **options)
        return answer.predictions[0].probabilities[Outcome.RETURN], answer

    mine, theirs = Past(60.0, text="w2"), Past(30.0, "app", "w8", confidence=0.7)
    without, _ = await risk(mine)
    sure, _ = await risk(mine, Past(30.0, "app", "w8"))
    mixed, answer = await risk(mine, theirs)
    assert mixed == pytest.approx(0.7 * sure + 0.3 * without)
    assert abs(sure - without) > 0.01
    assert answer.evidence.uncertain_events_used == 1
    third = Past(10.0, "web", "w5", confidence=0.4)
    all_three, _ = await risk(mine, Past(30.0, "app", "w8"), Past(10.0, "web", "w5"))
    nested, _ = await risk(mine, theirs, third)
    assert nested == pytest.approx(0.3 * without + 0.3 * sure + 0.4 * all_three)


def test_worlds_are_few_and_their_weights_sum_to_one() -> None:
    sure = np.array([1.0, 0.9, 0.88, 0.5, 0.45, 0.1])
    found = worlds(sure)
    assert sum(weight for weight, _ in found) == pytest.approx(1.0)
    assert len(found) == 1 + MAX_UNCERTAIN
    assert [there.sum() for _, there in found] == [1, 3, 6]
    assert found[-1][1].all()
    ((weight, everything),) = worlds(np.ones(3))
    assert (weight, everything.all()) == (1.0, True)
    ((weight, nothing),) = worlds(np.ones(0))
    assert (weight, len(nothing)) == (1.0, 0)
    (_, none), (_, one) = worlds(np.array([0.5]))
    assert (none.tolist(), one.tolist()) == ([False], [True])


async def test_the_directory_is_told_what_the_answer_is_for(ask: Ask) -> None:
    directory = Directory([Past(60.0)])
    answer = await ask(directory, Item("i"), purpose=Purpose.RISK, min_confidence=0.8)
    assert directory.asked == (Purpose.RISK, 0.8)
    assert answer.evidence.suppressed == ("app",)


# When the directory is away


@pytest.mark.parametrize("away", ["broken", "slow"])
async def test_an_answer_without_the_directory_is_given_only_where_it_will_do(
    ask: Ask, away: str
) -> None:
    directory = Directory([Past(60.0)])
    if away == "broken":
        directory.failure = Unavailable("the file is locked")
    else:
        directory.delay_s["read"] = 30.0
    item = Item("i", title="w9", price=5.0)
    with pytest.raises((Unavailable, DeadlineExpired)):
        await ask(directory, item, timeout_s=0.4)
    backend = Backend()
    answer = await ask(
        directory, item, timeout_s=0.4, backend=backend, lowest_level=Level.NO_HISTORY
    )
    assert answer.evidence.level is Level.NO_HISTORY
    assert answer.evidence.reason is {"broken": Reason.STORE_AWAY, "slow": Reason.STORE_SLOW}[away]
    assert not answer.evidence.person_known
    assert answer.evidence.events_used == 0
    (one,) = answer.predictions
    assert (one.item_known, one.text_known) == (False, True)
    cold = await ask(Directory(person_known=False), item)
    assert one.probabilities == cold.predictions[0].probabilities
    assert cold.evidence.level is Level.FULL
    assert cold.evidence.reason is None


class Clock:
    """A monotonic clock that is set by hand."""

    now_s = 5.0

    def __call__(self) -> float:
        return self.now_s


@pytest.mark.parametrize("away", ["broken", "slow"])
async def test_a_copy_of_the_history_is_given_where_it_will_do(ask: Ask, away: str) -> None:
    clock, item = Clock(), Item("i", title="w9", price=5.0)
    directory, histories = Directory([Past(60.0), Past(90.0, "app")]), Histories(clock=clock)
    before = await ask(directory, item, histories=histories)
    assert (before.evidence.level, before.evidence.history_age_s) == (Level.FULL, None)
    clock.now_s += 7.0
    if away == "broken":
        directory.failure = Unavailable("the file is locked")
    else:
        directory.delay_s["read"] = 30.0
    options: dict[str, Any] = {"timeout_s": 0.4, "histories": histories}
    with pytest.raises((Unavailable, DeadlineExpired)):
        await ask(directory, item, **options)
    for lowest in (Level.STALE, Level.NO_HISTORY):
        answer = await ask(directory, item, lowest_level=lowest, **options)
        assert answer.evidence.level is Level.STALE
        assert answer.evidence.history_age_s == pytest.approx(7.0)
        assert answer.evidence.reason is (
            Reason.STORE_AWAY if away == "broken" else Reason.STORE_SLOW
        )
        assert (answer.evidence.person_known, answer.evidence.events_used) == (True, 2)
        assert answer.predictions == before.predictions


async def test_a_copy_older_than_the_caller_allows_is_not_given(ask: Ask) -> None:
    clock, item = Clock(), Item("i", title="w9")
    directory, histories = Directory([Past(60.0)]), Histories(clock=clock)
    await ask(directory, item, histories=histories)
    clock.now_s += 7.0
    directory.failure = Unavailable("the file is locked")

    async def level(lowest: Level, limit_s: float) -> Level:
        answer = await ask(
            directory, item, histories=histories, lowest_level=lowest, max_history_age_s=limit_s
        )
        found: Level = answer.evidence.level
        return found

    assert await level(Level.STALE, 7.5) is Level.STALE
    with pytest.raises(TooStale):
        await level(Level.STALE, 6.5)
    assert await level(Level.NO_HISTORY, 6.5) is Level.NO_HISTORY
    with pytest.raises(Unavailable):  # the level forbids it, whatever its age
        await level(Level.FULL, 6.5)
    clock.now_s += 60.0  # as if there had never been one
    with pytest.raises(Unavailable):
        await level(Level.STALE, 1000.0)
    directory.failure = None
    assert await level(Level.STALE, 0.0) is Level.FULL


async def test_a_slow_store_gets_the_whole_deadline_where_there_is_no_copy(ask: Ask) -> None:
    directory = Directory([Past(60.0)])
    directory.delay_s["read"] = 0.3
    answer = await ask(directory, Item("i"), timeout_s=0.5, lowest_level=Level.STALE)
    assert answer.evidence.level is Level.FULL


async def test_a_store_that_hangs_is_not_waited_for_by_everybody(
    served: Manifest, tokeniser: ItemTokeniser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(silence, "SILENT_S", 0.05)
    directory = Directory([Past(60.0)])
    directory.delay_s["read"] = 5.0
    model = Model(served, tokeniser, Backend())
    vectors = ItemVectors(model, directory)
    predictor = ModelPredictor(model, vectors, directory, Histories(), clock=lambda: NOW_S)
    query = PredictQuery(ANNA, (Item("i"),))
    lenient = replace(query, lowest_level=Level.NO_HISTORY)
    waiting = asyncio.create_task(predictor.predict(query, timeout_s=0.4))
    await asyncio.sleep(0.15)
    with pytest.raises(Unavailable, match="answered nobody"):
        await predictor.predict(query, timeout_s=0.1)
    answer = await predictor.predict(lenient, timeout_s=0.2)
    assert (answer.evidence.level, answer.evidence.reason) == (Level.NO_HISTORY, Reason.STORE_AWAY)
    with pytest.raises(DeadlineExpired):
        await waiting
    answer = await predictor.predict(lenient, timeout_s=0.2)  # one goes on asking
    assert answer.evidence.reason is Reason.STORE_SLOW
    directory.delay_s["read"] = 0.0
    for _ in range(3):
        answer = await predictor.predict(query, timeout_s=1.0)
        assert answer.evidence.level is Level.FULL
    await vectors.close()


async def test_a_copy_is_of_one_purpose_and_confidence(ask: Ask) -> None:
    directory, histories, item = Directory([Past(60.0)]), Histories(), Item("i", title="w9")
    await ask(directory, item, histories=histories)
    directory.failure = Unavailable("the file is locked")
    for other in ({"purpose": Purpose.RISK}, {"min_confidence": 1.0}):
        with pytest.raises(Unavailable):
            await ask(directory, item, histories=histories, lowest_level=Level.STALE, **other)


async def test_nobody_is_answered_from_a_copy_that_was_withdrawn(ask: Ask) -> None:
    directory, histories, item = Directory([Past(60.0)]), Histories(), Item("i", title="w9")
    await ask(directory, item, histories=histories)
    directory.delay_s["read"] = 0.05
    reading = asyncio.create_task(ask(directory, item, histories=histories))
    await asyncio.sleep(0.01)
    histories.clear()
    assert (await reading).evidence.level is Level.FULL  # it had begun before
    directory.failure = Unavailable("the file is locked")
    with pytest.raises(Unavailable):
        await ask(directory, item, histories=histories, lowest_level=Level.STALE)


# When the model is away


@pytest.mark.parametrize("away", ["encoder", "behavior", "slow"])
async def test_base_rates_are_told_only_where_they_will_do(ask: Ask, away: str) -> None:
    directory = Directory([Past(60.0)])
    directory.known = {"i"}
    backend = Backend(failing={away}, failure=Unavailable("gone"))
    if away == "slow":
        backend = Backend(delay_s={"behavior": 30.0})
    items = (Item("i", title="w9", category="shoes"), Item("j"))
    for lowest in (Level.FULL, Level.STALE, Level.NO_HISTORY):
        with pytest.raises((Unavailable, DeadlineExpired)):
            await ask(directory, *items, backend=backend, timeout_s=0.3, lowest_level=lowest)
    answer = await ask(directory, *items, backend=backend, timeout_s=0.3, lowest_level=Level.PRIOR)
    evidence = answer.evidence
    assert evidence.level is Level.PRIOR
    assert evidence.reason is (Reason.MODEL_SLOW if away == "slow" else Reason.MODEL_AWAY)
    assert [one.probabilities for one in answer.predictions] == [(0.5, 0.25, 0.25), (0.6, 0.3, 0.1)]
    assert [(one.item_known, one.text_known) for one in answer.predictions] == [
        (True, True),
        (False, False),
    ]
    assert (evidence.model_version, evidence.person_known) == ("7", True)
    assert (evidence.events_used, evidence.platforms, evidence.newest_event_age_s) == (0, (), None)


async def test_base_rates_are_told_at_once_where_the_model_hangs(
    served: Manifest, tokeniser: ItemTokeniser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(silence, "SILENT_S", 0.05)
    backend, directory = Backend(delay_s={"behavior": 5.0}), Directory([Past(60.0)])
    model = Model(served, tokeniser, backend, calls=1)
    vectors = ItemVectors(model, directory)
    predictor = ModelPredictor(model, vectors, directory, Histories(), clock=lambda: NOW_S)
    query = PredictQuery(ANNA, (Item("i", category="shoes"),))
    lenient = replace(query, lowest_level=Level.PRIOR)
    with pytest.raises(DeadlineExpired):
        await predictor.predict(query, timeout_s=0.2)
    with pytest.raises(Unavailable, match="answered nobody"):
        await predictor.predict(query, timeout_s=0.15)
    answer = await predictor.predict(lenient, timeout_s=0.15)
    assert (answer.evidence.level, answer.evidence.reason) == (Level.PRIOR, Reason.MODEL_AWAY)
    await vectors.close()


async def test_who_takes_base_rates_gets_the_model_while_it_is_there(ask: Ask) -> None:
    directory, item = Directory([Past(60.0)]), Item("i", title="w9")
    full = await ask(directory, item)
    answer = await ask(directory, item, lowest_level=Level.PRIOR)
    assert (answer.evidence.level, answer.evidence.reason) == (Level.FULL, None)
    assert answer.predictions == full.predictions


async def test_base_rates_need_neither_model_nor_store(ask: Ask) -> None:
    directory, backend = Directory([Past(60.0)]), Backend(failure=Unavailable("gone"))
    directory.failure = Unavailable("gone too")
    item = Item("i", category="Shoes")
    answer = await ask(directory, item, backend=backend, lowest_level=Level.PRIOR)
    assert answer.evidence.level is Level.PRIOR
    assert answer.predictions[0].probabilities == (0.5, 0.25, 0.25)


async def test_a_manifest_without_base_rates_offers_none(ask: Ask, served: Manifest) -> None:
    older, gone = served.model_copy(update={"base_rates": None}), Unavailable("gone")
    with pytest.raises(Unavailable):
        await ask(
            Directory(), Item("i"), manifest=older, backend=Backend(failure=gone),
            lowest_level=Level.PRIOR,
        )  # fmt: skip


@pytest.mark.parametrize("cause", [Overloaded("full"), ContractMismatch("three tensors")])
async def test_other_failures_of_the_model_stay_failures(ask: Ask, cause: GatewayError) -> None:
    with pytest.raises(type(cause)):
        await ask(Directory(), Item("i"), backend=Backend(failure=cause), lowest_level=Level.PRIOR)


async def test_vectors_that_cannot_be_looked_up_are_made(ask: Ask) -> None:
    class Forgetful(Directory):
        async def vectors(self, encoder: str, digests: Sequence[bytes]) -> Any:
            raise Unavailable("away")

    answer = await ask(Forgetful([Past(60.0)]), Item("i", title="w9"))
    assert answer.evidence.texts_encoded == 2
