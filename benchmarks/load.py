"""What the gateway does under load: closed loops, then three times more than it can.

    python benchmarks/load.py    # the gateway of the demo, after make demo
    python benchmarks/load.py --target HOST:PORT --target OTHER:PORT    # in turns

Asks for the demo's people and items, whose vectors are at hand; with --unknown every item has a
title that nobody has seen before; with --events so many new events are recorded in each call
in place of that. A closed loop keeps some calls in
flight. Overload comes at a constant rate whatever is answered, three times the most that the closed
loops reached, each call with a --deadline. The callers are in this process, on the
same cores; with --apart the gateway and its Triton have one core and the callers another, so that
those who are refused take nothing from those who are answered.
"""

import argparse
import asyncio
import contextlib
import itertools
import math
import os
import random
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import polars as pl
from rich.console import Console
from rich.table import Table

from shopcast.v1 import event_service_pb2, types_pb2
from shopcast.v1 import prediction_service_pb2 as pb
from shopcast.v1 import prediction_service_pb2_grpc as services
from shopcast.v1.event_service_pb2_grpc import EventServiceStub
from shopcast_cli.commands.demo import copy_store, gateway

DEMO = Path(".demo")
TIMES = 3
Request = pb.PredictRequest | event_service_pb2.RecordEventsRequest
MOST_A_S = 10_000  # texts encoded or events recorded: so many are made up, none of them twice


class Market:
    """Requests of people and items of the demo, made ahead: building them is no part of a call."""

    def __init__(self) -> None:
        events = pl.read_csv(DEMO / "market/events/*.csv", schema_overrides={"item_id": pl.String})
        self._accounts = events["platform", "platform_user_id"].unique().sort("platform").rows()
        self._items = {
            platform: events.filter(platform=platform)["item_id"].unique().sort().to_list()
            for platform in events["platform"].unique().to_list()
        }

    def requests(self, items: int, count: int) -> list[pb.PredictRequest]:
        random_ = random.Random(items)
        made = []
        for _ in range(count):
            platform, user = random_.choice(self._accounts)
            ids = self._items[platform]
            chosen = random_.sample(ids, min(items, len(ids)))
            more = range(items - len(chosen))  # a platform of the demo sells 400
            made.append(
                pb.PredictRequest(
                    account=types_pb2.Account(platform=platform, platform_user_id=user),
                    items=[
                        *(types_pb2.Item(item_id=one) for one in chosen),
                        *(types_pb2.Item(item_id=f"more-{n}", title=f"Shoe {n}") for n in more),
                    ],
                )
            )
        return made


def recordings(
    events: int, calls: int, number: "itertools.count[int]"
) -> list[event_service_pb2.RecordEventsRequest]:
    """Of new views of many people."""
    made = []
    for _ in range(calls):
        request = event_service_pb2.RecordEventsRequest()
        for _ in range(events):
            event = request.events.add(event_id=f"e-{next(number)}")
            event.account.platform = "kaufwerk"
            event.account.platform_user_id = f"more-{next(number) % 5_000}"
            event.kind = types_pb2.EVENT_KIND_VIEW
            event.item.item_id = f"more-{next(number) % 300}"
            event.time.GetCurrentTime()
        made.append(request)
    return made


def unknown(
    requests: list[pb.PredictRequest], number: "itertools.count[int]"
) -> list[pb.PredictRequest]:
    """The same with titles never seen before."""
    made = []
    for one in requests:
        copy = pb.PredictRequest()
        copy.CopyFrom(one)
        for item in copy.items:
            item.title = f"walking shoe model {next(number)} light grey"
        made.append(copy)
    return made


class Gateway:
    """One that answers, over four connections."""

    def __init__(self, target: str) -> None:
        self.target = target
        # A channel of its own each: else they share one connection.
        self._channels = [
            grpc.aio.insecure_channel(target, [("grpc.use_local_subchannel_pool", 1)])
            for _ in range(4)
        ]
        self._calls: list[dict[type, Any]] = [
            {
                pb.PredictRequest: services.PredictionServiceStub(channel).Predict,
                event_service_pb2.RecordEventsRequest: EventServiceStub(channel).RecordEvents,
            }
            for channel in self._channels
        ]

    async def ask(self, number: int, request: Request, timeout_s: float = 30.0) -> None:
        await self._calls[number % 4][type(request)](request, timeout=timeout_s)

    async def close(self) -> None:
        for channel in self._channels:
            await channel.close()


async def once(to: Gateway, requests: Sequence[Request]) -> None:
    """Asks everything once, so that the vectors of all items and histories are at hand."""
    waiting = iter(enumerate(requests))

    async def caller() -> None:
        for number, request in waiting:
            await to.ask(number, request)

    await asyncio.gather(*(caller() for _ in range(4)))


async def closed(
    to: Gateway, requests: Sequence[Request], flying: int, seconds: float
) -> tuple[float, list[float]]:
    """Calls a second, and milliseconds of each."""
    waiting, taken = itertools.cycle(requests), []
    end = time.perf_counter() + seconds

    async def caller(number: int) -> None:
        while (began := time.perf_counter()) < end:
            await to.ask(number, next(waiting))
            taken.append((time.perf_counter() - began) * 1e3)

    began = time.perf_counter()
    await asyncio.gather(*(caller(number) for number in range(flying)))
    return len(taken) / (time.perf_counter() - began), taken


