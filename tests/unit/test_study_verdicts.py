"""From hand-made predictions to sentences and pages."""

import re
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from shopcast_build.data.errors import DataError
from shopcast_build.learning.settings import BuildSettings
from shopcast_build.study.assessment import Test as Exposures
from shopcast_build.study.contenders import Contender
from shopcast_build.study.contest import StudyOptions
from shopcast_build.study.files import HTML, JSON, write_report
from shopcast_build.study.html import render
from shopcast_build.study.judgement import assess
from shopcast_build.study.schema import Data, Fusion, LearningPoint, StepPoint, StudyReport
from shopcast_build.study.verdicts import SEVERAL
from shopcast_domain.features import Floats, Ints

N, PEOPLE = 2400, 240
ATTACK = "<script>alert(1)</script>"


class Truth:
    """Outcomes with known chances, and contenders who know more or less of them."""

    def __init__(self) -> None:
        self._rng = np.random.default_rng(11)
        logits = self._rng.normal(size=(N, 3)) * 1.2 + [1.5, 0.0, -0.7]
        self.chances = self._softmax(logits)
        drawn = self._rng.random((N, 1))
        self.outcome: Ints = (drawn > self.chances.cumsum(axis=1)[:, :2]).sum(axis=1)
        self.person: Ints = self._rng.integers(PEOPLE, size=N)
        self._logits = logits

    def knowing(self, share: float, seed: int = 0) -> Floats:
        """Probabilities blurred by noise; share 1: the truth."""
        noise = np.random.default_rng(seed).normal(size=(N, 3)) * 1.2 + [1.5, 0.0, -0.7]
        return self._softmax(share * self._logits + (1 - share) * noise)

    @staticmethod
    def _softmax(logits: Floats) -> Floats:
        e = np.exp(logits - logits.max(axis=1, keepdims=True))
        return e / e.sum(axis=1, keepdims=True)


TRUTH = Truth()


def one(key: str, *runs: Floats, asked: Ints | None = None) -> Contender:
    return Contender(key, runs, ((1.0, 1.0, 1.0),) * len(runs), key, f"what {key} is", asked, 1.0)


def report(
    *contenders: Contender, platform: str = "north", several: int = N, views: int = N
) -> StudyReport:
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    looked = np.arange(N) < views
    outcome = np.where(looked, TRUTH.outcome, np.maximum(TRUTH.outcome, 1))  # orders are purchases
    slices = {SEVERAL: ("people on several platforms", np.arange(N) < several)}
    counts = dict(zip(("view", "buy", "return"), np.bincount(TRUTH.outcome).tolist(), strict=True))
    data = Data(
        log_start=moment, log_end=moment, train=(moment, moment), validation=(moment, moment),
        test=(moment, moment), gap_days=15.0, exposures=dict.fromkeys(
            ("train", "validation", "test"), N
        ), people=PEOPLE, test_people=PEOPLE, multi_platform_people=9, items=5,
        outcomes={platform: counts},
    )  # fmt: skip
    return assess(
        contenders,
        Exposures(outcome, TRUTH.person, slices, looked),
        subject="after",
        data=data,
        base_model="tiny",
        settings=BuildSettings(),
        draws=100,
        fusion=Fusion(own_first_share=0.1, replaced=3, without_stranger=0),
    )


def said(found: StudyReport, start: str) -> str:
    return next(v.text for v in found.verdicts if v.text.startswith(start))


GOOD, BAD = TRUTH.knowing(1.0), TRUTH.knowing(0.3)


def test_what_is_better_beyond_its_interval_is_called_better() -> None:
    found = report(one("after", GOOD), one("trees", BAD), one("before", BAD))
    assert "more of 100 pairs" in said(found, "Better than gradient boosting")
    assert said(found, "Fine-tuning BERT helps")


def test_purchases_are_told_from_views_among_views() -> None:
    among_all, among_few = (
        report(one("after", GOOD), one("trees", BAD), views=views) for views in (N, 150)
    )
    assert said(among_all, "Better than gradient boosting")
    assert "150 exposures" in said(among_few, "Whether it beats gradient boosting")


def test_what_is_inside_its_interval_is_no_gain() -> None:
    alike = 0.97 * GOOD + 0.03 * TRUTH.knowing(0.8, seed=4)
    found = report(one("after", GOOD), one("trees", alike), one("before", alike))
    assert "may be chance" in said(found, "No gain over gradient boosting")
    assert "may be chance" in said(found, "No gain from fine-tuning BERT")


def test_what_is_worse_is_called_worse() -> None:
    found = report(one("after", BAD), one("trees", GOOD))
    assert "fewer of 100 pairs" in said(found, "Worse than gradient boosting")


def test_what_the_past_is_worth_is_said_of_heads_alike() -> None:
    """A scorer of another kind may know more without knowing the person."""
    found = report(one("after", GOOD), one("before", BAD), one("no-history", BAD))
    assert said(found, "No gain from what is known of the person")
    found = report(one("after", GOOD), one("before", GOOD), one("no-history", BAD))
    assert said(found, "What is known of the person helps")


def arms(fused: Floats, single: Floats, placebo: Floats, several: int = N) -> str:
    found = report(
        one("after", GOOD), one("fused", fused), one("single", single), one("placebo", placebo),
        several=several,
    )  # fmt: skip
    return next(v.text for v in found.verdicts if v.question.startswith("Does fusing"))


