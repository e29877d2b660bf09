"""What lies in files is what was put there, and nobody else finds it."""

import tempfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from shopcast_build.data.spilling import spilled, spilled_frame
from shopcast_build.data.staging import EVENTS

SCHEMA = EVENTS | {"all_known": pl.Float64()}
ROW = st.fixed_dictionaries(
    {
        "time": st.datetimes(),
        "kind": st.sampled_from(["view", "cart", "buy", "return"]),
        "price": st.none() | st.floats(allow_nan=False),
        "quantity": st.none() | st.integers(-(2**31), 2**31 - 1),
        "all_known": st.floats(allow_nan=False),
        **{name: st.integers(0, 2**15 - 1) for name in ("platform", "account", "item")},
    }
)


@settings(deadline=None)
@given(st.lists(st.lists(ROW, max_size=5), min_size=1, max_size=4))
def test_frames_in_files_are_one_frame_of_the_same_values(
    parts: list[list[dict[str, object]]],
) -> None:
    frames = [pl.DataFrame(part, schema=SCHEMA) for part in parts]
    assert_frame_equal(spilled_frame(iter(frames)), pl.concat(frames), check_exact=True)


@pytest.mark.parametrize("shape", [(0,), (7,), (2, 3)])
def test_an_array_in_a_file_is_the_same_and_cannot_be_changed(shape: tuple[int, ...]) -> None:
    array = np.arange(np.prod(shape), dtype=np.uint32).reshape(shape)
    found = spilled(array)
    np.testing.assert_array_equal(found, array)
    assert found.dtype == array.dtype
    if array.size:
        with pytest.raises(ValueError, match="read-only"):
            found[0] = 1


def test_files_have_no_name_that_a_killed_process_could_leave_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    array, frame = spilled(np.arange(9)), spilled_frame([pl.DataFrame({"n": [1, 2]})])
    mapped = Path("/proc/self/maps").read_text()
    assert f"{tmp_path}/" in mapped  # there they lie
    assert list(tmp_path.iterdir()) == []  # and nobody can open them
    assert array.sum() + frame["n"].sum() == 39


def test_texts_are_never_written() -> None:
    with pytest.raises(TypeError, match="user is of type String"):
        spilled_frame([pl.DataFrame({"user": ["somebody"]})])
