"""A mapping proposed for a file nobody described."""

import hashlib
import json
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from shopcast_build.data.cleaning import clean
from shopcast_build.data.errors import DataError
from shopcast_build.data.guesses import return_prefix, time_guess
from shopcast_build.data.mapping import Mapping, load_mapping
from shopcast_build.data.preview import preview
from shopcast_build.data.proposal import Proposal, propose
from shopcast_build.data.reading import files_of, scan, sniff_layout


def proposed(path: Path) -> Proposal:
    layouts = {file: sniff_layout(file) for file in files_of([path])}
    return propose(scan([path], layouts.__getitem__), layouts)


def retail_rows() -> list[dict[str, Any]]:
    rows = [
        {
            "Invoice": f"{489434 + n}",
            "StockCode": f"850{n % 30:02}A",
            "Description": "LAMP",
            "Quantity": 3,
            "InvoiceDate": datetime(2010, 1, 1 + n % 28, 9),
            "Price": 2.5,
            "Customer ID": 13000.0 + n,
            "Country": "France",
        }
        for n in range(60)
    ]
    rows.append(rows[0] | {"Invoice": "C500001", "Quantity": -1})
    rows.append(rows[0] | {"StockCode": "POST", "Price": 18.0})
    rows.append(rows[0] | {"Customer ID": None})
    rows.append(rows[0] | {"Price": 0.0})
    return rows


def test_a_retail_export_is_usable_as_proposed(tmp_path: Path) -> None:
    path = tmp_path / "retail_2010.xlsx"
    pl.DataFrame(retail_rows()).write_excel(path)
    proposal = proposed(path)
    (tmp_path / "mapping.toml").write_text(proposal.toml)
    report = clean([path], load_mapping(tmp_path / "mapping.toml"), max_bad_share=0).report
    assert report.kinds == {"buy": 60, "return": 1}
    assert report.dropped == {"no customer": 1, "no price": 1, "not an item": 1}
    assert report.repaired == {}
    asked = " ".join(proposal.questions)
    for word in ("platform", "which clock", "currency", "POST"):
        assert word in asked


