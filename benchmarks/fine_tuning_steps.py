"""What more steps of fine-tuning are worth: the encoder after 0, 40, ... 640 of them.

Run:  .venv/bin/python benchmarks/fine_tuning_steps.py --events online_retail.parquet \
          --mapping examples/online_retail.toml --seeds 7 8

Each seed trains a young head, then BERT with it at a constant rate, on the training part alone, and
stops at every mark; with --learns items it trains all of BERT on encoder_tasks.py instead. The
vectors of each mark then go through the same judge: trees over numbers and text, fitted to all
exposures known before the test. Differences are to the frozen vectors, with the same seeds of the
trees, 95 % by customer. Nothing is chosen here.
"""

import argparse
import copy
import itertools
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from encoder_tasks import item_marks
from intervals import Resampling, Scores, plain_auc, with_interval
from rich.console import Console
from rich.table import Table
from sklearn.metrics import average_precision_score

from shopcast_build.data.mapping import load_mapping
from shopcast_build.learning.base_model import BUNDLED, load_base_model
from shopcast_build.learning.examples import Examples, Progress
from shopcast_build.learning.heads import HeadTraining
from shopcast_build.learning.pretrained import Pretrained, read_catalogue
from shopcast_build.learning.settings import BuildSettings, load_settings
from shopcast_build.learning.stages import Stage, young_head_stage
from shopcast_build.learning.trees import Matrix, Rows, TextComponents, Trees
from shopcast_build.study.material import Material, read_material
from shopcast_domain.events import Outcome

SPLIT = {
    "threads": 1,
    "exposures.return_window_days": 60,
    "exposures.validation_start": "2010-05-01T00:00:00Z",
    "exposures.test_start": "2010-08-01T00:00:00Z",
    "optimiser.schedule": "constant",
    "scorer.members": 3,
}


class Spoken:
    """Says how long each stage took."""

    @contextmanager
    def stage(self, title: str) -> Iterator[Progress]:
        began = time.monotonic()
        yield lambda done, total: None
        print(f"{title}: {time.monotonic() - began:.0f} s", flush=True)


def outcome_marks(
    material: Material, settings: BuildSettings, start: Pretrained, steps: Sequence[int]
) -> Iterator[tuple[int, Matrix]]:
    """The catalogue's vectors, float32 (texts, d), after so many steps."""
    heads = HeadTraining(material.timeline, material.parts, settings, Spoken())
    model = heads.model(copy.deepcopy(start.encoder), start.table, start.vectors)
    heads.train(young_head_stage("a young head", heads.exposures_of_a_pass, settings), model)
    done = 0
    for mark in steps:
        more = mark - done
        head_rate = settings.head.learning_rate / 2
        rate = settings.encoder.learning_rate
        heads.train(Stage(f"to step {mark}", True, more, head_rate, more, rate), model)
        done = mark
        yield mark, model.vectors.cpu().numpy().copy()


def judge(material: Material, settings: BuildSettings, vectors: Matrix) -> tuple[Scores, Scores]:
    """Log odds of a return on validation and test."""
    parts = material.parts

    def rows(examples: Examples) -> Rows:
        return Rows(examples.features, vectors[examples.text], examples.outcome)

    train, validation, test = rows(parts.train), rows(parts.validation), rows(parts.test)
    text = TextComponents.of(vectors[1:], settings.scorer.text_components, seed=0)
    trees = Trees.fit(
        train, validation, text=text, seed=settings.seed, members=settings.scorer.members
    )
    assert parts.refit is not None  # noqa: S101 - the settings ask for it
    final = trees.refit(rows(parts.refit), growth=len(parts.refit) / len(parts.train))
    found = (trees.logits(validation), final.logits(test))
    kept, returned = Outcome.BUY, Outcome.RETURN
    first, second = (logits[:, returned] - logits[:, kept] for logits in found)
    return first, second


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--events", type=Path, required=True)
    parser.add_argument("--mapping", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[7, 8])
    parser.add_argument("--steps", type=int, nargs="+", default=[40, 80, 160, 320, 640])
    parser.add_argument("--learns", choices=["outcomes", "items"], default="outcomes")
    parser.add_argument("--tuning", default="top", help="as encoder.tuning has it; of outcomes")
    parser.add_argument("--rate", type=float, default=3e-4, help="encoder.learning_rate")
    given = parser.parse_args()
    chosen = {"encoder.tuning": given.tuning, "encoder.learning_rate": given.rate}
    plain = load_settings(None, SPLIT | chosen)
    marks = item_marks if given.learns == "items" else outcome_marks
    material = read_material(
        [given.events],
        links=None,
        mapping=load_mapping(given.mapping),
        settings=plain,
        max_bad_share=None,
        reporter=Spoken(),
    )
    hits = [
        (part.outcome == Outcome.RETURN).astype(np.int64)
        for part in (material.parts.validation, material.parts.test)
    ]
    scores: dict[int, list[tuple[Scores, Scores]]] = {}
    for seed in given.seeds:
        settings = plain.model_copy(update={"seed": seed})
        base = load_base_model(BUNDLED, settings.encoder)
        texts = material.timeline.catalogue.texts
        start = read_catalogue(base, texts, settings, lambda done, total: None)
        frozen_mark = (0, start.vectors.cpu().numpy())
        learned = marks(material, settings, start, given.steps)
        for mark, vectors in itertools.chain([frozen_mark], learned):
            scores.setdefault(mark, []).append(judge(material, settings, vectors))
    resampling = Resampling(material.parts.test.person, hits[1])
    frozen = resampling.auc([test for _, test in scores[0]])
    learns = "items" if given.learns == "items" else f"outcomes, tuning {given.tuning}"
    table = Table(title=f"trees over numbers and text; learns {learns}; seeds {given.seeds}")
    for name in ("steps", "validation AUC", "test AUC", "test PR-AUC", "test AUC less frozen"):
        table.add_column(name, justify="right")
    results: list[dict[str, Any]] = []
    for mark, some in scores.items():
        against = with_interval(resampling.auc([test for _, test in some]) - frozen)
        one = {
            "steps": mark,
            "validation_auc": float(np.mean([plain_auc(v, hits[0]) for v, _ in some])),
            "test_auc": [plain_auc(t, hits[1]) for _, t in some],
            "test_pr_auc": [float(average_precision_score(hits[1], t)) for _, t in some],
            "less_frozen": against,
        }
        results.append(one)
        table.add_row(
            str(mark),
            f"{one['validation_auc']:.4f}",
            " ".join(f"{value:.4f}" for value in one["test_auc"]),
            " ".join(f"{value:.4f}" for value in one["test_pr_auc"]),
            f"{against['value']:+.4f} [{against['low']:+.4f}, {against['high']:+.4f}]",
        )
    print(json.dumps(results))
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
