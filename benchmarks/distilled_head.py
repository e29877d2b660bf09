"""Whether the head learns more where it learns what trees say of an exposure, too.

Run:  .venv/bin/python benchmarks/distilled_head.py --events online_retail.parquet \
          --mapping examples/online_retail.toml --seeds 7 8 9

What trees say of an exposure in training is said by those that never saw its customer (five parts).
The head then minimises (1 - share) of the loss against the outcome and share of that against what
the trees say; its steps are chosen on validation. Trees, head and their blend learn from the
training part alone, with the same vectors of the pretrained encoder. 95 % by customer.
"""

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from fine_tuning_steps import SPLIT, Spoken
from intervals import Resampling, Scores, plain_auc, with_interval
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader

from shopcast_build.data.mapping import load_mapping
from shopcast_build.learning.base_model import BUNDLED, load_base_model
from shopcast_build.learning.batches import ExposureBatches
from shopcast_build.learning.calibration import fit_calibration
from shopcast_build.learning.examples import Examples
from shopcast_build.learning.heads import HeadTraining
from shopcast_build.learning.prediction import predict_logits
from shopcast_build.learning.pretrained import read_catalogue
from shopcast_build.learning.scorer import blend
from shopcast_build.learning.settings import BuildSettings, load_settings
from shopcast_build.learning.shopper_model import ShopperModel
from shopcast_build.learning.trees import Matrix, Rows, TextComponents, Trees
from shopcast_build.study.material import Material, read_material
from shopcast_domain.events import Outcome

SHARES = (0.0, 0.5, 1.0)
FOLDS = 5
LOOKS = 2  # at validation, in each pass
LEARNED = [Outcome.BUY, Outcome.RETURN]

Both = tuple[Matrix, Matrix]
"""Logits of validation and test, float32 (M, 3) each."""


def told_by_trees(
    train: Rows, validation: Rows, person: np.ndarray, text: TextComponents, seed: int
) -> Matrix:
    """The chances of LEARNED for each exposure in training, float32 (M, 2)."""
    fold = np.random.default_rng(seed).integers(FOLDS, size=person.max() + 1)[person]
    told = np.empty((len(person), len(LEARNED)), dtype=np.float32)
    for number in range(FOLDS):
        inside = fold == number

        def some(rows: np.ndarray) -> Rows:
            return Rows(train.features[rows], train.vectors[rows], train.outcome[rows])

        trees = Trees.fit(some(~inside), validation, text=text, seed=seed)
        logits = torch.from_numpy(trees.logits(some(inside))[:, LEARNED])
        told[inside] = torch.softmax(logits, -1).numpy()
    return told


