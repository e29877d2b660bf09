"""The model card: what a version is and how good it is, in Markdown with plots beside it."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from shopcast_build.learning.calibration import reliability
from shopcast_build.reporting.figures import SERIES, drawing, new_figure, save_svg
from shopcast_domain.events import Outcome
from shopcast_domain.features import Floats, Ints
from shopcast_domain.manifest import Manifest, Training

CARD = "model_card.md"
PLOTS = "card"
_BINS, _POINTS = 10, 200
_LEAST = 20  # of a kind, for a slice to be drawn
_METRICS = ("macro_f1", "log_loss", "ece")


def draw_plots(
    probabilities: Floats, outcome: Ints, platform: Ints, platforms: Sequence[str], folder: Path
) -> None:
    """Write the plots of a test period into `folder`/card: reliability, precision and recall, and
    every platform. probabilities: float64 (n, 3). platform: int64 (n,), codes of `platforms`."""
    plots = folder / PLOTS
    plots.mkdir()
    labels = [Outcome(int(o)) for o in np.unique(outcome)]
    told = [o for o in labels if 0 < (outcome == o).sum() < len(outcome)]
    with drawing():
        figure = new_figure(8.5, 3.8)
        left, right = figure.subplots(1, 2)
        top = 0.02
        for number, one in enumerate(told):
            score, hit = probabilities[:, one], outcome == one
            bins = reliability(score, hit, _BINS)
            x, y = [b.predicted for b in bins], [b.observed for b in bins]
            top = max(top, *x, *y)
            style = {"color": SERIES[number], "label": one.name.lower()}
            left.plot(x, y, marker="o", **style)
            precision, recall, _ = precision_recall_curve(hit, score)
            some = np.unique(np.linspace(0, len(recall) - 1, _POINTS).round().astype(int))
            right.plot(recall[some], precision[some], **style)
            right.axhline(hit.mean(), color=SERIES[number], ls=":", lw=1.0)
        left.plot([0, top], [0, top], color=SERIES[5], ls="--", lw=1.0, label="perfect")
        left.set_title("Reliability")
        left.set_xlabel("predicted share")
        left.set_ylabel("observed share")
        left.legend(loc="upper left")
        right.set_title("Precision and recall")
        right.set_xlabel("recall")
        right.set_ylabel("precision")
        right.set_ylim(0.0, 1.02)
        save_svg(figure, plots / "quality.svg")
        figure = new_figure(8.5, 1.2 + 0.36 * len(platforms))
        axes = figure.subplots(1, 2, sharey=True)
        for number, one in enumerate(told):
            found = [
                _slice(probabilities, outcome, platform == p, one) for p in range(len(platforms))
            ]
            for metric, ax in enumerate(axes):
                points = [(f[metric], row) for row, f in enumerate(found) if f is not None]
                x, y = [p[0] for p in points], [p[1] for p in points]
                ax.plot(x, y, "o", color=SERIES[number], label=one.name.lower())
        for ax, name in zip(axes, ("AUC", "PR-AUC"), strict=True):
            ax.set_title(f"{name} by platform")
            ax.set_yticks(range(len(platforms)), platforms)
            ax.set_ylim(len(platforms) - 0.5, -0.5)
        figure.legend(handles=axes[0].get_lines(), loc="outside lower center", ncols=len(Outcome))
        save_svg(figure, plots / "platforms.svg")


def _slice(
    probabilities: Floats, outcome: Ints, rows: np.ndarray, one: Outcome
) -> tuple[float, float] | None:
    """AUC and PR-AUC of an outcome among some exposures; None where there are too few."""
    hit, score = outcome[rows] == one, probabilities[rows, one]
    if min(hit.sum(), (~hit).sum()) < _LEAST:
        return None
    return float(roc_auc_score(hit, score)), float(average_precision_score(hit, score))


def write_card(manifest: Manifest, folder: Path) -> None:
    """Write the card of a version, whose plots lie in `folder`/card already."""
    (folder / CARD).write_text("\n".join(_lines(manifest)) + "\n", encoding="utf-8")


def _lines(manifest: Manifest) -> Iterator[str]:
    training, artefact = manifest.training, manifest.artefact
    taught = artefact.teacher
    yield f"# Shopcast, version {manifest.behavior_version}"
    yield ""
    yield (
        "Predicts what a shopper will do next with an item (view it, buy it, or buy and return it)"
        " from what the same person did on every platform."
    )
    missing = sorted(set(manifest.outcomes) - set(manifest.trained_outcomes))
    if missing:
        yield ""
        yield f"**Never saw the outcome {', '.join(missing)}**: it gets the probability 0."
    yield from _table(
        ("what", "value"),
        [
            ("published as", training.published_as),
            ("base model", f"{training.base_model} (licence: {training.base_model_licence})"),
            (
                "encoder",
                f"{training.encoder}, {artefact.layers} layers, {artefact.parameters:,} parameters",
            ),
            *(
                [
                    (
                        "distilled from",
                        f"{taught.layers} layers, {taught.parameters:,} parameters"
                        f" ({taught.encoder}, see '{taught.published_as}' below); vectors alike to"
                        f" a cosine of {taught.cosine:.3f}, {taught.faster:.1f} x as fast",
                    )
                ]
                if taught
                else []
            ),
            ("scorer", training.scorer),
            ("runs in", f"{artefact.target} on {artefact.device}, {artefact.precision}"),
            (
                "exported from",
                "a build" if artefact.derived_from is None else f"version {artefact.derived_from}",
            ),
            ("log", _dates((training.log_start, training.log_end))),
            ("fingerprint of the data", training.data_sha256[:16]),
            *_learned_from(training),
            ("judged on", f"{_dates(training.test)}, {training.exposures['test']:,} exposures"),
            ("platforms", ", ".join(training.platforms)),
            ("prices in", training.currency or "the currency of each platform"),
        ],
    )
    yield "## How good it is"
    yield from _metrics(manifest)
    yield f"![Reliability, precision and recall]({PLOTS}/quality.svg)"
    yield ""
    yield f"![Slices by platform]({PLOTS}/platforms.svg)"
    yield ""
    yield "Dotted lines are the shares of the outcomes: the precision of knowing nothing."
    yield ""
    yield "## Was it fit to publish"
    yield ""
    if manifest.gate.forced:
        yield "**It was published with --force.**"
        yield ""
    for check in manifest.gate.checks:
        yield f"- {'passed' if check.passed else '**failed**'}: {check.finding}"
    yield ""
    yield "## Does it say what the trained model says"
    yield from _parity(manifest)
    yield "## Limits"
    yield ""
    yield (
        "Learned from the past of these platforms and items; other platforms, seasons or return"
        " rules need a new build. Probabilities are shares among many exposures, no verdict about a"
        " person: do not use them to refuse anybody a purchase or a return."
    )
    yield ""
    yield (
        f"`platform models verify {manifest.behavior_version}` checks every file;"
        f" `platform models show {manifest.behavior_version} --json` prints the manifest."
    )


def _learned_from(training: Training) -> Iterator[tuple[str, str]]:
    """Of what time it knows; a later test of it begins after that."""
    chosen = f"{_dates(training.validation)}, {training.exposures['validation']:,} exposures"
    if "refit" in training.exposures:
        whole = (training.train[0], training.validation[1])
        yield "trained on", f"{_dates(whole)}, {training.exposures['refit']:,} exposures"
        yield "chosen on", f"{chosen}, after training on {_dates(training.train)}"
    else:
        yield "trained on", f"{_dates(training.train)}, {training.exposures['train']:,} exposures"
        yield "chosen on", chosen


def _dates(span: tuple[datetime, datetime]) -> str:
    return f"{span[0]:%Y-%m-%d} to {span[1]:%Y-%m-%d}"


def _metrics(manifest: Manifest) -> Iterator[str]:
    outcomes = [o for o in manifest.trained_outcomes if o != "view"]
    names = [*_METRICS, *(f"{o}_{m}" for o in outcomes for m in ("auc", "pr_auc"))]
    published = manifest.training.published_as
    rows = [
        (
            f"**{model}**" if model == published else model,
            *(f"{values[name]:.4f}" if name in values else "" for name in names),
        )
        for model, values in manifest.metrics.items()
    ]
    yield from _table(("model", *(name.replace("_", " ") for name in names)), rows)


def _parity(manifest: Manifest) -> Iterator[str]:
    parity = manifest.parity
    yield from _table(
        ("scored", "worst shift", "99.9 % within", "same decision", "AUC change"),
        [
            (
                row.how,
                f"{row.worst:.1e}",
                f"{row.p999:.1e}",
                f"{row.same_label:.2%}",
                "" if row.auc_change is None else f"{row.auc_change:+.5f}",
            )
            for row in parity.rows
        ],
    )
    yield (
        f"Shifts of calibrated probabilities against fp32 torch, on {parity.exposures:,} exposures"
        f" of the test period. The same exposure moves by at most {parity.between:.1e} between the"
        f" three ways; allowed is {parity.bound:g}."
    )
    yield ""


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield ""
    yield _row(head)
    yield _row(["---"] * len(head))
    for row in rows:
        yield _row(row)
    yield ""


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"
