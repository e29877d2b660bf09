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
