"""What a build would publish on other slices of a log, beside gradient boosting.

Run:  .venv/bin/python benchmarks/slices.py --events online_retail.parquet \
          --mapping examples/online_retail.toml

Slices of Online Retail II, each a log by itself with the default split and the defaults of a build,
but for the encoder, which stays as it is: some months, or half of the customers. Slices overlap.
Differences are by customer, 95 %, and the quality gate is asked, too. Nothing is chosen here.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl
import torch
from fine_tuning_steps import Spoken
from intervals import with_interval
from rich.console import Console
from rich.table import Table

from shopcast_build.data.mapping import load_mapping
from shopcast_build.learning.base_model import BUNDLED, load_base_model
from shopcast_build.learning.evaluation import GRADIENT_BOOSTING, MAJORITY
from shopcast_build.learning.learner import Learner
from shopcast_build.learning.settings import BuildSettings, load_settings
from shopcast_build.release.gate import Candidate, ask
from shopcast_build.study.material import Material, read_material
from shopcast_build.study.resampling import metric_draws, resample
from shopcast_domain.events import Outcome
from shopcast_domain.features import Floats

SLICES: dict[str, tuple[int, pl.Expr]] = {
    "December to May": (14, pl.col("InvoiceDate") < datetime(2010, 6, 1)),
    "December to September": (30, pl.col("InvoiceDate") < datetime(2010, 10, 1)),
    "February to August": (
        30,
        pl.col("InvoiceDate").is_between(datetime(2010, 2, 1), datetime(2010, 9, 1)),
    ),
    "April to December": (30, pl.col("InvoiceDate") >= datetime(2010, 4, 1)),
    "June to December": (30, pl.col("InvoiceDate") >= datetime(2010, 6, 1)),
    "half of the customers": (30, pl.col("Customer ID").cast(pl.String).hash(3) % 2 == 0),
    "the other half": (30, pl.col("Customer ID").cast(pl.String).hash(3) % 2 == 1),
    "all": (30, pl.lit(True)),
    "all, within 60 days": (60, pl.lit(True)),
}
"""Days in which a return counts, and the lines of the slice."""
METRICS = ("return_auc", "return_pr_auc", "log_loss")


@dataclass(frozen=True, slots=True)
class Slice:
    """A log by itself, as a build takes it in."""

    name: str
    settings: BuildSettings
    material: Material


def slices(events: Path, mapping: Path, names: Sequence[str], **settings: Any) -> Iterator[Slice]:
    """Those of these names, one after the other. settings: more of them, by name."""
    log = pl.read_parquet(events)
    for name in names:
        days, lines = SLICES[name]
        given = load_settings(None, {"exposures.return_window_days": days, **settings})
        with tempfile.TemporaryDirectory() as folder:
            part = Path(folder) / "slice.parquet"
            log.filter(lines).write_parquet(part)
            material = read_material(
                [part], links=None, mapping=load_mapping(mapping), settings=given,
                max_bad_share=None, reporter=Spoken(),
            )  # fmt: skip
            yield Slice(name, given, material)


def compared(one: Slice) -> dict[str, Any]:
    """What would be published and gradient boosting, on the test; and what the gate refuses."""
    parts = one.material.parts
    base = load_base_model(BUNDLED, one.settings.encoder)
    learned = Learner(base, one.material.timeline, parts, one.settings, Spoken()).learn()
    assert learned is not None  # noqa: S101 - of one process
    judged, outcome = learned.judged, parts.test.outcome
    resampling = resample(parts.test.person)

    def draws(name: str) -> Mapping[str, Floats]:
        told = judged[name].test
        return metric_draws(told, outcome, (1.0, 1.0, 1.0), resampling, only=frozenset(METRICS))

    ours, theirs = draws(learned.published), draws(GRADIENT_BOOSTING)
    gate = ask(
        Candidate("the model", judged[learned.published].test), parts.test,
        one.material.platforms, majority=judged[MAJORITY],
        baselines={GRADIENT_BOOSTING: judged[GRADIENT_BOOSTING]}, serving=None,
    )  # fmt: skip
    better = {
        name: with_interval((theirs[name] - ours[name]) * (1 if name == "log_loss" else -1))
        for name in METRICS
    }
    return {
        "slice": one.name,
        "returned": float((outcome == Outcome.RETURN).mean()),
        "published": learned.published,
        "ours": {name: float(ours[name][0]) for name in METRICS},
        "boosting": {name: float(theirs[name][0]) for name in METRICS},
        "better by": better,
        "refused": [check.finding for check in gate.failures],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--events", type=Path, required=True)
    parser.add_argument("--mapping", type=Path, required=True)
    parser.add_argument("--slices", nargs="+", choices=list(SLICES), default=list(SLICES))
    parser.add_argument("--seed", type=int, default=7)
    given = parser.parse_args()
    table = Table(title="returns on the test: AUC, PR-AUC, log loss")
    for name in ("slice", "returned, %", "published", "boosting", "better by", "the gate"):
        table.add_column(name)
    torch.set_num_threads(1)
    more = {"encoder.steps": 0, "seed": given.seed}
    results = []
    for one in slices(given.events, given.mapping, given.slices, **more):
        found = compared(one)
        results.append(found)
        table.add_row(
            one.name,
            f"{100 * found['returned']:.2f}",
            *(
                "\n".join(f"{value:.4f}" for value in found[k].values())
                for k in ("ours", "boosting")
            ),
            "\n".join(
                f"{x['value']:+.4f} [{x['low']:+.4f}, {x['high']:+.4f}]"
                for x in found["better by"].values()
            ),
            "; ".join(found["refused"]) or "passed",
        )
    Console().print(table)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
