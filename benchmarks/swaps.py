"""Whether memory stays bounded while versions are swapped under load.

    python benchmarks/swaps.py    # 50 swaps of the demo's model, after make demo

Publishes the demo's version once more, in a copy of its repository, and lets the two serve in turns
while four callers ask about a hundred times a second. Tells the memory of the gateway and of all
below it, how many Tritons there are, how long a swap takes, and what callers saw.
"""

import argparse
import asyncio
import collections
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import grpc
import load
import numpy as np
import psutil
from rich.console import Console
from rich.progress import track
from rich.table import Table

from shopcast.v1 import prediction_service_pb2_grpc as services
from shopcast_cli.commands.demo import copy_store, gateway
from shopcast_repository.serving import promote

LIMIT_S = 120.0


def memory(process: psutil.Process) -> tuple[float, float, int]:
    """MiB of the gateway, MiB of what runs below it, and how many Tritons there are."""
    own, below, tritons = process.memory_info().rss, 0, 0
    for child in process.children(recursive=True):
        try:
            below += child.memory_info().rss
            tritons += child.name() == "tritonserver"
        except psutil.NoSuchProcess:
            continue
    return own / 2**20, below / 2**20, tritons


async def run(target: str, repository: Path, swaps: int) -> None:
    (process,) = psutil.Process().children()
    codes: collections.Counter[str] = collections.Counter()
    version, going_on = "", True
    requests = load.Market().requests(10, 200)

    async def caller(first: int) -> None:
        nonlocal version
        async with grpc.aio.insecure_channel(target) as channel:
            stub, number = services.PredictionServiceStub(channel), first
            while going_on:
                try:
                    answer = await stub.Predict(requests[number % len(requests)], timeout=20.0)
                    version = answer.evidence.model_version
                    codes["OK"] += 1
                except grpc.aio.AioRpcError as error:
                    codes[error.code().name] += 1
                number += 4
                await asyncio.sleep(0.02)  # a swap shall not take a minute

    callers = [asyncio.create_task(caller(number)) for number in range(4)]
    taken, rows = [], []
    for swap in track(range(1, swaps + 1), "swapping"):
        began = time.monotonic()
        wanted = 2 if swap % 2 else 1
        await asyncio.to_thread(promote, repository, wanted)
        while version != str(wanted):
            if time.monotonic() - began > LIMIT_S:
                raise TimeoutError(f"version {wanted} does not serve after {LIMIT_S:.0f} s")
            await asyncio.sleep(0.1)
        taken.append(time.monotonic() - began)
        while memory(process)[2] > 1:  # noqa: ASYNC110 - the one before ends with its calls
            await asyncio.sleep(0.1)
        if swap == 1 or swap % 5 == 0:
            rows.append((swap, *memory(process)))
    going_on = False
    await asyncio.gather(*callers)
    table = Table("swaps", "gateway, MiB", "below it, MiB", "Tritons")
    for row in rows:
        table.add_row(str(row[0]), f"{row[1]:.0f}", f"{row[2]:.0f}", str(row[3]))
    console = Console(width=100)
    console.print(table)
    slow = np.quantile(taken, (0.5, 1.0))
    console.print(f"until the other version answers: median {slow[0]:.1f} s, most {slow[1]:.1f} s")
    console.print(f"callers saw {dict(codes)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--swaps", type=int, default=50)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        repository = Path(scratch) / "model_repository"
        shutil.copytree(load.DEMO / "model_repository", repository)
        export = ["export", "--version", "1", "--repository", str(repository)]
        subprocess.run([sys.executable, "-m", "shopcast_cli", *export], check=True)
        store = copy_store(load.DEMO / "directory.db", Path(scratch))
        with gateway(repository, store) as target:
            asyncio.run(run(target, repository, options.swaps))


if __name__ == "__main__":
    main()
