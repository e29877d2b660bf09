"""People who are scored together get what they get alone."""

import asyncio
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tokenizers import Tokenizer, models

from shopcast_domain.features import FEATURES, HISTORY_NUMBERS
from shopcast_domain.manifest import Manifest
from shopcast_domain.tokeniser import ItemTokeniser
from shopcast_gateway.core.exposure import History, Scene
from shopcast_gateway.core.model import SCORE_BATCH, Model
from shopcast_gateway.errors import DeadlineExpired

DIM = 8


class Behavior:
    """Answers with what a person's unmasked events and each candidate come to."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, int, int]] = []
        self.delay_s = 0.0

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
        mask = inputs["history_mask"]
        candidates = inputs["candidate_features"].shape[1]
        self.shapes.append((*mask.shape, candidates))
        await asyncio.sleep(self.delay_s)
        events = inputs["history_vectors"].sum(-1) + inputs["history_kind"]
        events = (mask * (events + inputs["history_numbers"].sum(-1))).sum(-1)
        offered = inputs["candidate_vectors"].sum(-1) + inputs["candidate_features"].sum(-1)
        score = events[:, None] + offered
        return np.stack([score, 2 * score, -score], -1).astype(np.float32)

    async def load(self, model: str, version: int) -> None:
        raise NotImplementedError

    async def close(self) -> None:
        raise NotImplementedError


@pytest.fixture
def behavior() -> Behavior:
    return Behavior()


@pytest.fixture
def model(manifest: Manifest, behavior: Behavior) -> Model:
    tokeniser = ItemTokeniser(
        Tokenizer(models.WordLevel({"[UNK]": 0}, "[UNK]")).to_str(), max_tokens=4, pad_id=0
    )
    return Model(manifest, tokeniser, behavior)


def scene(seed: int, events: int, candidates: int) -> Scene:
    random_ = np.random.default_rng(seed)

    def numbers(*shape: int) -> NDArray[np.float32]:
        return random_.normal(0, 0.1, shape).astype(np.float32)

    history = History(
        numbers(events, DIM), random_.integers(0, 4, events), numbers(events, len(HISTORY_NUMBERS))
    )
    return Scene(history, numbers(candidates, DIM), numbers(candidates, len(FEATURES)))


async def score(model: Model, one: Scene, timeout_s: float = 10.0) -> NDArray[np.float64]:
    return await model.score(one, timeout_s=timeout_s)


async def test_together_as_alone(model: Model, behavior: Behavior) -> None:
    sizes = [(0, 1), (3, 2), (64, 1), (1, 7), (10, 3)]
    scenes = [scene(seed, *size) for seed, size in enumerate(sizes)]
    alone = [await score(model, one) for one in scenes]
    assert len(behavior.shapes) == len(scenes)
    together = await asyncio.gather(*(score(model, one) for one in scenes))
    assert behavior.shapes[len(scenes) :] == [(5, 64, 7)]
    for one, expected, (_, candidates) in zip(together, alone, sizes, strict=True):
        assert one.shape == (candidates, 3)
        np.testing.assert_allclose(one, expected, rtol=1e-6)


async def test_a_person_with_a_thousand_items_is_not_padded_for(
    model: Model, behavior: Behavior
) -> None:
    scenes = [scene(seed, 64, 1_000 if seed == 2 else 1) for seed in range(30)]
    await asyncio.gather(*(score(model, one) for one in scenes))
    assert sorted(behavior.shapes) == [(1, 64, 1_000), (29, 64, 1)]


async def test_no_more_people_than_the_model_takes(model: Model, behavior: Behavior) -> None:
    await asyncio.gather(*(score(model, scene(seed, 2, 1)) for seed in range(150)))
    assert sum(people for people, *_ in behavior.shapes) == 150
    assert max(people for people, *_ in behavior.shapes) == SCORE_BATCH


async def test_each_has_a_deadline_of_its_own(model: Model, behavior: Behavior) -> None:
    behavior.delay_s = 0.1
    late, well = await asyncio.gather(
        score(model, scene(1, 2, 1), timeout_s=0.02),
        score(model, scene(2, 2, 1)),
        return_exceptions=True,
    )
    assert isinstance(late, DeadlineExpired)
    assert isinstance(well, np.ndarray)
    assert behavior.shapes == [(2, 2, 1)]
