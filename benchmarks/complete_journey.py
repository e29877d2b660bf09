"""What a household does at other stores, beside what a stranger does there: Complete Journey.

Run:  .venv/bin/python benchmarks/complete_journey.py --transactions transactions.parquet \
          --products products.parquet [--json results.json]

The two files are tables of the R package `completejourney` (CC0): transactions as it comes,
products, both as Parquet. benchmarks/README.md describes the task and what came of it. Everything
is seeded; nothing is chosen on the test period.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from journey_exposures import (
    ARMS,
    FUSED,
    PLACEBO,
    SAME_STORE,
    ArmTimeline,
    Journey,
    Popularity,
    arm_events,
    as_events,
    read_journey,
    sample_exposures,
)
from numpy.typing import NDArray

from shopcast_build.learning.base_model import BUNDLED, load_base_model
from shopcast_build.learning.batches import ExposureBatches
from shopcast_build.learning.behavior import BehaviorModel
from shopcast_build.learning.encoder import ItemEncoder
from shopcast_build.learning.evaluation import HISTORY_FEATURES
from shopcast_build.learning.examples import Examples, build_examples
from shopcast_build.learning.prediction import predict_logits
from shopcast_build.learning.settings import load_settings
from shopcast_build.learning.shopper_model import ShopperModel
from shopcast_build.learning.stages import head_stage
from shopcast_build.learning.timeline import Timeline, build_catalogue
from shopcast_build.learning.token_table import TokenTable, encode_all
from shopcast_build.learning.training import train
from shopcast_build.learning.trees import Matrix, Rows, TextComponents, Trees
from shopcast_domain.features import Floats, Ints
from shopcast_domain.tokeniser import ItemTokeniser

SETTINGS = load_settings(None, {"history.events": 256, "threads": 1})
SAMPLE_SEED = 0
DRAWS = 1_000
BEGINS, ENDS = datetime(2017, 3, 1, tzinfo=UTC), datetime(2018, 3, 1, tzinfo=UTC)
VALIDATION, TEST = datetime(2017, 10, 1, tzinfo=UTC), datetime(2017, 11, 1, tzinfo=UTC)
"""Before BEGINS there is little past to learn from."""
HEAD, TREES, BLEND = "head", "gradient boosting", "blend"

Scores = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class Parts:
    """Exposures of the parts of the split, by time. household: int64 (M,) of the test ones."""

    train: Examples
    validation: Examples
    test: Examples
    household: Ints


class Encoded:
    """A catalogue's texts and the vectors that the pretrained encoder makes of them."""

    def __init__(self, market: Timeline) -> None:
        base = load_base_model(BUNDLED)
        tokeniser = ItemTokeniser(
            base.tokeniser, max_tokens=SETTINGS.encoder.max_tokens, pad_id=base.pad_id
        )
        self.table = TokenTable(market.catalogue.texts, tokeniser, torch.device("cpu"))
        self.encoder = ItemEncoder(base.model, SETTINGS.encoder.vector_dim).eval()
        with torch.no_grad():
            pooled = encode_all(
                lambda text: self.encoder.pooled(*self.table.rows(text)), self.table
            )
        self.encoder.start_projection(pooled[1:].numpy())
        self.vectors = self.encoder.start_vectors(pooled)
        self.vectors[0] = 0.0


def build_parts(timeline: Timeline, exposures: pl.DataFrame, household: Ints) -> Parts:
    """Split by time. household: of each person code."""
    spans = ((BEGINS, VALIDATION), (VALIDATION, TEST), (TEST, ENDS))
    train, validation, test = (
        build_examples(
            timeline,
            exposures.filter(pl.col("time") >= start, pl.col("time") < end),
            feature_events=SETTINGS.history.events,
            history_events=SETTINGS.history.events,
        )
        for start, end in spans
    )
    return Parts(train, validation, test, household[test.person])


def fit_head(
    timeline: Timeline, parts: Parts, encoded: Encoded, vectors: torch.Tensor, seed: int
) -> tuple[Scores, Scores]:
    """Log odds of a buy on validation and test."""
    settings = SETTINGS.model_copy(update={"seed": seed})
    torch.manual_seed(seed)
    head = BehaviorModel(settings.encoder.vector_dim, settings.head.dropout)
    head.numbers.fit(parts.train.features)
    model = ShopperModel(encoded.encoder, head, encoded.table, [True, True, False])
    model.vectors = vectors
    batches = [
        ExposureBatches(part, timeline, settings.history.events)
        for part in (parts.train, parts.validation, parts.test)
    ]
    stage = head_stage("train the head", len(parts.train), settings)
    train(model, batches[0], batches[1], stage, settings)
    validation, test = (predict_logits(model, part) for part in batches[1:])
    return validation[:, 1] - validation[:, 0], test[:, 1] - test[:, 0]


