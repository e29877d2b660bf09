"""Who waits for a version learns what became of it, and of no other."""

import asyncio

from shopcast_gateway.core.adoption_outcome import following
from shopcast_gateway.core.adoption_status import AdoptionStatus, Refusal

REFUSAL = Refusal("golden", "differs from build time")


async def test_an_adoption_and_a_refusal_are_told() -> None:
    status = AdoptionStatus(wanted=1, serving=1)
    with following(status) as outcomes:
        second = asyncio.create_task(outcomes.of(2))
        await asyncio.sleep(0)
        status.want(2)
        status.refused(3, REFUSAL)  # of a trial
        await asyncio.sleep(0)
        assert not second.done()
        status.adopted(2)
        assert await second is None
        assert await outcomes.of(3) is REFUSAL
    assert status.listeners == []


async def test_a_version_that_serves_already_is_adopted_once_it_is_wanted() -> None:
    status = AdoptionStatus(wanted=2, serving=1, refusals={2: REFUSAL})
    with following(status) as outcomes:
        first = asyncio.create_task(outcomes.of(1))
        await asyncio.sleep(0)
        assert not first.done()
        status.want(1)
        assert await first is None
