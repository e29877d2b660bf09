"""Temporary folders of processes that live, and of those that were killed."""

import errno
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from shopcast_gateway.errors import StartupError
from shopcast_gateway.held_folder import HeldFolder, sweep
from shopcast_gateway.open_files import check_open_files

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


def test_where_none_can_be_made_a_sentence_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = os.open

    def too_many(path: Any, *more: Any) -> int:
        if "shopcast-triton" in str(path):
            raise OSError(errno.EMFILE, "Too many open files")
        return opened(path, *more)

    monkeypatch.setattr(os, "open", too_many)
    with pytest.raises(StartupError, match=r"Too many open files.*ulimit -n"):
        HeldFolder("triton")
    assert list(tmp_path.iterdir()) == [], "what was begun has gone"
    (tmp_path / "a file").touch()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "a file"))
    sweep()
    with pytest.raises(StartupError, match="set TMPDIR to one that has some"):
        HeldFolder("metrics")


def test_a_gateway_that_may_open_few_files_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (24, 4096))
    with pytest.raises(StartupError, match="this one may have 24: raise the limit"):
        check_open_files()
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, 4096))
    check_open_files()
