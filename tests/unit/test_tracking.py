"""Curves arrive where they were asked for, in files that the tools themselves can read."""

import getpass
import importlib.util
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from learning_problem import HEAD, JOINT, SETTINGS, Problem

from shopcast_build.data.errors import DataError
from shopcast_build.learning.checkpoints import RUN_FILE, Run, open_run
from shopcast_build.learning.settings import (
    AugmentationSettings,
    BuildSettings,
    TrackingSettings,
)
from shopcast_build.learning.tracking import Expendable, Tracker
from shopcast_build.learning.training import train

TRACKERS: tuple[Any, ...] = ("tensorboard", "wandb", "mlflow")
CURVES = {
    "loss", "gradient norm", "learning rate head", "validation loss", "validation auc",
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The run folder of a training that all three trackers watched."""
    names = ("WANDB_MODE", "MLFLOW_TRACKING_URI", "MLFLOW_ALLOW_FILE_STORE")
    found = tmp_path_factory.mktemp("tracked")
    with pytest.MonkeyPatch.context() as patch:
        for name in names:
            patch.delenv(name, raising=False)
        tracking = TrackingSettings(to=TRACKERS, project="shoes")
        stopping = SETTINGS.stopping.model_copy(update={"metric": "auc"})
        chosen = SETTINGS.model_copy(update={"tracking": tracking, "stopping": stopping})
        problem = Problem()
        training, validation = (problem.batches(b) for b in (problem.training, problem.validation))
        model = problem.fresh()
        run = Run(found)
        run.track(chosen)
        run.begin(chosen)
        for stage in (replace(HEAD, steps=10, evaluate_every=5), JOINT):
            train(model, training, validation, stage, chosen, run=run)
        run.finish()
        run.log("on the test period: after fine-tuning", {"buy_auc": 0.75})
        run.close()
        yield found


def test_tensorboard_reads_the_curves_of_every_stage(folder: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    tags = set(events.Tags()["scalars"])
    assert {f"the head/{name}" for name in CURVES} <= tags
    assert {f"the texts/{name}" for name in CURVES | {"learning rate encoder-0"}} <= tags
    losses = [point.value for point in events.Scalars("the head/loss")]
    assert len(losses) == 10
    assert losses[-1] < losses[0]
    assert [point.step for point in events.Scalars("the texts/validation loss")] == [5, 10, 12]
    rates = [point.value for point in events.Scalars("the head/learning rate head")]
    assert max(rates) == pytest.approx(HEAD.head_learning_rate, rel=0.1)
    (result,) = events.Scalars("on the test period: after fine-tuning/buy_auc")
    assert result.value == 0.75


def test_weights_and_biases_has_an_offline_run(folder: Path) -> None:
    (run,) = (folder / "wandb").glob("offline-run-*/run-*.wandb")
    content = run.read_bytes()
    for name in (b"the head/loss", b"the texts/validation auc", b"shoes", b"view_share_kept"):
        assert name in content


def test_mlflow_reads_the_curves_and_the_settings(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    client = MlflowClient(tracking_uri=(folder / "mlflow").as_uri())
    experiment = client.get_experiment_by_name("shoes")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["loss.view_share_kept"] == "1.0"
    assert {f"the head/{name}" for name in CURVES} <= set(run.data.metrics)
    points = client.get_metric_history(run.info.run_id, "the texts/validation loss")
    assert [point.step for point in points] == [5, 10, 12]


def test_no_file_says_who_ran_it_or_where(folder: Path) -> None:
    """Only MLflow notes paths: those of its own files."""
    told = [socket.gethostname(), str(Path.home()), f"user: {getpass.getuser()}", str(Path.cwd())]
    told = [word for word in told if len(word) > 3]  # shorter ones occur by chance
    for path in (path for name in TRACKERS for path in (folder / name).rglob("*")):
        content = path.read_bytes().decode(errors="replace") if path.is_file() else ""
        found = [
            word for word in told if re.search(rf"\b{re.escape(word)}\b", f"{path.name} {content}")
        ]
        assert not found or path.name == "meta.yaml", path


def test_trackers_tell_their_makers_nothing(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path\n"
        "from shopcast_build.learning.tracking import MlflowRun, WandbRun\n"
        "for kind in (MlflowRun, WandbRun):\n"
        "    kind(Path(sys.argv[1]) / kind.__name__, 'shoes', {}).close(failed=False)\n"
        "from mlflow.telemetry.utils import is_telemetry_disabled\n"
        "from wandb.env import error_reporting_enabled\n"
        "print(is_telemetry_disabled(), error_reporting_enabled())"
    )
    free = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}  # under pytest MLflow is silent
    told = subprocess.run(
        [sys.executable, "-c", script, tmp_path],
        env=free,
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.split() == ["True", "False"]


def test_a_tracker_that_is_not_installed_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "wandb" else there(name)
    )
    run = Run(tmp_path)
    run.track(tracked("tensorboard"))
    with pytest.raises(
        DataError, match=r"wandb needs .*: run `pip install 'shopcast\[wandb\]'`\.$"
    ):
        run.track(tracked("tensorboard", "wandb"))


def test_without_trackers_nothing_is_written(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.track(tracked())
    run.begin(tracked())
    run.close()
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def tracked(*to: Any, **augmentation: Any) -> BuildSettings:
    return BuildSettings(
        tracking=TrackingSettings(to=to), augmentation=AugmentationSettings(**augmentation)
    )


def mlflow_run(folder: Path) -> Any:
    """The one run that MLflow has in a folder."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=(folder / "mlflow").resolve().as_uri())
    (experiment,) = (e for e in client.search_experiments() if e.name == "shopcast")
    (run,) = client.search_runs([experiment.experiment_id])
    return run


@pytest.fixture
def mlflow_in_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")


@pytest.mark.usefixtures("mlflow_in_files")
def test_words_of_the_user_are_no_names_of_parameters(tmp_path: Path) -> None:
    words = {"men's": ("mens",), "t&b": ("x",), "a/../b": ("y",), "": ("z",), "x" * 260: ("w",)}
    run = Run(tmp_path)
    run.track(tracked("mlflow", synonyms=words))
    run.close()
    params = mlflow_run(tmp_path).data.params
    assert json.loads(params["augmentation.synonyms"])["men's"] == ["mens"]
    assert not any(name.startswith("augmentation.synonyms.") for name in params)


@pytest.mark.usefixtures("mlflow_in_files")
def test_a_build_that_failed_is_marked_as_failed(tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError), open_run(tmp_path) as run:
        run.track(tracked("mlflow"))
        raise FloatingPointError
    assert mlflow_run(tmp_path).info.status == "FAILED"


@pytest.mark.usefixtures("mlflow_in_files")
def test_a_tracker_that_cannot_begin_is_one_sentence_and_no_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object, **__: object) -> None:
        raise ConnectionError("nobody answers\nand so on")

    with monkeypatch.context() as patch, open_run(tmp_path) as run:
        patch.setattr("shopcast_build.learning.tracking.WandbRun.__init__", away)
        with pytest.raises(DataError) as refused:
            run.track(tracked("mlflow", "wandb"))
    assert str(refused.value) == (
        "Tracking to wandb cannot begin (nobody answers): name other trackers, or none, with"
        " --track."
    )
    assert mlflow_run(tmp_path).info.status == "FAILED"  # and is not left running
    assert not (tmp_path / RUN_FILE).exists()
    with open_run(tmp_path) as run:  # without --resume
        run.begin(tracked())


