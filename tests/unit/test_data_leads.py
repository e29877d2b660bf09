"""Where a platform is asked: at views and carts, or at orders, and never at both."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import roc_auc_score

from shopcast_build.data import leads
from shopcast_build.data.cleaning import clean
from shopcast_build.data.leads import count_leads
from shopcast_build.data.log import CleanLog
from shopcast_build.data.mapping import Mapping
from shopcast_build.data.people import resolve_people
from shopcast_build.learning.preparation import make_timeline
from shopcast_build.learning.settings import BuildSettings
from shopcast_domain.events import Outcome

START = datetime(2024, 3, 1, tzinfo=UTC)
Row = tuple[str, int, str, float]
"""Platform, number of the account and the item, kind, hours after START."""


def read(folder: Path, rows: list[Row]) -> CleanLog:
    pl.DataFrame(
        {
            "platform": [row[0] for row in rows],
            "platform_user_id": [f"secret-{row[1]}" for row in rows],
            "item_id": [f"i{row[1]}" for row in rows],
            "title": [f"thing {row[1]}" for row in rows],
            "kind": [row[2] for row in rows],
            "time": [START + timedelta(hours=row[3]) for row in rows],
        }
    ).write_parquet(folder / "log.parquet")
    return clean([folder / "log.parquet"], Mapping())


def bought(platform: str, led: int, unled: int, views: int = 0) -> list[Row]:
    rows: list[Row] = []
    for n in range(led):
        rows += [(platform, n, "view" if n % 2 else "cart", n), (platform, n, "buy", n + 1)]
    for n in range(led, led + unled):
        # One that follows too late is as good as none, and so is one of something else.
        rows += [(platform, n, "view", n), (platform, n, "buy", n + 25), (platform, -n, "view", n)]
    return rows + [(platform, 1000 + n, "view", n) for n in range(views)]


def asked(log: CleanLog) -> dict[str, str]:
    return {one.platform: one.asked for one in log.report.by_platform}


def test_a_platform_is_asked_where_half_of_its_purchases_begin(tmp_path: Path) -> None:
    rows = [
        *bought("half", 20, 20),
        *bought("less", 19, 21, views=500),
        *(row for row in bought("orders", 20, 0) if row[2] == "buy"),
        *bought("views", 0, 0, views=5),
        *bought("all", 20, 0),
    ]
    log = read(tmp_path, rows)
    assert asked(log) == {
        "all": "asked at views and carts",
        "half": "asked at views and carts; 20 purchases without a view left out",
        "less": "asked at orders",
        "orders": "asked at orders",
        "views": "asked at views and carts",
    }
    assert [log.platforms[code] for code in log.browsed] == ["all", "half", "views"]
    _, exposures, platforms = make_timeline(log, resolve_people(log.accounts, None), SETTINGS)
    of = dict(exposures.group_by("platform").agg("outcome").iter_rows())
    found = {platforms[code]: set(outcomes) for code, outcomes in of.items()}
    assert found["less"] == found["orders"] == {Outcome.BUY}
    assert len(of[platforms.index("less")]) == 40
    assert len(of[platforms.index("half")]) == 20 + 2 * 20


SETTINGS = BuildSettings()


@pytest.mark.parametrize(
    ("led", "unled", "fate"),
    [(80, 20, "left out of what is learned"), (20, 80, "its views are history only")],
)
def test_purchases_without_a_view_are_named(
    tmp_path: Path, led: int, unled: int, fate: str
) -> None:
    log = read(tmp_path, bought("shop", led, unled))
    (one,) = (one for one in log.report.suspicious if one.name == "purchases without a view")
    assert (one.platform, one.rows, one.of) == ("shop", unled, 100)
    assert f"{unled}% of the purchases of shop follow no view or cart" in one.sentence
    assert fate in one.sentence


def test_few_purchases_without_a_view_are_not_suspected(tmp_path: Path) -> None:
    for rows in (bought("shop", 90, 10), [("shop", n, "buy", n) for n in range(100)]):
        names = {one.name for one in read(tmp_path, rows).report.suspicious}
        assert "purchases without a view" not in names


def test_leads_are_the_same_in_parts_of_any_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = read(tmp_path, bought("a", 10, 7) + bought("b", 3, 9))
    whole = count_leads(log.events, log.platforms, timedelta(days=1))
    monkeypatch.setattr(leads, "PART_ROWS", 5)
    assert count_leads(log.events, log.platforms, timedelta(days=1)) == whole
    assert [(one.buys, one.unled) for one in whole] == [(17, 7), (12, 9)]


def test_no_price_tells_that_a_purchase_has_no_view(tmp_path: Path) -> None:
    """Prices move from day to day and outcomes are tosses of a coin, so no price can tell them."""
    rng = np.random.default_rng(1)
    base = np.round(rng.uniform(5, 50, 300), 2)
    rows = []
    for _ in range(4_000):
        person, item = rng.integers(800), int(rng.integers(300))
        at = START + timedelta(minutes=float(rng.uniform(0, 120 * 1440)))
        price = round(base[item] * rng.uniform(0.9, 1.1), 2)
        kinds = [("buy", at)]
        if rng.random() > 0.06:
            kinds = [("view", at)]
            if rng.random() < 0.15:
                kinds.append(("buy", at + timedelta(minutes=30)))
        rows += [("shop", f"u{person}", f"i{item}", time, kind, price) for kind, time in kinds]
    names = ("platform", "platform_user_id", "item_id", "time", "kind", "price")
    frame = pl.DataFrame(rows, names, orient="row").with_columns(title=pl.col("item_id"))
    frame.write_parquet(tmp_path / "log.parquet")
    log = clean([tmp_path / "log.parquet"], Mapping())
    _, exposures, _ = make_timeline(log, resolve_people(log.accounts, None), SETTINGS)
    bought = exposures["outcome"] != Outcome.VIEW
    assert 300 < bought.sum() < 1_000
    assert roc_auc_score(bought, exposures["price"].is_null()) == pytest.approx(0.5)
