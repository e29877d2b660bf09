"""What the size of a log does to the memory and the speed of a build, up to its features.

Run:  .venv/bin/python benchmarks/growth.py --people 50000 200000
      .venv/bin/python benchmarks/growth.py --simulations market market-large

Each log is one that `platform simulate` writes: three platforms, 30 events a person, identity
links. It is measured in a process of its own, with the functions that `platform build-model` calls.
Memory is read from /proc every tenth of a second and told apart: anonymous memory has to be there;
pages of files that are mapped are let go by the system when it needs the room, at the price of
reading them again. Times are of the processor, of one thread. Features are computed twice,
and faults of pages counted, so that what pages cost that are met for the first time is seen.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.table import Table

EXAMPLES = 200_000  # features are computed for the newest so many exposures
STAGES = ("clean", "people", "timeline and exposures", "features")
AGAIN = "features again"


class Memory:
    """Peaks of this process by stage, in MiB: stage -> RssAnon, RssFile."""

    def __init__(self) -> None:
        self.peaks: dict[str, dict[str, float]] = {}
        self.cpu_s: dict[str, float] = {}
        self.faults: dict[str, int] = {}
        self._stage = "start"
        threading.Thread(target=self._watch, daemon=True).start()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self._stage, began, faulted = name, time.process_time(), faults()
        yield
        self._look()
        self.cpu_s[name] = time.process_time() - began
        self.faults[name] = faults() - faulted

    def _watch(self) -> None:
        while True:
            self._look()
            time.sleep(0.1)

    def _look(self) -> None:
        stage, now = self._stage, resident_mib()
        peak = self.peaks.setdefault(stage, dict.fromkeys(now, 0.0))
        self.peaks[stage] = {kind: max(peak[kind], mib) for kind, mib in now.items()}


def faults() -> int:
    """Of pages, so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_minflt + used.ru_majflt


def resident_mib() -> dict[str, float]:
    lines = Path("/proc/self/status").read_text().splitlines()
    kinds = ("RssAnon", "RssFile")
    found = (line.split() for line in lines if line.startswith(kinds))
    return {name.rstrip(":"): int(kib) / 1024 for name, kib, _ in found}


def measure(folder: Path) -> dict[str, object]:
    """One simulation, in this process."""
    memory = Memory()
    # Imported here: what reading the libraries takes belongs to the process that is measured.
    from shopcast_build.data.cleaning import clean
    from shopcast_build.data.mapping import Mapping
    from shopcast_build.data.people import read_links, resolve_people
    from shopcast_build.learning.examples import build_examples
    from shopcast_build.learning.exposures import part, split_by_time
    from shopcast_build.learning.preparation import make_timeline
    from shopcast_build.learning.settings import BuildSettings

    settings = BuildSettings()
    with memory.stage("clean"):
        log = clean([folder / "events"], Mapping())
    with memory.stage("people"):
        people = resolve_people(log.accounts, read_links(folder / "links.csv"))
    with memory.stage("timeline and exposures"):
        timeline, exposures, _ = make_timeline(log, people, settings)
        events, last = len(log.events), log.report.last_time
        del log, people
        split = split_by_time(exposures, last, settings.exposures)
        newest = part(exposures, (split.train[0], split.test[1])).tail(EXAMPLES)
    for stage in ("features", AGAIN):
        with memory.stage(stage):
            build_examples(
                timeline,
                newest,
                feature_events=settings.history.feature_events,
                history_events=settings.history.events,
            )
    return {
        "events": events,
        "exposures": len(exposures),
        "cpu_s": memory.cpu_s,
        "faults": memory.faults,
        "examples": len(newest),
        "peaks": memory.peaks,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--people", type=int, nargs="+", default=[50_000, 200_000])
    what.add_argument("--simulations", type=Path, nargs="+", help="folders of platform simulate")
    what.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one)))
        return
    if options.simulations:
        found = [measured(folder) for folder in options.simulations]
    else:
        found = [simulated(people) for people in options.people]
    console = Console(width=110)
    console.print(memory_table(found))
    console.print(speed_table(found))


def simulated(people: int) -> dict:
    with tempfile.TemporaryDirectory(prefix="shopcast-growth-") as folder:
        platform = [sys.executable, "-m", "shopcast_cli", "simulate", "--format", "parquet"]
        subprocess.run(
            [*platform, "--out", folder, "--people", str(people)],
            check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        return measured(Path(folder))


def measured(folder: Path) -> dict:
    done = subprocess.run(
        [sys.executable, __file__, "--one", str(folder)],
        check=True, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "POLARS_MAX_THREADS": "1", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    print(done.stdout.strip(), file=sys.stderr)
    return json.loads(done.stdout)


def memory_table(found: list[dict]) -> Table:
    """Peaks of anonymous memory by stage, and of mapped files."""
    table = Table(title="Peaks of memory, MiB: anonymous by stage, and mapped files")
    for name in ("events", *STAGES, "mapped files"):
        table.add_column(name, justify="right")
    for one in found:
        peaks = [one["peaks"][stage]["RssAnon"] for stage in STAGES]
        files = max(peak["RssFile"] for peak in one["peaks"].values())
        table.add_row(f"{one['events']:,}", *(f"{mib:,.0f}" for mib in (*peaks, files)))
    if len(found) > 1:
        table.add_section()
        table.add_row(*growth(found))
    return table


def growth(found: list[dict]) -> list[str]:
    """Bytes an event from the last size but one to the last."""
    before, after = found[-2:]
    events = after["events"] - before["events"]
    slopes = [
        (after["peaks"][stage]["RssAnon"] - before["peaks"][stage]["RssAnon"]) * 2**20 / events
        for stage in STAGES
    ]
    return ["bytes an event", *(f"{slope:.0f}" for slope in slopes), ""]


def speed_table(found: list[dict]) -> Table:
    table = Table(title="Per second of the processor")
    for name in (
        "events",
        "cleaned",
        "to exposures",
        "examples",
        "the second time",
        "faults an example",
    ):
        table.add_column(name, justify="right")
    for one in found:
        seconds = one["cpu_s"]
        rates = (
            one["events"] / seconds["clean"],
            one["events"] / seconds["timeline and exposures"],
            one["examples"] / seconds["features"],
            one["examples"] / seconds[AGAIN],
        )
        faulted = (one["faults"][stage] / one["examples"] for stage in ("features", AGAIN))
        table.add_row(
            f"{one['events']:,}",
            *(f"{rate:,.0f}" for rate in rates),
            ", ".join(f"{each:.1f}" for each in faulted),
        )
    return table


if __name__ == "__main__":
    main()
