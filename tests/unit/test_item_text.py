import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shopcast_domain.item_text import (
    MAX_TEXT_CHARS,
    clean,
    item_text,
    match_name,
    price_band,
    text_digest,
)

texts = st.none() | st.text(max_size=600)
prices = st.none() | st.floats()


def test_control_characters_and_white_space_are_folded() -> None:
    assert clean(" Trail\x00\u202eshoe \t\n ﬁve ") == "Trail shoe five"
    assert clean(None) == ""


@given(st.text())
def test_cleaning_leaves_nothing_to_clean(text: str) -> None:
    once = clean(text)
    assert clean(once) == once
    assert not any(unicodedata.category(c).startswith("C") for c in once)


def test_names_match_across_platforms_whatever_their_case_and_spacing() -> None:
    assert match_name("  STRASSE >\tSchuhe") == match_name("straße > schuhe")
    assert match_name("shoes") != match_name("shirts")


@pytest.mark.parametrize(
    ("price", "band"),
    [
        (0.0, "price under 1"),
        (1.0, "price 1 to 2"),
        (63.99, "price 32 to 64"),
        (64.0, "price 64 to 128"),
        (-1.0, ""),
        (float("nan"), ""),
        (float("inf"), ""),
        (None, ""),
    ],
)
def test_price_bands_double(price: float | None, band: str) -> None:
    assert price_band(price) == band


def test_a_small_change_of_price_keeps_the_text() -> None:
    assert item_text("Shoe", None, None, 40.0) == item_text("Shoe", None, None, 42.5)


def test_the_brand_is_left_out_where_the_title_names_it() -> None:
    assert item_text("NORDWIND trail shoe", "Nordwind", None, None) == "NORDWIND trail shoe"


@pytest.mark.parametrize(
    "title, brand, named",
    [
        ("Cotton socks", "On", False),
        ("Pumas of the Andes", "Puma", False),
        ("On-Cloud 5", "ON", True),
        ("Cotton shoe by On", "On", True),
        ("耐克运动鞋", "耐克", True),
    ],
)
def test_a_title_names_a_brand_by_a_whole_word(title: str, brand: str, named: bool) -> None:
    assert item_text(title, brand, None, None) == (title if named else f"{title} | {brand}")


def test_a_price_alone_is_no_text() -> None:
    assert item_text(None, " ", "", 12.0) == ""


@given(texts, texts, texts, prices)
def test_any_attributes_give_one_short_line(
    title: str | None, brand: str | None, category: str | None, price: float | None
) -> None:
    text = item_text(title, brand, category, price)
    assert len(text) <= MAX_TEXT_CHARS
    assert "\n" not in text
    assert len(text_digest(text)) == 16


def test_texts_that_differ_have_digests_that_differ() -> None:
    digests = {text_digest(item_text(f"item {n}", None, None, None)) for n in range(1000)}
    assert len(digests) == 1000
