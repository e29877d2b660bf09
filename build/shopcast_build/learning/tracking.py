"""Curves of a training, for TensorBoard, Weights & Biases and MLflow.

What is written are numbers by name and the settings: no paths, host names or accounts.
"""

import importlib.util
import os
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from shopcast_build.data.errors import DataError
from shopcast_build.learning.settings import TrackingSettings

_PACKAGE = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow"}
_EXTRA = {"tensorboard": "build", "wandb": "wandb", "mlflow": "mlflow"}
_NAMES = {"loss": "loss", "grad_norm": "gradient norm"}


class Tracker(Protocol):
    """Where curves go."""

    def log(self, stage: str, values: Mapping[str, float], step: int) -> None:
        """One point of some curves of a stage."""
        ...

    def close(self) -> None:
        """The build is over: nothing more will come."""
        ...


class TensorBoardFile:
    """An event file for TensorBoard. Its own writer would put the name of the host into it."""

    def __init__(self, folder: Path) -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter

        folder.mkdir(parents=True, exist_ok=True)
        self._event, self._summary = event_pb2.Event, summary_pb2.Summary
        path = folder / f"events.out.tfevents.{time.time_ns()}.shopcast"
        self._records = RecordWriter(path.open("wb"))
        self._write(file_version="brain.Event:2")

    def log(self, stage: str, values: Mapping[str, float], step: int) -> None:
        """Scalars named stage/curve."""
        found = [
            self._summary.Value(tag=f"{stage}/{name}", simple_value=value)
            for name, value in values.items()
        ]
        self._write(step=step, summary=self._summary(value=found))

    def close(self) -> None:
        """Close the file."""
        self._records.close()

    def _write(self, **content: Any) -> None:
        event = self._event(wall_time=time.time(), **content)
        self._records.write(event.SerializeToString())
        self._records.flush()


class WandbRun:
    """A run of Weights & Biases; offline unless WANDB_MODE says otherwise."""

    def __init__(self, folder: Path, project: str, settings: Mapping[str, Any]) -> None:
        import wandb

        folder.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            project=project,
            dir=folder,
            mode=cast(Any, os.environ.get("WANDB_MODE", "offline")),
            config=dict(settings),
            settings=wandb.Settings(
                silent=True,
                console="off",
                disable_git=True,
                disable_code=True,
                disable_job_creation=True,
                host="",
                username="",
                x_disable_meta=True,
                x_disable_machine_info=True,
                x_disable_stats=True,
                x_save_requirements=False,
            ),
        )
        self._stages: set[str] = set()

    def log(self, stage: str, values: Mapping[str, float], step: int) -> None:
        """Metrics named stage/curve, over the steps of their stage."""
        if stage not in self._stages:
            self._stages.add(stage)
            self._run.define_metric(f"{stage}/*", step_metric=f"{stage}/step")
        self._run.log(
            {f"{stage}/{name}": value for name, value in values.items()} | {f"{stage}/step": step}
        )

    def close(self) -> None:
        """Write everything out."""
        self._run.finish()


class MlflowRun:
    """A run of MLflow; in files of the folder unless MLFLOW_TRACKING_URI says otherwise."""

    def __init__(self, folder: Path, project: str, settings: Mapping[str, Any]) -> None:
        from mlflow import MlflowClient

        uri = os.environ.get("MLFLOW_TRACKING_URI")
        if uri is None:
            # MLflow would rather have a database, which its small client cannot write.
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
            uri = folder.resolve().as_uri()
        self._client = MlflowClient(tracking_uri=uri)
        experiment = self._client.get_experiment_by_name(project)
        number = experiment.experiment_id if experiment else self._client.create_experiment(project)
        # Without these MLflow takes the account and the script of whoever runs the build.
        tags = {"mlflow.user": "shopcast", "mlflow.source.name": "platform build-model"}
        self._run = self._client.create_run(number, tags=tags).info.run_id
        for name, value in _flat(settings):
            self._client.log_param(self._run, name, value)

    def log(self, stage: str, values: Mapping[str, float], step: int) -> None:
        """Metrics named stage/curve."""
        from mlflow.entities import Metric

        now_ms = time.time_ns() // 1_000_000
        points = [
            Metric(_plain(f"{stage}/{name}"), value, now_ms, step) for name, value in values.items()
        ]
        self._client.log_batch(self._run, metrics=points)

    def close(self) -> None:
        """Mark the run as finished."""
        self._client.set_terminated(self._run)


class Curves(TrainerCallback):
    """Sends the curves of a stage to trackers."""

    def __init__(self, stage: str, trackers: Sequence[Tracker]) -> None:
        self._stage, self._trackers = stage, trackers

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Loss, gradient norm and the learning rates while training; metrics on validation."""
        logs = kwargs["logs"]
        values = {name: float(logs[key]) for key, name in _NAMES.items() if key in logs}
        if values:
            groups = kwargs["optimizer"].param_groups
            values |= {f"learning rate {group['name']}": group["lr"] for group in groups}
        values |= {
            f"validation {key.removeprefix('eval_')}": float(value)
            for key, value in logs.items()
            if key.startswith("eval_") and not key.endswith(("runtime", "per_second"))
        }
        for tracker in self._trackers if values else ():
            tracker.log(self._stage, values, state.global_step)


def check_trackers(settings: TrackingSettings) -> None:
    """Raises DataError with the command that installs a tracker that is named but not there."""
    for name in settings.to:
        if importlib.util.find_spec(_PACKAGE[name]) is None:
            raise DataError(
                f"Tracking to {name} needs a package that is not installed:"
                f" run `pip install 'shopcast[{_EXTRA[name]}]'`."
            )


def open_trackers(
    tracking: TrackingSettings, folder: Path, settings: Mapping[str, Any]
) -> tuple[Tracker, ...]:
    """The trackers asked for, with their files below a folder. settings: of the build, to be shown
    beside the curves."""
    makers: dict[str, Any] = {
        "tensorboard": lambda: TensorBoardFile(folder / "tensorboard"),
        "wandb": lambda: WandbRun(folder, tracking.project, settings),
        "mlflow": lambda: MlflowRun(folder / "mlflow", tracking.project, settings),
    }
    return tuple(makers[name]() for name in dict.fromkeys(tracking.to))


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _plain(name: str) -> str:
    """With the characters MLflow allows only."""
    return re.sub(r"[^\w\-. /]", "-", name)
