import re
from html.parser import HTMLParser

import numpy as np
from markupsafe import Markup

from shopcast_build.reporting.figures import SERIES, drawing, new_figure, svg
from shopcast_build.reporting.page import (
    Paragraph,
    Plot,
    Section,
    Sentence,
    Table,
    render_page,
)

ATTACK = "<script>alert('1')</script> & \"more\""
VOID = {"meta", "br", "img", "link", "input", "hr"}


def drawn(title: str = "Share") -> Markup:
    with drawing():
        figure = new_figure()
        axes = figure.subplots()
        axes.plot([0, 1, 2], [0.1, 0.4, 0.2], color=SERIES[0], marker="o", label=ATTACK)
        axes.fill_between([0, 1, 2], 0, np.array([0.1, 0.4, 0.2]), color=SERIES[1], alpha=0.3)
        axes.set_title(title)
        axes.legend()
    return svg(figure)


def page(text: str = ATTACK) -> str:
    return render_page(
        text,
        [Sentence(text, "good"), Sentence("No gain.", "bad")],
        [
            Section(text, [Paragraph(text), Table(text, ["name", text], [[text, "0.5"]])]),
            Section("Figures", [Plot(drawn(), text, text), Plot(drawn("Other"), "two", "two")]),
        ],
        footer=text,
    )


class Strict(HTMLParser):
    """Notes elements, ids and attributes, and fails on tags that do not close in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.references: list[str] = []
        self.attributes: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        self._note(attrs)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._note(attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def _note(self, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            self.attributes.append((name, value or ""))
            if name == "id":
                self.ids.append(value or "")
            self.references += re.findall(r"url\(#([^)]+)\)", value or "")
            if name == "href":
                self.references.append((value or "").removeprefix("#"))


def parse(html: str) -> Strict:
    parser = Strict()
    parser.feed(html)
    parser.close()
    assert parser.open == []
    return parser


def test_text_from_a_log_is_never_markup() -> None:
    parsed = parse(page())
    assert "script" not in parsed.tags
    assert "<script" not in page()


def test_a_page_asks_nothing_of_the_network() -> None:
    html = page("plain")
    assert "http" not in html
    assert not re.search(r"@import|src=|url\((?!#)", html)


def test_ids_are_unique_and_every_reference_finds_its_own() -> None:
    parsed = parse(page("plain"))
    assert len(parsed.ids) == len(set(parsed.ids))
    assert len(parsed.references) > 4
    assert set(parsed.references) <= set(parsed.ids)


def test_the_same_figure_gives_the_same_bytes_without_a_date() -> None:
    assert drawn() == drawn()
    assert page() == page()
    assert "metadata" not in drawn()


def test_figures_take_the_colours_and_the_font_of_the_page() -> None:
    figure = drawn()
    assert "var(--series-1)" in figure and "var(--series-2)" in figure
    assert SERIES[0] not in figure
    assert "DejaVu" not in figure and "var(--font)" in figure
    assert "Share</text>" in figure


def test_a_dollar_sign_in_a_title_is_a_dollar_sign() -> None:
    assert "5$ or $6</text>" in drawn("5$ or $6")


def test_tables_name_their_rows_and_columns() -> None:
    html = render_page("t", [], [Section("s", [Table("Sizes", ["what", "n"], [["views", "12"]])])])
    assert "<caption>Sizes</caption>" in html
    assert '<th scope="col">n</th>' in html
    assert '<th scope="row" class="text">views</th>' in html
    assert "<td>12</td>" in html


def test_figures_say_what_they_show_to_those_who_do_not_see_them() -> None:
    assert ("aria-label", ATTACK) in parse(page()).attributes