def test_fusing_is_claimed_only_where_it_beats_one_platform_and_the_placebo() -> None:
    middle = TRUTH.knowing(0.6, seed=2)
    assert arms(GOOD, middle, BAD).startswith("Fusing platforms helps")
    assert arms(GOOD, middle, GOOD).startswith("No gain from fusing platforms")
    assert arms(middle, middle, BAD).startswith("No gain from fusing platforms")
    assert arms(BAD, GOOD, middle).startswith("Fusing platforms makes it worse")


def test_fusing_cannot_be_told_where_nobody_has_several_platforms() -> None:
    found = report(one("after", GOOD))
    assert "nobody in the test period has accounts on several" in said(found, "Whether fusing")


def test_nothing_is_claimed_of_a_slice_too_small() -> None:
    assert "cannot be told from 150 exposures" in arms(GOOD, BAD, BAD, several=150)


def test_seeds_that_disagree_make_no_claim() -> None:
    found = report(one("after", GOOD, GOOD, BAD), one("trees", *[TRUTH.knowing(0.5, seed=1)] * 3))
    assert said(found, "No gain over gradient boosting")


def test_calibration_is_told_apart_from_chance() -> None:
    honest = report(one("after", GOOD))
    assert not any("cannot be read" in verdict.text for verdict in honest.verdicts)
    # Limits of rare outcomes are tenths of a point: rounded to them, either side looks the same.
    assert re.search(r"at most \d\.\d\d; \d\.\d\d is the limit", honest.verdicts[-1].text)
    sure = GOOD**4 / (GOOD**4).sum(axis=1, keepdims=True)
    assert said(report(one("after", sure)), "Its probabilities cannot be read as shares")


def test_who_was_asked_about_a_part_is_compared_on_that_part() -> None:
    asked = TRUTH.person < 120
    half = np.where(asked[:, None], BAD, 0.0)
    found = report(one("after", GOOD), one("textbook", half, asked=asked))
    result = next(c for c in found.contenders if c.key == "textbook")
    assert result.exposures == asked.sum()
    difference = next(d for d in found.differences if d.against == "textbook")
    assert difference.exposures == asked.sum()
    assert difference.people == 120
    assert found.contenders[0].exposures == N


def test_without_views_returns_decide() -> None:
    outcome = np.where(TRUTH.outcome == 2, 2, 1)
    two = np.stack([np.zeros(N), 1 - GOOD[:, 2], GOOD[:, 2]], axis=1)
    rest = report(one("after", GOOD))
    found = assess(
        [one("after", two)],
        Exposures(outcome, TRUTH.person, {}),
        subject="after",
        data=rest.data,
        base_model="tiny",
        settings=BuildSettings(),
        draws=50,
    )
    assert found.headline == "return"
    assert "came back" in found.verdicts[0].text


@cache
def full() -> StudyReport:
    """A report that uses every part of the page, with names as hostile logs have them."""
    found = report(
        one("after", GOOD, TRUTH.knowing(0.9)), one("trees", BAD), one("fused", GOOD),
        one("single", BAD), one("placebo", BAD), platform=ATTACK,
    )  # fmt: skip
    estimate = found.contenders[0].metrics["purchase_auc"]
    points = [
        LearningPoint(contender="trees", exposures=n, estimate=estimate) for n in (100, 300, 1000)
    ]
    steps = [StepPoint(stage=ATTACK, step=n, loss=1.0 / n) for n in (1, 2, 3)]
    return found.model_copy(update={"learning": tuple(points), "steps": tuple(steps)})


def test_the_page_escapes_what_logs_call_things_and_asks_nothing_of_the_network() -> None:
    html = render(full())
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    assert "http" not in html


def test_the_page_shows_every_sentence_and_every_plot() -> None:
    found = full()
    html = render(found)
    for verdict in found.verdicts:
        assert verdict.text.replace("'", "&#39;") in html
    assert html.count("<svg") == 7  # shares, two forests, reliability, ranking, learning, steps


def test_the_page_begins_with_what_makes_every_model_look_better() -> None:
    found = full()
    data = found.data.model_copy(update={"doubts": ("Links give it away.",)})
    html = render(found.model_copy(update={"data": data}))
    assert html.index("Links give it away.") < html.index(found.verdicts[0].text[:20])


def test_the_same_study_is_written_as_the_same_bytes(tmp_path: Path) -> None:
    first, second = (write_report(full(), tmp_path / name) for name in ("a", "b"))
    assert first.html.read_bytes() == second.html.read_bytes()
    assert first.json.read_bytes() == second.json.read_bytes()
    assert {path.name for path in (tmp_path / "a").iterdir()} == {HTML, JSON}


def test_the_written_report_reads_back_as_it_was(tmp_path: Path) -> None:
    found = full()
    written = write_report(found, tmp_path)
    assert StudyReport.model_validate_json(written.json.read_text()) == found


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="check --output"):
        write_report(full(), tmp_path / "file" / "folder")


def test_an_unknown_contender_is_named() -> None:
    with pytest.raises(DataError, match=r"no contender tress; choose among .*trees"):
        StudyOptions(contenders=("tress",))
