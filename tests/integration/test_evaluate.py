"""`platform evaluate` on a published version."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def test_a_published_version_is_judged_as_it_is(
    built: Any, platform: Callable[..., Any], tmp_path: Path
) -> None:
    done = platform(
        "evaluate", "--events", built.events, "--links", built.links,
        "--repository", built.repository, "--contenders", "majority,trees",
        "--seeds", 2, "--output", tmp_path / "report", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["subject"] == "published"
    found = {one["key"]: one["metrics"] for one in report["contenders"]}
    assert set(found) == {"published", "trees", "majority"}
    # What the build measured with torch, from the graphs it published.
    expected = built.report["metrics"][built.report["published"]]
    for metric in ("log_loss", "macro_f1", "accuracy", "ece", "buy_auc", "view_pr_auc"):
        assert found["published"][metric]["value"] == pytest.approx(expected[metric], abs=2e-3)
    assert report["data"]["exposures"]["test"] == built.report["exposures"]["test"]
    written = json.loads((tmp_path / "report" / "report.json").read_text())
    assert written == report
    html = (tmp_path / "report" / "report.html").read_text()
    assert all(verdict["text"].replace("'", "&#39;") in html for verdict in report["verdicts"])


def test_a_version_that_is_not_there_is_one_sentence(
    built: Any, platform: Callable[..., Any], tmp_path: Path
) -> None:
    done = platform(
        "evaluate", "--events", built.events, "--repository", built.repository,
        "--version", 9, "--output", tmp_path,
    )  # fmt: skip
    assert done.returncode == 1
    assert "There is no version 9" in done.stderr
    assert list(tmp_path.iterdir()) == []