def train_head(
    model: ShopperModel,
    examples: Callable[[Examples], ExposureBatches],
    material: Material,
    told: Matrix,
    share: float,
    settings: BuildSettings,
) -> Both:
    """As a build trains the head, but for what it learns from; without a warm-up, and without
    stopping early."""
    parts, head, moved = material.parts, settings.head, settings.optimiser
    training, validation = examples(parts.train), examples(parts.validation)
    torch.manual_seed(settings.seed)
    loader: DataLoader[int] = DataLoader(
        training,
        batch_size=moved.batch_size,
        shuffle=True,
        collate_fn=lambda rows: (training.collate(rows), torch.from_numpy(told[rows])),
    )
    weights = list(model.behavior.parameters())
    matrices = [weight for weight in weights if weight.ndim > 1]
    rest = [weight for weight in weights if weight.ndim <= 1]
    optimiser = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": moved.weight_decay}, {"params": rest}],
        lr=head.learning_rate,
        weight_decay=0.0,
    )
    steps = head.epochs * len(loader)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: 0.5 * (1 + math.cos(math.pi * step / steps))
    )
    best, kept, step = math.inf, {}, 0
    for _ in range(head.epochs):
        for batch, soft in loader:
            model.train()
            chances = torch.log_softmax(model(**batch)["logits"][:, LEARNED], -1)
            hard = torch.stack([batch["labels"] == one for one in LEARNED], dim=1).float()
            loss = -(((1 - share) * hard + share * soft) * chances).sum(-1).mean()
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, moved.max_grad_norm)
            optimiser.step()
            schedule.step()
            step += 1
            if step % max(1, len(loader) // LOOKS) == 0:
                logits = torch.from_numpy(predict_logits(model, validation))
                labels = torch.tensor(parts.validation.outcome)
                found = float(torch.nn.functional.cross_entropy(logits, labels))
                if found < best:
                    best = found
                    kept = {k: v.clone() for k, v in model.behavior.state_dict().items()}
    model.behavior.load_state_dict(kept)
    return predict_logits(model, validation), predict_logits(model, examples(parts.test))


def log_odds(logits: Matrix) -> Scores:
    return logits[:, Outcome.RETURN] - logits[:, Outcome.BUY]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--events", type=Path, required=True)
    parser.add_argument("--mapping", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[7, 8, 9])
    given = parser.parse_args()
    plain = load_settings(None, SPLIT | {"optimiser.schedule": "cosine"})
    material = read_material(
        [given.events], links=None, mapping=load_mapping(given.mapping), settings=plain,
        max_bad_share=None, reporter=Spoken(),
    )  # fmt: skip
    parts, log = material.parts, material.timeline
    base = load_base_model(BUNDLED, plain.encoder)
    start = read_catalogue(base, log.catalogue.texts, plain, lambda done, total: None)
    vectors = start.vectors.cpu().numpy()
    text = TextComponents.of(vectors[1:], plain.scorer.text_components, seed=0)
    train, validation, test = (
        Rows(one.features, vectors[one.text], one.outcome)
        for one in (parts.train, parts.validation, parts.test)
    )
    found: dict[str, list[Both]] = {}
    for seed in given.seeds:
        settings = plain.model_copy(update={"seed": seed})
        trees = Trees.fit(train, validation, text=text, seed=seed)
        own = trees.logits(validation), trees.logits(test)
        found.setdefault("trees", []).append(own)
        with Spoken().stage("trees that never saw the customer") as progress:
            told = told_by_trees(train, validation, parts.train.person, text, seed)
            progress(1, 1)
        heads = HeadTraining(log, parts, settings, Spoken())
        for share in SHARES:
            model = heads.model(start.encoder, start.table, start.vectors)
            with Spoken().stage(f"seed {seed}, head, {share:.1f} of what trees say") as progress:
                head = train_head(
                    model, lambda one: ExposureBatches(one, log, plain.history.events),
                    material, told, share, settings,
                )  # fmt: skip
                progress(1, 1)
            found.setdefault(f"head, {share:.1f} of trees", []).append(head)
            outcome = parts.validation.outcome
            mixed = blend(
                trees, fit_calibration(head[0], outcome), fit_calibration(own[0], outcome)
            )
            both = mixed.logits(head[0], validation), mixed.logits(head[1], test)
            found.setdefault(f"blend of trees with it, {share:.1f}", []).append(both)
    hits = [
        (one.outcome == Outcome.RETURN).astype(np.int64) for one in (parts.validation, parts.test)
    ]
    resampling = Resampling(parts.test.person, hits[1])
    drawn = {name: resampling.auc([log_odds(t) for _, t in some]) for name, some in found.items()}
    table = Table(title=f"Online Retail, training part alone; seeds {given.seeds}")
    for name in ("", "validation AUC", "test AUC by seed", "less the head alone", "less the blend"):
        table.add_column(name, justify="right")
    results = []
    alone, mixture = f"head, {0:.1f} of trees", f"blend of trees with it, {0:.1f}"
    for name, some in found.items():
        less = [with_interval(drawn[name] - drawn[other]) for other in (alone, mixture)]
        one = {
            "name": name,
            "validation_auc": float(np.mean([plain_auc(log_odds(v), hits[0]) for v, _ in some])),
            "test_auc": [plain_auc(log_odds(t), hits[1]) for _, t in some],
            "less_head": less[0],
            "less_blend": less[1],
        }
        results.append(one)
        table.add_row(
            name,
            f"{one['validation_auc']:.4f}",
            " ".join(f"{value:.4f}" for value in one["test_auc"]),
            *(f"{x['value']:+.4f} [{x['low']:+.4f}, {x['high']:+.4f}]" for x in less),
        )
    print(json.dumps(results))
    Console(width=130).print(table)


if __name__ == "__main__":
    main()
