from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shopcast_build.data.guesses import time_guess
from shopcast_build.data.mapping import TimeSource
from shopcast_build.data.times import time_expressions

LONDON = "Europe/London"


def read(values: list[Any], **source: str) -> tuple[list[datetime | None], list[bool]]:
    rows = pl.DataFrame({"time": values})
    expressions = time_expressions(TimeSource(**source), rows.schema["time"])
    found = rows.select(expressions.time.alias("time"), expressions.skipped.alias("skipped"))
    assert found.schema["time"] == pl.Datetime("us", "UTC")
    return found["time"].to_list(), found["skipped"].to_list()


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("2010-07-01", datetime(2010, 6, 30, 23, tzinfo=UTC)),
        ("2010-07-01 08:30", datetime(2010, 7, 1, 7, 30, tzinfo=UTC)),
        (" 2010-07-01T08:30:05.25 ", datetime(2010, 7, 1, 7, 30, 5, 250_000, tzinfo=UTC)),
        ("2010-07-01T08:30:05Z", datetime(2010, 7, 1, 8, 30, 5, tzinfo=UTC)),
        ("2010-07-01T08:30:05+05:30", datetime(2010, 7, 1, 3, 0, 5, tzinfo=UTC)),
        ("2010-07-01 08:30:05 -0800", datetime(2010, 7, 1, 16, 30, 5, tzinfo=UTC)),
        ("2010-07-01 08:30:05.5 UTC", datetime(2010, 7, 1, 8, 30, 5, 500_000, tzinfo=UTC)),
        ("2010-07-01T08:30:05+02", datetime(2010, 7, 1, 6, 30, 5, tzinfo=UTC)),
        ("2010-07-01 08", datetime(2010, 7, 1, 7, tzinfo=UTC)),
        ("2010-07-01T08Z", datetime(2010, 7, 1, 8, tzinfo=UTC)),
        ("2010-07-01 +02", datetime(2010, 6, 30, 22, tzinfo=UTC)),
        ("2010-07-01 24", None),
        ("2010-07-01T08:30:05+99:99", None),
        ("2010-07-01 08:30:05-05:75", None),
        ("01/07/2010 08:30", None),
        ("2010-13-01", None),
        ("2010-02-30T10:00", None),
        ("", None),
        (None, None),
    ],
)
def test_iso(written: str | None, meant: datetime | None) -> None:
    assert read([written, "2010-01-01"], zone=LONDON)[0][0] == meant


@pytest.mark.parametrize(
    ("pattern", "written", "fraction_us"),
    [
        ("%Y-%m-%d %H:%M:%S.%f", "2010-07-01 08:30:05.5", 500_000),
        ("%Y-%m-%d %H:%M:%S.%f", "2010-07-01 08:30:05.000123", 123),
        ("%Y-%m-%d %H:%M:%S%.f", "2010-07-01 08:30:05.25", 250_000),
        ("%Y-%m-%d %H:%M:%S,%3f", "2010-07-01 08:30:05,123", 123_000),
        ("%Y-%m-%d %H:%M:%S UTC", "2010-07-01 08:30:05 UTC", 0),
    ],
)
def test_fractions_of_a_second_are_those_of_python(
    pattern: str, written: str, fraction_us: int
) -> None:
    meant = datetime(2010, 7, 1, 8, 30, 5, fraction_us, tzinfo=UTC)
    assert read([written], format=pattern)[0] == [meant]


@pytest.mark.parametrize("zone", ["EST", "JST", "garbage"])
def test_no_pattern_is_proposed_for_names_of_zones(zone: str) -> None:
    assert time_guess(pl.Series([f"2024-01-01 12:00:00 {zone}"])) is None


def test_clock_changes() -> None:
    # London skipped 01:00-02:00 on 28 March 2010 and had 01:00-02:00 twice on 31 October.
    times, skipped = read(
        ["2010-03-28 00:59", "2010-03-28 01:30", "2010-03-28 02:00", "2010-10-31 01:30"],
        zone=LONDON,
    )
    assert times == [
        datetime(2010, 3, 28, 0, 59, tzinfo=UTC),
        datetime(2010, 3, 28, 1, 30, tzinfo=UTC),
        datetime(2010, 3, 28, 1, 0, tzinfo=UTC),
        datetime(2010, 10, 31, 0, 30, tzinfo=UTC),
    ]
    assert skipped == [False, True, False, False]


@given(st.datetimes(datetime(2000, 1, 1), datetime(2037, 1, 1)), st.integers(-14 * 60, 14 * 60))
def test_any_offset_is_read_as_python_reads_it(local: datetime, offset_min: int) -> None:
    moment = local.replace(tzinfo=timezone(timedelta(minutes=offset_min)))
    assert read([moment.isoformat()], zone=LONDON)[0] == [moment.astimezone(UTC)]


@pytest.mark.parametrize(
    ("values", "source"),
    [
        ([1_277_966_400], {"format": "epoch_s"}),
        (["1277966400.0"], {"format": "epoch_s"}),
        ([1_277_966_400_000], {"format": "epoch_ms"}),
        (["01/07/2010 07:40"], {"format": "%d/%m/%Y %H:%M", "zone": LONDON}),
        (["01/07/2010 08:40 +0200"], {"format": "%d/%m/%Y %H:%M %z", "zone": LONDON}),
        (["01/07/2010 08:40 +02:00"], {"format": "%d/%m/%Y %H:%M %:z", "zone": LONDON}),
        (["01/07/2010 08:40 +02:00"], {"format": "%d/%m/%Y %H:%M %::z", "zone": LONDON}),
        (["01/07/2010 08:40 +02"], {"format": "%d/%m/%Y %H:%M %#z", "zone": LONDON}),
        (["2010-07-01T08:40:00+02:00"], {"format": "%+", "zone": LONDON}),
        (["1277966400"], {"format": "%s", "zone": LONDON}),
        ([datetime(2010, 7, 1, 7, 40)], {"zone": LONDON}),
        ([datetime(2010, 7, 1, 6, 40, tzinfo=UTC)], {"zone": LONDON}),
    ],
)
def test_other_ways_to_write_the_same_moment(values: list[Any], source: dict[str, str]) -> None:
    assert read(values, **source)[0] == [datetime(2010, 7, 1, 6, 40, tzinfo=UTC)]


def test_dates_are_midnight_there() -> None:
    assert read([date(2010, 7, 1)], zone=LONDON)[0] == [datetime(2010, 6, 30, 23, tzinfo=UTC)]


def test_numbers_are_no_iso_times() -> None:
    assert read([1_277_966_400])[0] == [None]
