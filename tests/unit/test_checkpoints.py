"""A build's folder: what it refuses, and what it keeps."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from learning_problem import HEAD, JOINT, SETTINGS, Problem, changed, weights

from shopcast_build.data.errors import DataError
from shopcast_build.learning.checkpoints import Run, digest, open_run
from shopcast_build.learning.settings import BuildSettings
from shopcast_build.learning.training import train

PLAIN = BuildSettings.model_validate({"tracking": {"to": []}})


def settings(**sections: dict[str, object]) -> BuildSettings:
    return BuildSettings.model_validate({"tracking": {"to": []}, **sections})


def begin(
    folder: Path, chosen: BuildSettings = PLAIN, *, resume: bool = False, **inputs: str
) -> Run:
    run = Run(folder, resume=resume)
    run.begin(chosen, **({"data": "d1", "base model": "b1"} | inputs))
    return run


def test_a_folder_that_holds_a_build_is_not_written_over(tmp_path: Path) -> None:
    begin(tmp_path)
    with pytest.raises(DataError, match=r"holds a build already: add --resume .* --run-folder\.$"):
        begin(tmp_path)
    begin(tmp_path, resume=True)


@pytest.mark.parametrize(
    ("chosen", "inputs", "difference"),
    [
        (settings(encoder={"steps": 9}), {}, "encoder.steps is 160 there and 9 here"),
        (settings(loss={"kind": "focal"}), {}, "loss.kind is cross_entrop... there and focal here"),
        (PLAIN, {"data": "d2"}, "data is d1 there and d2 here"),
        (PLAIN, {"base model": "b2"}, "base model is b1 there and b2 here"),
    ],
)
def test_stale_checkpoints_are_refused_with_what_differs(
    tmp_path: Path, chosen: BuildSettings, inputs: dict[str, str], difference: str
) -> None:
    begin(tmp_path)
    with pytest.raises(DataError) as refused:
        begin(tmp_path, chosen, resume=True, **inputs)
    said = str(refused.value)
    assert f"checkpoints of another build ({difference})" in said
    assert "leave --resume out" in said
    assert "\n" not in said


def test_what_does_not_shape_the_model_may_change(tmp_path: Path) -> None:
    begin(tmp_path)
    other = BuildSettings.model_validate({"threads": 1, "tracking": {"to": ["tensorboard"]}})
    begin(tmp_path, other, resume=True).close()


def test_a_published_build_is_not_built_again(tmp_path: Path) -> None:
    run = begin(tmp_path)
    run.stage("the head")
    run.finish()
    assert not (tmp_path / "stages").exists()
    with pytest.raises(DataError, match="was finished and published"):
        begin(tmp_path, resume=True)


def two_builds_begun() -> list[Path]:
    """Their folders, the older one first."""
    folders = []
    for _ in range(2):
        with open_run(None) as run:
            run.begin(PLAIN)
            run.stage("the head")
            folders.append(run.folder)
    return folders


def test_without_a_name_a_build_gets_a_new_folder_and_resumes_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with (
        pytest.raises(DataError, match="no build to go on with in runs/"),
        open_run(None, resume=True),
    ):
        pass
    folders = two_builds_begun()
    assert len(set(folders)) == 2
    with open_run(None, resume=True) as run:
        assert run.folder == folders[1]


def test_the_last_build_to_go_on_with_is_one_that_was_not_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folders = two_builds_begun()
    (folders[1] / "published").touch()  # and killed before its checkpoints were gone
    with open_run(None, resume=True) as run:
        assert run.folder == folders[0]


def test_a_named_folder_without_a_build_is_not_gone_on_with(tmp_path: Path) -> None:
    with (
        pytest.raises(DataError, match="nope holds no build to go on with: leave --resume out"),
        open_run(tmp_path / "nope", resume=True),
    ):
        pass


@pytest.mark.parametrize("place", ["file", "file/run"])
def test_a_place_that_cannot_be_a_folder_is_refused(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("mine")
    with (
        pytest.raises(DataError, match=r"cannot hold a build .* --run-folder"),
        open_run(tmp_path / place),
    ):
        pass


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_in_which_a_build_runs_takes_no_other(tmp_path: Path, resume: bool) -> None:
    with open_run(tmp_path) as run:
        if resume:
            run.begin(PLAIN)
        with (
            pytest.raises(
                DataError, match=r"^Another build is running in .*: wait .* --run-folder"
            ),
            open_run(tmp_path, resume=resume),
        ):
            pass
        run.begin(PLAIN)
    with open_run(tmp_path, resume=True) as run:  # once that one has ended, however it did
        run.begin(PLAIN)


def test_a_build_that_never_began_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="no such column"), open_run(None):
        raise DataError("no such column")
    assert list((tmp_path / "runs").iterdir()) == []


def test_the_digest_changes_with_every_bit() -> None:
    a, b = np.zeros((2, 3), np.float32), np.zeros(6, np.float32)
    found = {
        digest([a]), digest([b]), digest([a, a]), digest([a + 1]), digest([a], ["x"]),
        digest([a], ["x", "y"]), digest([a], ["xy"]), digest([a.astype(np.float64)]),
    }  # fmt: skip
    assert len(found) == 8
    assert digest([a.T]) == digest([np.ascontiguousarray(a.T)])


def test_a_finished_stage_is_taken_over_without_a_step(tmp_path: Path) -> None:
    problem = Problem()
    chosen = SETTINGS.model_copy(update={"tracking": PLAIN.tracking})
    training, validation = (problem.batches(b) for b in (problem.training, problem.validation))
    ends, losses, steps = [], [], []
    for resume in (False, True):
        run = Run(tmp_path, resume=resume)
        run.begin(chosen)
        model = problem.fresh()
        done: list[int] = []

        def report(step: int, _: int, done: list[int] = done) -> None:
            done.append(step)

        losses.append(
            [
                train(model, training, validation, stage, chosen, report, run=run)
                for stage in (
                    replace(HEAD, steps=10),
                    JOINT,
                    replace(HEAD, title="again", steps=10),
                )
            ]
        )
        assert not model.training
        ends.append({**weights(model), "vectors": model.vectors})
        steps.append(len(done))
    assert steps == [10 + JOINT.steps + 10, 0]
    assert losses[0] == losses[1]
    assert changed(*ends) == set()


class Stopped(Exception):
    """In place of a kill."""


@pytest.mark.parametrize("tuning", ["full", "lora", "prefix", "adapter"])
def test_however_the_encoder_is_tuned_it_goes_on_to_the_same_weights(
    tmp_path: Path, tuning: str
) -> None:
    problem = Problem()
    encoder = SETTINGS.encoder.model_copy(update={"tuning": tuning})
    chosen = SETTINGS.model_copy(update={"tracking": PLAIN.tracking, "encoder": encoder})
    training, validation = (problem.batches(b) for b in (problem.training, problem.validation))

    def learn(folder: Path, stop_at: int, *, resume: bool = False) -> dict[str, torch.Tensor]:
        def report(step: int, _: int) -> None:
            if step == stop_at:
                raise Stopped

        run = Run(folder, resume=resume)
        run.begin(chosen)
        model = problem.fresh()
        train(model, training, validation, JOINT, chosen, report, run=run)
        return {**weights(model), "vectors": model.vectors}

    whole = learn(tmp_path / "whole", stop_at=99)
    with pytest.raises(Stopped):
        learn(tmp_path / "killed", stop_at=7)
    resumed = learn(tmp_path / "killed", stop_at=5, resume=True)  # step 5 is not done again
    finished = learn(tmp_path / "killed", stop_at=12, resume=True)  # nor is any other
    assert whole.keys() == resumed.keys() == finished.keys()
    assert changed(whole, resumed) == set()
    assert changed(whole, finished) == set()


def test_training_without_a_run_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    problem = Problem()
    problem.train(problem.fresh(), replace(HEAD, steps=2))
    assert list(tmp_path.iterdir()) == []
    assert torch.get_num_threads() == 1