def fit_trees(
    parts: Parts, columns: NDArray[np.bool_], seed: int, vectors: Matrix | None = None
) -> tuple[Scores, Scores]:
    """The same of gradient-boosted trees over some of the numbers and, given vectors by text, over
    their principal components."""
    text = None
    if vectors is not None:
        text = TextComponents.of(vectors[1:], SETTINGS.scorer.text_components, seed=0)
    told = np.empty((int(parts.test.text.max()) + 1, 0)) if vectors is None else vectors

    def rows(part: Examples) -> Rows:
        own = np.asarray(told[np.minimum(part.text, len(told) - 1)], dtype=np.float32)
        return Rows(part.features[:, columns], own, part.outcome)

    trees = Trees.fit(rows(parts.train), rows(parts.validation), text=text, seed=seed)
    validation, test = (trees.logits(rows(part)) for part in (parts.validation, parts.test))
    return validation[:, 1] - validation[:, 0], test[:, 1] - test[:, 0]


def auc(score: Scores, outcome: Ints, weight: Floats) -> float:
    """The chance that a buy scores above a rival, ties counting half; rows weigh `weight`."""
    _, place = np.unique(score, return_inverse=True)
    buys, others = (np.bincount(place, weight * (outcome == label)) for label in (1, 0))
    below = np.cumsum(others) - others / 2
    return float((buys * below).sum() / (buys.sum() * others.sum()))


class Resampling:
    """AUC over draws of households with replacement, alike for all that is compared."""

    def __init__(self, household: Ints, outcome: Ints) -> None:
        found, self._whose = np.unique(household, return_inverse=True)
        self._outcome = outcome
        rng = np.random.default_rng(SAMPLE_SEED)
        even = np.full(len(found), 1 / len(found))
        self._times = np.vstack(
            [np.ones(len(found)), rng.multinomial(len(found), even, size=DRAWS)]
        )

    def auc(self, scores: Sequence[Scores]) -> Floats:
        """The mean AUC of several seeds' scores: (1 + DRAWS,), first that of the data as it is."""
        places = [np.unique(score, return_inverse=True)[1] for score in scores]
        return np.array(
            [
                np.mean([auc(place, self._outcome, times[self._whose]) for place in places])
                for times in self._times
            ]
        )


def with_interval(draws: Floats) -> dict[str, float]:
    """What the data say and the middle 95 % of the draws."""
    low, high = np.quantile(draws[1:], [0.025, 0.975])
    return {"value": float(draws[0]), "low": float(low), "high": float(high)}


def plain_auc(score: Scores, outcome: Ints) -> float:
    """Of the rows as they are."""
    return auc(score, outcome, np.ones(len(outcome)))


def market_of(journey: Journey) -> Timeline:
    """Everybody's lines by household."""
    return Timeline(as_events(journey.lines, "household"), build_catalogue(journey.items))


def measure_fusion(
    journey: Journey, seeds: Sequence[int], by: Popularity, *, heads: bool
) -> dict[str, Any]:
    """Every arm's AUC and what fusion is worth, by model."""
    market = market_of(journey)
    encoded = Encoded(market) if heads else None
    exposures = sample_exposures(
        journey.lines, len(journey.items), rivals=1, seed=SAMPLE_SEED, by=by
    )
    accounts = journey.lines.unique("account").sort("account")
    household = accounts["household"].to_numpy().astype(np.int64)
    scores: dict[tuple[str, str], list[Scores]] = {}
    validation: dict[str, float] = {}
    for arm in ARMS:
        timeline = ArmTimeline(arm_events(journey.lines, arm, seed=SAMPLE_SEED), market)
        parts = build_parts(timeline, exposures, household)
        if arm == ARMS[0]:
            scores["popularity", TREES] = [fit_trees(parts, ~HISTORY_FEATURES, s)[1] for s in seeds]
        every = np.ones_like(HISTORY_FEATURES)
        found = {TREES: [fit_trees(parts, every, seed) for seed in seeds]}
        if encoded is not None:
            found[HEAD] = [fit_head(timeline, parts, encoded, encoded.vectors, s) for s in seeds]
            both = zip(found[HEAD], found[TREES], strict=True)
            found[BLEND] = [(h[0] + t[0], h[1] + t[1]) for h, t in both]
        for model, pairs in found.items():
            scores[arm, model] = [test for _, test in pairs]
            outcome = parts.validation.outcome
            mean = float(np.mean([plain_auc(score, outcome) for score, _ in pairs]))
            validation[f"{arm}, {model}"] = mean
    resampling = Resampling(parts.household, parts.test.outcome)
    drawn = {key: resampling.auc(some) for key, some in scores.items()}
    results = {f"{arm}, {model}": with_interval(d) for (arm, model), d in drawn.items()}
    for model in found:
        for other in (SAME_STORE, PLACEBO):
            difference = drawn[FUSED, model] - drawn[other, model]
            results[f"fused - {other}, {model}"] = with_interval(difference)
    sizes = {
        "train": len(parts.train),
        "validation": len(parts.validation),
        "test": len(parts.test),
    }
    return {"exposures": sizes, "validation": validation, "test": results}


