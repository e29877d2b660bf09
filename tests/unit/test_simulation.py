import errno
import hashlib
import json
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import roc_auc_score

from shopcast_build.simulation.folder import replacing
from shopcast_build.simulation.people import BLOCK_PEOPLE
from shopcast_build.simulation.records import EVENT_COLUMNS, LINK_COLUMNS
from shopcast_build.simulation.settings import MarketSettings
from shopcast_build.simulation.writer import SimulationSummary, simulate

SMALL: dict[str, Any] = {"people": 60, "items_per_platform": 60, "days": 40}


class Market:
    """A simulated market, read back from its files."""

    def __init__(self, out: Path, settings: MarketSettings) -> None:
        self.settings = settings
        self.summary: SimulationSummary = simulate(settings, out)
        self.out = out
        self.logs = {
            path.stem: pl.read_csv(path, infer_schema=False)
            for path in sorted((out / "events").glob("*.csv"))
        }
        self.events = pl.concat(self.logs.values()).with_columns(
            pl.col("time").str.to_datetime("%Y-%m-%dT%H:%M:%SZ"), pl.col("price").cast(pl.Float64)
        )
        self.links = pl.read_csv(out / "links.csv", infer_schema=False)
        self.people = pl.read_parquet(out / "truth" / "people-*.parquet")
        self.exposures = pl.read_parquet(out / "truth" / "exposures-*.parquet")
        self.items = pl.read_parquet(out / "truth" / "items.parquet")

    def between_platforms(self, accounts: pl.DataFrame, column: str) -> float:
        """Correlation of a value between two accounts of one person, over all such pairs."""
        chosen = accounts.select("person", "platform", column)
        pairs = chosen.join(chosen, on="person").filter(
            pl.col("platform") < pl.col("platform_right")
        )
        return float(np.corrcoef(pairs[column], pairs[f"{column}_right"])[0, 1])

    def behaviour(self) -> pl.DataFrame:
        """What each account did: returns over buys, exposures, and the share of three needs."""
        needs = self.items.select("platform", "item_id", "need", "department")
        bought = pl.col("outcome") != "view"
        returned = pl.col("outcome") == "return"
        return (
            self.exposures.join(needs, on=["platform", "item_id"])
            .group_by("person", "platform", maintain_order=True)
            .agg(
                returns=(returned.sum() + 0.6) / (bought.sum() + 2),
                amount=pl.len().cast(pl.Float64).log(),
                shoes=(pl.col("department") == "shoes").mean(),
                clothing=(pl.col("department") == "clothing").mean(),
                electronics=(pl.col("department") == "electronics").mean(),
            )
        )


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Market:
    """Two blocks of people, one of them cut short."""
    settings = MarketSettings(people=BLOCK_PEOPLE + 500)
    return Market(tmp_path_factory.mktemp("market") / "out", settings)


@pytest.fixture(scope="module")
def unrelated(tmp_path_factory: pytest.TempPathFactory) -> Market:
    settings = MarketSettings(people=BLOCK_PEOPLE + 500, cross_platform_effect=0.0)
    return Market(tmp_path_factory.mktemp("unrelated") / "out", settings)


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_same_settings_give_the_same_bytes_in_another_process(tmp_path: Path, kind: str) -> None:
    settings = MarketSettings(**SMALL, format=kind)  # type: ignore[arg-type]
    simulate(settings, tmp_path / "here")
    script = (
        "from pathlib import Path; import sys\n"
        "from shopcast_build.simulation.settings import MarketSettings\n"
        "from shopcast_build.simulation.writer import simulate\n"
        f"simulate(MarketSettings(**{SMALL!r}, format={kind!r}), Path(sys.argv[1]))\n"
    )
    subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "there")],
        check=True,
        env={"PYTHONHASHSEED": "123", "POLARS_MAX_THREADS": "1"},
    )
    assert bytes_of(tmp_path / "here") == bytes_of(tmp_path / "there")


def test_another_seed_gives_another_market(tmp_path: Path) -> None:
    simulate(MarketSettings(**SMALL), tmp_path / "a")
    simulate(MarketSettings(**SMALL, seed=8), tmp_path / "b")
    assert bytes_of(tmp_path / "a")["links.csv"] != bytes_of(tmp_path / "b")["links.csv"]


