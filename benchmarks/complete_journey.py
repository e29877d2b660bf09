"""What a household does at other stores, beside what a stranger does there: Complete Journey.

Run:  .venv/bin/python benchmarks/complete_journey.py --transactions transactions.parquet \
          --products products.parquet [--json results.json]

The two files are tables of the R package `completejourney` (CC0): transactions as it comes,
products, both as Parquet. benchmarks/README.md describes the task and what came of it. Everything
is seeded; nothing is chosen on the test period.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from intervals import Resampling, Scores, plain_auc, with_interval
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
from shopcast_build.learning.catalogue import build_catalogue
from shopcast_build.learning.evaluation import HISTORY_FEATURES, Judged, gradient_boosting
from shopcast_build.learning.examples import Examples, build_examples
from shopcast_build.learning.heads import HeadTraining
from shopcast_build.learning.preparation import Parts
from shopcast_build.learning.pretrained import read_catalogue
from shopcast_build.learning.reporter import Silent
from shopcast_build.learning.scoring import TREES, best_scorer, fit_scorers
from shopcast_build.learning.settings import load_settings
from shopcast_build.learning.timeline import Timeline
from shopcast_build.learning.trees import Matrix, Rows, TextComponents, Trees

SETTINGS = load_settings(None, {"history.events": 256, "threads": 1})
SAMPLE_SEED = 0


@dataclass(frozen=True, slots=True)
class Dates:
    """Where validation and test begin. Before `begins` there is little past to learn from."""

    validation: datetime
    test: datetime
    begins: datetime = datetime(2017, 3, 1, tzinfo=UTC)
    ends: datetime = datetime(2018, 3, 1, tzinfo=UTC)


FUSION_DATES = Dates(datetime(2017, 10, 1, tzinfo=UTC), datetime(2017, 11, 1, tzinfo=UTC))
COLD_DATES = Dates(datetime(2017, 7, 1, tzinfo=UTC), datetime(2017, 8, 1, tzinfo=UTC))
"""Earlier, so that many products are new in the test."""
COLD_RIVALS = 3
NUMBERS, HEAD, PUBLISHED = "gradient boosting", "head", "published"
"""Trees over the numbers alone; the behaviour head; what validation would have published."""

Both = tuple[Scores, Scores]
"""Log odds of a buy, on validation and test."""


class Encoded:
    """A catalogue's texts and the vectors that the pretrained encoder makes of them."""

    def __init__(self, market: Timeline) -> None:
        base = load_base_model(BUNDLED)
        start = read_catalogue(base, market.catalogue.texts, SETTINGS, lambda done, total: None)
        self.encoder, self.table, self.vectors = start.encoder, start.table, start.vectors


def build_parts(timeline: Timeline, exposures: pl.DataFrame, dates: Dates, *, refit: bool) -> Parts:
    """Split by time. What was bought is known at once, so no gap is needed."""
    spans = [
        (dates.begins, dates.validation),
        (dates.validation, dates.test),
        (dates.test, dates.ends),
        (dates.begins, dates.test),
    ]
    built = []
    for start, end in spans[: 3 + refit]:
        inside = exposures.filter(pl.col("time") >= start, pl.col("time") < end)
        if inside.is_empty():
            raise SystemExit(
                f"There are no exposures from {start:%Y-%m-%d} to {end:%Y-%m-%d}, and the dates of"
                " this benchmark are fixed: give the transactions of all of 2017."
            )
        built.append(
            build_examples(
                timeline,
                inside,
                feature_events=SETTINGS.history.events,
                history_events=SETTINGS.history.events,
            )
        )
    return Parts(*built)


def fit_numbers(parts: Parts, seed: int, columns: NDArray[np.bool_] | None = None) -> Both:
    """Gradient boosting on the numbers, or some of them."""
    chosen = slice(None) if columns is None else columns
    train, validation, test = (
        (part.features[:, chosen], part.outcome)
        for part in (parts.train, parts.validation, parts.test)
    )
    again = parts.refit and (parts.refit.features[:, chosen], parts.refit.outcome)
    return odds_of(gradient_boosting(train, validation, test[0], seed=seed, again=again))


def fit_model(
    timeline: Timeline, parts: Parts, encoded: Encoded, vectors: torch.Tensor, seed: int
) -> dict[str, Both]:
    """The head, trees over numbers and text, their blend, and whichever validation chose."""
    settings = SETTINGS.model_copy(update={"seed": seed})
    training = HeadTraining(timeline, parts, settings, Silent())
    model = training.model(encoded.encoder, encoded.table, vectors)
    head = training.judge(*training.fit(HEAD, model))
    scored = fit_scorers(parts, head, HEAD, settings, Silent())
    best = best_scorer(scored, parts.validation)
    judged = {name: one.judged for name, one in scored.items()}
    return {name: odds_of(one) for name, one in (judged | {PUBLISHED: judged[best]}).items()}


