"""The report on the quality of a log, as people and machines read it."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import polars as pl
import pytest

from shopcast_build.data.cleaning import clean
from shopcast_build.data.mapping import Mapping
from shopcast_build.data.quality import JSON_NAME, render_quality, write_quality
from shopcast_build.data.report import CleaningReport

EVIL = "<script>alert('$x^2$')</script>"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> CleaningReport:
    folder = tmp_path_factory.mktemp("log")
    usual = {
        "platform": "web", "platform_user_id": "secret-user", "time": "2024-01-01T10:00:00Z",
        "kind": "buy", "item_id": "i", "title": "t", "price": "5",
    }  # fmt: skip
    rows = [
        *({"item_id": "reused", "title": f"{EVIL} {n}"} for n in range(25)),
        {"kind": EVIL},
        {"price": EVIL},
        {"platform": "app", "time": "2024-02-01T11:00:00Z"},
        {"platform": "app", "platform_user_id": None},
    ]
    pl.DataFrame([usual | row for row in rows]).write_csv(folder / "<b>log.csv")
    drop = [{"column": "title", "equals": "never", "reason": EVIL}]
    return clean([folder], Mapping.model_validate({"drop": drop}), max_bad_share=1.0).report


class Outline(HTMLParser):
    """Tags and text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_shows_what_the_log_says_as_text(report: CleaningReport) -> None:
    page = render_quality(report)
    outline = Outline(page)
    assert "script" not in outline.tags
    assert "b" not in outline.tags
    assert EVIL in outline.text
    assert "<b>log.csv" in outline.text
    assert "secret-user" not in page


def test_the_page_needs_nothing_from_elsewhere(report: CleaningReport) -> None:
    page = render_quality(report)
    assert not re.findall(r"""(?:src|href)\s*=\s*["'](?!#)|url\((?!#)|@import|https?://""", page)
    assert "prefers-color-scheme: dark" in page
    assert Outline(page).tags.count("svg") >= 4
    assert Outline(page).tags.count("caption") == Outline(page).tags.count("table")


def test_equal_logs_make_equal_pages(report: CleaningReport) -> None:
    assert render_quality(report) == render_quality(report)


def test_the_json_holds_every_number_by_platform(report: CleaningReport, tmp_path: Path) -> None:
    page = write_quality(report, tmp_path / "made")
    assert page.is_file()
    written = json.loads((tmp_path / "made" / JSON_NAME).read_text())
    app, web = written["by_platform"]
    assert (app["read"], app["kept"], app["dropped"]) == (2, 1, {"missing user": 1})
    assert (web["read"], web["kept"], web["dropped"]) == (27, 26, {"unknown kind": 1})
    assert web["repaired"] == {"impossible price (removed)": 1}
    assert app["months"] == {"2024-02": 1}
    assert web["hours"][10] == 26
    for one in (app, web):
        assert one["read"] == one["kept"] + one["duplicates"] + sum(one["dropped"].values())
    assert {one["name"] for one in written["suspicious"]} >= {"items with very many titles"}
    assert "secret-user" not in json.dumps(written)