def test_csv_and_parquet_tell_the_same(tmp_path: Path) -> None:
    simulate(MarketSettings(**SMALL), tmp_path / "csv")
    simulate(MarketSettings(**SMALL, format="parquet"), tmp_path / "parquet")
    for path in (tmp_path / "csv" / "events").glob("*.csv"):
        parquet = pl.read_parquet(tmp_path / "parquet" / "events" / path.stem / "*.parquet")
        assert pl.read_csv(path, schema=parquet.schema).equals(parquet)


def test_logs_have_the_agreed_columns_and_unique_ids(market: Market) -> None:
    assert set(market.logs) == {"kaufwerk", "velvetlane", "gearhub"}
    for platform, log in market.logs.items():
        assert tuple(log.columns) == EVENT_COLUMNS
        assert log["platform"].unique().to_list() == [platform]
        assert log["event_id"].n_unique() == len(log)
        assert log.null_count().sum_horizontal().item() == 0
    days = market.events["time"].dt.date()
    assert days.min() == date(2026, 1, 1)
    assert days.max() == date(2026, 6, 29)  # the 180th
    assert set(market.events["kind"]) == {"view", "cart", "buy", "return"}
    assert tuple(market.links.columns) == LINK_COLUMNS
    assert market.links["identifier_hash"].str.contains(r"^[0-9a-f]{64}$").all()


def test_summary_and_manifest_count_what_is_there(market: Market) -> None:
    summary, kinds = market.summary, market.events["kind"]
    assert summary.accounts == len(market.people)
    assert summary.identifiers == len(market.links)
    assert summary.items == len(market.items) == 3 * market.settings.items_per_platform
    for kind, count in summary.events_by_kind.items():
        assert (kinds == kind).sum() == count
    for platform, count in summary.events_by_platform.items():
        assert len(market.logs[platform]) == count
    assert sum(summary.exposures.values()) == len(market.exposures) == (kinds == "view").sum()
    assert len(kinds) / market.settings.people == pytest.approx(30, rel=0.15)

    manifest = json.loads((market.out / "simulation.json").read_text())
    assert manifest["settings"]["cross_platform_effect"] == 0.8
    assert manifest["counts"]["events_by_kind"] == summary.events_by_kind
    files = bytes_of(market.out)
    del files["simulation.json"]
    assert manifest["sha256"] == {
        name: hashlib.sha256(content).hexdigest() for name, content in files.items()
    }


def test_every_block_of_people_is_written_once(market: Market) -> None:
    assert len(list((market.out / "truth").glob("people-*.parquet"))) == 2
    assert market.people["person"].n_unique() == BLOCK_PEOPLE + 500
    assert market.people.select("platform", "platform_user_id").is_unique().all()
    accounts = market.people.select("platform", "platform_user_id")
    assert market.events.join(accounts, on=accounts.columns, how="anti").is_empty()


def test_return_follows_buy_follows_view(market: Market) -> None:
    pair = ["platform", "platform_user_id", "item_id"]
    day_s = 86_400

    def unexplained(kind: str, after: str, least_s: int, most_s: int) -> pl.DataFrame:
        """Events of a kind without an `after` of the same pair in due time before them."""
        later = market.events.filter(kind=kind)
        assert len(later) > 1000
        earlier = market.events.filter(kind=after).select(*pair, before="time")
        gap_s = (pl.col("time") - pl.col("before")).dt.total_seconds()
        explained = later.join(earlier, on=pair).filter(gap_s.is_between(least_s, most_s))
        return later.join(explained, on=["platform", "event_id"], how="anti")

    assert unexplained("cart", "view", 19, 121).is_empty()
    assert unexplained("buy", "view", 179, 3 * 3600).is_empty()
    assert unexplained("return", "buy", day_s - 1, 13 * day_s + 1).is_empty()


def test_outcomes_are_believable_and_learnable(market: Market) -> None:
    truth = market.exposures
    share = {k: v / len(truth) for k, v in market.summary.exposures.items()}
    assert 0.72 <= share["view"] <= 0.80
    assert 0.14 <= share["buy"] <= 0.20
    assert 0.05 <= share["return"] <= 0.085
    p = truth.select("p_view", "p_buy", "p_return").to_numpy()
    assert np.allclose(p.sum(axis=1), 1)
    assert (p > 0).all()
    bought = (truth["outcome"] != "view").to_numpy()
    returned = (truth["outcome"] == "return").to_numpy()
    # The probabilities are true: they average to what happened.
    assert p[:, 2].mean() == pytest.approx(returned.mean(), abs=0.006)
    assert (1 - p[:, 0]).mean() == pytest.approx(bought.mean(), abs=0.01)
    assert roc_auc_score(bought, 1 - p[:, 0]) > 0.80
    risk = p[bought, 2] / (1 - p[bought, 0])
    assert roc_auc_score(returned[bought], risk) > 0.75