async def overload(
    to: Gateway,
    requests: Sequence[Request],
    rate: float,
    seconds: float,
    deadline_s: float,
) -> tuple[float, dict[str, list[float]]]:
    """Answers a second, and milliseconds by status."""
    taken: dict[str, list[float]] = {}
    waiting = itertools.cycle(requests)

    async def call(number: int) -> None:
        began, code = time.perf_counter(), "OK"
        try:
            await to.ask(number, next(waiting), deadline_s)
        except grpc.aio.AioRpcError as error:
            code = error.code().name
        taken.setdefault(code, []).append((time.perf_counter() - began) * 1e3)

    began, tasks, sent = time.perf_counter(), set(), 0
    while (now := time.perf_counter() - began) < seconds:
        while sent < now * rate:
            tasks.add(asyncio.create_task(call(sent)))
            sent += 1
        await asyncio.sleep(0.005)
    await asyncio.gather(*tasks)
    return len(taken.get("OK", ())) / (time.perf_counter() - began), taken


def quantiles(taken: list[float]) -> str:
    return " / ".join(f"{np.quantile(taken, q):,.1f}" for q in (0.5, 0.9, 0.99))


async def run(targets: list[str], options: argparse.Namespace) -> None:
    market, console, seconds = Market(), Console(width=120), options.seconds
    gateways = [Gateway(target) for target in targets]
    numbers = itertools.count(time.time_ns() // 1_000_000)

    what = "events" if options.events else "items"

    def asked(size: int, calls: float) -> Sequence[Request]:
        """What so many calls ask."""
        count = math.ceil(calls)
        if options.events:
            return recordings(size, count, numbers)
        if options.unknown:
            return unknown(market.requests(size, count), numbers)
        return market.requests(size, 500)

    table = Table(title="closed loops")
    for column in (
        what,
        "in flight",
        *(f"{one}: calls/s; p50 / p90 / p99 ms" for one in targets),
    ):
        table.add_column(column, justify="right")
    sizes = options.events or options.items
    most = {(size, target): 0.0 for size in sizes for target in targets}
    for size in sizes:
        if not options.events:
            for one in gateways:
                await once(one, market.requests(size, 500))
        for flying in options.flying:  # all of which the gateway has room for
            rates: dict[str, list[float]] = {target: [] for target in targets}
            times: dict[str, list[float]] = {target: [] for target in targets}
            for _ in range(3):
                for one in gateways:
                    new = flying + min(MOST_A_S / size, 1_500) * seconds
                    rate, taken = await closed(one, asked(size, new), flying, seconds)
                    rates[one.target].append(rate)
                    times[one.target] += taken
            cells = []
            for target in targets:
                rate = statistics.median(rates[target])
                most[size, target] = max(most[size, target], rate)
                cells.append(f"{rate:,.{0 if rate > 20 else 1}f}; {quantiles(times[target])}")
            table.add_row(str(size), str(flying), *cells)
    console.print(table)
    for size, one in itertools.product(sizes, gateways):
        most_a_second = most[size, one.target]
        rate = TIMES * most_a_second
        requests = asked(size, 4 * seconds * rate + 1)
        good, codes = await overload(one, requests, rate, 4 * seconds, options.deadline)
        told = "; ".join(f"{c} {len(t):,}: {quantiles(t)} ms" for c, t in sorted(codes.items()))
        console.print(
            f"{one.target}: {rate:,.1f} calls/s of {size} {what} sent, {good:,.1f} answered a"
            f" second, {good / most_a_second:.2f} of the most; {told}"
        )
    for one in gateways:
        await one.close()


@contextlib.contextmanager
def served(*more: str) -> Iterator[tuple[str, Path]]:
    """A gateway of the demo's model and a copy of its directory: its address, and the copy. more:
    options of `platform serve`."""
    with tempfile.TemporaryDirectory() as scratch:
        store = copy_store(DEMO / "directory.db", Path(scratch))
        with gateway(DEMO / "model_repository", store, *more) as target:
            yield target, store


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--target", action="append", help="host:port; more than one take turns")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each loop")
    parser.add_argument("--items", type=int, nargs="+", default=[1, 100])
    parser.add_argument("--events", type=int, nargs="+", help="of each call, in place of --items")
    parser.add_argument("--flying", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--deadline", type=float, default=1.0, help="seconds, under overload")
    parser.add_argument("--unknown", action="store_true", help="items nobody has seen before")
    parser.add_argument(
        "--apart", action="store_true", help="one core for what is served, one for the callers"
    )
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    if options.apart and (options.target or len(cores) < 2):
        parser.error("--apart needs two cores, and a gateway that is started here: no --target")
    if options.target:
        asyncio.run(run(options.target, options))
        return
    if options.apart:
        os.sched_setaffinity(0, cores[:1])  # what this process starts inherits it
    with served() as (target, _):
        if options.apart:
            os.sched_setaffinity(0, cores[1:2])
        asyncio.run(run([target], options))


if __name__ == "__main__":
    main()
