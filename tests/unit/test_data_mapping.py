from pathlib import Path

import pytest

from shopcast_build.data.errors import DataError
from shopcast_build.data.mapping import IDENTITY, Mapping, load_mapping


@pytest.mark.parametrize(
    ("toml", "key"),
    [
        ('[time]\nzone = "Mars/Base"', "time.zone"),
        ('[platform]\ncolum = "x"', "platform.colum"),
        ("[platform]", "platform"),
        ('[platform]\ncolumn = "x"\nconstant = "y"', "platform"),
        ("colour = 1", "colour"),
        ('[kind]\nrules = [{column = "a", equals = "x", kind = "bay"}]', "kind.rules.0.kind"),
        ('[kind.synonyms]\npurchase = "bay"', "kind.synonyms.purchase"),
        ('[[drop]]\ncolumn = "a"\nreason = "x"', "drop.0"),
        ('[[drop]]\ncolumn = "a"\nequals = "b"', "drop.0.reason"),
        ('[[drop]]\ncolumn = "a"\nreason = "x"\nmatches = "("', "drop.0.matches"),
        ('[[drop]]\ncolumn = "a"\nreason = "x"\nis_null = false', "drop.0.is_null"),
    ],
)
def test_wrong_mapping_names_the_key(tmp_path: Path, toml: str, key: str) -> None:
    path = tmp_path / "mapping.toml"
    path.write_text(toml)
    with pytest.raises(DataError, match=rf"mapping\.toml is wrong at {key}: "):
        load_mapping(path)


@pytest.mark.parametrize("field", ["platform", "title", "price"])
def test_no_other_field_is_read_from_the_ids_of_users(tmp_path: Path, field: str) -> None:
    path = tmp_path / "mapping.toml"
    path.write_text(f'[{field}]\ncolumn = "who"\n[platform_user_id]\ncolumn = "who"\n')
    with pytest.raises(DataError, match=f"{field} and platform_user_id are read from one column"):
        load_mapping(path)


def test_broken_toml_and_missing_file(tmp_path: Path) -> None:
    path = tmp_path / "mapping.toml"
    with pytest.raises(DataError, match="cannot be read"):
        load_mapping(path)
    path.write_bytes(b"\xff = 1")
    with pytest.raises(DataError, match="not valid TOML"):
        load_mapping(path)
    path.write_text("drop = [")
    with pytest.raises(DataError, match="not valid TOML"):
        load_mapping(path)


def test_a_mapping_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "mapping.toml"
    path.write_text('\ufeff[platform]\nconstant = "shop"\n', encoding="utf-8")
    assert load_mapping(path).platform.constant == "shop"


def test_empty_mapping_is_the_identity(tmp_path: Path) -> None:
    path = tmp_path / "mapping.toml"
    path.write_text("")
    assert load_mapping(path) == IDENTITY == Mapping()


def test_the_shipped_example_is_valid() -> None:
    example = Path(__file__).parents[2] / "examples" / "online_retail.toml"
    assert load_mapping(example).time.zone == "Europe/London"
