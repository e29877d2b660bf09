"""What looks wrong is named, and stops a build where the limits say so."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from shopcast_build.data.cleaning import clean
from shopcast_build.data.errors import DataError
from shopcast_build.data.log import CleanLog
from shopcast_build.data.mapping import Mapping, parse_mapping
from shopcast_build.data.report import Suspicion
from shopcast_build.data.thresholds import check_limits

START = datetime(2024, 3, 1, 0, 7, 11, tzinfo=UTC)


def event(n: int, **changes: Any) -> dict[str, Any]:
    """An ordinary event: an account, an item and an hour of its own."""
    usual = {
        "platform": "shop",
        "platform_user_id": f"secret-{n}",
        "time": START + timedelta(hours=n),
        "kind": "view",
        "item_id": f"item-{n % 50}",
        "title": f"Thing {n % 50}",
        "price": 5.0 + n % 50,
    }
    return usual | changes


def read(folder: Path, rows: list[dict[str, Any]], mapping: Mapping | None = None) -> CleanLog:
    pl.DataFrame(rows).write_parquet(folder / "log.parquet")
    return clean([folder / "log.parquet"], mapping or Mapping())


def found(log: CleanLog, name: str) -> Suspicion:
    (one,) = (one for one in log.report.suspicious if one.name == name)
    assert "secret" not in repr(one)
    return one


def names(log: CleanLog) -> set[str]:
    """Of what is suspicious; that there are views alone is not what these tests are about."""
    return {one.name for one in log.report.suspicious} - {"nothing to tell apart"}


def limits(**values: Any) -> Any:
    return Mapping.model_validate({"limits": values}).limits


def test_an_ordinary_log_is_not_suspected(tmp_path: Path) -> None:
    views = [event(n, platform="ab"[n % 2]) for n in range(400)]
    buys = [view | {"kind": "buy", "time": view["time"] + timedelta(minutes=5)} for view in views]
    log = read(tmp_path, [*views, *buys[:200]])
    assert log.report.suspicious == ()
    check_limits(log.report, Mapping().limits)


def test_a_log_that_a_build_refuses_is_named(tmp_path: Path) -> None:
    buys = [event(n, kind="buy") for n in range(100)]
    assert "ends in a buy" in found(read(tmp_path, buys), "nothing to tell apart").sentence
    views = [event(n) for n in range(100)]
    assert "ends in a view" in found(read(tmp_path, views), "nothing to tell apart").sentence
    returned = [*buys, event(1, kind="return", time=START + timedelta(days=9))]
    for rows in (returned, [event(0), event(0, kind="buy", time=START + timedelta(minutes=1))]):
        told = {one.name for one in read(tmp_path, rows).report.suspicious}
        assert not told & {"nothing to tell apart", "no texts"}
    bare = read(tmp_path, [row | {"title": None} for row in returned])
    assert "a build refuses" in found(bare, "no texts").sentence


def test_files_of_a_folder_that_cannot_be_read(tmp_path: Path) -> None:
    for name in ("b.csv.zst", "a.txt", "mapping.toml", "README.md", "_SUCCESS", ".x.crc"):
        (tmp_path / name).write_bytes(b"?")
    (tmp_path / "log.zip").mkdir()
    pl.DataFrame([event(n) for n in range(40)]).write_parquet(tmp_path / "log.parquet")
    one = found(clean([tmp_path], Mapping()), "files that were not read")
    assert (one.platform, one.rows, one.of) == (None, 2, 3)
    assert one.sentence.endswith("are left out: a.txt, b.csv.zst.")
    pattern = tmp_path.parent / f"{tmp_path.name}*"
    assert found(clean([pattern], Mapping()), "files that were not read") == one
    assert not names(clean([tmp_path / "log.parquet"], Mapping()))


def test_one_platform_with_nearly_everything(tmp_path: Path) -> None:
    rows = [event(n, platform="web" if n else "app") for n in range(200)]
    log = read(tmp_path, rows)
    one = found(log, "one platform has nearly everything")
    assert (one.platform, one.rows, one.of) == ("web", 199, 200)
    assert one.sentence.startswith("web has 99.5% of all events")
    with pytest.raises(DataError, match=r"199 of 200 events are of the platform web .99\.5%."):
        check_limits(log.report, limits(max_platform_share=0.99))


def test_a_platform_whose_log_ends_before_the_others(tmp_path: Path) -> None:
    rows = [event(n, platform="ab"[n % 2]) for n in range(600)]
    early = [
        row for row in rows if row["platform"] == "a" or row["time"] < START + timedelta(days=5)
    ]
    one = found(read(tmp_path, early), "a log that ends early")
    assert (one.platform, one.rows, one.of) == ("b", 60, 360)
    assert one.sentence.startswith("The log of b ends on 2024-03-05, 19 days before that of all")
    almost = [
        row for row in rows if row["platform"] == "a" or row["time"] < START + timedelta(days=23.5)
    ]
    assert "a log that ends early" not in {s.name for s in read(tmp_path, almost).report.suspicious}


def test_all_events_of_one_person(tmp_path: Path) -> None:
    log = read(tmp_path, [event(n, platform_user_id="secret") for n in range(30)])
    assert found(log, "one account").sentence == "All 30 events are of one account."
    with pytest.raises(DataError, match=r"only 1 account, .* platform_user_id"):
        check_limits(log.report, Mapping().limits)


def test_an_account_that_does_very_much(tmp_path: Path) -> None:
    rows = [event(n, platform_user_id=f"secret-{n if n % 5 else 0}") for n in range(1_500)]
    log = read(tmp_path, rows)
    one = found(log, "one account does very much")
    assert (one.rows, one.of) == (300, 1_500)
    with pytest.raises(DataError, match=r"300 of 1,500 events are of one account \(20%\)"):
        check_limits(log.report, limits(max_account_share=0.1))


def test_a_class_with_three_examples(tmp_path: Path) -> None:
    rows = [event(n) for n in range(100)]
    rows += [event(n, kind="buy") for n in range(100)]
    rows += [event(n, kind="return", time=START + timedelta(days=20 + n)) for n in range(3)]
    log = read(tmp_path, rows)
    assert found(log, "few examples of a kind").sentence.startswith("The log has only 3 return ev")
    with pytest.raises(DataError, match=r"only 3 return events, fewer than the 50 .*min_returns"):
        check_limits(log.report, limits(min_returns=50))


def test_an_item_with_fifty_titles(tmp_path: Path) -> None:
    rows = [event(n) for n in range(60)]
    rows += [event(n, item_id="reused", title=f"Other {n % 50:02}") for n in range(100)]
    one = found(read(tmp_path, rows), "items with very many titles")
    assert (one.rows, one.of) == (1, 51)
    assert one.examples == ("reused (50 titles): Other 00; Other 01; Other 02",)


@pytest.mark.parametrize(
    ("renamed", "before", "suspected"), [(60, True, True), (49, True, False), (60, False, False)]
)
def test_titles_that_items_got_by_coming_back(
    tmp_path: Path, renamed: int, before: bool, suspected: bool
) -> None:
    rows = []
    for n in range(100):
        item = event(n, item_id=f"coat-{n}", title="Coat" if before else None)
        rows += [item, item | {"kind": "buy"}]
        rows.append(item | {"kind": "return", "time": item["time"] + timedelta(days=3)})
        for day in (5, 6) if n < renamed else ():
            title = {"title": "Coat, used", "platform_user_id": f"secret-other-{n}"}
            rows.append(item | title | {"time": item["time"] + timedelta(days=day)})
    log = read(tmp_path, rows)
    assert ("titles that a return gives" in names(log)) == suspected
    if suspected:
        one = found(log, "titles that a return gives")
        assert (one.platform, one.rows, one.of) == ("shop", 60, 100)
        assert "Of 100 items of shop that came back 60 are described by a title" in one.sentence


def test_times_without_a_time_of_day(tmp_path: Path) -> None:
    day = datetime(2024, 1, 1)
    rows = [event(n, time=str((day + timedelta(days=n)).date())) for n in range(300)]
    log = read(tmp_path, rows, parse_mapping('[time]\nzone = "Europe/Paris"', "test"))
    # Local midnight is 22 or 23 h UTC.
    assert log.events["time"].dt.hour().unique().sort().to_list() == [22, 23]
    assert found(log, "times without a time of day").rows == 300


def purchases(returns_after: timedelta, n: int = 60) -> list[dict[str, Any]]:
    rows = []
    for k in range(n):
        at = START + timedelta(days=k % 30, hours=k % 7)
        rows.append(event(k, kind="buy", time=at))
        rows.append(event(k, kind="return", time=at + returns_after))
    return rows


def test_a_wrong_zone_that_puts_returns_before_purchases(tmp_path: Path) -> None:
    # Goods came back after 40 minutes, and the returns desk wrote times of New York as UTC.
    log = read(tmp_path, purchases(timedelta(minutes=40) - timedelta(hours=5)))
    one = found(log, "returns before their purchases")
    assert (one.rows, one.of) == (60, 60)
    assert "reading returns 5 h later, or purchases 5 h earlier" in one.sentence
    with pytest.raises(DataError, match=r"60 of 60 returns precede .* 5 h later"):
        check_limits(log.report, Mapping().limits)
    check_limits(log.report, limits(max_early_return_share=1.0))


def test_returns_in_order_or_no_hours_before_a_later_purchase_are_fine(tmp_path: Path) -> None:
    # Nine minutes: an invoice that was written anew, as shops do whose own clock is right.
    for after in (timedelta(hours=3), -timedelta(days=9), -timedelta(minutes=9)):
        log = read(tmp_path, purchases(after))
        assert "returns before their purchases" not in {s.name for s in log.report.suspicious}
        check_limits(log.report, Mapping().limits)


def test_the_wrong_zone_of_one_source_is_found_and_the_right_one_cures_it(tmp_path: Path) -> None:
    rows = purchases(timedelta(hours=1))
    for kind, zone in (("buy", "UTC"), ("return", "America/New_York")):
        frame = pl.DataFrame([row for row in rows if row["kind"] == kind])
        local = pl.col("time").dt.convert_time_zone(zone).dt.replace_time_zone(None)
        frame.with_columns(local).write_parquet(tmp_path / f"{kind}.parquet")

    def mapping(zone: str) -> Mapping:
        sources = [{"files": ["buy.parquet"]}, {"files": ["return.*"], "time": {"zone": zone}}]
        return Mapping.model_validate({"source": sources})

    wrong = clean([tmp_path], mapping("UTC"))
    assert "4 h later" in found(wrong, "returns before their purchases").sentence
    assert clean([tmp_path], mapping("America/New_York")).report.early_returns == 0


def test_returns_of_purchases_nobody_knows(tmp_path: Path) -> None:
    rows = [event(n, kind="return") for n in range(40)] + [event(n) for n in range(40)]
    one = found(read(tmp_path, rows), "returns without a purchase")
    assert (one.rows, one.of) == (40, 40)


def test_nearly_the_same_event_under_two_ids(tmp_path: Path) -> None:
    rows = [event(n, event_id=f"e{n}") for n in range(100)]
    rows += [
        event(n, event_id=f"again-{n}", time=START + timedelta(hours=n, milliseconds=900))
        for n in range(10)
    ]
    rows += [
        event(n, event_id=f"later-{n}", time=START + timedelta(hours=n, seconds=5))
        for n in range(20, 30)
    ]
    log = read(tmp_path, rows)
    one = found(log, "nearly the same event twice")
    assert (one.rows, one.of) == (10, 120)
    assert one.examples[0] == "view of item-0 at 2024-03-01 00:07:11"
    assert log.report.duplicates == 0
    assert one.sentence.endswith("within 1 s under another id, or without one.")


def test_codes_that_are_no_items_come_with_a_rule_that_drops_them(tmp_path: Path) -> None:
    rows = [event(n) for n in range(200)]
    rows += [event(n, item_id="POST", title="POSTAGE", price=18.0) for n in range(30)]
    rows += [event(n, item_id="9(1)", title="Bank charges", price=float(4**n)) for n in range(12)]
    rows += [event(300, item_id="real", title="Postage stamp album", price=9.0)]
    mapping = parse_mapping('[item_id]\ncolumn = "item_id"', "test")
    one = found(read(tmp_path, rows, mapping), "codes that look like no items")
    assert (one.rows, one.of) == (42, 243)
    assert one.examples == ("POST (POSTAGE): 30", "9(1) (Bank charges): 12")
    rule = one.advice.partition("leave them out: ")[2]
    again = read(tmp_path, rows, parse_mapping(rule, "rule"))
    assert again.report.dropped == {"not an item": 42}
    assert "codes that look like no items" not in {s.name for s in again.report.suspicious}


@pytest.mark.parametrize(("column", "what"), [("price", "prices"), ("quantity", "quantities")])
def test_many_numbers_that_cannot_be_read_come_with_what_to_do(
    tmp_path: Path, column: str, what: str
) -> None:
    rows = [event(n, platform="ab"[n % 2]) | {column: "1"} for n in range(400)]
    for row in rows[:20]:
        row[column] = "12,50"
    one, other = (
        one for one in read(tmp_path, rows).report.suspicious if one.name == f"many {what} repaired"
    )
    assert (one.platform, one.rows, one.of, other.platform) == ("a", 10, 200, "b")
    assert one.sentence.startswith(f"10 {what} of a are no numbers")
    assert 'decimal = ","' in one.advice
    assert one.examples == (), "they may be of the other platform"
    for row in rows[1:20:2]:
        row[column] = "1"
    alone = found(read(tmp_path, rows), one.name)
    assert alone.examples[0] == "row 1 of log.parquet: 12,50"
    rows[0][column] = "1"
    assert not names(read(tmp_path, rows))


def test_too_much_dropped(tmp_path: Path) -> None:
    rows = [event(n, platform_user_id=None if n % 2 else f"u{n}") for n in range(100)]
    log = read(tmp_path, rows)
    with pytest.raises(DataError, match=r"50 of 100 rows were dropped .*platform data check"):
        check_limits(log.report, limits(max_dropped_share=0.4))


def test_the_mappings_limit_on_bad_rows_holds_unless_another_is_given(tmp_path: Path) -> None:
    rows = [event(n, kind="view" if n % 10 else "?") for n in range(100)]
    with pytest.raises(DataError, match=r"10 of 100 rows \(10%\) .*more than the 1% allowed"):
        read(tmp_path, rows)
    allowed = Mapping.model_validate({"limits": {"max_bad_share": 0.1}})
    assert read(tmp_path, rows, allowed).report.bad == {"unknown kind": 10}
    with pytest.raises(DataError, match=r"more than the 5% allowed"):
        clean([tmp_path / "log.parquet"], allowed, max_bad_share=0.05)


def test_a_small_limit_is_not_told_as_none(tmp_path: Path) -> None:
    read(tmp_path, [event(n, kind="view" if n else "?") for n in range(2000)])
    with pytest.raises(DataError, match=r"\(0\.05%\) cannot be used, more than the 0\.01% allowed"):
        clean([tmp_path / "log.parquet"], Mapping(), max_bad_share=0.0001)
