import json
import random
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from shopcast_build.data.cleaning import clean
from shopcast_build.data.errors import DataError
from shopcast_build.data.items import ITEMS
from shopcast_build.data.log import NAMED, CleanLog
from shopcast_build.data.mapping import IDENTITY, Mapping
from shopcast_build.data.staging import EVENTS

GOOD = {
    "platform": "shop",
    "platform_user_id": "secret-user",
    "time": "2020-01-01T10:00:00Z",
    "kind": "buy",
    "item_id": "i1",
}


def write(folder: Path, rows: list[dict[str, Any]], name: str = "log.csv") -> Path:
    columns = dict.fromkeys(key for row in rows for key in row)
    path = folder / name
    pl.DataFrame(rows, schema=dict.fromkeys(columns, pl.String), strict=False).write_csv(path)
    return path


def run(
    folder: Path, *rows: dict[str, Any], mapping: dict[str, Any] | None = None, bad: float = 1.0
) -> CleanLog:
    path = write(folder, [GOOD | row for row in rows])
    return clean([path], Mapping.model_validate(mapping or {}), max_bad_share=bad, keep_ids=True)


def test_canonical_log_without_a_mapping(tmp_path: Path) -> None:
    log = run(
        tmp_path,
        {"event_id": "e2", "time": "2020-01-02T10:00:00Z", "kind": "Return", "quantity": "2"},
        {"event_id": "e1", "platform": " Shop ", "price": "9.5", "currency": "eur"},
        bad=0,
    )
    assert log.events.schema == pl.Schema(EVENTS)
    assert log.items.schema == pl.Schema(ITEMS)
    assert log.named().columns == list(NAMED)
    assert log.named().to_dicts() == [
        {
            "event_id": "e1",
            "platform": "shop",
            "user": "secret-user",
            "time": datetime(2020, 1, 1, 10, tzinfo=UTC),
            "kind": "buy",
            "item_id": "i1",
            "title": None,
            "brand": None,
            "category": None,
            "price": 9.5,
            "quantity": 1,
        },
        {
            "event_id": "e2",
            "platform": "shop",
            "user": "secret-user",
            "time": datetime(2020, 1, 2, 10, tzinfo=UTC),
            "kind": "return",
            "item_id": "i1",
            "title": None,
            "brand": None,
            "category": None,
            "price": None,
            "quantity": 2,
        },
    ]
    assert log.report.kinds == {"buy": 1, "return": 1}
    assert log.report.platforms == {"shop": 2}
    assert (log.report.read, log.report.kept, log.report.dropped) == (2, 2, {})


DEFECTS = [
    ({"time": "yesterday"}, "unreadable time"),
    ({"time": None}, "unreadable time"),
    ({"time": "1999-12-31T23:59:59Z"}, "time before the year 2000"),
    ({"time": "2200-01-01"}, "time in the future"),
    ({"kind": "purchase"}, "unknown kind"),
    ({"kind": None}, "unknown kind"),
    ({"platform": "my shop"}, "bad platform name"),
    ({"platform": "-shop"}, "bad platform name"),
    ({"platform": "s" * 65}, "bad platform name"),
    ({"platform": None}, "bad platform name"),
    ({"platform_user_id": "u" * 257}, "id too long"),
    ({"item_id": "i" * 257}, "id too long"),
    ({"event_id": "e" * 129}, "id too long"),
    ({"platform_user_id": "4.91512E+12"}, "id rounded by a spreadsheet, or as a float"),
    ({"platform_user_id": "1.2345678901234568e+18"}, "id rounded by a spreadsheet, or as a float"),
    ({"item_id": "1E+06"}, "id rounded by a spreadsheet, or as a float"),
    ({"event_id": "2.5E+11"}, "id rounded by a spreadsheet, or as a float"),
]


@pytest.mark.parametrize(("bad", "reason"), DEFECTS)
def test_defects_are_dropped_up_to_the_share_and_no_further(
    tmp_path: Path, bad: dict[str, Any], reason: str
) -> None:
    rows = [{"event_id": f"e{n}"} for n in range(3)]
    log = run(tmp_path, *rows, bad, bad=0.25)
    assert log.report.dropped == {reason: 1}
    assert log.report.kept == 3
    with pytest.raises(DataError, match=rf"1 of 4 rows \(25%\).*{reason}.*row 4 of log\.csv"):
        run(tmp_path, *rows, bad, bad=0.24)


