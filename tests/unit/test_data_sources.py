"""One build from several kinds of files, in several formats and currencies."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import xlsxwriter

from shopcast_build.data.cleaning import clean
from shopcast_build.data.errors import DataError
from shopcast_build.data.mapping import Mapping, load_mapping
from shopcast_build.data.preview import preview
from shopcast_build.data.reading import scan

EXAMPLE = Path(__file__).parents[2] / "examples" / "several_sources.toml"


@pytest.fixture
def exports(tmp_path: Path) -> Path:
    """What the example says it maps: a web shop, tills, and an app."""
    for name in ("web_shop", "tills", "app"):
        (tmp_path / name).mkdir()
    (tmp_path / "web_shop" / "2026-01.csv").write_text(
        "Kunde;Zeitpunkt;Artikel;Bezeichnung;Preis;Aktion\n"
        "k1;05.01.2026 10:00:00;a1;Grüner Schuh;50,00;Kauf\n"
        "k1;06.01.2026 10:00:00;a1;Grüner Schuh;50,00;Rückgabe\n",
        encoding="cp1252",
    )
    with xlsxwriter.Workbook(tmp_path / "tills" / "2026.xlsx") as book:
        pl.DataFrame({"note": ["made by the till"]}).write_excel(book, "Read me")
        pl.DataFrame(
            {
                "Loyalty card": [7001, 7001, None],
                "Till time": [datetime(2026, 1, day, 9) for day in (5, 7, 8)],
                "SKU": ["0042", "0042", "0042"],
                "Unit price": [10.0, 10.0, 10.0],
                "Qty": [2, -2, 1],
            }
        ).write_excel(book, "Lines")
    events = [
        {"currency": "CHF", "price": 20, "item_id": "x1"},
        {"currency": "USD", "price": 30, "item_id": "x2"},
        {"currency": None, "price": 30, "item_id": "x3"},
    ]
    usual = {"platform": "app", "platform_user_id": "u", "time": "2026-01-09T10:00:00Z"}
    lines = [json.dumps(usual | {"kind": "view"} | event) for event in events]
    (tmp_path / "app" / "events.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_the_example_reads_three_platforms_into_one_log(exports: Path) -> None:
    log = clean([exports], load_mapping(EXAMPLE))
    rows = log.named().select("time", "platform", "user", "kind", "item_id", "price", "quantity")
    assert rows.rows() == [
        (datetime(2026, 1, 5, 9, tzinfo=UTC), "stores_uk", "7001", "buy", "0042", 11.5, 2),
        (datetime(2026, 1, 5, 9, tzinfo=UTC), "web_shop", "k1", "buy", "a1", 50.0, 1),
        (datetime(2026, 1, 6, 9, tzinfo=UTC), "web_shop", "k1", "return", "a1", 50.0, 1),
        (datetime(2026, 1, 7, 9, tzinfo=UTC), "stores_uk", "7001", "return", "0042", 11.5, 2),
        (datetime(2026, 1, 9, 10, tzinfo=UTC), "app", "u", "view", "x1", 21.0, 1),
        (datetime(2026, 1, 9, 10, tzinfo=UTC), "app", "u", "view", "x2", None, 1),
        (datetime(2026, 1, 9, 10, tzinfo=UTC), "app", "u", "view", "x3", None, 1),
    ]
    report = log.report
    assert log.items["title"].to_list()[-1] == "Grüner Schuh"
    assert report.files == ("events.jsonl", "2026.xlsx [Lines]", "2026-01.csv")
    assert report.dropped == {"no loyalty card": 1}
    unknown = "price in a currency without a rate (removed)"
    assert report.repaired == {unknown: 2}
    assert report.examples[unknown] == (
        "row 2 of events.jsonl: USD",
        "row 3 of events.jsonl: no currency",
    )
    by_name = {one.platform: one for one in report.by_platform}
    assert by_name["app"].repaired == {unknown: 2}
    assert by_name["stores_uk"].dropped == {"no loyalty card": 1}
    assert by_name["stores_uk"].currencies == {"GBP": 2}


def test_a_file_that_no_source_covers_is_named(exports: Path) -> None:
    (exports / "till.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match=r"No \[\[source\]\] .* covers .*till\.csv; add a pattern"):
        clean([exports], load_mapping(EXAMPLE))


def test_a_file_that_two_sources_cover_is_named(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("a,b\n1,2\n")
    mapping = Mapping.model_validate({"source": [{"files": ["*.csv"]}, {"files": ["log.*"]}]})
    with pytest.raises(DataError, match=r"2 \[\[source\]\] tables .* cover .*\(\*\.csv and log"):
        clean([tmp_path], mapping)


def test_both_sheets_of_a_workbook_are_one_log_unless_one_is_named(tmp_path: Path) -> None:
    row = {
        "platform": "shop", "platform_user_id": "u", "kind": "buy", "item_id": "i",
    }  # fmt: skip
    with xlsxwriter.Workbook(tmp_path / "log.xlsx") as book:
        for year in (2010, 2011):
            frame = pl.DataFrame([row | {"time": datetime(year, 5, 1, 12, 30)}])
            frame.write_excel(book, f"Year {year}")
    both = clean([tmp_path], Mapping())
    assert [time.year for time in both.events["time"]] == [2010, 2011]
    one = clean([tmp_path], Mapping(sheet="Year 2011"))
    assert [time.year for time in one.events["time"]] == [2011]
    with pytest.raises(DataError, match="no sheet 2012; it has Year 2010, Year 2011"):
        clean([tmp_path], Mapping(sheet="2012"))


def test_formats_can_be_mixed(tmp_path: Path) -> None:
    row = {
        "platform": "shop", "platform_user_id": "007", "time": "2020-01-01 10:00",
        "kind": "buy", "item_id": "i",
    }  # fmt: skip
    frame = pl.DataFrame([row])
    frame.write_excel(tmp_path / "1.xlsx")
    frame.write_csv(tmp_path / "2.csv")
    frame.write_parquet(tmp_path / "3.parquet")
    frame.write_ndjson(tmp_path / "4.jsonl")
    log = clean([tmp_path / "*.[cj]s*", tmp_path / "1.xlsx", tmp_path / "3.parquet"], Mapping())
    assert log.report.kept == 4
    assert log.accounts.rows() == [("shop", "007")]


def test_a_decimal_comma_is_of_texts_and_not_of_numbers_of_json(tmp_path: Path) -> None:
    row = {"platform": "shop", "platform_user_id": "u", "time": "2020-01-01 10:00", "kind": "buy"}
    prices = {"a": ("1.234,50", 1234.5), "b": (12.345, 12.345), "c": (0.125, 0.125), "d": (7, 7)}
    for item, (written, _) in prices.items():
        line = json.dumps(row | {"item_id": item, "price": written})
        (tmp_path / f"{item}.jsonl").write_text(line + "\n")
    log = clean([tmp_path], Mapping(decimal=","))
    found = dict(log.items.select("item_id", "price").iter_rows())
    assert found == {item: price for item, (_, price) in prices.items()}


def test_currencies_that_nobody_converts_are_suspicious(tmp_path: Path) -> None:
    rows = [
        {"platform": p, "platform_user_id": "u", "time": "2020-01-01", "kind": "buy",
         "item_id": "i", "price": "10", "currency": c}
        for p, c in (("a", "eur"), ("a", "EUR"), ("b", "GBP"))
    ]  # fmt: skip
    pl.DataFrame(rows).write_csv(tmp_path / "log.csv")
    log = clean([tmp_path], Mapping())
    (found,) = (one for one in log.report.suspicious if one.name == "several currencies")
    assert (found.rows, found.of) == (1, 3)
    assert found.examples == ("a: EUR", "b: GBP")
    assert "[currencies]" in found.advice
    assert "requests and events" in found.advice
    table: Any = {"currencies": {"base": "eur", "rates": {"gbp": 2}}}
    converted = clean([tmp_path], Mapping.model_validate(table))
    assert converted.named().sort("platform")["price"].to_list() == [10.0, 10.0, 20.0]
    assert "several currencies" not in {one.name for one in converted.report.suspicious}


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-16"])
def test_other_encodings_are_read_when_named(tmp_path: Path, encoding: Any) -> None:
    text = "platform,platform_user_id,time,kind,item_id,title\nshop,u,2020-01-01,buy,i,Café\n"
    (tmp_path / "log.csv").write_bytes(text.encode(encoding))
    assert clean([tmp_path], Mapping(encoding=encoding)).items["title"].to_list() == ["Café"]
    with pytest.raises(DataError, match="`encoding`"):
        clean([tmp_path], Mapping())


def test_a_folder_of_many_files_tells_how_far_it_is(tmp_path: Path) -> None:
    row = "platform,platform_user_id,time,kind,item_id\nweb,u,2024-01-01T00:00:00Z,buy,i\n"
    for name in "abc":
        (tmp_path / f"{name}.csv").write_text(row)
    seen: list[tuple[int, int]] = []
    clean([tmp_path], Mapping(), progress=lambda *at: seen.append(at))
    tried: list[tuple[int, int]] = []
    preview(scan([tmp_path]), Mapping(), rows=10, progress=lambda *at: tried.append(at))
    assert seen == tried == [(1, 3), (2, 3), (3, 3)]
