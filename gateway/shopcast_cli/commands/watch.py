"""`platform watch`."""

import json
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from shopcast_cli.console import counted, fail, failures, out, styled, table

if TYPE_CHECKING:
    from shopcast_gateway.vitals import TrialVitals, Vitals

_PREDICT = ("PredictionService/Predict", "PredictionService/BatchPredict")
_BARS = "▁▂▃▄▅▆▇█"
_KEPT = 60
_OK = "OK"


def watch(
    metrics: Annotated[
        str, typer.Option(help="Where a gateway tells its metrics; see `serve --metrics-port`.")
    ] = "http://127.0.0.1:9100/metrics",
    every: Annotated[
        float, typer.Option(help="Seconds between two looks.", min=0.2, max=3600.0)
    ] = 2.0,
    once: Annotated[
        bool, typer.Option("--once", help="End after the first stretch of time.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON: a line for each stretch of time.")
    ] = False,
) -> None:
    """Show how a gateway is doing: calls, how long they take and where, what answers rest on.

    Two looks at its metrics make rates and percentiles of the time between them. Ctrl-C ends it.

    Example: platform watch --metrics http://127.0.0.1:9100/metrics
    """
    from shopcast_gateway.vitals import MetricsError, look_at, vitals

    with failures(MetricsError):
        before = look_at(metrics)
    live = out.is_terminal and not (once or as_json)
    frames = Live(console=out, auto_refresh=False) if live else nullcontext()
    with frames as shown, suppress(KeyboardInterrupt):
        view = JsonLines() if as_json else Screen(shown)
        while True:
            time.sleep(every)
            try:
                after = look_at(metrics)
            except MetricsError as error:
                if once:
                    fail(error)
                view.away(str(error))
                continue
            view.show(vitals(before, after))
            if once:
                return
            before = after


class JsonLines:
    """A line for each stretch of time."""

    def show(self, now: "Vitals") -> None:
        """What a stretch of time was like."""
        self._line(asdict(now))

    def away(self, why: str) -> None:
        """There are no metrics."""
        self._line({"error": why})

    def _line(self, found: Mapping[str, object]) -> None:
        sys.stdout.write(json.dumps(found) + "\n")
        sys.stdout.flush()


class Screen:
    """Frames of what is seen, with the last minutes as bars. live: shows each in place of the one
    before; without it they stand below each other."""

    def __init__(self, live: Live | None) -> None:
        self._live = live
        self._calls: deque[float] = deque(maxlen=_KEPT)
        self._p99: deque[float | None] = deque(maxlen=_KEPT)
        self._last: RenderableType = ""

    def show(self, now: "Vitals") -> None:
        """What a stretch of time was like."""
        timings = [one.timing for name, one in now.methods.items() if name in _PREDICT]
        self._calls.append(sum(one.timing.per_s for one in now.methods.values()))
        self._p99.append(max((one.p99_ms for one in timings if one.p99_ms), default=None))
        self._last = Group(
            _state(now), *self._trends(), _methods(now), _stages(now), *_sentences(now)
        )
        self._print(self._last)

    def away(self, why: str) -> None:
        """There are no metrics: why, above what was seen last."""
        self._print(Group(styled(why, "red"), self._last))

    def _print(self, frame: RenderableType) -> None:
        if self._live is None:
            out.print(frame)
        else:
            self._live.update(frame, refresh=True)

    def _trends(self) -> Iterator[RenderableType]:
        for name, values, unit in (
            ("calls a second", list(self._calls), ""),
            ("p99 of predictions", list(self._p99), " ms"),
        ):
            last = values[-1]
            told = "-" if last is None else f"{last:,.0f}{unit}"
            yield Text(f"{name:<19}{told:>9}  {bars(values)}")


def bars(values: Sequence[float | None]) -> str:
    """A bar for each value, the highest one full; a blank for None.

    >>> bars([0.0, 2.0, None, 4.0])
    '▁▄ █'
    """
    most = max((value for value in values if value is not None), default=0.0) or 1.0
    steps = len(_BARS) - 1
    return "".join(" " if value is None else _BARS[int(steps * value / most)] for value in values)


