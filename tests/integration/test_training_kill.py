"""A training killed at any moment goes on where it was, and ends with the very same weights."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

import shopcast_build

# Reads lines "RUN WEIGHTS STAGE STEP". For each a child trains three stages in the folder RUN,
# kills itself at a step of a stage, or else writes its weights; the answer is how it ended.
TRAINER = """
import os, signal, sys
from dataclasses import replace
from pathlib import Path
import torch
from learning_problem import HEAD, JOINT, SETTINGS, Problem
from shopcast_build.learning.checkpoints import Run
from shopcast_build.learning.settings import AugmentationSettings, LossSettings, StoppingSettings
from shopcast_build.learning.training import train

problem = Problem()
SETTINGS = SETTINGS.model_copy(update={
    "loss": LossSettings(view_share_kept=0.8, class_weights="sqrt_balanced"),
    "augmentation": AugmentationSettings(event_dropout=0.3),
    "stopping": StoppingSettings(patience=4),  # the last weights of each stage are the best
})
STAGES = [replace(HEAD, title="first head"), JOINT, replace(HEAD, title="second head")]

def learn(folder, path, kill_stage, kill_step):
    model = problem.fresh()
    run = Run(folder, resume=True)
    run.begin(SETTINGS, data="the same")
    training = problem.batches(problem.training)
    steps = []
    for number, stage in enumerate(STAGES):
        def progress(done, total):
            steps.append((number, done))
            if steps[-1] == (kill_stage, kill_step):
                os.kill(os.getpid(), signal.SIGKILL)
        train(model, training, problem.batches(problem.validation), stage, SETTINGS, progress,
              run=run)
    torch.save({**model.state_dict(), "vectors": model.vectors, "steps": len(steps)}, path)

for line in sys.stdin:
    folder, path, stage, step = line.split()
    child = os.fork()
    if child == 0:
        learn(Path(folder), Path(path), int(stage), int(step))
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
NEVER = (9, 0)


class Trainer:
    """Trains the same three stages again and again, in processes that may be killed."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def learn(self, run: Path, *, kill_at: tuple[int, int] = NEVER) -> dict[str, Tensor] | int:
        """Returns the weights, or the exit status of the process if it was not 0."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        path = run.with_suffix(".pt")
        print(run, path, *kill_at, file=self._process.stdin, flush=True)
        status = int(self._process.stdout.readline())
        return status or torch.load(path)


@pytest.fixture(scope="module")
def trainer() -> Iterator[Trainer]:
    sources = [Path(shopcast_build.__file__).parents[1], Path(__file__).parents[1]]
    paths = [*map(str, sources), os.environ.get("PYTHONPATH", "")]
    quiet = {"TOKENIZERS_PARALLELISM": "false"}
    with subprocess.Popen(
        [sys.executable, "-c", TRAINER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | quiet | {"PYTHONPATH": os.pathsep.join(paths)},
    ) as process:
        yield Trainer(process)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(60) == 0


@pytest.fixture(scope="module")
def uninterrupted(trainer: Trainer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    found = trainer.learn(tmp_path_factory.mktemp("run") / "whole")
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize(
    "kills",
    [
        [(0, 3)],  # before the first checkpoint
        [(0, 10), (0, 33), (1, 5), (1, 12), (2, 17)],  # at checkpoints and between them
        [(1, 1), (1, 7), (2, 40)],
    ],
)
def test_a_killed_training_goes_on_to_the_same_weights(
    trainer: Trainer,
    uninterrupted: dict[str, Tensor],
    tmp_path: Path,
    kills: list[tuple[int, int]],
) -> None:
    run = tmp_path / "run"
    for kill_at in kills:
        assert trainer.learn(run, kill_at=kill_at) == -signal.SIGKILL
    found = trainer.learn(run)
    assert isinstance(found, dict)
    assert found.keys() == uninterrupted.keys()
    different = [
        name
        for name, weight in uninterrupted.items()
        if name != "steps" and not torch.equal(found[name], weight)
    ]
    assert different == []
    if kills[-1][0] > 0:
        assert found["steps"] < uninterrupted["steps"]  # finished stages were not trained again


def test_only_what_is_needed_to_go_on_is_kept(
    trainer: Trainer, uninterrupted: dict[str, Tensor], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    trainer.learn(run, kill_at=(1, 11))
    first, second = sorted((run / "stages").iterdir())
    assert [path.name for path in first.iterdir()] == ["finished.pt"]
    names = {path.name for path in second.iterdir()}
    assert names == {"checkpoint-10"}
    whole = {path.name for path in (second / "checkpoint-10").iterdir()}
    assert {"complete", "learned.pt", "optimizer.pt", "rng_state.pth", "scheduler.pt"} <= whole
    learned = torch.load(second / "checkpoint-10" / "learned.pt")
    assert not [name for name in learned["weights"] if "layer.0" in name]  # it does not learn

    torn = second / "checkpoint-12"  # as if it had been killed while it wrote
    torn.mkdir()
    (torn / "learned.pt").write_bytes((second / "checkpoint-10" / "learned.pt").read_bytes()[:999])
    found = trainer.learn(run)
    assert isinstance(found, dict)
    for name, weight in uninterrupted.items():
        assert name == "steps" or torch.equal(found[name], weight)