def test_exposures_are_the_views_of_the_logs(market: Market) -> None:
    key = ["platform", "event_id", "platform_user_id", "item_id"]
    views = market.events.filter(kind="view")
    assert len(market.exposures.join(views, on=key)) == len(views)
    bought = market.exposures.filter(pl.col("outcome") != "view")
    # A need ends at its first buy.
    assert bought.select("person", "need").is_unique().all()


def test_words_carry_meaning(market: Market) -> None:
    met = market.exposures.join(market.items, on=["platform", "item_id"])
    bought = met.filter(pl.col("outcome") != "view").with_columns(
        returned=pl.col("outcome") == "return"
    )
    vague = bought["title"].str.to_lowercase().str.contains("one size|free size|polyester|pvc")
    rate = bought.filter(vague)["returned"].mean()
    assert rate > 1.3 * bought.filter(~vague)["returned"].mean()
    fine = met["title"].str.to_lowercase().str.contains("premium|handmade|luxury")
    poor = met["title"].str.to_lowercase().str.contains("economy|budget|no-frills")
    buys = met["outcome"] != "view"
    assert buys.filter(fine).mean() > buys.filter(poor).mean()


def test_platforms_share_products_but_neither_ids_nor_names(market: Market) -> None:
    by_platform = {
        str(name): rows for (name,), rows in market.items.group_by("platform", maintain_order=True)
    }
    one, other = by_platform["kaufwerk"], by_platform["velvetlane"]
    assert set(one["product"]) & set(other["product"])
    for column in ("item_id", "title", "category"):
        assert not set(one[column]) & set(other[column])
    for items in by_platform.values():
        assert items["item_id"].n_unique() == len(items)
        assert items["need"].n_unique() == 28
    assert 0.10 <= (market.items["launch_s"] > 0).mean() <= 0.15
    assert not market.people.select("platform_user_id").is_duplicated().any()


def test_no_item_is_met_before_its_launch(market: Market) -> None:
    start = pl.lit(market.settings.start).cast(pl.Datetime)
    met = market.events.join(
        market.items.select("platform", "item_id", "launch_s"), on=["platform", "item_id"]
    )
    age_s = (met.select(pl.col("time") - start).to_series()).dt.total_seconds()
    assert (age_s >= met["launch_s"]).all()


