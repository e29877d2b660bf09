"""How fast a build learns, beside the plain way. What the size of the log does: growth.py.

Run:  .venv/bin/python benchmarks/build_speed.py

Steps of training, each forward, backward and update: our joint stage (the encoder learns from the
candidates' texts, histories read kept vectors), our head stage, and the plain way: one BERT over
"candidate [SEP] history" as one text of 128 tokens, the same base model, the same layers learning,
the same batch. They take turns in one process; compare the ratios, not the times.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import polars as pl
import torch
from rich.console import Console
from rich.table import Table

from shopcast_build.learning.base_model import BUNDLED, load_base_model
from shopcast_build.learning.batches import ExposureBatches
from shopcast_build.learning.behavior import BehaviorModel
from shopcast_build.learning.catalogue import build_catalogue
from shopcast_build.learning.encoder import ItemEncoder
from shopcast_build.learning.examples import build_examples
from shopcast_build.learning.exposures import cut_exposures
from shopcast_build.learning.settings import BuildSettings
from shopcast_build.learning.shopper_model import ShopperModel
from shopcast_build.learning.timeline import KIND_NAMES, Timeline
from shopcast_build.learning.token_table import TokenTable
from shopcast_build.learning.trunk import keep_trunk
from shopcast_build.learning.tuning import start_tuning
from shopcast_domain.tokeniser import ItemTokeniser

PLAIN_TOKENS = 128
EVENTS_PER_PERSON = 30
ITEMS = 2_400
SETTINGS = BuildSettings()


def synthetic_log(events: int, seed: int = 0) -> pl.DataFrame:
    """A log of random events, coded as a build codes it, by time; popular items are met most."""
    rng = np.random.default_rng(seed)
    item = (ITEMS * rng.random(events, dtype=np.float32) ** 2).astype(np.uint32)
    gaps = rng.integers(0, 2 * 180 * 86_400 * 1_000_000 // events, events)
    time_us = 1_767_225_600_000_000 + gaps.cumsum()
    kind = pl.Series(rng.choice(np.arange(4, dtype=np.uint8), events, p=(0.7, 0.1, 0.15, 0.05)))
    return pl.DataFrame(
        {
            "person": rng.integers(0, max(1, events // EVENTS_PER_PERSON), events, dtype=np.uint32),
            "platform": (item % 3).astype(np.int16),
            "item": item,
            "time": pl.Series(time_us).cast(pl.Datetime("us", "UTC")),
            "kind": kind.cat.to(pl.Enum(KIND_NAMES)),
            "price": np.round(rng.random(events) * 100, 2),
            "quantity": np.ones(events, dtype=np.int32),
        }
    )


def synthetic_items() -> pl.DataFrame:
    """Descriptions of the items, of the length that shops write."""
    return pl.DataFrame(
        {
            "title": [f"Water resistant walking shoe, model {n}, dark blue" for n in range(ITEMS)],
            "brand": [f"Brand {n % 80}" for n in range(ITEMS)],
            "category": [f"Outdoor shoes {n % 40}" for n in range(ITEMS)],
            "price": [float(n % 90 + 5) for n in range(ITEMS)],
        }
    )


def steps(batch_size: int) -> dict[str, Callable[[], None]]:
    """One step of training each, on the same exposures."""
    torch.manual_seed(SETTINGS.seed)
    log = synthetic_log(60_000)
    timeline = Timeline(log, build_catalogue(synthetic_items()))
    examples = build_examples(
        timeline,
        cut_exposures(log, range(3), SETTINGS.exposures).tail(5_000),
        feature_events=SETTINGS.history.feature_events,
        history_events=SETTINGS.history.events,
    )
    batches = ExposureBatches(examples, timeline, SETTINGS.history.events)
    draw = np.random.default_rng(SETTINGS.seed)
    base = load_base_model(BUNDLED)
    tokeniser = ItemTokeniser(
        base.tokeniser, max_tokens=SETTINGS.encoder.max_tokens, pad_id=base.pad_id
    )
    table = TokenTable(timeline.catalogue.texts, tokeniser, torch.device("cpu"))

    def ours(*, learn_texts: bool) -> Callable[[], None]:
        encoder = ItemEncoder(load_base_model(BUNDLED).model, SETTINGS.encoder.vector_dim)
        head = BehaviorModel(SETTINGS.encoder.vector_dim, SETTINGS.head.dropout)
        head.numbers.fit(examples.features)
        model = ShopperModel(encoder, head, table, [True] * 3)
        model.vectors = torch.nn.functional.normalize(torch.randn_like(model.vectors), dim=-1)
        encoder.requires_grad_(False)
        model.learn_texts = learn_texts
        if learn_texts:
            start_tuning(encoder, SETTINGS.encoder, steps=1)
            model.trunk = keep_trunk(encoder, table)
        model.train()
        optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])

        def step() -> None:
            rows = draw.integers(0, len(batches), batch_size)
            optimiser.zero_grad()
            model(**batches.collate(rows.tolist()))["loss"].backward()
            optimiser.step()

        return step

    bert = ItemEncoder(base.model, 3)
    bert.requires_grad_(False)
    start_tuning(bert, SETTINGS.encoder, steps=1)
    bert.train()
    plain_optimiser = torch.optim.AdamW([p for p in bert.parameters() if p.requires_grad])

    def plain() -> None:
        batch = batches.collate(draw.integers(0, len(batches), batch_size).tolist())
        texts = torch.cat((batch["text"][:, None], batch["history_text"]), dim=1)
        ids, mask = concatenated(table, texts, base.pad_id)
        plain_optimiser.zero_grad()
        logits = bert.projection(bert.pooled(ids, mask))
        torch.nn.functional.cross_entropy(logits, batch["labels"]).backward()
        plain_optimiser.step()

    return {
        "ours, joint stage": ours(learn_texts=True),
        "ours, head stage": ours(learn_texts=False),
        "plain: one BERT over one long text": plain,
    }


def concatenated(
    table: TokenTable, texts: torch.Tensor, pad_id: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Candidate and history as one text each: ids and mask, int64 (b, PLAIN_TOKENS).

    texts: int64 (b, 1 + h), 0 where there is no event. Each text ends in [SEP], as BERT wants it.
    """
    ids = torch.full((len(texts), PLAIN_TOKENS), pad_id)
    mask = torch.zeros_like(ids)
    for row, these in enumerate(texts):
        parts = [table.rows(t[None])[0][0, (n > 0) :] for n, t in enumerate(these) if t]
        tokens = torch.cat(parts)[:PLAIN_TOKENS]
        ids[row, : len(tokens)] = tokens
        mask[row, : len(tokens)] = 1
    return ids, mask


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--batch", type=int, default=32, help="exposures of a step")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    Console(width=100).print(step_table(options.batch, options.rounds))


def step_table(batch_size: int, rounds: int) -> Table:
    """Steps of training in turns, medians."""
    ways = steps(batch_size)
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):  # the first warms up
        for name, step in ways.items():
            began = time.perf_counter()
            step()
            if turn:
                taken[name].append(time.perf_counter() - began)
    medians = {name: statistics.median(times) for name, times in taken.items()}
    slowest = max(medians.values())
    table = Table(title=f"Training, batches of {batch_size}, one thread, median of {rounds}")
    for name in ("way", "examples / s", "against plain"):
        table.add_column(name, justify="left" if name == "way" else "right")
    for name, median in medians.items():
        table.add_row(name, f"{batch_size / median:,.0f}", f"{slowest / median:,.1f} x")
    return table


if __name__ == "__main__":
    main()
