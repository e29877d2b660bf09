"""What it costs the event loop to record what becomes of a call.

.venv/bin/python benchmarks/recording.py
"""

import timeit
from collections.abc import Callable

from opentelemetry.sdk.trace import TracerProvider
from prometheus_client import CollectorRegistry

from shopcast_gateway.call_metrics import CallMetrics
from shopcast_gateway.core.protocol import Level
from shopcast_gateway.core.stages import STAGES, UNRECORDED, Spent, timed
from shopcast_gateway.stage_metrics import StageMetrics
from shopcast_gateway.tracing import OtlpTracer
from shopcast_gateway.transport.server import METHODS

TIMES = 50_000


def tell(what: str, run: Callable[[], None]) -> None:
    best_s = min(timeit.repeat(run, number=TIMES, repeat=5)) / TIMES
    print(f"{what:40} {best_s * 1e9:6.0f} ns")


def main() -> None:
    calls, method = CallMetrics(CollectorRegistry(), METHODS), METHODS[0]

    def call() -> None:
        calls.began(method)
        calls.ended(method, "OK", 0.02)

    tell("a call", call)
    tell("a call refused early", lambda: calls.refused(method, "RESOURCE_EXHAUSTED"))
    tell("a call of an unknown method", lambda: calls.refused("/x/y", "UNIMPLEMENTED"))
    stages = StageMetrics(CollectorRegistry())

    def unrecorded() -> None:
        with timed("score", UNRECORDED):
            pass

    def recorded() -> None:
        with timed("score", stages):
            pass

    tell("a stage, unrecorded", unrecorded)
    tell("a stage", recorded)
    tell("a batch", lambda: stages.batch("behavior", 8, 0))
    tell("vectors", lambda: stages.vectors("memory", 10))
    tell("an answer", lambda: stages.answer(Level.FULL, None))
    tell("a refusal", lambda: stages.refusal("early"))
    tracer, spent = OtlpTracer(TracerProvider(shutdown_on_exit=False)), Spent("00")
    for stage in STAGES:
        spent.add(stage, 0.001)
    metadata = (("traceparent", f"00-{'ab' * 16}-{'cd' * 8}-01"),)
    tell(
        "a call traced, with all its stages",
        lambda: tracer.begin(method, metadata, "r-1").end(0, spent),
    )


if __name__ == "__main__":
    main()
