"""A log that is worked on part by part is the log that is worked on at once."""

import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from shopcast_build.data import items, reading, returns, staging, suspicions
from shopcast_build.data.cleaning import clean
from shopcast_build.data.fields import canonical_rows
from shopcast_build.data.log import CleanLog
from shopcast_build.data.mapping import IDENTITY
from shopcast_build.data.reading import collect, scan
from shopcast_build.data.staging import Staging


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Events of several weeks: some ids twice, some ids missing, some rows bad, many titles."""
    chance = random.Random(5)
    rows = []
    for n in range(400):
        at = datetime(2024, 1, 1, tzinfo=UTC) + timedelta(minutes=chance.randrange(60_000))
        rows.append(
            {
                "event_id": chance.choice([None, f"e{chance.randrange(150)}"]),
                "platform": chance.choice(["web", "app"]),
                "platform_user_id": f"secret-{chance.randrange(30)}",
                "time": at.isoformat(),
                "kind": chance.choice(["view", "buy", "return", "?"]),
                "item_id": f"i{chance.randrange(20)}",
                "title": f"Title {n}" if n % 3 else "Usual",
                "price": str(chance.randrange(100)),
            }
        )
    rows += chance.sample(rows, 60)
    path = tmp_path / "log"
    path.mkdir()
    pl.DataFrame(rows[:250]).write_csv(path / "1.csv")
    pl.DataFrame(rows[250:]).write_parquet(path / "2.parquet")
    return path


def read(path: Path) -> CleanLog:
    return clean([path], IDENTITY, max_bad_share=1.0, keep_ids=True)


def test_parts_batches_and_groups_of_rows_change_nothing(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = read(log)
    for module in (items, returns, staging, suspicions):
        monkeypatch.setattr(module, "PART_ROWS", 40)
    monkeypatch.setattr(reading, "_BATCH_ROWS", 60)
    monkeypatch.setattr(staging, "_GROUP_ROWS", 8)
    parts = read(log)
    assert whole.report.duplicates > 0
    assert whole.report.dropped["event id of another event"] > 0
    assert_frame_equal(parts.named(), whole.named())
    assert_frame_equal(parts.events, whole.events)
    assert_frame_equal(parts.items, whole.items)
    assert_frame_equal(parts.accounts, whole.accounts)
    assert parts.report == whole.report


def test_the_working_folder_holds_codes_and_no_texts(log: Path, tmp_path: Path) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    stage = Staging(folder, keep_ids=True)

    def check() -> None:
        files = list(folder.rglob("*.parquet"))
        assert files
        for file in files:
            kinds = set(pl.read_parquet_schema(file).values())
            assert not kinds & {pl.String(), pl.Binary(), pl.Categorical()}

    for number, source in enumerate(scan([log])):
        rows = collect(source, canonical_rows(source, IDENTITY))
        stage.take(number, rows.filter(pl.col("reason").is_null()))
    check()
    stage.settle(["1.csv", "2.parquet"])
    check()
    stage.events()
    check()