@pytest.mark.parametrize(
    ("dtype", "exact", "merged"),
    [(pl.Float64, 2**53 - 1, 2**53), (pl.Float32, 2**24 - 1, 2**24)],
)
def test_floats_that_hold_ids_are_taken_as_far_as_they_tell_them_apart(
    tmp_path: Path, dtype: type[pl.DataType], exact: int, merged: int
) -> None:
    ids = pl.Series(
        "platform_user_id", [exact, merged, merged + 2, float("nan")], dtype, strict=False
    )
    path = tmp_path / "log.parquet"
    pl.DataFrame([GOOD] * 4).with_columns(ids).write_parquet(path)
    log = clean([path], IDENTITY, max_bad_share=1.0)
    assert log.accounts["user"].to_list() == [str(exact)]
    assert log.report.dropped == {
        "id rounded by a spreadsheet, or as a float": 2,
        "missing user": 1,
    }


@pytest.mark.parametrize(
    ("epoch", "written", "rounded"),
    [
        ("epoch_ms", "1.76723E+12", True),
        ("epoch_ms", "1.767225600E+12", False),
        ("epoch_ms", "1.767225600123000000e+12", False),
        ("epoch_s", "1.76723E+09", True),
        ("epoch_s", "1.767225600E+09", False),
    ],
)
def test_times_that_a_spreadsheet_rounded_are_not_taken_for_the_moment(
    tmp_path: Path, epoch: str, written: str, rounded: bool
) -> None:
    good = str(1_767_225_600_000 if epoch == "epoch_ms" else 1_767_225_600)
    mapping = {"time": {"format": epoch}}
    log = run(tmp_path, {"time": good}, {"time": written}, mapping=mapping)
    assert log.report.kept == (1 if rounded else 2)
    assert log.report.dropped == ({"time rounded by a spreadsheet": 1} if rounded else {})


@pytest.mark.parametrize(("suffix", "mark"), [("csv", ","), ("tsv", "\t")])
def test_of_two_columns_of_one_name_none_is_taken(tmp_path: Path, suffix: str, mark: str) -> None:
    path = tmp_path / f"log.{suffix}"
    lines = [*GOOD, "price", "note", "price", "note"], [*GOOD.values(), "1", "a", "2", "b"]
    path.write_text("".join(mark.join(line) + "\n" for line in lines))
    with pytest.raises(DataError, match=r"has several columns called price: rename all but"):
        clean([path], IDENTITY)
    other = Mapping.model_validate({"price": {"constant": 3}})
    assert clean([path], other).items["price"].to_list() == [3.0]


def test_too_many_unknown_kinds_say_how_to_map_them(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"log\.csv: purchase.*map the kind with --mapping"):
        run(tmp_path, {"kind": "purchase"}, bad=0.01)


@pytest.mark.parametrize("field", ["platform_user_id", "item_id"])
def test_events_without_customer_or_item_are_no_defects(tmp_path: Path, field: str) -> None:
    log = run(tmp_path, {}, {field: " "}, {field: None}, bad=0)
    assert list(log.report.dropped.values()) == [2]
    assert log.report.kept == 1


def test_rows_that_the_mapping_drops_do_not_dilute_the_defects(tmp_path: Path) -> None:
    drop = [{"column": "item_id", "equals": "POST", "reason": "not an item"}]
    rows = [{"item_id": "POST", "kind": "?"}] * 98 + [{}, {"kind": "?"}]
    with pytest.raises(DataError, match="1 of 2 rows"):
        run(tmp_path, *rows, mapping={"drop": drop}, bad=0.01)
    assert run(tmp_path, *rows[:-1], mapping={"drop": drop}, bad=0).report.dropped == {
        "not an item": 98
    }


def test_nothing_left(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"None of the 2 rows .* is left .*2 for missing user"):
        run(tmp_path, {"platform_user_id": ""}, {"platform_user_id": ""})
    with pytest.raises(DataError, match="has no rows"):
        clean([write(tmp_path, [dict.fromkeys(GOOD)])], IDENTITY)


