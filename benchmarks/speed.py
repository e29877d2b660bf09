"""How close the gateway comes to what the graphs allow: one run, in turns, as ratios.

    python benchmarks/speed.py    # the gateway of the demo, after make demo

Three ways of making the same predictions, for people and items of the demo whose vectors are at
hand:

- limit: the behaviour graph in a loop in this process, ONNX Runtime on all cores, the batches full
  and ready as arrays;
- triton: Triton alone, the same batches ready as tensors, two calls at a time;
- gateway: `platform serve` over gRPC, from people and item ids to probabilities.

`--unknown` gives every item a title never seen before: the encoder graph comes before each of the
first two, tokens ready, and the gateway tokenises. CPU is that of all processes, the callers'
included.
"""

import argparse
import asyncio
import itertools
import statistics
import time
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import load
import numpy as np
import onnxruntime
import psutil
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from shopcast.v1 import prediction_service_pb2 as pb
from shopcast_domain.manifest import BEHAVIOR, ENCODER, Manifest, manifest_path, read_manifest
from shopcast_domain.tokeniser import TOKENISER, ItemTokeniser
from shopcast_gateway.backend.triton import TritonBackend
from shopcast_gateway.core.admission import CALL_ROWS, MAX_ROWS
from shopcast_gateway.core.histories import Histories
from shopcast_gateway.core.model import Model
from shopcast_gateway.core.prediction import ModelPredictor
from shopcast_gateway.core.vectors import ItemVectors
from shopcast_gateway.directory.open import open_directory
from shopcast_gateway.transport.convert import predict_query
from shopcast_gateway.triton.environment import default_folder, locate
from shopcast_gateway.triton.process import TritonProcess

REPOSITORY = load.DEMO / "model_repository"
TOGETHER = 64  # people of a full batch, if they fit
MOST_ITEMS, MOST_TEXTS = 4_096, 1_600  # of a full batch; of which the gateway encodes at once
Tensors = Mapping[str, NDArray[Any]]
Call = tuple[str, Tensors, str]


class Capture:
    """A backend that keeps what it is asked, and answers nothing of worth."""

    def __init__(self) -> None:
        self.calls: list[Call] = []

    async def infer(
        self, model: str, version: int, inputs: Tensors, output: str, **_: Any
    ) -> NDArray[np.float32]:
        self.calls.append((model, inputs, output))
        await asyncio.sleep(0.05)  # others gather meanwhile
        if model == ENCODER:
            return np.zeros((len(inputs["input_ids"]), self.dim), np.float32)
        people, candidates = inputs["candidate_features"].shape[:2]
        return np.zeros((people, candidates, 3), np.float32)

    dim = 0


async def captured(
    before: list[pb.PredictRequest],
    requests: list[pb.PredictRequest],
    store: Path,
    manifest: Manifest,
) -> list[Call]:
    """The calls to the models that make these predictions in full batches, after those before."""
    capture: Any = Capture()
    capture.dim = manifest.vector_dim
    limits = manifest.tokeniser
    tokeniser = ItemTokeniser.load(
        REPOSITORY / ENCODER / str(manifest.encoder_version) / TOKENISER,
        max_tokens=limits.max_tokens,
        pad_id=limits.pad_id,
    )
    directory = await open_directory(store)
    try:
        model = Model(manifest, tokeniser, capture)
        vectors = ItemVectors(model, directory)
        predictor = ModelPredictor(model, vectors, directory, Histories())
        for asked in (before, requests):
            capture.calls.clear()
            await asyncio.gather(
                *(predictor.predict(predict_query(one), timeout_s=60.0) for one in asked)
            )
        await vectors.close()
    finally:
        await directory.close()
    return list(capture.calls)


def cpu_s() -> float:
    """CPU seconds of this process and all below it."""
    me = psutil.Process()
    total = 0.0
    for process in (me, *me.children(recursive=True)):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


class Limit:
    """The graphs in this process."""

    def __init__(self) -> None:
        self._sessions = {
            name: onnxruntime.InferenceSession(str(REPOSITORY / name / "1" / "model.onnx"))
            for name in (ENCODER, BEHAVIOR)
        }

    async def __call__(self, calls: list[Call], seconds: float) -> float:
        """Rounds of all calls a second."""
        began, rounds = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            for name, inputs, output in calls:
                self._sessions[name].run([output], dict(inputs))
            rounds += 1
        return rounds / (time.perf_counter() - began)


class Alone:
    """Triton, without a gateway before it."""

    def __init__(self, backend: TritonBackend) -> None:
        self._backend = backend

    async def __call__(self, calls: list[Call], seconds: float) -> float:
        """Rounds of all calls a second."""
        began, done = time.perf_counter(), 0
        waiting = itertools.cycle(calls)

        async def caller() -> None:
            nonlocal done
            while time.perf_counter() - began < seconds:
                name, inputs, output = next(waiting)
                await self._backend.infer(name, 1, inputs, output, timeout_s=60.0)
                done += 1

        await asyncio.gather(caller(), caller())
        return done / len(calls) / (time.perf_counter() - began)


