"""Temporary folders of processes that live, and of those that were killed."""

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from shopcast_gateway.held_folder import HeldFolder, sweep

HOLD = """
import sys
from shopcast_gateway.held_folder import HeldFolder
print(HeldFolder("metrics").path, flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def _temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def test_a_folder_goes_with_its_process_or_when_the_next_one_starts(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD],
        env={"TMPDIR": str(tmp_path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        theirs = Path(process.stdout.readline().strip())
        (theirs / "counter_1.db").touch()
        with HeldFolder("metrics") as ours:
            sweep()
            assert ours.is_dir()
            assert theirs.is_dir(), "it lives"
        process.kill()
    assert list(tmp_path.iterdir()) == [theirs]
    sweep()
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_folder_of_ours_stays(tmp_path: Path) -> None:
    (tmp_path / "of somebody").mkdir()
    (tmp_path / "shopcast-linking-1").mkdir()
    (tmp_path / "shopcast-link.held").symlink_to(tmp_path / "of somebody")
    sweep()
    assert len(list(tmp_path.iterdir())) == 3


def test_removing_a_folder_twice_is_fine() -> None:
    folder = HeldFolder("triton")
    folder.remove()
    folder.remove()
    assert not folder.path.exists()