@pytest.mark.parametrize(
    ("written", "price"),
    [
        ("0", 0.0),
        ("12.50", 12.5),
        ("1,234.50", 1234.5),
        ("1,234,567.5", 1234567.5),
        ("1,234", None),
        ("12,50", None),
        ("1,23.50", None),
        ("-1", None),
        ("NaN", None),
        ("inf", None),
        ("1e10", None),
        ("cheap", None),
        ("", None),
    ],
)
def test_prices(tmp_path: Path, written: str, price: float | None) -> None:
    log = run(tmp_path, {"price": written})
    assert log.events["price"].to_list() == [price]
    repaired = {"impossible price (removed)": 1} if written and price is None else {}
    assert log.report.repaired == repaired


@pytest.mark.parametrize(
    ("written", "quantity", "repairs"),
    [("3", 3, 0), ("2.0", 2, 0), ("", 1, 0), ("0", 1, 1), ("-3", 1, 1), ("1.5", 1, 1), ("x", 1, 1)],
)
def test_quantities(tmp_path: Path, written: str, quantity: int, repairs: int) -> None:
    log = run(tmp_path, {"quantity": written})
    assert log.events["quantity"].to_list() == [quantity]
    assert sum(log.report.repaired.values()) == repairs


def test_absolute_quantity(tmp_path: Path) -> None:
    log = run(tmp_path, {"quantity": "-3"}, mapping={"absolute_quantity": True})
    assert log.events["quantity"].to_list() == [3]
    assert log.report.repaired == {}


def test_times_that_clocks_skipped_are_counted(tmp_path: Path) -> None:
    mapping = {"time": {"zone": "Europe/London"}}
    log = run(tmp_path, {"time": "2010-03-28 01:30"}, mapping=mapping)
    assert log.events["time"].to_list() == [datetime(2010, 3, 28, 1, 30, tzinfo=UTC)]
    assert list(log.report.repaired.values()) == [1]


def test_columns_constants_rules_synonyms_and_drops(tmp_path: Path) -> None:
    rows = [
        {"who": "1.0", "when": "01/02/2020 10:00", "no": "C7", "what": "x"},
        {"who": "2", "when": "02/02/2020 10:00", "no": "7", "what": "Purchase"},
        {"who": "2", "when": "03/02/2020 10:00", "no": "8", "what": "cart"},
        {"who": "2", "when": "04/02/2020 10:00", "no": "9", "what": "stared"},
        {"who": "2", "when": "05/02/2020 10:00", "no": "T1", "what": "cart"},
        {"who": None, "when": "05/02/2020 10:00", "no": "T1", "what": "cart"},
        {"who": "3", "when": "05/02/2020 10:00", "no": "10", "what": "cart", "cost": "0.0"},
    ]
    mapping = Mapping.model_validate(
        {
            "platform": {"constant": "shop"},
            "platform_user_id": {"column": "who"},
            "time": {"column": "when", "format": "%d/%m/%Y %H:%M"},
            "item_id": {"constant": "thing"},
            "price": {"column": "cost"},
            "quantity": {"constant": 4},
            "kind": {
                "column": "what",
                "rules": [{"column": "no", "starts_with": "C", "kind": "return"}],
                "synonyms": {"PURCHASE": "buy"},
                "default": "view",
            },
            "drop": [
                {"column": "who", "is_null": True, "reason": "guest"},
                {"column": "no", "matches": r"^T\d$", "reason": "test"},
                {"column": "cost", "at_most": 0, "reason": "free"},
            ],
        }
    )
    log = clean([write(tmp_path, rows)], mapping, max_bad_share=0)
    assert log.events["kind"].to_list() == ["return", "buy", "cart", "view"]
    assert log.named()["user"].to_list() == ["1", "2", "2", "2"]
    assert log.events["quantity"].to_list() == [4] * 4
    assert log.report.dropped == {"free": 1, "guest": 1, "test": 1}