def test_a_canonical_log_leaves_nothing_open(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text(
        "event_id,platform,platform_user_id,time,kind,item_id,title,price,currency\n"
        "e1,a,u1,2020-01-01T10:00:00Z,view,i1,Mug,5,EUR\n"
        "e2,b,u2,2020-01-01T11:00:00+01:00,buy,i1,Mug,5,EUR\n"
    )
    proposal = proposed(path)
    assert proposal.questions == ()
    assert clean([path], proposal.mapping).report.platforms == {"a": 1, "b": 1}


def test_an_export_with_its_own_words_separator_and_encoding(tmp_path: Path) -> None:
    path = tmp_path / "boutique.csv"
    path.write_text(
        "User ID;Event Type;SKU;Product Name;When\n"
        "7;page_view;a;Café;31/01/2020 10:00\n"
        "7;purchase;a;Café;31/01/2020 11:00\n"
        "7;refund;a;Café;31/01/2020 12:00\n"
        "7;wishlist;a;Café;31/01/2020 12:30\n",
        encoding="cp1252",
    )
    proposal = proposed(path)
    log = clean([path], proposal.mapping, max_bad_share=1)
    assert log.named()["kind"].to_list() == ["view", "buy", "return"]
    assert log.items["title"].to_list() == ["Café"]
    assert any("wishlist" in question for question in proposal.questions)
    assert log.platforms == ("boutique",)


def test_prices_with_decimal_commas_are_read(tmp_path: Path) -> None:
    path = tmp_path / "laden.csv"
    path.write_text(
        "User ID;SKU;Name;When;Qty;Price\n"
        "7;a;Tisch;31.01.20 10:00;1,00;1.234,50\n"
        "7;b;Tasse;31.01.20 11:00;2,00;6,95\n"
        "7;b;Tasse;31.01.20 12:00;-2,00;6,95\n"
        "7;c;Probe;31.01.20 12:30;1,00;0,00\n"
        "7;b;Tasse;31.01.20 13:00;1.000,00;6.95\n"
    )
    log = clean([path], proposed(path).mapping)
    assert log.events["price"].to_list() == [1234.5, 6.95, 6.95, None]
    assert log.events["quantity"].to_list() == [1, 2, 2, 1000]
    assert log.report.kinds == {"buy": 3, "return": 1}
    assert log.report.dropped == {"no price": 1}
    assert log.report.repaired == {"impossible price (removed)": 1}


def test_a_decimal_comma_is_of_text_alone(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    row = {"user": "u", "time": datetime(2020, 1, 1), "sku": "i", "price": "6,95", "qty": 12.0}
    pl.DataFrame([row]).write_parquet(path)
    events = clean([path], proposed(path).mapping, max_bad_share=1).events
    assert events.select("price", "quantity").row(0) == (6.95, 12)


def test_odd_names_of_columns_stay_names(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    row = {"user": "u", "time": datetime(2020, 1, 1), "sku": "i", "x\n[time]\nzone": "y"}
    pl.DataFrame([row]).write_parquet(path)
    assert proposed(path).mapping.time.zone == "UTC"


def test_objects_and_lists_are_proposed_as_nothing(tmp_path: Path) -> None:
    row = {"user": "u", "ts": 1600000000, "item": {"sku": "i"}, "tags": ["new"]}
    path = tmp_path / "log.jsonl"
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(DataError, match=r"has no column that looks like item_id; it has user, ts;"):
        proposed(path)
    path.write_text(json.dumps(row | {"sku": "i"}) + "\n")
    proposal = proposed(path)
    assert '# Not used: "item", "tags"' in proposal.toml
    assert clean([path], proposal.mapping).report.kept == 1


def test_a_folder_of_unlike_files_becomes_sources(tmp_path: Path) -> None:
    pl.DataFrame(retail_rows()).write_parquet(tmp_path / "retail.parquet")
    (tmp_path / "app.csv").write_text("user,ts,sku,event\nu1,1600000000,i1,click\n")
    proposal = proposed(tmp_path)
    assert len(proposal.mapping.source) == 2
    report = clean([tmp_path], proposal.mapping).report
    assert report.platforms == {"app": 1, "retail": 61}
    assert report.kinds == {"buy": 60, "return": 1, "view": 1}


def test_unlike_files_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    for shop, header in (("a", "user,ts,sku,event"), ("b", "customer,ts,sku,event")):
        for year in ("2019", "2020"):
            folder = tmp_path / f"shop_{shop}" / year
            folder.mkdir(parents=True)
            (folder / "orders.csv").write_text(f"{header}\nu1,1600000000,i1,buy\n")
    (tmp_path / "shop_a" / "late.csv").write_text("user,ts,sku,event\nu2,1600000000,i1,buy\n")
    proposal = proposed(tmp_path)
    assert [source.files for source in proposal.mapping.source] == [
        ("late.csv", "shop_a/2019/orders.csv", "shop_a/2020/orders.csv"),
        ("shop_b/2019/orders.csv", "shop_b/2020/orders.csv"),
    ]
    assert clean([tmp_path], proposal.mapping).report.kinds == {"buy": 5}


def test_the_preview_hides_who_it_was_and_counts_what_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "retail.parquet"
    pl.DataFrame(retail_rows()).write_parquet(path)
    sources = scan([path])
    found = preview(sources, proposed(path).mapping, rows=1_000)
    assert (found.rows, found.kinds) == (64, {"buy": 60, "return": 1})
    assert found.dropped == {"no customer": 1, "no price": 1, "not an item": 1}
    assert found.first["user"].unique().to_list() == ["(not shown)"]
    assert "13000" not in str(found.first.to_dicts())


def test_order_numbers_that_begin_with_a_letter_by_chance_mean_no_returns(tmp_path: Path) -> None:
    orders = [hashlib.md5(str(n).encode(), usedforsecurity=False).hexdigest() for n in range(500)]
    log = {"order_id": orders, "user": "u", "ts": 1600000000, "sku": "i", "name": "Mug"}
    pl.DataFrame(log).write_csv(tmp_path / "orders.csv")
    assert clean([tmp_path], proposed(tmp_path).mapping).report.kinds == {"buy": 500}

    numbers = [f"C{n}" if n % 10 == 0 else str(n) for n in range(500)]
    pl.DataFrame(log | {"order_id": numbers}).write_csv(tmp_path / "orders.csv")
    proposal = proposed(tmp_path)
    assert clean([tmp_path], proposal.mapping).report.kinds == {"buy": 450, "return": 50}
    assert any("begins with C in order_id" in question for question in proposal.questions)


def test_what_people_write_or_are_called_is_no_title(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    rows = {
        "customer_id": [f"c{n % 5}" for n in range(60)],
        "name": [f"Person {n % 5}" for n in range(60)],
        "description": [f"Mug {n % 7}" for n in range(60)],
        "product_id": [f"p{n % 7}" for n in range(60)],
        "ts": 1600000000,
    }
    pl.DataFrame(rows).drop("description").write_csv(path)
    proposal = proposed(path)
    assert proposal.mapping.title is None
    asked = " ".join(proposal.questions)
    assert "name differs from row to row" in asked
    assert "a build needs one of them" in asked

    pl.DataFrame(rows).write_csv(path)
    log = clean([path], proposed(path).mapping)
    assert sorted(log.items["title"]) == [f"Mug {n}" for n in range(7)]


def test_a_shop_may_number_its_items_with_a_letter(tmp_path: Path) -> None:
    skus = [*(f"P{n}" for n in range(60)), "M", "C2"]
    log = {"user": "u", "ts": 1600000000, "sku": skus, "name": skus, "event": "buy"}
    pl.DataFrame(log).write_csv(tmp_path / "orders.csv")
    proposal = proposed(tmp_path)
    assert "(C2, M)" in " ".join(proposal.questions)
    report = clean([tmp_path], proposal.mapping).report
    assert (report.kept, report.dropped) == (60, {"not an item": 2})
    every = clean([tmp_path], Mapping.model_validate(proposal.mapping.model_dump() | {"drop": []}))
    (one,) = (one for one in every.report.suspicious if one.name == "codes that look like no items")
    assert "2 of the 62 item ids" in one.sentence


def test_a_date_of_birth_is_not_when_it_happened(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text(
        "user,born,sku,shipped_on,paid_on\nu,1980-02-03,i,2020-01-04 09:00,2020-01-02 09:00\n"
    )
    proposal = proposed(path)
    assert proposal.mapping.time.column == "shipped_on"
    (asked,) = (question for question in proposal.questions if "when it happened" in question)
    assert "paid_on" in asked
    assert "born" not in asked


def test_columns_that_no_header_names(tmp_path: Path) -> None:
    """As clicks are published for research: no header row, a code for a view, seconds since 1970.
    What kind of event a row is shows in the words, whatever the column is called."""
    path = tmp_path / "UserBehavior.csv"
    words = ("pv", "pv", "cart", "buy")
    path.write_text(
        "".join(f"{n % 5},{n % 7},{words[n % 4]},{1511544070 + n}\n" for n in range(40))
    )
    names = ("user_id", "item_id", "what", "timestamp")
    layouts = {path: sniff_layout(path, names)}
    proposal = propose(scan([path], layouts.__getitem__), layouts)
    assert proposal.mapping.columns == names
    report = clean([path], proposal.mapping).report
    assert (report.read, report.kinds) == (40, {"view": 20, "cart": 10, "buy": 10})


def test_columns_of_a_sheet_may_be_named_too(tmp_path: Path) -> None:
    path = tmp_path / "log.xlsx"
    rows = [("u1", "i1", "view", "2024-01-01 10:00"), ("u2", "i1", "buy", "2024-01-01 11:00")]
    pl.DataFrame(rows, orient="row").write_excel(path, include_header=False)
    layouts = {path: sniff_layout(path, ("user_id", "item_id", "kind", "time"))}
    proposal = propose(scan([path], layouts.__getitem__), layouts)
    assert clean([path], proposal.mapping).report.kinds == {"buy": 1, "view": 1}


def test_words_that_name_one_kind_are_no_column_of_kinds(tmp_path: Path) -> None:
    header = "user_id,item_id,timestamp,button\n"
    (tmp_path / "log.csv").write_text(header + "1,1,1511544070,add\n1,2,1511544071,add\n")
    assert proposed(tmp_path / "log.csv").mapping.kind.column is None


def test_a_file_without_anything_like_a_time_or_an_item_says_so(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("colour,size\nred,7\n")
    with pytest.raises(DataError, match=r"looks like time, item_id, platform_user_id; .*colour"):
        proposed(tmp_path / "log.csv")


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (["2020-01-01T10:00:00Z", "2020-01-01 10:00+02:00"], ("iso", False, False)),
        (["2020-01-01 10:00", "2020-01-02"], ("iso", True, False)),
        (["2020-01-01", "2020-01-02"], ("iso", True, False)),
        (["2020-01-01 07", "2020-01-02 23"], ("iso", True, False)),
        (["2019-10-01 00:00:00 UTC", "2019-10-01 00:00:01.5 UTC"], ("iso", False, False)),
        (["1600000000", "1600000001.5"], ("epoch_s", False, False)),
        (["1600000000000"], ("epoch_ms", False, False)),
        (["31/01/2020 10:00"], ("%d/%m/%Y %H:%M", True, False)),
        (["01/31/2020 10:00"], ("%m/%d/%Y %H:%M", True, False)),
        (["01/02/2020 10:00"], ("%d/%m/%Y %H:%M", True, True)),
        (["31.01.2020 10:00:05"], ("%d.%m.%Y %H:%M:%S", True, False)),
        (["31.01.20 10:00", "01.02.20 10:00"], ("%d.%m.%y %H:%M", True, False)),
        (["1/31/20 8:26"], ("%m/%d/%y %H:%M", True, False)),
        (["1/31/2020 8:26 AM", "12/1/2020 1:05 pm"], ("%m/%d/%Y %I:%M %p", True, False)),
        (["1/2/2020 10:00"] * 30 + ["1/31/2020 10:00"], ("%m/%d/%Y %H:%M", True, False)),
        (["red", "green"], None),
        (["12", "13"], None),
    ],
)
def test_times_are_recognised(written: list[str], expected: tuple[str, bool, bool] | None) -> None:
    guess = time_guess(pl.Series(written))
    assert expected == (guess and (guess.format, guess.needs_zone, guess.ambiguous))


def test_a_prefix_means_returns_only_where_quantities_agree() -> None:
    invoices = pl.Series(["1", "2", "C3", "A4", "5"])
    assert return_prefix(invoices, pl.Series([1.0, 1.0, -1.0, 1.0, 1.0])) == "C"
    assert return_prefix(invoices, pl.Series([1.0] * 5)) is None
    assert return_prefix(invoices, None) == "C"
