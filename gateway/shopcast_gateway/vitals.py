"""How a gateway is doing, from two looks at its metrics."""

import math
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from http.client import HTTPException
from urllib.parse import urlsplit

from prometheus_client.parser import text_string_to_metric_families

from shopcast_gateway.transport.exposure import loopback_only

_MAX_BYTES = 16 << 20
_PACKAGE = "/shopcast.v1."
_COMMON_REASON = "none"

Labels = frozenset[tuple[str, str]]


class MetricsError(Exception):
    """Metrics cannot be had. One sentence says why."""


@dataclass(frozen=True, slots=True)
class Look:
    """The metrics of one moment. at_s: of the monotonic clock. samples: by name and labels."""

    at_s: float
    samples: Mapping[str, Mapping[Labels, float]] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Timing:
    """Of one stage or method. per_s: how many ended a second. p50_ms, p99_ms: interpolated within
    the buckets of the histogram; None where nothing ended."""

    per_s: float
    p50_ms: float | None
    p99_ms: float | None


@dataclass(frozen=True, slots=True)
class Method:
    """Calls of one method. codes: how many ended a second, by gRPC status. in_flight: now."""

    timing: Timing
    codes: Mapping[str, float]
    in_flight: int


@dataclass(frozen=True, slots=True)
class TrialVitals:
    """The version on trial, since it is on trial but for the rates. flip_share: of the items
    compared, those with another likeliest outcome. rank_correlation: the mean of Spearman's."""

    version: int
    answers_per_s: float
    compared_per_s: float
    failed_per_s: float
    flip_share: float | None
    rank_correlation: float | None


@dataclass(frozen=True, slots=True)
class Vitals:
    """One stretch of time. seconds: how long it was; all that ends in _per_s is a rate over it,
    and counts are of what happened in it.

    serving, wanted: versions, None for none. tritons: of several, whether each takes calls.
    methods: those that were called, by name. answers: predictions a second by what they rest on,
    such as 'FULL' or 'PRIOR (model away)'. items, vectors: shares by where they were.
    """

    seconds: float
    serving: int | None
    wanted: int | None
    refused: bool
    triton_up: bool
    tritons: Mapping[str, bool]
    workers: int | None
    methods: Mapping[str, Method]
    stages: Mapping[str, Timing]
    answers: Mapping[str, float]
    rows_under_way: int
    refusals_per_s: Mapping[str, float]
    late_rows: int
    rows_a_batch: Mapping[str, float]
    items: Mapping[str, float]
    vectors: Mapping[str, float]
    adopted: int
    models_refused: int
    triton_repairs: int
    triton_restarts: int
    workers_replaced: int
    trial: TrialVitals | None