def test_missing_columns_are_named_with_those_there_are(tmp_path: Path) -> None:
    path = write(tmp_path, [{"Invoice": "1", "Price": "2"}])
    with pytest.raises(DataError, match=r"no column item_id, .* has Invoice, Price; .*--mapping"):
        clean([path], IDENTITY)
    mapping = Mapping.model_validate({"title": {"column": "Name"}})
    with pytest.raises(DataError, match="no column Name; it has platform, "):
        clean([write(tmp_path, [GOOD])], mapping)
    path.write_text("platform;time\nshop;2020-01-01\n")
    with pytest.raises(DataError, match="save it with commas"):
        clean([path], IDENTITY)


@pytest.mark.parametrize("name", ["log.jsonl", "log.parquet"])
@pytest.mark.parametrize(
    ("field", "value"),
    [("item_id", {"id": "i1", "title": "Shoe"}), ("price", {"amount": 5.0}), ("title", ["Shoe"])],
)
def test_objects_and_lists_are_no_values(
    tmp_path: Path, name: str, field: str, value: object
) -> None:
    path = tmp_path / name
    if path.suffix == ".parquet":
        pl.DataFrame([GOOD | {field: value}]).write_parquet(path)
    else:
        path.write_text(json.dumps(GOOD | {field: value}) + "\n")
    with pytest.raises(DataError, match=rf"log\.\w+ holds objects or lists in {field}: export"):
        clean([path], IDENTITY)
    elsewhere = Mapping.model_validate({field: {"constant": "1"}})
    assert clean([path], elsewhere).report.kept == 1, "nobody has to read the column"


def test_float_and_integer_ids_of_parquet_are_one_customer(tmp_path: Path) -> None:
    rows = pl.DataFrame([GOOD | {"platform_user_id": 13085.0, "price": float("nan")}])
    rows.write_parquet(tmp_path / "1.parquet")
    rows.cast({"platform_user_id": pl.Int64}).write_parquet(tmp_path / "2.parquet")
    rows.cast({"platform_user_id": pl.String}).write_csv(tmp_path / "3.csv")
    log = clean([tmp_path], IDENTITY)
    assert log.named()["user"].to_list() == ["13085"] * 3
    assert log.events["price"].to_list() == [None] * 3


def test_duplicates_keep_the_first(tmp_path: Path) -> None:
    log = run(
        tmp_path,
        {"event_id": "e", "time": "2020-01-02", "title": "late"},
        {"event_id": "e", "time": "2020-01-01", "title": "early"},
        {"event_id": "e", "platform": "other"},
        bad=0,
    )
    assert log.report.duplicates == 1
    assert log.report.kept == 2
    assert log.named()["title"].to_list() == ["early", None]


def test_an_order_number_is_no_event_id(tmp_path: Path) -> None:
    rows = [{"event_id": "order-1", "item_id": f"i{n}"} for n in range(10)]
    with pytest.raises(DataError, match=r"9 of 10 .* event_id column that tells all events apart"):
        run(tmp_path, *rows, bad=0.01)
    report = run(tmp_path, *rows).report
    assert report.dropped == {"event id of another event": 9}
    assert (report.duplicates, report.kept) == (0, 1)


def test_made_event_ids_tell_repeated_lines_apart_and_are_stable(tmp_path: Path) -> None:
    rows = [{}, {}, {"quantity": "2"}, {"platform_user_id": "other"}, {"event_id": "given"}]
    log = run(tmp_path, *rows)
    ids = log.named()["event_id"]
    assert ids.n_unique() == log.report.kept == 5
    assert log.report.duplicates == 0
    assert ids.str.contains("^(given|[0-9a-f]{32})$").all()
    shuffled = run(tmp_path, *reversed(rows))
    assert_frame_equal(shuffled.named(), log.named())
    # Written down, so that a new version of a library cannot change ids unnoticed.
    assert run(tmp_path, {}).named()["event_id"].item() == "996575a6df871d118da032f27bc02be5"