class Away:
    """A tracker whose server went away."""

    def __init__(self) -> None:
        self.asked = 0

    def log(self, stage: str, values: Mapping[str, float], step: int) -> None:
        self.asked += 1
        raise ConnectionError("the server is away")

    def close(self, *, failed: bool) -> None:
        self.asked += 1
        raise ConnectionError("the server is away")


class Kept:
    """A tracker that remembers."""

    def __init__(self) -> None:
        self.points: list[str] = []

    def log(self, stage: str, values: Mapping[str, float], step: int) -> None:
        self.points += values

    def close(self, *, failed: bool) -> None:
        self.points.append("failed" if failed else "closed")


def test_a_tracker_that_fails_is_told_once_and_costs_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    problem, run = Problem(), Run(tmp_path)
    away, kept = Away(), Kept()
    trackers: tuple[Tracker, ...] = (Expendable("mlflow", away), Expendable("wandb", kept))
    run.trackers = trackers
    training, validation = (problem.batches(b) for b in (problem.training, problem.validation))
    train(problem.fresh(), training, validation, replace(HEAD, steps=4), SETTINGS, run=run)
    run.close()
    assert [record.getMessage() for record in caplog.records if "tracking" in record.name] == [
        "tracking to mlflow failed (the server is away): the build goes on without it"
    ]
    assert away.asked == 1
    assert {"loss", "validation loss"} <= set(kept.points)
    assert kept.points[-1] == "failed"