def test_popularity_and_activity_are_heavy_tailed(market: Market) -> None:
    for column in ("item_id", "platform_user_id"):
        counts = market.events.group_by(column).len()["len"].sort(descending=True)
        top = counts.head(len(counts) // 10).sum() / counts.sum()
        assert 0.25 < top < 0.7


def test_accounts_of_a_person_are_alike(market: Market) -> None:
    for trait in ("return_proneness", "activity", "budget", "keenness", "taste_sweater"):
        assert market.between_platforms(market.people, trait) > 0.6
    behaviour = market.behaviour()
    assert market.between_platforms(behaviour, "returns") > 0.15
    for column in ("amount", "shoes", "clothing", "electronics"):
        assert market.between_platforms(behaviour, column) > 0.3


def test_at_effect_zero_accounts_of_a_person_are_strangers(unrelated: Market) -> None:
    noise = 4 / np.sqrt(len(unrelated.people) / 2)  # pairs: about as many as people
    for trait in ("return_proneness", "activity", "budget", "keenness", "taste_sweater"):
        assert abs(unrelated.between_platforms(unrelated.people, trait)) < noise
    behaviour = unrelated.behaviour()
    for column in ("returns", "amount", "shoes", "clothing", "electronics"):
        assert abs(unrelated.between_platforms(behaviour, column)) < noise
    needs = unrelated.exposures.group_by("person", "need").agg(pl.col("platform").n_unique())
    assert needs["platform"].max() == 1


def test_needs_are_pursued_on_several_platforms(market: Market) -> None:
    needs = market.exposures.group_by("person", "need").agg(pl.col("platform").n_unique())
    assert (needs["platform"] > 1).mean() > 0.25


def test_shares_of_missing_and_wrong_links(tmp_path: Path) -> None:
    settings = MarketSettings(
        people=2000, items_per_platform=60, events_per_person=2, missing_links=0.2, wrong_links=0.05
    )
    market = Market(tmp_path / "out", settings)
    email = market.links.filter(identifier_kind="email")
    accounts = market.people.join(email, on=["platform", "platform_user_id"], how="left")
    own = accounts.filter(link="own")
    digest_of = own.group_by("person").agg(pl.col("identifier_hash").unique())
    assert (digest_of["identifier_hash"].list.len() == 1).all()
    truth = accounts["link"].value_counts(normalize=True)
    share = dict(truth.iter_rows())
    assert share["wrong"] == pytest.approx(0.05, abs=0.015)
    assert share["none"] + share["unshared"] == pytest.approx(0.2, abs=0.03)
    assert accounts.filter(link="none")["identifier_hash"].null_count() == sum(
        accounts["link"] == "none"
    )
    unshared = accounts.filter(link="unshared")["identifier_hash"]
    assert not unshared.is_in(own["identifier_hash"].implode()).any()
    # A wrong identifier is the one of another person.
    owners = digest_of.explode("identifier_hash").rename({"person": "owner"})
    wrong = accounts.filter(link="wrong").join(owners, on="identifier_hash")
    assert len(wrong) > 50
    assert (wrong["person"] != wrong["owner"]).all()


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("people", 9),
        ("platforms", 0),
        ("platforms", 9),
        ("items_per_platform", 49),
        ("days", 0),
        ("events_per_person", 0.0),
        ("events_per_person", float("nan")),
        ("cross_platform_effect", 1.01),
        ("cross_platform_effect", -0.1),
        ("missing_links", 1.0),
        ("wrong_links", -0.5),
        ("seed", -1),
        ("format", "xml"),
    ],
)
def test_impossible_settings_are_refused_by_name(setting: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{setting} must .*\.$"):
        MarketSettings(**{setting: value})


def test_smallest_and_widest_markets_can_be_made(tmp_path: Path) -> None:
    tiny = MarketSettings(people=10, platforms=1, items_per_platform=50, days=1)
    assert simulate(tiny, tmp_path / "tiny").accounts == 10
    wide = MarketSettings(people=50, platforms=8, items_per_platform=50, days=20)
    assert len(simulate(wide, tmp_path / "wide").events_by_platform) == 8


def test_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    def stop(done: int, people: int) -> None:
        raise RuntimeError(f"stopped at {done} of {people}")

    with pytest.raises(RuntimeError, match="stopped at 60 of 60"):
        simulate(MarketSettings(**SMALL), tmp_path / "out", stop)
    assert list(tmp_path.iterdir()) == []


def test_earlier_simulation_survives_a_failure_and_is_replaced_by_a_success(tmp_path: Path) -> None:
    out = tmp_path / "out"
    simulate(MarketSettings(**SMALL), out)
    before = bytes_of(out)
    with pytest.raises(KeyboardInterrupt), replacing(out):
        raise KeyboardInterrupt
    assert bytes_of(out) == before
    simulate(MarketSettings(**SMALL, seed=8), out)
    assert bytes_of(out) != before
    assert list(tmp_path.iterdir()) == [out]


def test_folders_with_files_of_others_are_refused(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"mine")
    with pytest.raises(FileExistsError, match="name a new or an empty folder"):
        simulate(MarketSettings(**SMALL), tmp_path)
    out = tmp_path / "out"
    simulate(MarketSettings(**SMALL), out)
    (out / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="name a new or an empty folder"):
        simulate(MarketSettings(**SMALL), out)
    assert (out / "notes.txt").read_text() == "mine"
    with pytest.raises(FileExistsError, match="is a file"):
        simulate(MarketSettings(**SMALL), tmp_path / "photo.jpg")


def test_progress_counts_people(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    settings = MarketSettings(
        people=BLOCK_PEOPLE + 10, items_per_platform=50, events_per_person=1, days=30
    )
    simulate(settings, tmp_path / "out", lambda done, people: calls.append((done, people)))
    assert calls == [(BLOCK_PEOPLE, BLOCK_PEOPLE + 10), (BLOCK_PEOPLE + 10, BLOCK_PEOPLE + 10)]


def test_a_full_disk_is_told_as_one_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: pl.DataFrame, path: Path) -> None:
        raise pl.exceptions.ComputeError("parquet: No space left on device (os error 28)")

    monkeypatch.setattr(pl.DataFrame, "write_parquet", full)
    with pytest.raises(OSError, match="No space left on device") as refused:
        simulate(MarketSettings(people=50), tmp_path / "market")
    assert refused.value.errno == errno.ENOSPC
    assert not list(tmp_path.iterdir())
