"""The directory in Redis, which many gateways share."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Self

import numpy as np

from shopcast_domain.events import Account, Event, Item
from shopcast_gateway.directory.protocol import Progress
from shopcast_gateway.directory.pseudonym import Pseudonyms, code_of, out_of_order, person_id
from shopcast_gateway.directory.purposes import bit_of, bits
from shopcast_gateway.directory.redis_packing import (
    EXACT,
    Argument,
    all_pseudonyms,
    identity,
    microseconds,
    text_bytes,
    text_of_bytes,
)
from shopcast_gateway.directory.redis_people import (
    change_of,
    consents_of,
    data_of,
    person_of,
    receipt_of,
    unlink_result,
)
from shopcast_gateway.directory.redis_reading import history_of, item_arguments, reading_of
from shopcast_gateway.directory.redis_recording import STATUSES, record_arguments
from shopcast_gateway.directory.redis_store import RedisStore
from shopcast_gateway.directory.types import (
    FLOODS,
    Change,
    Consents,
    FloodRules,
    HistoryEvent,
    LinkKind,
    LinkResult,
    LinkStatement,
    Person,
    PersonData,
    Purpose,
    Reading,
    Receipt,
    RecordResult,
    Retention,
    Stats,
    UnlinkResult,
    Vector,
)
from shopcast_gateway.errors import ChangesLost, NotFound, StartupError

VERSION = 2
"""Of what is kept and how. Raise it with every change to that."""

NAME = "shopcast"
TIMEOUT_S = 2.0

_BUCKETS = 256  # keys that hold the vectors of an encoder
_AT_ONCE = 500  # accounts that one step through all of them looks at at most
_EVENTS_AT_ONCE = 5_000  # events after which it ends; a person is told of whole


class RedisDirectory:
    """A Directory in Redis 7 or newer, one server or a cluster; every call is one round trip.

    Reads and writes are scripts, so each is of one moment and is done in full or not at all. How
    safe what was acknowledged is, the server's appendonly and appendfsync decide.
    """

    def __init__(
        self, store: RedisStore, pseudonyms: Pseudonyms, floods: FloodRules | None
    ) -> None:
        self._store = store
        self._pseudonyms = pseudonyms
        self._floods = floods
        self._key = pseudonyms.newest_fingerprint

    @classmethod
    async def open(
        cls,
        url: str,
        pseudonyms: Pseudonyms,
        *,
        name: str = NAME,
        make: bool = True,
        floods: FloodRules | None = FLOODS,
        timeout_s: float = TIMEOUT_S,
    ) -> Self:
        """Connect, and make the directory if it is not there. make: else that is an error.

        url: redis://, rediss:// or unix://; of a cluster, that of any node. name: several
        directories of one server have different ones. floods: what is quarantined; None lets
        everything in. timeout_s: how long a call may take. Raises StartupError.
        """
        store = await RedisStore.connect(url, name, timeout_s=timeout_s)
        try:
            version, lacking, replaced = await store.run(
                "open", VERSION, int(make), *pseudonyms.fingerprints()
            )
            if version < 0:
                raise StartupError(
                    f"the directory {name!r} at {store.place} is not there: name another with"
                    " --directory"
                )
            if version != VERSION:
                raise StartupError(_other_version(store.place, name, version))
            if lacking:
                raise StartupError(
                    f"The directory {name!r} at {store.place} was written under a pseudonym key"
                    " that is not among those given: start with all the keys it was written with,"
                    " or choose another name."
                )
            if replaced:
                raise out_of_order(f"The directory {name!r} at {store.place}")
        except BaseException:
            await store.close()
            raise
        return cls(store, pseudonyms, floods)

    async def record(self, events: Sequence[Event]) -> RecordResult:
        """Keep events, all or none. Batches of thousands are what makes an import fast."""
        if not events:
            return RecordResult(())
        arguments = record_arguments(self._pseudonyms, events, self._floods)
        letters: bytes = await self._store.run("record", *arguments)
        return RecordResult(tuple(STATUSES[letter] for letter in letters))

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
        """Window and candidates of one moment; events of equal time come in a fixed order."""
        reply = await self._ask(
            "read",
            all_pseudonyms(self._pseudonyms, account),
            microseconds(before_s),
            limit,
            bit_of(purpose),
            float(min_confidence),
            *item_arguments(account.platform, items),
        )
        return reading_of(reply, items)

    async def history(
        self,
        account: Account,
        *,
        before_s: float,
        limit: int,
        as_of_s: float | None = None,
        purpose: Purpose | None = None,
    ) -> tuple[HistoryEvent, ...]:
        """The person's newest events, now or as they were known then."""
        reply = await self._ask(
            "history",
            all_pseudonyms(self._pseudonyms, account),
            microseconds(before_s),
            limit,
            _as_of(as_of_s),
            bit_of(purpose),
        )
        return history_of(reply)

    async def resolve(self, account: Account, *, as_of_s: float | None = None) -> Person | None:
        """The person behind an account; None when the account had never been seen."""
        (person,) = await self._resolve((account,), as_of_s)
        return person

    async def resolve_many(self, accounts: Sequence[Account]) -> tuple[Person | None, ...]:
        """As `resolve`, of one moment."""
        return await self._resolve(accounts, None)

    async def _resolve(
        self, accounts: Sequence[Account], as_of_s: float | None
    ) -> tuple[Person | None, ...]:
        names = [all_pseudonyms(self._pseudonyms, account) for account in accounts]
        return tuple(map(person_of, await self._ask("resolve", _as_of(as_of_s), *names)))

    async def find(self, person_id: str) -> Person | None:
        """The person an id leads to."""
        code = code_of(person_id)
        return None if code is None else person_of(await self._store.run("find", code))

    async def link(
        self,
        account: Account,
        other: Account,
        *,
        kind: LinkKind,
        confidence: float,
        source: str = "",
    ) -> LinkResult:
        """Make two accounts one person's; the id of the person created first stays."""
        (made,) = await self.link_many((LinkStatement(account, other, kind, confidence, source),))
        return made

    async def link_many(self, statements: Sequence[LinkStatement]) -> Sequence[LinkResult]:
        """As `link`, all or none."""
        if not statements:
            return []
        arguments: list[Argument] = [self._key]
        for one in statements:
            arguments += (*self._new(one.account), *self._new(one.other), one.kind.value)
            arguments += (float(one.confidence), text_bytes(one.source))
        reply = await self._store.run("link", *arguments)
        return [
            LinkResult(person_id(code), bool(merged), bool(weakened))
            for code, merged, weakened in reply
        ]

    async def unlink(
        self, account: Account, other: Account, *, kind: LinkKind | None = None
    ) -> UnlinkResult:
        """Take the links between two accounts away. Raises NotFound."""
        names = [all_pseudonyms(self._pseudonyms, one) for one in (account, other)]
        reply = await self._ask("unlink", *names, "" if kind is None else kind.value)
        if reply is None:
            raise NotFound("the account has never been seen")
        return unlink_result(reply)

    async def split(self, account: Account) -> UnlinkResult:
        """Take all links of an account away. Raises NotFound."""
        reply = await self._ask("split", all_pseudonyms(self._pseudonyms, account))
        if reply is None:
            raise NotFound("the account has never been seen")
        return unlink_result(reply)

    async def undo(self, number: int) -> Change:
        """Take a change of the journal back. Raises NotFound."""
        reply = await self._ask("undo", _exact(number))
        if reply is None:
            raise NotFound("the journal has no such change that could be taken back")
        return change_of(reply)

    async def changes(self, after: int, *, limit: int) -> Sequence[Change]:
        """The journal's entries with a number above `after`, oldest first. Raises ChangesLost."""
        newest, *found = await self._store.run("changes", _exact(after), limit)
        if after > newest:
            raise ChangesLost(f"the journal ends with change {newest}")
        return [change_of(one) for one in found]

    async def set_consent(
        self, account: Account, purposes: Mapping[Purpose, bool], *, everywhere: bool = False
    ) -> Consents:
        """Allow or refuse the use of an account's events, or of all the person's."""
        allow = bits(purpose for purpose, allowed in purposes.items() if allowed)
        refuse = bits(purpose for purpose, allowed in purposes.items() if not allowed)
        reply = await self._store.run(
            "consent", self._key, *self._new(account), allow, refuse, int(everywhere)
        )
        return consents_of(reply)

    async def consents(self, account: Account) -> Consents:
        """What may be done with the person's events."""
        reply = await self._ask("consents", all_pseudonyms(self._pseudonyms, account))
        return consents_of(reply)

    async def export(self, account: Account) -> PersonData | None:
        """Everything kept about a person."""
        reply = await self._ask("export", all_pseudonyms(self._pseudonyms, account))
        return None if reply is None else data_of(reply)

    async def export_found(self, person_id: str) -> PersonData | None:
        """Everything kept about the person an id leads to."""
        code = code_of(person_id)
        reply = None if code is None else await self._store.run("export_found", code)
        return None if reply is None else data_of(reply)

    async def people(self, cursor: str, *, limit: int) -> tuple[Sequence[PersonData], str]:
        """Everything about some people; the cursor is the number of an account."""
        number, *found = await self._store.run(
            "people", int(cursor or 1), limit, _AT_ONCE, _EVENTS_AT_ONCE
        )
        return [data_of(one) for one in found], str(number or "")

    async def erase(self, account: Account) -> Receipt | None:
        """Remove a person. The server's log of what was written holds them until it is rewritten,
        which happens by itself as it grows."""
        reply = await self._ask("erase", all_pseudonyms(self._pseudonyms, account))
        return None if reply is None else receipt_of(reply)

    async def vectors(self, encoder: str, digests: Sequence[bytes]) -> Mapping[bytes, Vector]:
        """The vectors kept for text digests under an encoder version, read-only arrays."""
        buckets: dict[str, list[bytes]] = defaultdict(list)
        for digest in digests:
            buckets[self._bucket(encoder, digest[0])].append(digest)
        replies = await self._store.pipeline(
            [("HMGET", bucket, *wanted) for bucket, wanted in buckets.items()]
        )
        return {
            digest: np.frombuffer(vector, dtype="<f4")
            for wanted, reply in zip(buckets.values(), replies, strict=True)
            for digest, vector in zip(wanted, reply, strict=True)
            if vector is not None
        }

    async def keep_vectors(self, encoder: str, vectors: Mapping[bytes, Vector]) -> None:
        """Keep vectors (float32 (d,) each) for an encoder version."""
        if not vectors:
            return
        buckets: dict[str, list[bytes]] = defaultdict(list)
        for digest, vector in vectors.items():
            buckets[self._bucket(encoder, digest[0])] += (digest, vector.astype("<f4").tobytes())
        commands: list[tuple[Argument, ...]] = [("SADD", self._store.key("v"), encoder)]
        commands += [("HSET", bucket, *pairs) for bucket, pairs in buckets.items()]
        await self._store.pipeline(commands)

    async def stats(self) -> Stats:
        """What is in it. Memory is that of the server, whatever else it holds."""
        counts, by_key, encoders = await self._store.run("stats", *self._pseudonyms.fingerprints())
        vectors = await self._store.pipeline(
            [("HLEN", bucket) for encoder in encoders for bucket in self._all_buckets(encoder)]
        )
        accounts, people, links, events, quarantined, items, changes = counts
        return Stats(
            accounts=accounts,
            people=people,
            links=links,
            events=events,
            quarantined=quarantined,
            items=items,
            vectors=sum(vectors),
            changes=changes,
            accounts_by_key=tuple(by_key),
            size_bytes=await self._store.size_bytes(),
        )

    async def compact(
        self,
        retention: Retention,
        *,
        encoders: Collection[str] | None = None,
        progress: Progress | None = None,
    ) -> int:
        """Remove what is not to be kept, some people at a time, with others in between."""
        removed = 0
        if retention != Retention():
            age_us = "" if retention.max_age_s is None else microseconds(retention.max_age_s)
            most = "" if retention.max_events is None else retention.max_events
            number = 1
            while number:
                step, number, last = await self._store.run(
                    "compact", number, _AT_ONCE, age_us, most, _EVENTS_AT_ONCE
                )
                removed += step
                if progress is not None:
                    progress(number - 1 if number else last, last)
        if encoders is not None:
            await self._remove_vectors(set(encoders))
        return removed

    async def close(self) -> None:
        """Finish what was asked before, then disconnect."""
        await self._store.close()

    async def _ask(self, name: str, *arguments: Argument) -> Any:
        """What a script answers that looks accounts up. Raises Unavailable when the keys were
        rotated since this process started."""
        return await self._store.run(name, *arguments, self._key)

    async def _remove_vectors(self, kept: Collection[str]) -> None:
        _, _, encoders = await self._store.run("stats")
        for encoder in encoders:
            if text_of_bytes(encoder) not in kept:
                await self._store.pipeline(
                    [
                        *(("UNLINK", bucket) for bucket in self._all_buckets(encoder)),
                        ("SREM", self._store.key("v"), encoder),
                    ]
                )

    def _new(self, account: Account) -> tuple[Argument, Argument]:
        """Platform and identity of an account that may have to be created."""
        return text_bytes(account.platform), identity(self._pseudonyms, account)

    def _all_buckets(self, encoder: bytes) -> list[str]:
        return [self._bucket(text_of_bytes(encoder), number) for number in range(_BUCKETS)]

    def _bucket(self, encoder: str, number: int) -> str:
        return self._store.spread_key(f"v:{number}:{encoder}")


def _exact(number: int) -> int:
    """A change's number as Lua can hold it; those beyond are nobody's."""
    return max(0, min(number, EXACT))


def _as_of(as_of_s: float | None) -> Argument:
    return "" if as_of_s is None else microseconds(as_of_s)


def _other_version(place: str, name: str, version: int) -> str:
    if version > VERSION:
        return (
            f"The directory {name!r} at {place} was written by a newer version of Shopcast (schema"
            f" {version}, this one knows {VERSION}): upgrade Shopcast, or choose another name."
        )
    return (
        f"The directory {name!r} at {place} was written by an older version of Shopcast (schema"
        f" {version}, this one reads {VERSION}): choose another name and import the events into it."
    )