def look_at(url: str, *, timeout_s: float = 5.0) -> Look:
    """Ask a gateway for its metrics. Raises MetricsError."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or parts.scheme not in ("http", "https"):
        raise MetricsError(f"{url} is no address of metrics: give it as http://HOST:PORT/metrics")
    here = loopback_only(host)  # which no proxy can reach
    proxies = [urllib.request.ProxyHandler({})] if here else []
    try:
        with urllib.request.build_opener(*proxies).open(url, timeout=timeout_s) as response:
            data = response.read(_MAX_BYTES)
        at_s = time.monotonic()
        return read_look(data.decode(), at_s)
    except urllib.error.URLError as error:
        reason = getattr(error.reason, "strerror", None) or str(error.reason)
    except (OSError, HTTPException) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
    except ValueError:
        reason = "what it says are no metrics of a gateway"
    raise MetricsError(
        f"{url} does not tell how the gateway is doing ({reason}): start it with `serve"
        " --metrics-port PORT`, or say where its metrics are with --metrics"
    )


def read_look(text: str, at_s: float) -> Look:
    """Metrics as Prometheus writes them. Raises ValueError where they are not a gateway's."""
    samples: dict[str, dict[Labels, float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            samples.setdefault(sample.name, {})[frozenset(sample.labels.items())] = sample.value
    if "shopcast_requests_total" not in samples:
        raise ValueError
    return Look(at_s, samples)


def vitals(before: Look, after: Look) -> Vitals:
    """What happened between two looks. A counter that has become less began anew in between."""
    stretch = _Stretch(before, after)
    now = stretch.now
    requests = stretch.grown("shopcast_requests_total")
    in_flight = now("shopcast_requests_in_flight")
    ended, running = _by("method", requests), _by("method", in_flight)
    methods = {
        name.removeprefix(_PACKAGE): Method(
            stretch.timing("shopcast_request_seconds", "method", name),
            stretch.per_s(_by("code", _only("method", name, requests))),
            int(running.get(name, 0)),
        )
        for name in sorted(ended)
        if ended[name] or running.get(name)
    }
    rows, calls = (
        _by("model", stretch.grown(f"shopcast_batch_rows_{what}")) for what in ("sum", "count")
    )
    return Vitals(
        seconds=stretch.seconds,
        serving=int(stretch.one("shopcast_model_version")) or None,
        wanted=int(stretch.one("shopcast_model_wanted_version")) or None,
        refused=stretch.one("shopcast_model_refused") > 0,
        triton_up=stretch.one("shopcast_triton_up") > 0,
        tritons={
            address: taking > 0
            for address, taking in _by("address", now("shopcast_triton_in_rotation")).items()
        },
        workers=int(stretch.one("shopcast_workers")) or None,
        methods=methods,
        stages={
            stage: stretch.timing("shopcast_stage_seconds", "stage", stage)
            for stage in _by("stage", now("shopcast_stage_seconds_count"))
        },
        answers=stretch.per_s(_answers(stretch.grown("shopcast_answers_total"))),
        rows_under_way=int(stretch.one("shopcast_admission_rows")),
        refusals_per_s=stretch.per_s(_by("by", stretch.grown("shopcast_refusals_total"))),
        late_rows=stretch.count("shopcast_late_executions_total"),
        rows_a_batch={model: rows[model] / calls[model] for model in rows if calls[model]},
        items=_shares(_by("from", stretch.grown("shopcast_items_total"))),
        vectors=_shares(_by("from", stretch.grown("shopcast_vectors_total"))),
        adopted=stretch.count("shopcast_model_adoptions_total"),
        models_refused=stretch.count("shopcast_model_refusals_total"),
        triton_repairs=stretch.count("shopcast_triton_repairs_total"),
        triton_restarts=stretch.count("shopcast_triton_restarts_total"),
        workers_replaced=stretch.count("shopcast_workers_replaced_total"),
        trial=_trial(stretch),
    )


class _Stretch:
    """What grew between two looks."""

    def __init__(self, before: Look, after: Look) -> None:
        self._before, self._after = before.samples, after.samples
        self.seconds = max(after.at_s - before.at_s, 1e-3)

    def now(self, name: str) -> Mapping[Labels, float]:
        return self._after.get(name, {})

    def one(self, name: str) -> float:
        return sum(self.now(name).values())

    def grown(self, name: str) -> dict[Labels, float]:
        before = self._before.get(name, {})
        found = {}
        for labels, value in self.now(name).items():
            gain = value - before.get(labels, 0.0)
            found[labels] = value if gain < 0 else gain
        return found

    def count(self, name: str) -> int:
        return round(sum(self.grown(name).values()))

    def per_s(self, grown: Mapping[str, float]) -> dict[str, float]:
        """Rates of what grew at all."""
        return {name: value / self.seconds for name, value in grown.items() if value}

    def timing(self, histogram: str, label: str, value: str) -> Timing:
        count = sum(_only(label, value, self.grown(f"{histogram}_count")).values())
        buckets = _by("le", _only(label, value, self.grown(f"{histogram}_bucket")))
        upto = sorted((float(bound), total) for bound, total in buckets.items())
        half, most = (quantile(upto, q) for q in (0.5, 0.99))
        return Timing(
            count / self.seconds,
            None if half is None else half * 1e3,
            None if most is None else most * 1e3,
        )


def quantile(buckets: Iterable[tuple[float, float]], q: float) -> float | None:
    """As Prometheus's histogram_quantile has it: linear within a bucket, and the bound below the
    last one for what is beyond all bounds. buckets: (bound, how many up to it), by bound, the last
    one infinite. None where there are none."""
    found = list(buckets)
    if not found or not found[-1][1]:
        return None
    rank = q * found[-1][1]
    low, below = 0.0, 0.0
    for bound, upto in found:
        if upto >= rank and upto > below:
            if math.isinf(bound):
                return low
            return low + (bound - low) * (rank - below) / (upto - below)
        low, below = bound, upto
    return low


def _trial(stretch: _Stretch) -> TrialVitals | None:
    version = stretch.one("shopcast_trial_version")
    if not version:
        return None
    results = stretch.per_s(_by("result", stretch.grown("shopcast_shadow_predictions_total")))
    items, flips = (stretch.one(f"shopcast_shadow_{what}_total") for what in ("items", "flips"))
    ranked = stretch.one("shopcast_shadow_rank_correlations_total")
    return TrialVitals(
        version=int(version),
        answers_per_s=stretch.count("shopcast_trial_answers_total") / stretch.seconds,
        compared_per_s=results.get("compared", 0.0),
        failed_per_s=results.get("failed", 0.0),
        flip_share=flips / items if items else None,
        rank_correlation=(
            stretch.one("shopcast_shadow_rank_correlation_sum") / ranked if ranked else None
        ),
    )


def _answers(grown: Mapping[Labels, float]) -> dict[str, float]:
    """By level, and by reason where it is not the common one."""
    found: dict[str, float] = {}
    for labels, value in grown.items():
        told = dict(labels)
        reason = told.get("reason", _COMMON_REASON)
        name = told.get("level", "")
        if reason != _COMMON_REASON:
            name += f" ({reason.lower().replace('_', ' ')})"
        found[name] = found.get(name, 0.0) + value
    return dict(sorted(found.items()))


def _only(label: str, value: str, samples: Mapping[Labels, float]) -> dict[Labels, float]:
    return {labels: found for labels, found in samples.items() if (label, value) in labels}


def _by(label: str, samples: Mapping[Labels, float]) -> dict[str, float]:
    """Sums by a label, in the order of its first occurrence."""
    found: dict[str, float] = {}
    for labels, value in samples.items():
        name = dict(labels).get(label)
        if name is not None:
            found[name] = found.get(name, 0.0) + value
    return found


def _shares(counts: Mapping[str, float]) -> dict[str, float]:
    total = sum(counts.values())
    return {name: count / total for name, count in counts.items()} if total else {}