def measure_cold_items(
    journey: Journey, seeds: Sequence[int], by: Popularity, *, heads: bool
) -> dict[str, Any]:
    """Item texts against item ids, on items that had no event before training ended."""
    kind = journey.items["kind"].to_numpy().astype(np.int64)
    market = market_of(journey)
    encoded = Encoded(market)
    items = len(journey.items)
    catalogue = market.catalogue
    # One entry per item in place of one per text, so that an id may have a vector of its own.
    by_item = replace(
        catalogue, text=np.arange(1, items + 1), texts=("", *(str(i) for i in range(items)))
    )
    timeline = Timeline(as_events(journey.lines, "household"), by_item)
    exposures = sample_exposures(journey.lines, items, rivals=1, seed=SAMPLE_SEED, by=by)
    homes = journey.lines.unique("account").sort("account")["household"].to_numpy()
    exposures = exposures.with_columns(person=pl.Series(homes[exposures["person"].to_numpy()]))
    parts = build_parts(timeline, exposures, np.arange(int(homes.max()) + 1))
    texts = torch.cat([encoded.vectors[:1], encoded.vectors[torch.from_numpy(catalogue.text)]])
    drawing = torch.Generator().manual_seed(SAMPLE_SEED)
    ids = torch.nn.functional.normalize(torch.randn(texts.shape, generator=drawing), dim=-1)
    ids[0] = 0.0
    early = journey.lines.filter(pl.col("time") < VALIDATION)["item"].to_numpy()
    new_item = ~np.isin(np.arange(items), early)
    groups = {
        "all items": np.ones(items, dtype=bool),
        "items new after training": new_item,
        "items of types new after training": ~np.isin(kind, kind[early]),
    }
    every = np.ones_like(HISTORY_FEATURES)
    scores = {f"{TREES}, numbers alone": [fit_trees(parts, every, seed)[1] for seed in seeds]}
    for name, vectors in (("text", texts), ("id", ids)):
        table = vectors.numpy()
        scores[f"{TREES}, {name}"] = [fit_trees(parts, every, s, table)[1] for s in seeds]
        if heads:
            found = [fit_head(timeline, parts, encoded, vectors, seed)[1] for seed in seeds]
            scores[f"{HEAD}, {name}"] = found
    results: dict[str, Any] = {}
    for group, among in groups.items():
        rows = among[parts.test.text - 1]
        resampling = Resampling(parts.household[rows], parts.test.outcome[rows])
        drawn = {n: resampling.auc([s[rows] for s in some]) for n, some in scores.items()}
        results[group] = {name: with_interval(d) for name, d in drawn.items()}
        for model in (TREES, HEAD)[: 1 + heads]:
            difference = drawn[f"{model}, text"] - drawn[f"{model}, id"]
            results[group][f"text - id, {model}"] = with_interval(difference)
        results[group]["exposures"] = int(rows.sum())
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--transactions", type=Path, required=True)
    parser.add_argument("--products", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", choices=("fusion", "cold"))
    parser.add_argument("--rivals-by", choices=("everybody", "others"), default="everybody")
    parser.add_argument("--without-head", action="store_true", help="gradient boosting alone")
    parser.add_argument("--json", type=Path, help="write the results to this file, too")
    given = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, Any] = {"seeds": given.seeds, "rivals by": given.rivals_by}
    tasks = {
        "fusion": ("product_category", measure_fusion),
        "cold": ("product_id", measure_cold_items),
    }
    for name, (item, measure) in tasks.items():
        if given.only in (None, name):
            journey = read_journey(given.transactions, given.products, item)
            results[name] = measure(
                journey, given.seeds, given.rivals_by, heads=not given.without_head
            )
    text = json.dumps(results, indent=1)
    print(text)
    if given.json:
        given.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
