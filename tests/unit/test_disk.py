"""A disk that takes no more, as a bound on the size of files: what is written gets a sentence."""

import resource
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from learning_problem import HEAD, SETTINGS, Problem

from shopcast_build.data.cleaning import clean
from shopcast_build.data.disk import writing
from shopcast_build.data.errors import DataError
from shopcast_build.data.mapping import Mapping
from shopcast_build.data.spilling import spilled, spilled_frame
from shopcast_build.learning.checkpoints import Run, StageFolder
from shopcast_build.learning.kept_states import KeptStates
from shopcast_build.learning.settings import TrackingSettings
from shopcast_build.learning.training import train

MANY = np.random.default_rng(0).random(10_000)


@contextmanager
def full_disk() -> Iterator[None]:
    """No file may be larger than 2 KiB."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def clean_a_log() -> None:
    folder = Path(tempfile.gettempdir())
    (log,) = folder.parent.glob("log.csv")
    clean([log], Mapping())


@pytest.mark.parametrize(
    "write",
    [
        lambda: spilled(MANY),
        lambda: spilled(MANY[:300]),  # as few as lie in a buffer until it is flushed
        lambda: spilled_frame([pl.DataFrame({"n": MANY})]),
        clean_a_log,
    ],
)
def test_a_full_temporary_folder_is_named_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[], object]
) -> None:
    rows = "".join(
        f"web,u-{n},2026-03-01T12:{n // 60:02}:{n % 60:02}Z,view,i-{n}\n" for n in range(900)
    )
    (tmp_path / "log.csv").write_text("platform,platform_user_id,time,kind,item_id\n" + rows)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    said = rf"^{tmp_path}/temporary cannot be written \(.*\): make room there or have TMPDIR .*\.$"
    with full_disk(), pytest.raises(DataError, match=said):
        write()
    assert list((tmp_path / "temporary").iterdir()) == []


@pytest.mark.parametrize(
    "write",
    [
        lambda folder: StageFolder(folder).finish({"weights": torch.from_numpy(MANY)}),
        lambda folder: KeptStates(folder, "key", 1).save(["a"], torch.from_numpy(MANY)[:, None]),
        lambda folder: KeptStates(folder, "key", 1000).load(["a"]),
    ],
)
def test_a_full_run_folder_is_named_with_what_to_do(
    tmp_path: Path, write: Callable[[Path], object]
) -> None:
    said = rf"^{tmp_path}.* cannot be written \(.*\): make room there .* a build with --resume\.$"
    with full_disk(), pytest.raises(DataError, match=said):
        write(tmp_path)


def test_a_training_goes_on_once_there_is_room_for_its_checkpoints(tmp_path: Path) -> None:
    problem = Problem()
    chosen = SETTINGS.model_copy(update={"tracking": TrackingSettings(to=())})
    training, validation = (problem.batches(b) for b in (problem.training, problem.validation))

    def learn(*, resume: bool) -> None:
        run = Run(tmp_path, resume=resume)
        run.begin(chosen)
        train(problem.fresh(), training, validation, replace(HEAD, steps=10), chosen, run=run)

    with full_disk(), pytest.raises(DataError, match=r"01-the-head cannot be written .* --resume"):
        learn(resume=False)
    learn(resume=True)
    assert [path.name for path in tmp_path.glob("stages/01-the-head/*.pt")] == ["finished.pt"]


def test_other_failures_are_left_as_they_are() -> None:
    with pytest.raises(RuntimeError, match="shapes"), writing():
        raise RuntimeError("shapes do not fit")
