"""How well and how fast people are linked from their attributes.

Run:  .venv/bin/python benchmarks/linking.py --febrl febrl/ --people 130000

--febrl: folder of FEBRL's dataset4a.csv and dataset4b.csv; every record of one has its match in the
other. --people: simulated ones, in households of up to four who share surname, address and phone;
each has an account on either of two platforms with a chance of 0.77, so 130,000 people have about
200,000 accounts. In every field of an account one in ten is missing and one in ten mistyped; one
person in twenty has moved between the accounts. Nothing was chosen on either.
"""

import argparse
import resource
import string
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl
from rich.console import Console
from rich.table import Table

from shopcast_build.learning.reporter import Silent
from shopcast_build.linking.linkage import Linkage, link_people

THRESHOLDS = (0.5, 0.8, 0.9, 0.95, 0.99, 0.999, 0.9999)
FEBRL_COLUMNS = {"platform_user_id": ["rec_id"], "street": ["address_1"], "city": ["suburb"]}
OPENS = 0.77
MISSING = MISTYPED = 0.1
MOVED = 0.05


def write_febrl(source: Path, folder: Path) -> None:
    """FEBRL 4a and 4b as two platforms, without the number that nearly tells everybody apart."""
    for name in ("a", "b"):
        rows = pl.read_csv(source / f"dataset4{name}.csv", infer_schema=False)
        rows = rows.rename(str.strip).drop("soc_sec_id")
        rows.with_columns(platform=pl.lit(name)).write_csv(folder / f"{name}.csv")


def simulate(people: int, folder: Path, seed: int = 7) -> int:
    """Write the accounts of two platforms; returns how many people have one on both.

    A user id is the person's number, which only the judge looks at.
    """
    rng = np.random.default_rng(seed)
    household = np.sort(rng.integers(0, people * 5 // 11, people))

    def drawn(n: int, words: np.ndarray) -> np.ndarray:
        """Words, the first ones often and the last ones rarely."""
        return words[np.minimum((len(words) * rng.random(n) ** 3).astype(int), len(words) - 1)]

    def vocabulary(n: int, syllables: int) -> np.ndarray:
        parts = np.array([c + v for c in string.ascii_lowercase for v in "aeiou"])
        return np.array(["".join(rng.choice(parts, syllables)) for _ in range(n)])

    given, surnames = vocabulary(2_000, 3), vocabulary(20_000, 3)
    streets, cities = vocabulary(10_000, 4), vocabulary(500, 4)

    def addresses(n: int) -> dict[str, np.ndarray]:
        city = rng.integers(0, len(cities), n)
        return {
            "street": drawn(n, streets),
            "street_number": rng.integers(1, 120, n).astype(str),
            "city": cities[city],
            "postcode": (10_000 + city * 20 + rng.integers(0, 20, n)).astype(str),
        }

    homes = household.max() + 1
    shared = {
        "surname": drawn(homes, surnames),
        **addresses(homes),
        "phone": np.char.mod("%09d", rng.integers(0, 10**9, homes)),
    }
    born = np.datetime64("1940-01-01") + rng.integers(0, 24_000, people)
    known = {
        "given_name": drawn(people, given),
        "date_of_birth": np.datetime_as_string(born),
        **{name: values[household] for name, values in shared.items()},
    }
    moved = rng.random(people) < MOVED
    later = {name: np.where(moved, v, known[name]) for name, v in addresses(people).items()}
    opened = rng.random((2, people)) < OPENS
    for name, has, told in zip("ab", opened, (known, known | later), strict=True):
        fields = {field: _written(values[has], rng) for field, values in told.items()}
        accounts = {"platform": name, "platform_user_id": np.flatnonzero(has), **fields}
        pl.DataFrame(accounts).write_csv(folder / f"{name}.csv")
    return int(opened.all(axis=0).sum())


def _written(values: np.ndarray, rng: np.random.Generator) -> list[str | None]:
    """Values as people give them: some not at all, some with a letter wrong, lost or doubled."""
    chance = rng.random(len(values))
    at = rng.random(len(values))
    wrong = rng.choice(list(string.ascii_lowercase + string.digits), len(values))
    told: list[str | None] = []
    for text, dice, where, other in zip(values.tolist(), chance, at, wrong, strict=True):
        n = int(where * len(text))
        if dice < MISSING:
            told.append(None)
        elif dice < MISSING + MISTYPED:
            told.append(text[:n] + ("", other, text[n] * 2)[int(dice * 3_000) % 3] + text[n + 1 :])
        else:
            told.append(text)
    return told


def judge(linkage: Linkage, matches: int, seconds: float, number: str) -> Table:
    """number: a pattern of a user id's part that tells the person."""
    report = linkage.report
    table = Table(
        "confidence",
        "links",
        "precision",
        "recall",
        title=f"{sum(report.accounts.values()):,} accounts, {matches:,} matches: {seconds:.1f} s",
    )
    person, other = (
        pl.col(name).str.extract(number) for name in ("platform_user_id", "other_platform_user_id")
    )
    links = linkage.links.with_columns(right=person == other)
    for threshold in THRESHOLDS:
        kept = links.filter(pl.col("confidence") >= threshold)
        right = kept["right"].sum()
        shares = (f"{right / max(1, of):.4f}" for of in (len(kept), matches))
        table.add_row(f"{threshold}", f"{len(kept):,}", *shares)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--febrl", type=Path)
    parser.add_argument("--people", type=int, default=0)
    arguments = parser.parse_args()
    console = Console()
    for size in ("febrl", "people"):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            if size == "febrl" and arguments.febrl:
                write_febrl(arguments.febrl, folder)
                matches, columns, number = 5_000, FEBRL_COLUMNS, r"^rec-(\d+)-"
            elif size == "people" and arguments.people:
                matches, columns, number = simulate(arguments.people, folder), {}, r"(\d+)"
            else:
                continue
            began = time.perf_counter()
            linkage = link_people([folder], columns, min_confidence=0.5, reporter=Silent())
            seconds = time.perf_counter() - began
        console.print(judge(linkage, matches, seconds, number))
        console.print(linkage.report.to_json())
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        console.print(f"peak memory of the process so far: {peak:.1f} GiB")


if __name__ == "__main__":
    main()
