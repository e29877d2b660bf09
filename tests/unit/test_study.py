"""A whole study of a small simulated market with a tiny base model."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from shopcast_build.data.errors import DataError
from shopcast_build.data.mapping import Mapping
from shopcast_build.learning.base_model import load_base_model
from shopcast_build.learning.examples import Progress
from shopcast_build.learning.preparation import fingerprint
from shopcast_build.learning.scoring import BLEND, TREES
from shopcast_build.learning.settings import (
    BuildSettings,
    EncoderSettings,
    HeadSettings,
    ScorerSettings,
)
from shopcast_build.release.pipeline import build_model
from shopcast_build.simulation.settings import MarketSettings
from shopcast_build.simulation.writer import SimulationSummary, simulate
from shopcast_build.study.contenders import CHOICES
from shopcast_build.study.contest import StudyOptions, some_people
from shopcast_build.study.files import write_report
from shopcast_build.study.fusion import arm_parts
from shopcast_build.study.heads import Heads
from shopcast_build.study.material import Material, read_material
from shopcast_build.study.schema import StudyReport
from shopcast_build.study.study import study_logs
from shopcast_build.study.textbook import LongTexts
from shopcast_build.study.verdicts import COLD_ITEMS, SEVERAL
from shopcast_build.study.words import newest_texts
from shopcast_cli.app import app

SETTINGS = BuildSettings(
    threads=1,
    encoder=EncoderSettings(vector_dim=8, max_tokens=16, steps=2),
    head=HeadSettings(epochs=1),
)


class Quiet:
    @contextmanager
    def stage(self, title: str) -> Iterator[Progress]:
        yield lambda done, total: None


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> SimulationSummary:
    folder = tmp_path_factory.mktemp("market") / "market"
    return simulate(
        MarketSettings(people=160, platforms=2, items_per_platform=50, days=110), folder
    )


@pytest.fixture(scope="module")
def material(market: SimulationSummary) -> Material:
    return read_material(
        [market.events], links=market.links, mapping=Mapping(), settings=SETTINGS,
        max_bad_share=0.01, reporter=Quiet(),
    )  # fmt: skip


def test_links_of_nobody_in_the_log_stop_a_build_and_a_study(
    market: SimulationSummary, tiny_base: Path, tmp_path: Path
) -> None:
    header, *lines = market.links.read_text().splitlines()
    assert header.startswith("platform,")
    strangers = tmp_path / "links.csv"
    strangers.write_text("\n".join([header, *(line.replace(",", ",0", 1) for line in lines)]))
    given: dict[str, Any] = {"links": strangers, "mapping": Mapping(), "settings": SETTINGS}
    given |= {"max_bad_share": 0.01, "reporter": Quiet()}
    with pytest.raises(DataError, match="names an account that has events"):
        read_material([market.events], **given)
    repository = tmp_path / "repository"
    given |= {"base_model": str(tiny_base), "repository": repository}
    with pytest.raises(DataError, match="names an account that has events"):
        build_model([market.events], **given)


def test_links_that_an_outcome_makes_are_told_beside_the_figures(tmp_path: Path) -> None:
    """Whoever buys something in the shop is linked with an account of the till."""
    rows, ends = [], ["platform,platform_user_id,identifier_kind,identifier_hash"]
    for person in range(240):
        for week in range(16):
            at = datetime(2024, 1, 1, tzinfo=UTC) + timedelta(days=7 * week, minutes=person)
            rows.append(("shop", f"u{person}", f"i{person % 20}", "red hat", at, "view"))
            if person < 120:
                rows.append(("shop", f"u{person}", f"i{person % 20}", "red hat", at, "buy"))
        if person < 120:
            ends += [f"{name}{person},email,{person:064x}" for name in ("shop,u", "till,t")]
            rows.append(("till", f"t{person}", "i1", "red hat", at, "buy"))
    names = ("platform", "platform_user_id", "item_id", "title", "time", "kind")
    pl.DataFrame(rows, schema=names, orient="row").write_parquet(tmp_path / "log.parquet")
    links = tmp_path / "links.csv"
    links.write_text("\n".join(ends))
    found = read_material(
        [tmp_path / "log.parquet"], links=links, mapping=Mapping(), settings=SETTINGS,
        max_bad_share=0.01, reporter=Quiet(),
    )  # fmt: skip
    doubt, *_ = found.data().doubts
    assert doubt.startswith("On shop 100% of the accounts that are linked to others bought")


def study(market: SimulationSummary, base: Path, *contenders: str, seeds: int = 1) -> StudyReport:
    return study_logs(
        [market.events], links=market.links, mapping=Mapping(), base_model=str(base),
        settings=SETTINGS, repository=None, number=None, max_bad_share=0.01,
        options=StudyOptions(contenders or CHOICES, seeds=seeds, draws=40, textbook_steps=2),
        reporter=Quiet(),
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["head", "trees", "blend"])
def test_an_arm_is_scored_by_what_a_build_would_publish(
    material: Material, tiny_base: Path, kind: Literal["head", "trees", "blend"]
) -> None:
    settings = SETTINGS.model_copy(update={"scorer": ScorerSettings(kind=kind)})
    base, texts = load_base_model(str(tiny_base)), material.timeline.catalogue.texts
    heads = Heads(base, texts, settings, lambda done, total: None)
    found = heads.scorer(material.timeline, material.parts, seed=0)
    assert found.name == {"head": "head", "trees": TREES, "blend": BLEND}[kind]


def test_a_study_judges_everybody_and_writes_a_report(
    market: SimulationSummary, tiny_base: Path, tmp_path: Path
) -> None:
    found = study(market, tiny_base, seeds=2)
    keys = {one.key for one in found.contenders}
    assert keys == (set(CHOICES) - {"fusion", "learning"}) | {"fused", "single", "placebo"}
    assert {len(one.metrics["log_loss"].seeds) for one in found.contenders} == {1, 2}
    questions = [verdict.question for verdict in found.verdicts]
    assert "Does fusing platforms help?" in questions
    assert "Does fine-tuning BERT help?" in questions
    assert len({point.exposures for point in found.learning}) == 3
    assert {point.stage for point in found.steps} == {
        "fine-tuning BERT, seed 7", "fine-tuning BERT, seed 8"
    }  # fmt: skip
    written = write_report(found, tmp_path)
    html, json = written.html.read_text(), written.json.read_text()
    users = {line.split(",")[1] for line in market.links.read_text().splitlines()[1:]}
    assert len(users) > 100
    for text in (html, json):
        assert not any(user in text for user in users if user)


def test_the_same_logs_give_the_same_report(market: SimulationSummary, tiny_base: Path) -> None:
    asked = ("before", "after", "trees", "words", "majority")
    first, second = (study(market, tiny_base, *asked) for _ in range(2))
    assert first.seconds
    plain = {"seconds": {}}
    assert first.model_copy(update=plain) == second.model_copy(update=plain)


def test_a_log_that_says_nothing_of_its_items_is_refused(
    market: SimulationSummary, tmp_path: Path
) -> None:
    for file in market.events.iterdir():
        events = pl.read_csv(file, infer_schema=False)
        events.drop("title", "brand", "category").write_csv(tmp_path / file.name)
    with pytest.raises(DataError, match=r"no item .* has a title, a brand or a category"):
        read_material(
            [tmp_path], links=None, mapping=Mapping(), settings=SETTINGS, max_bad_share=0.01,
            reporter=Quiet(),
        )  # fmt: skip


def test_cold_items_are_those_the_model_could_not_have_met(material: Material) -> None:
    timeline, items = material.timeline, material.frames[2]["item"].to_numpy()
    first = np.sort([timeline.time_s[timeline.item == item].min() for item in np.unique(items)])
    middle, late = (datetime.fromtimestamp(at, UTC) for at in first[[len(first) // 2, -2]])
    split = replace(
        material.split,
        train=(material.split.train[0], middle),
        validation=(middle, late),
    )
    for refit, until in ((material.parts.refit, late), (None, middle)):
        parts = replace(material.parts, refit=refit)
        cold = replace(material, split=split, parts=parts).test().rows(COLD_ITEMS)
        met = timeline.item[timeline.time_s < until.timestamp()]
        np.testing.assert_array_equal(cold, ~np.isin(items, met))
        assert cold.any()


def test_a_fingerprint_is_of_all_a_model_is_made_from_and_judged_on(material: Material) -> None:
    timeline, parts = material.timeline, material.parts
    assert parts.refit is not None
    relabelled = replace(parts.refit, outcome=np.roll(parts.refit.outcome, 1))
    other = copy.copy(timeline)
    other.price = timeline.price * 2
    found = [
        fingerprint(timeline, parts),
        fingerprint(timeline, replace(parts, refit=relabelled)),
        fingerprint(timeline, replace(parts, test=parts.test.take(np.arange(10)))),
        fingerprint(other, parts),
    ]
    assert len(set(found)) == len(found)
    assert fingerprint(timeline, parts) == found[0]


def test_without_a_model_of_ours_there_is_nothing_to_report(
    market: SimulationSummary, tiny_base: Path
) -> None:
    with pytest.raises(DataError, match="add before or after to --contenders"):
        study(market, tiny_base, "trees", "majority")


def test_slices_are_what_they_say(material: Material) -> None:
    test, parts = material.test(), material.parts
    several = test.rows(SEVERAL)
    people = np.unique(parts.test.person[several])
    for person in people.tolist():
        start, end = material.timeline.person_start[person : person + 2]
        assert len(np.unique(material.timeline.platform[start:end])) == 2
    cold = test.rows("no history")
    np.testing.assert_array_equal(
        cold, material.timeline.person_start[parts.test.person] == parts.test.position
    )
    platforms = [test.rows(f"platform {name}") for name in material.platforms]
    assert sum(rows.sum() for rows in platforms) == len(parts.test)


def test_the_arms_of_a_study_are_its_test(material: Material) -> None:
    for arm in ("fused", "single", "placebo"):
        _, parts = arm_parts(material, arm)
        np.testing.assert_array_equal(parts.test.outcome, material.parts.test.outcome)
        assert len(parts.train) == len(material.parts.train)


def test_an_arm_that_lost_the_order_of_the_test_is_refused(material: Material) -> None:
    shuffled = material.parts.test.take(np.arange(len(material.parts.test))[::-1])
    other = replace(material, parts=replace(material.parts, test=shuffled))
    with pytest.raises(RuntimeError, match="not about the same exposures"):
        arm_parts(other, "single")


def test_a_log_of_one_platform_is_studied_without_arms(
    market: SimulationSummary, tiny_base: Path
) -> None:
    first, *_ = sorted(market.events.iterdir())
    found = study_logs(
        [first], links=market.links, mapping=Mapping(), base_model=str(tiny_base),
        settings=SETTINGS, repository=None, number=None, max_bad_share=0.01,
        options=StudyOptions(("majority", "trees", "before", "fusion"), seeds=1, draws=40),
        reporter=Quiet(),
    )  # fmt: skip
    assert {one.key for one in found.contenders} == {"majority", "trees", "before"}
    assert found.data.multi_platform_people == 0
    (told,) = (one for one in found.verdicts if one.question == "Does fusing platforms help?")
    assert told.claim == "too small"


def test_a_smaller_share_of_people_is_part_of_a_larger_one(material: Material) -> None:
    few, more = (some_people(material.parts, share, seed=1) for share in (0.1, 0.3))
    for name in ("train", "refit"):
        chosen, wider = (set(getattr(some, name).person.tolist()) for some in (few, more))
        assert chosen < wider
        everybody = getattr(material.parts, name).person
        assert np.isin(everybody, list(chosen)).sum() == len(getattr(few, name))


def test_words_of_the_history_are_those_of_its_newest_events(material: Material) -> None:
    test, timeline = material.parts.test, material.timeline
    rows, texts = newest_texts(timeline, test, 3)
    for row in (0, len(test) // 2, len(test) - 1):
        at = range(int(test.position[row]) - 1, int(test.first[row]) - 1, -1)
        expected = [int(timeline.catalogue.text[timeline.item[n]]) for n in at][:3]
        assert texts[rows == row].tolist() == expected


def test_the_long_text_is_the_item_and_then_the_newest_events(
    material: Material, tiny_base: Path
) -> None:
    base = load_base_model(str(tiny_base))
    texts, test = LongTexts(base, material.timeline), material.parts.test
    row = int(np.argmax(test.position - test.first))
    ids = texts.ids(test, row)
    assert len(ids) == 64  # what the tiny model takes
    cls, sep = 2, 3
    assert ids[0] == cls and ids.count(cls) == 1 and sep in ids
    alone = int(np.flatnonzero(test.position == test.first)[0])
    assert texts.ids(test, alone).count(sep) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--version", "1"), "where it is published with --repository"),
        (("--repository", "r", "--set", "seed=1"), "leave --settings and --set out"),
        (
            ("--repository", "r", "--set", "exposures.test_share=0.2"),
            "--set out, but for exposures.",
        ),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    arguments: tuple[str, ...], words: str, tmp_path: Path
) -> None:
    result = CliRunner().invoke(app, ["evaluate", "--events", str(tmp_path), *arguments])
    assert result.exit_code == 2
    plain = " ".join(result.output.replace("│", " ").split())
    assert words in plain


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--contenders", "tress"), "There is no contender tress"),
        (("--contenders", ""), "There is no contender ;"),
        (("--contenders", "trees"), "add before or after to --contenders"),  # before a log is read
        (("--contenders", "after", "--set", "encoder.steps=0"), "add before to --contenders"),
        (("--repository", "nowhere"), "No model is published in nowhere"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    arguments: tuple[str, ...], words: str, tmp_path: Path
) -> None:
    (tmp_path / "log.csv").write_text("platform,platform_user_id,time,kind,item_id\n")
    result = CliRunner().invoke(app, ["evaluate", "--events", str(tmp_path), *arguments])
    assert result.exit_code == 1
    assert words in " ".join(result.output.split())
