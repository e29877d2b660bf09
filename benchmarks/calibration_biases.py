"""Where the biases of a calibration come from: validation, or what the final model was fitted to.

Run:  .venv/bin/python benchmarks/calibration_biases.py --events online_retail.parquet \
          --mapping examples/online_retail.toml

Slices of Online Retail II, each a log by itself with the default split: some months, or half of the
customers. Trees over numbers are stopped on validation and then fitted again to all that was known
before the test. The scale is validation's each time; what the biases make of the chance of a return
is compared on the test. Nothing is chosen here.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from slices import SLICES, slices

from shopcast_build.learning.calibration import fit_calibrations
from shopcast_build.learning.examples import Examples
from shopcast_build.learning.preparation import Parts
from shopcast_build.learning.trees import Rows, Trees
from shopcast_domain.events import Outcome
from shopcast_domain.manifest import Calibration


def rows(examples: Examples) -> Rows:
    return Rows(examples.features, np.zeros((len(examples), 0), np.float32), examples.outcome)


def told(parts: Parts, seed: int) -> dict[str, tuple[float, float]]:
    """By where biases come from: the mean chance of a return on the test, and the log loss."""
    trees = Trees.fit(rows(parts.train), rows(parts.validation), text=None, seed=seed)
    known, everything = parts.known(), parts.refit or parts.train
    final = trees.refit(rows(everything), growth=len(everything) / len(parts.train))
    first, own = fit_calibrations(
        (trees.logits(rows(parts.validation)), parts.validation.outcome),
        (final.logits(rows(known)), known.outcome),
    )
    plain = Calibration(scale=1.0, bias=(first.bias[0], 0.0, 0.0))
    logits, outcome = final.logits(rows(parts.test)), parts.test.outcome
    found = {}
    for name, one in (("validation", first), ("learned", own), ("no calibration", plain)):
        chances = one.apply(logits)
        loss = -np.log(np.maximum(chances[np.arange(len(outcome)), outcome], 1e-12)).mean()
        found[name] = float(chances[:, Outcome.RETURN].mean()), float(loss)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--events", type=Path, required=True)
    parser.add_argument("--mapping", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    table = Table(title="mean chance of a return in %, and log loss, on the test")
    for name in ("slice", "returned", "biases of validation", "of what it learned", "none"):
        table.add_column(name, justify="right")
    results = []
    for one in slices(given.events, given.mapping, list(SLICES)):
        parts = one.material.parts
        found = told(parts, given.seed)
        share = float((parts.test.outcome == Outcome.RETURN).mean())
        results.append({"slice": one.name, "returned": share, "told": found})
        cells = [f"{100 * mean:.2f} / {loss:.4f}" for mean, loss in found.values()]
        table.add_row(one.name, f"{100 * share:.2f}", *cells)
    Console().print(table)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
