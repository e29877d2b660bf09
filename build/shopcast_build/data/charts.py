"""The plots of the data quality page, as inline SVG."""

from collections.abc import Mapping, Sequence

from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator, PercentFormatter

from shopcast_build.data.report import PlatformReport
from shopcast_build.reporting.figures import SERIES, drawing, new_figure, svg

_SHOWN_PLATFORMS = 24
_BAR_IN = 0.34
_NAME_CHARS = 40


def draw_fates(platforms: Sequence[PlatformReport]) -> Markup:
    """Rows of each platform: kept, duplicate, dropped."""
    shown = sorted(platforms, key=lambda one: one.read)[-_SHOWN_PLATFORMS:]
    parts = {
        "kept": [one.kept for one in shown],
        "duplicate": [one.duplicates for one in shown],
        "dropped": [sum(one.dropped.values()) for one in shown],
    }
    return _bars([one.platform for one in shown], parts)


def draw_reasons(counts: Mapping[str, Mapping[str, int]], reasons: Sequence[str]) -> Markup:
    """Rows by reason, the most frequent on top. counts: platform -> reason -> rows."""
    ordered = list(reversed(reasons))
    names = sorted(counts, key=lambda name: -sum(counts[name].values()))
    own, rest = names[: len(SERIES) - 1], names[len(SERIES) - 1 :]
    parts = {name: [counts[name].get(reason, 0) for reason in ordered] for name in own}
    if rest:
        parts["other platforms"] = [
            sum(counts[name].get(reason, 0) for name in rest) for reason in ordered
        ]
    return _bars(ordered, parts)


def draw_months(platforms: Sequence[PlatformReport], months: Sequence[str]) -> Markup:
    """Events by month, one line a platform."""
    with drawing():
        figure = new_figure()
        axes = figure.subplots()
        for colour, one in _lines(platforms):
            counts = [one.months.get(month, 0) for month in months]
            axes.plot(range(len(months)), counts, color=colour, label=one.platform, marker=".")
        axes.set_ylim(bottom=0)
        axes.set_ylabel("events")
        axes.yaxis.set_major_formatter(EngFormatter(sep=""))
        step = max(1, len(months) // 12)
        axes.set_xticks(range(0, len(months), step), months[::step], rotation=45, ha="right")
        _legend(figure, len(platforms))
        return svg(figure)


def draw_hours(platforms: Sequence[PlatformReport]) -> Markup:
    """The share of events in each hour of the day, one line a platform."""
    with drawing():
        figure = new_figure()
        axes = figure.subplots()
        for colour, one in _lines(platforms):
            shares = [n / one.kept for n in one.hours]
            axes.plot(range(24), shares, color=colour, label=one.platform, marker=".")
        axes.set_ylim(bottom=0)
        axes.set_xticks(range(0, 24, 3))
        axes.set_xlabel("hour of the day, UTC")
        axes.set_ylabel("share of events")
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        _legend(figure, len(platforms))
        return svg(figure)


def _bars(names: Sequence[str], parts: Mapping[str, Sequence[int]]) -> Markup:
    """Stacked horizontal bars. parts: what each colour stands for -> rows by name."""
    with drawing():
        figure = new_figure(height_in=1.3 + _BAR_IN * len(names))
        axes = figure.subplots()
        left = [0] * len(names)
        for colour, (label, rows) in zip(SERIES, parts.items(), strict=False):
            axes.barh(range(len(names)), rows, left=left, color=colour, label=label, height=0.7)
            left = [a + b for a, b in zip(left, rows, strict=True)]
        axes.set_yticks(range(len(names)), [_shortened(name) for name in names])
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("rows")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        _legend(figure, len(parts))
        return svg(figure)


def _lines(platforms: Sequence[PlatformReport]) -> list[tuple[str, PlatformReport]]:
    """The largest platforms in colours of their own."""
    largest = sorted(platforms, key=lambda one: (-one.kept, one.platform))[: len(SERIES)]
    return list(zip(SERIES, largest, strict=False))


def _legend(figure: Figure, entries: int) -> None:
    if entries > 1:
        figure.legend(loc="outside upper left", ncols=min(entries, 4))


def _shortened(name: str) -> str:
    return name if len(name) <= _NAME_CHARS else f"{name[: _NAME_CHARS - 3]}..."
