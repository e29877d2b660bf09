"""The shipped mapping on the real log: SHOPCAST_ONLINE_RETAIL names the file."""

import os
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from shopcast_build.data.cleaning import clean
from shopcast_build.data.log import CleanLog
from shopcast_build.data.mapping import Mapping, load_mapping

LOG = os.environ.get("SHOPCAST_ONLINE_RETAIL")
pytestmark = pytest.mark.skipif(
    LOG is None, reason="SHOPCAST_ONLINE_RETAIL does not name the Online Retail II log"
)


@pytest.fixture(scope="module")
def mapping() -> Mapping:
    return load_mapping(Path(__file__).parents[2] / "examples" / "online_retail.toml")


@pytest.fixture(scope="module")
def log(mapping: Mapping) -> CleanLog:
    return clean([Path(str(LOG))], mapping, keep_ids=True)


def test_most_customer_lines_are_kept_and_all_are_accounted_for(log: CleanLog) -> None:
    report = log.report
    assert report.read == report.kept + report.duplicates + sum(report.dropped.values())
    assert set(report.dropped) <= {"no customer", "not an item", "no price"}
    assert report.kept > 0.98 * (report.read - report.dropped["no customer"])
    assert 0.01 < report.kinds["return"] / report.kept < 0.05


def test_events_are_sane(log: CleanLog) -> None:
    events = log.named()
    assert events["user"].str.contains(r"^\d{5}$").all()
    assert events["price"].min() > 0  # type: ignore[operator]
    assert events["quantity"].min() >= 1  # type: ignore[operator]
    assert events["event_id"].n_unique() == len(events)
    assert log.items["title"].null_count() == 0
    assert not log.items["title"].str.contains("(?i)postage|bank charges|voucher").any()


def test_the_same_log_as_shuffled_csv_gives_the_same_events(
    log: CleanLog, mapping: Mapping, tmp_path: Path
) -> None:
    path = Path(str(LOG))
    raw = pl.read_parquet(path) if path.suffix == ".parquet" else pl.read_csv(path)
    raw.sample(fraction=1, shuffle=True, seed=1).write_csv(tmp_path / "shuffled.csv")
    again = clean([tmp_path / "shuffled.csv"], mapping, keep_ids=True)
    assert_frame_equal(again.named(), log.named())
    assert_frame_equal(again.items, log.items)
