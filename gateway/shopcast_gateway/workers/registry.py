"""What workers count in files and the process that looks after them counts itself, as one."""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.samples import Sample


class PoolRegistry(CollectorRegistry):
    """Metrics of this process are registered as ever. Where workers count under the same name, both
    are added up: there each is a count, a histogram or a level that is a sum."""

    def __init__(self, folder: Path) -> None:
        """folder: of prometheus_client's files, which the workers write."""
        super().__init__()
        self._workers = CollectorRegistry()
        MultiProcessCollector(self._workers, path=str(folder))

    def collect(self) -> Iterator[Metric]:
        """At each scrape."""
        ours = {metric.name: metric for metric in super().collect()}
        for theirs in self._workers.collect():
            mine = ours.pop(theirs.name, None)
            yield theirs if mine is None else _sum(theirs, mine)
        yield from ours.values()


def _sum(one: Metric, other: Metric) -> Metric:
    total: defaultdict[tuple[str, tuple[tuple[str, str], ...]], float] = defaultdict(float)
    for sample in (*one.samples, *other.samples):
        if not sample.name.endswith("_created"):  # a time; files hold none
            total[sample.name, tuple(sorted(sample.labels.items()))] += sample.value
    summed = Metric(one.name, one.documentation, one.type)
    summed.samples = [Sample(name, dict(labels), value) for (name, labels), value in total.items()]
    return summed