def odds_of(judged: Judged) -> Both:
    """Of a buy."""
    first, second = (np.log(p[:, 1]) - np.log(p[:, 0]) for p in (judged.validation, judged.test))
    return first, second


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
    scores: dict[tuple[str, str], list[Both]] = {}
    for arm in ARMS:
        timeline = ArmTimeline(arm_events(journey.lines, arm, seed=SAMPLE_SEED), market)
        parts = build_parts(timeline, exposures, FUSION_DATES, refit=True)
        for seed in seeds:
            print(f"{arm}, seed {seed}", file=sys.stderr, flush=True)
            found = {NUMBERS: fit_numbers(parts, seed)}
            if arm == ARMS[0]:
                found["popularity"] = fit_numbers(parts, seed, ~HISTORY_FEATURES)
            if encoded is not None:
                found |= fit_model(timeline, parts, encoded, encoded.vectors, seed)
            for model, both in found.items():
                scores.setdefault((arm, model), []).append(both)
    outcome = parts.validation.outcome
    resampling = Resampling(household[parts.test.person], parts.test.outcome)
    drawn = {key: resampling.auc([test for _, test in some]) for key, some in scores.items()}
    results = {f"{arm}, {model}": with_interval(d) for (arm, model), d in drawn.items()}
    for model in dict.fromkeys(model for arm, model in scores if arm == FUSED):
        for other in (SAME_STORE, PLACEBO):
            difference = drawn[FUSED, model] - drawn[other, model]
            results[f"fused - {other}, {model}"] = with_interval(difference)
    validation = {
        f"{arm}, {model}": float(np.mean([plain_auc(first, outcome) for first, _ in some]))
        for (arm, model), some in scores.items()
    }
    return {"exposures": parts.sizes(), "validation": validation, "test": results}


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
    exposures = sample_exposures(journey.lines, items, rivals=COLD_RIVALS, seed=SAMPLE_SEED, by=by)
    homes = journey.lines.unique("account").sort("account")["household"].to_numpy()
    exposures = exposures.with_columns(person=pl.Series(homes[exposures["person"].to_numpy()]))
    parts = build_parts(timeline, exposures, COLD_DATES, refit=False)
    texts = torch.cat([encoded.vectors[:1], encoded.vectors[torch.from_numpy(catalogue.text)]])
    drawing = torch.Generator().manual_seed(SAMPLE_SEED)
    ids = torch.nn.functional.normalize(torch.randn(texts.shape, generator=drawing), dim=-1)
    ids[0] = 0.0
    early = journey.lines.filter(pl.col("time") < COLD_DATES.validation)["item"].to_numpy()
    new_item = ~np.isin(np.arange(items), early)
    groups = {
        "all items": np.ones(items, dtype=bool),
        "items new after training": new_item,
        "items of types new after training": ~np.isin(kind, kind[early]),
    }
    scores: dict[str, list[Scores]] = {
        f"{NUMBERS}, numbers alone": [fit_numbers(parts, seed)[1] for seed in seeds]
    }
    models: dict[str, None] = {}
    for name, vectors in (("text", texts), ("id", ids)):
        for seed in seeds:
            print(f"cold items, {name}, seed {seed}", file=sys.stderr, flush=True)
            if heads:
                found = fit_model(timeline, parts, encoded, vectors, seed)
            else:
                found = fit_forest(parts, vectors.numpy(), seed)
            for model, (_, test) in found.items():
                models[model] = None
                scores.setdefault(f"{model}, {name}", []).append(test)
    results: dict[str, Any] = {}
    for group, among in groups.items():
        rows = among[parts.test.text - 1]
        resampling = Resampling(parts.test.person[rows], parts.test.outcome[rows])
        drawn = {n: resampling.auc([s[rows] for s in some]) for n, some in scores.items()}
        results[group] = {name: with_interval(d) for name, d in drawn.items()}
        for model in models:
            difference = drawn[f"{model}, text"] - drawn[f"{model}, id"]
            results[group][f"text - id, {model}"] = with_interval(difference)
        results[group]["exposures"] = int(rows.sum())
    return results


def fit_forest(parts: Parts, vectors: Matrix, seed: int) -> dict[str, Both]:
    """Trees over numbers and text alone: no head takes part."""

    def rows(part: Examples) -> Rows:
        return Rows(part.features, vectors[part.text], part.outcome)

    text = TextComponents.of(vectors[1:], SETTINGS.scorer.text_components, seed=0)
    trees = Trees.fit(rows(parts.train), rows(parts.validation), text=text, seed=seed)
    first, second = (trees.logits(rows(part)) for part in (parts.validation, parts.test))
    return {TREES: (first[:, 1] - first[:, 0], second[:, 1] - second[:, 0])}


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
