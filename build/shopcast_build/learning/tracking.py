"""Curves of a training, for TensorBoard, Weights & Biases and MLflow.

What is written are numbers by name and the settings: no paths, host names or accounts.
"""

import importlib.util
import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from shopcast_build.data.errors import DataError
from shopcast_build.learning.settings import TrackingSettings

_PACKAGE = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow"}
_EXTRA = {"tensorboard": "build", "wandb": "wandb", "mlflow": "mlflow"}
_NAMES = {"loss": "loss", "grad_norm": "gradient norm"}
_log = logging.getLogger(__name__)


class Tracker(Protocol):
    """Where curves go."""

    def log(self, stage: str, values: Mapping[str, float], step: int) -> None:
        """One point of some curves of a stage."""
        ...

    def close(self, *, failed: bool) -> None:
        """The build is over, published or failed: nothing more will come."""
        ...


class Expendable:
    """A tracker that costs no build: the first time it fails is told, and it is left alone."""

    def __init__(self, name: str, tracker: Tracker) -> None:
        self._name, self._tracker = name, tracker
        self._works = True

    def log(self, stage: str, values: Mapping[str, float], step: int) -> None:
        """One point of some curves of a stage."""
        self._try(lambda: self._tracker.log(stage, values, step))

    def close(self, *, failed: bool) -> None:
        """The build is over."""
        self._try(lambda: self._tracker.close(failed=failed))

    def _try(self, call: Callable[[], None]) -> None:
        if not self._works:
            return
        try:
            call()
        except Exception as error:
            self._works = False
            _log.warning(
                "tracking to %s failed (%s): the build goes on without it", self._name, _why(error)
            )


class TensorBoardFile:
    """An event file for TensorBoard, made once there is something to write. Its own writer would
    put the name of the host into it."""

    def __init__(self, folder: Path) -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2

        self._folder = folder
        self._event, self._summary = event_pb2.Event, summary_pb2.Summary
        self._records: Any = None

    def log(self, stage: str, values: Mapping[str, float], step: int) -> None:
        """Scalars named stage/curve."""
        if self._records is None:
            self._begin()
        found = [
            self._summary.Value(tag=f"{stage}/{name}", simple_value=value)
            for name, value in values.items()
        ]
        self._write(step=step, summary=self._summary(value=found))

    def close(self, *, failed: bool) -> None:
        """Close the file."""
        if self._records is not None:
            self._records.close()

    def _begin(self) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"events.out.tfevents.{time.time_ns()}.shopcast"
        self._records = RecordWriter(path.open("wb"))
        self._write(file_version="brain.Event:2")

    def _write(self, **content: Any) -> None:
        event = self._event(wall_time=time.time(), **content)
        self._records.write(event.SerializeToString())
        self._records.flush()


class WandbRun:
    """A run of Weights & Biases; offline unless WANDB_MODE says otherwise."""

    def __init__(self, folder: Path, project: str, settings: Mapping[str, Any]) -> None:
        # Offline, too, it tells its makers of errors.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
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

    def close(self, *, failed: bool) -> None:
        """Write everything out, and how it ended."""
        self._run.finish(exit_code=1 if failed else 0)


class MlflowRun:
    """A run of MLflow; in files of the folder unless MLFLOW_TRACKING_URI says otherwise."""

    def __init__(self, folder: Path, project: str, settings: Mapping[str, Any]) -> None:
        # Read while it is imported; in files, too, it tells its makers of its use.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
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

    def close(self, *, failed: bool) -> None:
        """Mark the run as finished or failed."""
        self._client.set_terminated(self._run, "FAILED" if failed else "FINISHED")


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


def open_trackers(
    tracking: TrackingSettings, folder: Path, settings: Mapping[str, Any]
) -> tuple[Tracker, ...]:
    """The trackers asked for, with their files below a folder. settings: of the build, to be shown
    beside the curves.

    Raises DataError for one that cannot be opened, with the command that installs it where it is
    not there."""
    names = tuple(dict.fromkeys(tracking.to))
    for name in names:
        if importlib.util.find_spec(_PACKAGE[name]) is None:
            raise DataError(
                f"Tracking to {name} needs a package that is not installed:"
                f" run `pip install 'shopcast[{_EXTRA[name]}]'`."
            )
    makers: dict[str, Any] = {
        "tensorboard": lambda: TensorBoardFile(folder / "tensorboard"),
        "wandb": lambda: WandbRun(folder, tracking.project, settings),
        "mlflow": lambda: MlflowRun(folder / "mlflow", tracking.project, settings),
    }
    opened: list[Tracker] = []
    for name in names:
        try:
            opened.append(Expendable(name, makers[name]()))
        except Exception as error:
            for tracker in opened:
                tracker.close(failed=True)
            raise DataError(
                f"Tracking to {name} cannot begin ({_why(error)}): name other trackers, or none,"
                " with --track."
            ) from error
    return tuple(opened)


def _flat(settings: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    """By section.name. A table within a section has words of the user's for names: they are no
    names of parameters, and the table is one value."""
    for section, value in settings.items():
        if not isinstance(value, Mapping):
            yield section, value
            continue
        for name, inner in value.items():
            told = json.dumps(inner, ensure_ascii=False) if isinstance(inner, Mapping) else inner
            yield f"{section}.{name}", told


def _why(error: Exception) -> str:
    """The first line of what it says: some say pages."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".:") if lines else type(error).__name__


def _plain(name: str) -> str:
    """With the characters MLflow allows only."""
    return re.sub(r"[^\w\-. /]", "-", name)
