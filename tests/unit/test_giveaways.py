"""Numbers that an outcome changes are named, wherever figures rest on them."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from shopcast_build.data.mapping import Mapping
from shopcast_build.learning.examples import Examples
from shopcast_build.learning.giveaways import giveaways
from shopcast_build.learning.reporter import Silent
from shopcast_build.learning.settings import BuildSettings, EncoderSettings, HeadSettings
from shopcast_build.release.pipeline import build_model
from shopcast_build.study.contest import StudyOptions
from shopcast_build.study.study import study_logs
from shopcast_domain.events import Outcome
from shopcast_domain.features import FEATURES

PRICE, QUANTITY = FEATURES.index("price"), FEATURES.index("quantity")
M = 2000


def orders() -> tuple[Examples, Any]:
    """Tosses of a coin of which a fifth come back, and a generator."""
    rng = np.random.default_rng(0)
    features = rng.normal(3, 1, (M, len(FEATURES))).astype(np.float32)
    features[:, QUANTITY] = np.log1p(rng.integers(1, 9, M))
    outcome = np.where(rng.random(M) < 0.2, Outcome.RETURN, Outcome.BUY).astype(np.int64)
    nothing = np.zeros(M, dtype=np.int64)
    return Examples(features, outcome, nothing, nothing, nothing, nothing, nothing, nothing), rng


def changed(column: int, rows: Any, value: Any) -> Examples:
    examples, _ = orders()
    examples.features[rows, column] = value
    return examples


def test_tosses_of_a_coin_give_nothing_away() -> None:
    assert giveaways(orders()[0], ["till"]) == []


@pytest.mark.parametrize("value", [0.0, 3.0, 50.0])
def test_a_number_that_a_return_changes_is_named(value: float) -> None:
    returned = orders()[0].outcome == Outcome.RETURN
    (found,) = giveaways(changed(PRICE, returned, value), ["till"])
    assert (found.platform, found.rows, found.of) == ("till", returned.sum(), returned.sum())
    assert "the number 'price' alone tells" in found.sentence
    assert "that were sent back" in found.sentence


def test_it_is_named_where_a_fifth_of_the_returns_have_it() -> None:
    returned = np.flatnonzero(orders()[0].outcome == Outcome.RETURN)
    enough = -(-len(returned) // 5)
    assert giveaways(changed(PRICE, returned[:enough], -9.0), ["till"])
    assert not giveaways(changed(PRICE, returned[: enough // 2], -9.0), ["till"])


def test_what_most_others_have_too_gives_nothing_away() -> None:
    examples, rng = orders()
    examples.features[:, PRICE] = np.where(
        rng.random(M) < np.where(examples.outcome == Outcome.RETURN, 0.9, 0.1), 0.0, 1.0
    )
    assert giveaways(examples, ["till"]) == []


def test_platforms_and_purchases_are_looked_at_apart() -> None:
    examples, _ = orders()
    views = examples.outcome == Outcome.RETURN
    examples.features[:, QUANTITY] = 0  # nobody orders
    examples.features[views, PRICE] = -9.0
    examples = replace(
        examples,
        outcome=np.where(views, Outcome.BUY, Outcome.VIEW).astype(np.int64),
        platform=np.ones(M, dtype=np.int64),
    )
    (found,) = giveaways(examples, ["till", "web"])
    assert found.platform == "web"
    assert "that ended in a purchase" in found.sentence


@pytest.fixture
def refunds(tmp_path: Path) -> Path:
    """Orders of a till, whose price a refund sets to zero; what comes back is a toss of a coin."""
    rng = np.random.default_rng(3)
    rows = []
    for n in range(2500):
        time = datetime(2024, 1, 1, tzinfo=UTC) + timedelta(days=120 * float(rng.random()))
        back = bool(rng.random() < 0.3)
        item = f"i{rng.integers(50)}"
        order = {"platform": "till", "platform_user_id": f"u{rng.integers(200)}", "item_id": item}
        order |= {"title": f"thing {item}"}
        rows.append(order | {"time": time, "kind": "buy", "price": 0.0 if back else 9.0 + n % 7})
        if back:
            late = time + timedelta(days=2)
            rows.append(order | {"time": late, "kind": "return", "price": 9.0})
    pl.DataFrame(rows).write_parquet(tmp_path / "log.parquet")
    return tmp_path / "log.parquet"


SETTINGS = BuildSettings(
    threads=1,
    encoder=EncoderSettings(vector_dim=8, max_tokens=16, steps=0),
    head=HeadSettings(epochs=1),
)


def test_a_report_and_a_build_say_that_a_refund_gives_returns_away(
    refunds: Path, tiny_base: Path, tmp_path: Path
) -> None:
    given: dict[str, Any] = {"links": None, "mapping": Mapping(), "settings": SETTINGS}
    given |= {"base_model": str(tiny_base), "max_bad_share": 0.0, "reporter": Silent()}
    report = study_logs(
        [refunds],
        **given,
        repository=None,
        number=None,
        options=StudyOptions(("before", "trees"), seeds=1, draws=20),
    )
    (doubt,) = report.data.doubts
    assert doubt.startswith("On till the number 'price' alone tells")
    built = build_model([refunds], **given, repository=tmp_path / "repository", force=True)
    assert built is not None
    assert doubt in [one.sentence for one in built.cleaning.suspicious]
