"""What one prediction costs on the demo's model, beside the textbook recipe.

With item vectors at hand, with item texts never seen, and as one long text of history and
candidate, which takes one BERT pass per candidate.

Run after `make demo`:  .venv/bin/python benchmarks/request_path.py
The same gateway, Triton and machine answer all of it in one run; compare the ratios, not the times.
"""

import asyncio
import statistics
import tempfile
import time
import uuid
from pathlib import Path

import numpy as np
import onnxruntime
import polars as pl
from rich.console import Console
from rich.table import Table

from shopcast_cli.commands.demo import copy_store, gateway
from shopcast_client import Item, ShopcastClient

DEMO = Path(".demo")
TEXTBOOK_TOKENS = 128
ROUNDS = 40


async def seconds(client: ShopcastClient, account: tuple[str, str], items: list[Item]) -> float:
    began = time.perf_counter()
    await client.predict(platform=account[0], user_id=account[1], items=items)
    return time.perf_counter() - began


async def served(target: str) -> dict[tuple[str, int], float]:
    """Median seconds per request by (what, number of items)."""
    events = pl.read_csv(DEMO / "market/events/*.csv", schema_overrides={"item_id": pl.String})
    busiest = events.group_by("platform", "platform_user_id").len().sort("len").row(-1)
    platform = busiest[0]
    ids = events.filter(platform=platform)["item_id"].unique().sort().to_list()
    found = {}
    async with ShopcastClient(target, timeout_s=30.0) as client:
        account = (platform, busiest[1])
        for start in range(0, len(ids), 200):  # every vector of the catalogue at hand
            await seconds(client, account, [Item(i) for i in ids[start : start + 200]])
        for count in (1, 100, 1_000):
            known = [Item(i) for i in ids[:count]]
            known += [Item(f"more-{n}", title="Wool sweater") for n in range(count - len(known))]
            await seconds(client, account, known)
            times = [await seconds(client, account, known) for _ in range(ROUNDS)]
            found["vectors at hand", count] = statistics.median(times)
        for count in (1, 100):
            times = []
            for _ in range(5):
                unseen = [Item(f"n{n}", title=f"Wool {uuid.uuid4().hex[:9]}") for n in range(count)]
                times.append(await seconds(client, account, unseen))
            found["texts never seen", count] = statistics.median(times)
    return found


def textbook() -> float:
    """Median seconds of one BERT pass over one candidate with its history, one thread."""
    newest = max((DEMO / "model_repository/encoder").glob("[0-9]*"), key=lambda p: int(p.name))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(newest / "model.onnx"), options)
    ids = np.full((1, TEXTBOOK_TOKENS), 2000, dtype=np.int64)
    feed = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    times = []
    for _ in range(10):
        began = time.perf_counter()
        session.run(None, feed)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        store = copy_store(DEMO / "directory.db", Path(scratch))
        with gateway(DEMO / "model_repository", store) as target:
            found = asyncio.run(served(target))
    one_pass = textbook()
    table = Table(title="One request, one person with a long history, one at a time")
    for column in ("what", "items", "ms", "textbook, ms", "ratio"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for (what, count), taken in found.items():
        rival = one_pass * count
        table.add_row(
            what,
            f"{count:,}",
            f"{taken * 1e3:.1f}",
            f"{rival * 1e3:,.0f}",
            f"{rival / taken:,.0f} x",
        )
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
