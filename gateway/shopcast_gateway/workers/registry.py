"""What workers count in files and the process that looks after them counts itself, as one."""

import os
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import RestrictedRegistry
from prometheus_client.samples import Sample

METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""Environment variable by which prometheus_client keeps values in files, which processes share."""
_KINDS = ("counter", "histogram", "gauge_livesum")
_FILE_BYTES = 2**20  # many times what our few labels take: a file that grew would have holes again


def allocate(folder: Path) -> None:
    """Make the files of this process's values, with all their room. Raises OSError where there is
    none.

    prometheus_client makes them with holes and maps them into memory: with a full disk, who writes
    there is killed.
    """
    for kind in _KINDS:
        part = folder / f"{kind}_{os.getpid()}.part"
        try:
            with part.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, _FILE_BYTES)
        except OSError:
            for made in folder.glob(f"*_{os.getpid()}.*"):
                made.unlink()
            raise
        part.rename(part.with_suffix(".db"))  # who reads them finds none that is empty


class PoolRegistry(CollectorRegistry):
    """Metrics of this process are registered as ever. Where workers count under the same name, both
    are added up: there each is a count, a histogram or a level that is a sum."""

    def __init__(self, folder: Path) -> None:
        """folder: of prometheus_client's files, which the workers write."""
        super().__init__()
        self._folder, self._ended = folder, dict[str, Metric]()
        self._folding = threading.Lock()  # scrapes have threads of their own
        self._workers = CollectorRegistry()
        MultiProcessCollector(self._workers, path=str(folder))

    def fold(self, pid: int) -> None:
        """Keep what a process counted that has ended, in memory; its files go, and its levels."""
        with self._folding:
            files = list(self._folder.glob(f"*_{pid}.*"))
            counted = [str(file) for file in files if not file.name.startswith("gauge")]
            try:
                for metric in MultiProcessCollector.merge(counted):
                    before = self._ended.get(metric.name)
                    self._ended[metric.name] = metric if before is None else _sum(metric, before)
            finally:
                for file in files:
                    file.unlink()

    def collect(self) -> Iterator[Metric]:
        """At each scrape."""
        with self._folding:
            found = {metric.name: metric for metric in self._workers.collect()}
            ended = list(self._ended.values())
        for more in (*ended, *super().collect()):
            one = found.get(more.name)
            found[more.name] = more if one is None else _sum(one, more)
        yield from found.values()

    def restricted_registry(self, names: Iterable[str]) -> "RestrictedRegistry":
        """As of CollectorRegistry, which would ask for nothing that only workers count."""
        return _Restricted(names, self)


class _Restricted(RestrictedRegistry):
    def collect(self) -> Iterator[Metric]:
        for metric in self._registry.collect():
            some = Metric(metric.name, metric.documentation, metric.type)
            some.samples = [one for one in metric.samples if one.name in self._name_set]
            if some.samples:
                yield some


def _sum(one: Metric, other: Metric) -> Metric:
    total: defaultdict[tuple[str, tuple[tuple[str, str], ...]], float] = defaultdict(float)
    for sample in (*one.samples, *other.samples):
        if not sample.name.endswith("_created"):  # a time; files hold none
            total[sample.name, tuple(sorted(sample.labels.items()))] += sample.value
    summed = Metric(one.name, one.documentation, one.type)
    summed.samples = [Sample(name, dict(labels), value) for (name, labels), value in total.items()]
    return summed
