"""Curves arrive where they were asked for, in files that the tools themselves can read."""

import getpass
import importlib.util
import re
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from learning_problem import HEAD, JOINT, SETTINGS, Problem

from shopcast_build.data.errors import DataError
from shopcast_build.learning.checkpoints import Run
from shopcast_build.learning.settings import BuildSettings, TrackingSettings
from shopcast_build.learning.tracking import check_trackers
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
        run.begin(chosen)
        for stage in (replace(HEAD, steps=10, evaluate_every=5), JOINT):
            train(model, training, validation, stage, chosen, run=run)
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


def test_a_tracker_that_is_not_installed_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    there = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "wandb" else there(name)
    )
    check_trackers(TrackingSettings(to=("tensorboard", "mlflow")))
    with pytest.raises(
        DataError, match=r"wandb needs .*: run `pip install 'shopcast\[wandb\]'`\.$"
    ):
        check_trackers(TrackingSettings(to=("wandb",)))


def test_without_trackers_nothing_is_written(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.begin(BuildSettings.model_validate({"tracking": {"to": []}}))
    run.close()
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]