def test_what_becomes_of_an_item_does_not_rename_it(tmp_path: Path) -> None:
    """Else its text would tell that somebody bought it, or sent it back."""
    viewed = {"time": "2020-01-01T01:00:00Z", "kind": "view", "title": "Mug", "price": "9"}
    bought = {"time": "2020-01-01T02:00:00Z", "kind": "buy", "title": "ART MUG", "price": "7"}
    returned = {"time": "2020-01-02T02:00:00Z", "kind": "return", "title": "A credit", "price": "5"}
    later = {"time": "2020-01-03T02:00:00Z"}
    shop = [viewed, bought, bought | later]
    till = [{"platform": "till"} | row for row in (bought, returned, returned | later)]
    assert run(tmp_path, *shop, *till).items.select("platform", "title", "price").rows() == [
        ("shop", "Mug", 9.0),
        ("till", "ART MUG", 7.0),
    ]


def test_items_take_their_most_frequent_words_and_median_price(tmp_path: Path) -> None:
    log = run(
        tmp_path,
        {"title": "Red  mug\n", "price": "1", "brand": "B"},
        {"title": "Red mug", "price": "9", "brand": "A"},
        {"title": "damaged", "price": "2"},
        {"title": "", "price": "-5"},
        {"item_id": "i2"},
        {"platform": "other", "title": "Not a mug"},
    )
    words = log.items.select("platform", "item_id", "title", "brand", "category", "price")
    assert log.items["titles"].to_list() == [1, 2, 0]
    assert words.rows() == [
        ("other", "i1", "Not a mug", None, None, None),
        ("shop", "i1", "Red mug", "A", None, 2.0),
        ("shop", "i2", None, None, None, None),
    ]


def test_the_report_is_json_and_names_nobody(tmp_path: Path) -> None:
    rows = [{"time": f"bad {n}"} for n in range(5)]
    rows += [{"kind": "ann@example.com"}, {"price": "-1"}, {}]
    mapping = {"drop": [{"column": "platform_user_id", "equals": "robot", "reason": "robot"}]}
    log = run(tmp_path, *rows, {"platform_user_id": "robot"}, mapping=mapping)
    written = json.dumps(log.report.to_json())
    report = json.loads(written)
    assert report["examples"]["unreadable time"] == [
        f"row {n + 1} of log.csv: bad {n}" for n in range(3)
    ]
    assert report["examples"]["robot"] == ["row 9 of log.csv: (not shown)"]
    assert (
        report["read"]
        == 9
        == report["kept"] + report["duplicates"] + sum(report["dropped"].values())
    )
    assert report["first_time"] == "2020-01-01T10:00:00+00:00"
    for text in (written, repr(log), repr(log.report)):
        assert "secret-user" not in text
        assert "ann@" not in text


event_rows = st.fixed_dictionaries(
    {
        "event_id": st.sampled_from(["e1", "e2", None]),
        "platform": st.sampled_from(["shop", "Shop", "mall"]),
        "platform_user_id": st.sampled_from(["u1", "u2"]),
        "time": st.sampled_from(["2020-01-01", "2020-01-02"]),
        "kind": st.sampled_from(["view", "buy", "?"]),
        "item_id": st.sampled_from(["i1", "i2"]),
        "title": st.sampled_from(["a", "b", None]),
        "price": st.sampled_from(["1", "2", "-1"]),
    }
)


@settings(max_examples=40, deadline=None)
@given(st.lists(event_rows, min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_order_of_rows_and_files_plays_no_part(
    rows: list[dict[str, Any]], chance: random.Random
) -> None:
    rows = [*rows, GOOD | {"event_id": "kept", "title": "c", "price": "3"}]
    shuffled = chance.sample(rows, len(rows))
    cut = chance.randrange(len(rows))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        one = clean([write(folder, rows)], IDENTITY, max_bad_share=1)
        parts = [
            write(folder, part, f"part{n}.csv")
            for n, part in enumerate((shuffled[:cut], shuffled[cut:]))
            if part
        ]
        two = clean(parts, IDENTITY, max_bad_share=1)
    assert_frame_equal(one.events, two.events)
    assert_frame_equal(one.items, two.items)
    assert one.report.dropped == two.report.dropped
    assert one.report.duplicates == two.report.duplicates
    assert_frame_equal(one.accounts, two.accounts)
    assert one.report.by_platform == two.report.by_platform
    assert one.report.suspicious == two.report.suspicious
    order = one.events.select("time", "platform", "account", "kind", "item", "quantity", "price")
    assert_frame_equal(order, order.sort(pl.all()))