@dataclass
class Cell:
    """What was measured of one size and number in flight, round by round: predictions a second and
    CPU milliseconds of each, of the limit, of Triton and of the gateway; milliseconds of calls."""

    rates: list[tuple[float, float, float]] = field(default_factory=list)
    cpu: list[tuple[float, float, float]] = field(default_factory=list)
    taken: list[float] = field(default_factory=list)

    def row(self, items: int, flying: int) -> list[str]:
        """For the table."""
        limit = [one[0] for one in self.rates]
        of_limit = [[one[way] / one[0] for one in self.rates] for way in (1, 2)]
        gateway = [one[2] for one in self.rates]
        return [
            str(items),
            str(flying),
            spread(limit, 0),
            spread(of_limit[0], 2),
            spread(gateway, 0),
            spread(of_limit[1], 3),
            load.quantiles(self.taken),
            " / ".join(f"{statistics.median(way):.3f}" for way in zip(*self.cpu, strict=True)),
        ]


async def timed(work: Awaitable[float], predictions: float) -> tuple[float, float]:
    """Predictions a second, and CPU milliseconds of each. work: gives rounds a second; predictions:
    of a round."""
    began, used = time.perf_counter(), cpu_s()
    rate = await work * predictions
    return rate, (cpu_s() - used) * 1e3 / (rate * (time.perf_counter() - began))


def spread(values: list[float], places: int) -> str:
    """Median, least and most."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:,.{places}f} ({low:,.{places}f} to {high:,.{places}f})"


async def run(target: str, store: Path, options: argparse.Namespace) -> None:
    triton = await TritonProcess.start(
        locate(default_folder()), REPOSITORY, log=store.with_name("triton-alone.log")
    )
    try:
        await compare(target, triton.grpc_address, store, options)
    finally:
        await triton.stop()


async def compare(target: str, triton: str, store: Path, options: argparse.Namespace) -> None:
    manifest = read_manifest(manifest_path(REPOSITORY, BEHAVIOR, 1))
    market, numbers = load.Market(), itertools.count()
    to, limit = load.Gateway(target), Limit()
    backend = await TritonBackend.connect(triton, repository=REPOSITORY)
    for name in (ENCODER, BEHAVIOR):
        await backend.load(name, 1)
    alone = Alone(backend)
    kind = "unknown" if options.unknown else "known"
    table = Table(
        "items", "in flight", "limit, predictions/s", "triton / limit", "gateway, predictions/s",
        "gateway / limit", "p50 / p90 / p99 ms", "CPU ms: limit / triton / gateway",
        title=f"{kind} items; median (least to most) of {options.rounds} rounds",
    )  # fmt: skip
    for items in options.items:
        requests = market.requests(items, 50 if options.unknown else 500)
        most = MOST_TEXTS if options.unknown else MOST_ITEMS
        people = requests[: max(1, min(TOGETHER, most // items))]
        await load.once(to, requests)
        batch = load.unknown(people, numbers) if options.unknown else people
        calls = await captured(people, batch, store, manifest)
        made = sum(len(one.items) for one in people)
        for flying in options.flying:
            if options.unknown and flying * items > MOST_TEXTS:
                continue  # it refuses what is more
            cell = Cell()
            for _ in range(options.rounds):
                asked = load.unknown(requests * 40, numbers) if options.unknown else requests
                ways = [
                    await timed(limit(calls, options.seconds), made),
                    await timed(alone(calls, options.seconds), made),
                    await timed(
                        answers(to, asked, flying, options.seconds, cell.taken), made / len(people)
                    ),
                ]
                rates, cpu = zip(*ways, strict=True)
                cell.rates.append(rates)
                cell.cpu.append(cpu)
            table.add_row(*cell.row(items, flying))
    Console(width=160).print(table)
    await to.close()
    await backend.close()


async def answers(
    to: load.Gateway,
    asked: list[pb.PredictRequest],
    flying: int,
    seconds: float,
    taken: list[float],
) -> float:
    """Requests a second."""
    rate, times = await load.closed(to, asked, flying, seconds)
    taken.extend(times)
    return rate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument(
        "--unknown",
        action="store_true",
        help=f"items nobody has seen before; at most {MOST_TEXTS:,} in flight",
    )
    parser.add_argument("--items", type=int, nargs="+", default=[1, 10, 100, 1_000])
    parser.add_argument("--flying", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    options = parser.parse_args()
    rows = max(options.flying) * (CALL_ROWS + max(options.items))  # none is refused
    with load.served("--max-rows", str(max(MAX_ROWS, rows))) as (target, store):
        asyncio.run(run(target, store, options))


if __name__ == "__main__":
    main()
