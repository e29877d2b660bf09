"""The figures of a study."""

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes

from shopcast_build.reporting.figures import INK, SERIES, drawing, new_figure, svg
from shopcast_build.study.schema import Curves, Data, Difference, LearningPoint, Point, StepPoint

_CLAIM_COLOURS = {
    "better": SERIES[2],
    "worse": SERIES[4],
    "none": SERIES[5],
    "too small": SERIES[5],
}
_DASHES = ("-", "--", "-.", ":")


def forest(differences: Sequence[Difference], labels: Sequence[str], unit: str) -> Markup:
    """Differences with their intervals, one a row, and zero as a line."""
    shown = [(d, label) for d, label in zip(differences, labels, strict=True) if d.gain]
    with drawing():
        figure = new_figure(7.5, 0.9 + 0.34 * max(len(shown), 1))
        axes = figure.subplots()
        for row, (one, _) in enumerate(shown):
            assert one.gain is not None  # noqa: S101 - filtered above
            axes.plot(
                [one.gain.low, one.gain.high], [row, row], color=_CLAIM_COLOURS[one.claim], lw=2.2
            )
            axes.plot(
                one.gain.value,
                row,
                marker="s" if one.claim in ("better", "worse") else "o",
                color=_CLAIM_COLOURS[one.claim],
            )
        axes.axvline(0.0, color=INK, lw=1.0)
        axes.set_yticks(range(len(shown)), [label for _, label in shown])
        axes.set_ylim(len(shown) - 0.5, -0.5)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel(unit)
    return svg(figure)


def reliability(curves: Curves) -> Markup:
    """Predicted against observed shares of the headline target."""
    with drawing():
        figure = new_figure(4.6, 4.0)
        axes = figure.subplots()
        x, y = _xy(curves.reliability)
        top = 1.05 * max([0.02, *x, *y])
        axes.plot([0, top], [0, top], color=SERIES[5], ls="--", lw=1.0, label="perfect")
        axes.plot(x, y, color=SERIES[0], marker="o", label="the model")
        axes.set_xlabel("predicted share")
        axes.set_ylabel("observed share")
        axes.legend(loc="upper left")
    return svg(figure)


def ranking(curves: Sequence[Curves], names: dict[str, str], share: float) -> Markup:
    """ROC and precision-recall of the headline target, side by side."""
    with drawing():
        figure = new_figure(8.5, 3.8)
        left, right = figure.subplots(1, 2)
        for number, one in enumerate(curves):
            style = {"color": SERIES[number % 5], "ls": _DASHES[number % 4]}
            left.plot(*_xy(one.roc), label=names[one.contender], **style)
            right.plot(*_xy(one.precision_recall), label=names[one.contender], **style)
        left.plot([0, 1], [0, 1], color=SERIES[5], lw=1.0, ls=":")
        right.axhline(share, color=SERIES[5], lw=1.0, ls=":")
        left.set_xlabel("false positive share")
        left.set_ylabel("true positive share")
        left.set_title("ROC")
        right.set_xlabel("recall")
        right.set_ylabel("precision")
        right.set_title("Precision and recall")
        right.set_ylim(0.0, 1.02)
        left.legend(loc="lower right")
    return svg(figure)


def learning(points: Sequence[LearningPoint], names: dict[str, str], unit: str) -> Markup:
    """The headline metric against the number of training exposures."""
    with drawing():
        figure = new_figure(7.0, 3.6)
        axes = figure.subplots()
        for number, key in enumerate(dict.fromkeys(point.contender for point in points)):
            mine = sorted((p for p in points if p.contender == key), key=lambda p: p.exposures)
            x = [p.exposures for p in mine]
            colour = SERIES[number % 5]
            axes.fill_between(
                x,
                [p.estimate.low for p in mine],
                [p.estimate.high for p in mine],
                color=colour,
                alpha=0.15,
                lw=0,
            )
            y = [p.estimate.value for p in mine]
            axes.plot(
                x, y, color=colour, marker="o", ls=_DASHES[number % 4], label=names.get(key, key)
            )
        axes.set_xscale("log")
        marks = sorted({p.exposures for p in points})
        axes.set_xticks(marks, [f"{mark:,}" for mark in marks])
        axes.set_xticks([], minor=True)
        axes.set_xlabel("training exposures")
        axes.set_ylabel(unit)
        axes.legend()
    return svg(figure)


def steps(points: Sequence[StepPoint]) -> Markup:
    """The validation loss over the steps of each stage of training."""
    with drawing():
        figure = new_figure(7.0, 3.4)
        axes = figure.subplots()
        for number, stage in enumerate(dict.fromkeys(point.stage for point in points)):
            mine = [point for point in points if point.stage == stage]
            axes.plot(
                [p.step for p in mine],
                [p.loss for p in mine],
                color=SERIES[number % 5],
                ls=_DASHES[number % 4],
                marker="o",
                label=stage,
            )
        axes.set_xlabel("steps")
        axes.set_ylabel("validation log loss")
        axes.legend()
    return svg(figure)


def outcome_shares(data: Data) -> Markup:
    """What became of the test exposures of each platform."""
    platforms = list(data.outcomes)
    with drawing():
        figure = new_figure(7.0, 0.9 + 0.36 * len(platforms))
        axes: Axes = figure.subplots()
        left = np.zeros(len(platforms))
        kinds = list(next(iter(data.outcomes.values())))
        for number, kind in enumerate(kinds):
            counts = np.array([data.outcomes[p][kind] for p in platforms], dtype=float)
            totals = np.array([max(1, sum(data.outcomes[p].values())) for p in platforms])
            axes.barh(
                range(len(platforms)), counts / totals, left=left, color=SERIES[number], label=kind
            )
            left += counts / totals
        axes.set_yticks(range(len(platforms)), platforms)
        axes.set_ylim(len(platforms) - 0.5, -0.5)
        axes.set_xlim(0.0, 1.0)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("share of the test exposures")
        figure.legend(loc="outside upper left", ncols=len(kinds))
    return svg(figure)


def _xy(points: Sequence[Point]) -> tuple[list[float], list[float]]:
    return [p.x for p in points], [p.y for p in points]
