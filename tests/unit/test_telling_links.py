"""Links that only an outcome makes are named."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from shopcast_build.data.cleaning import clean
from shopcast_build.data.mapping import Mapping
from shopcast_build.data.report import Suspicion
from shopcast_build.data.telling_links import TELLING_LINKS, find_people

START = datetime(2024, 1, 1, tzinfo=UTC)


def found(folder: Path, events: list[tuple[str, str, str]], linked: list[int]) -> list[Suspicion]:
    """What is suspicious of a web shop's events (user, kind, item), some of whose visitors are
    linked with an account of the till."""
    keys = ("platform", "platform_user_id", "kind", "item_id")
    every: list[tuple[str, ...]] = [("web", *one) for one in events]
    every += [("till", f"t{n}", "buy", "x") for n in linked]
    times = pl.Series("time", [START + timedelta(minutes=n) for n in range(len(every))])
    rows = pl.DataFrame(every, schema=keys, orient="row").with_columns(times)
    rows.write_parquet(folder / "log.parquet")
    log = clean([folder / "log.parquet"], Mapping())
    ends = [
        {
            "platform": platform,
            "platform_user_id": f"{platform[0]}{n}",
            "identifier_kind": "email",
            "identifier_hash": f"{n:064x}",
        }
        for n in linked
        for platform in ("web", "till")
    ]
    links = folder / "links.csv"
    pl.DataFrame(ends).write_csv(links)
    people, report = find_people(log, links)
    assert people.count == log.report.accounts - len(linked)
    assert report.suspicious[: len(log.report.suspicious)] == log.report.suspicious
    return [one for one in report.suspicious if one.name == TELLING_LINKS]


def test_visitors_who_are_linked_as_they_pay(tmp_path: Path) -> None:
    looks = [(f"w{n}", "view", "i") for n in range(300)]
    buys = [(f"w{n}", "buy", "i") for n in range(120)]
    (one,) = found(tmp_path, looks + buys, list(range(120)))
    assert (one.platform, one.rows, one.of) == ("web", 120, 300)
    assert "100% of the accounts that are linked to others bought something" in one.sentence
    assert "of the rest 0%" in one.sentence


@pytest.mark.parametrize("share", [0.1, 0.9])
def test_visitors_who_are_linked_whatever_they_do(tmp_path: Path, share: float) -> None:
    looks = [(f"w{n}", "view", "i") for n in range(300)]
    buys = [(f"w{n}", "buy", "i") for n in range(300) if n % 10 < 10 * share]
    assert found(tmp_path, looks + buys, list(range(120))) == []


def test_customers_who_are_linked_as_they_send_something_back(tmp_path: Path) -> None:
    buys = [(f"w{n}", "buy", "i") for n in range(300)]
    returns = [(f"w{n}", "return", "i") for n in range(120)]
    (one,) = found(tmp_path, buys + returns, list(range(120)))
    assert "sent something back" in one.sentence
