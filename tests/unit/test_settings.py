import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from shopcast_build.data.errors import DataError
from shopcast_build.learning.settings import load_settings


def test_a_file_of_settings_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    path.write_text("\ufeff[head]\nepochs = 3\n", encoding="utf-8")
    assert load_settings(path, {}).head.epochs == 3


@pytest.mark.parametrize("value", ["inf", "nan"])
def test_no_setting_is_infinite_or_no_number(value: str) -> None:
    with pytest.raises(DataError, match=r"head\.learning_rate is wrong: input should be"):
        load_settings(None, {"head.learning_rate": value})


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("head.epochs = true", "head.epochs"),
        ('head.epochs = "3"', "head.epochs"),
        ("exposures.return_window_days = true", "exposures.return_window_days"),
        ("exposures.refit = 1", "exposures.refit"),
        ("exposures.test_start = 5", "exposures.test_start"),
        ('exposures.test_start = "1300000000"', "exposures.test_start"),
    ],
)
def test_a_value_of_another_type_is_refused(tmp_path: Path, written: str, name: str) -> None:
    path = tmp_path / "settings.toml"
    path.write_text(written)
    with pytest.raises(DataError, match=rf"The setting {re.escape(name)} is wrong: input should"):
        load_settings(path, {})


def test_lists_whole_numbers_and_moments_are_read_as_toml_writes_them(tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    path.write_text(
        "exposures = {test_start = 2011-08-01T00:00:00Z, return_window_days = 30}\n"
        'tracking.to = ["mlflow"]\naugmentation.synonyms = {mug = ["cup"]}\n'
    )
    found = load_settings(path, {"exposures.validation_start": "2011-06-01 00:00:00+01:00"})
    assert found.exposures.test_start == datetime(2011, 8, 1, tzinfo=UTC)
    assert found.exposures.validation_start == datetime(2011, 5, 31, 23, tzinfo=UTC)
    assert found.exposures.return_window_days == 30
    assert found.tracking.to == ("mlflow",)
    assert found.augmentation.synonyms == {"mug": ("cup",)}