def _state(now: "Vitals") -> Text:
    """Which version serves, and whether it can."""
    line = Text()
    if now.serving is None:
        line.append("no version serves", "red")
    else:
        line.append(f"version {now.serving} serves")
    if now.wanted not in (None, now.serving):
        line.append(f", {now.wanted} ")
        line.append(*(("is refused", "red") if now.refused else ("is to serve", "yellow")))
    line.append(", ")
    line.append(*(("Triton answers", "green") if now.triton_up else ("Triton is away", "red")))
    out_of_rotation = [address for address, taking in now.tritons.items() if not taking]
    if out_of_rotation:
        line.append(f", {', '.join(out_of_rotation)} out of rotation", "red")
    if now.workers is not None:
        line.append(f", {counted(now.workers, 'worker')}")
    return line


def _methods(now: "Vitals") -> RenderableType:
    if not now.methods:
        return Text("no calls", "dim")
    shown = table("", "method", "calls/s", "p50 ms", "p99 ms", "in flight", "not OK/s", "which")
    for name, one in now.methods.items():
        bad = {code: rate for code, rate in one.codes.items() if code != _OK}
        shown.add_row(
            name,
            _rate(sum(one.codes.values())),
            _ms(one.timing.p50_ms),
            _ms(one.timing.p99_ms),
            f"{one.in_flight:,}",
            styled(_rate(sum(bad.values())), "red") if bad else "",
            ", ".join(sorted(bad, key=lambda code: -bad[code])),
        )
    return shown


def _stages(now: "Vitals") -> RenderableType:
    shown = table("", "stage", "per s", "p50 ms", "p99 ms")
    for stage, one in now.stages.items():
        if one.per_s:
            shown.add_row(stage, _rate(one.per_s), _ms(one.p50_ms), _ms(one.p99_ms))
    return shown if shown.row_count else Text()


def _sentences(now: "Vitals") -> Iterator[Text]:
    """What is worth a line, and nothing of what did not happen."""
    answers = sum(now.answers.values())
    if answers:
        yield Text(
            "predictions rest on: "
            + ", ".join(f"{name} {rate / answers:.1%}" for name, rate in now.answers.items())
        )
    for what, shares in (("item vectors", now.vectors), ("what is known of items", now.items)):
        if shares:
            yield Text(f"{what}: " + ", ".join(f"{s:.1%} {name}" for name, s in shares.items()))
    if now.rows_a_batch:
        of = (f"{model} {rows:.1f}" for model, rows in now.rows_a_batch.items())
        yield Text("rows a batch: " + ", ".join(of))
    if now.rows_under_way:
        yield Text(f"rows under way: {now.rows_under_way:,}")
    if now.refusals_per_s:
        by = ", ".join(f"{_rate(rate)}/s {name}" for name, rate in now.refusals_per_s.items())
        yield Text(f"refused for want of room: {by}", "yellow")
    happened = [
        (now.adopted, "version adopted", "versions adopted", ""),
        (now.models_refused, "version refused", "versions refused", "red"),
        (now.triton_repairs, "model loaded again", "models loaded again", "red"),
        (now.triton_restarts, "Triton replaced", "Tritons replaced", "red"),
        (now.workers_replaced, "worker replaced", "workers replaced", "red"),
        (now.late_rows, "row executed too late", "rows executed too late", "red"),
    ]
    for count, one, many, style in happened:
        if count:
            yield Text(counted(count, one, many), style)
    if now.trial is not None:
        yield _trial(now.trial)


def _trial(trial: "TrialVitals") -> Text:
    told = [f"version {trial.version} is on trial: {_rate(trial.answers_per_s)}/s answered"]
    told.append(f"{_rate(trial.compared_per_s)}/s compared")
    if trial.failed_per_s:
        told.append(f"{_rate(trial.failed_per_s)}/s failed")
    if trial.flip_share is not None:
        told.append(f"{trial.flip_share:.2%} of items flip")
    if trial.rank_correlation is not None:
        told.append(f"rank correlation {trial.rank_correlation:.3f}")
    return Text(", ".join(told))


def _rate(per_s: float) -> str:
    return f"{per_s:,.0f}" if per_s >= 100 else f"{per_s:.1f}"


def _ms(found: float | None) -> str:
    if found is None:
        return ""
    return f"{found:,.0f}" if found >= 100 else f"{found:.1f}"
