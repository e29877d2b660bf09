"""Two processes that train one model: they share the batches and agree on everything."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import shopcast_build

# Trains a head, then the texts, and leaves what this process has in a file of its own.
TRAINER = """
import sys
from dataclasses import replace
from pathlib import Path
import torch
from learning_problem import HEAD, JOINT, SETTINGS, Problem, weights
from shopcast_build.learning import processes
from shopcast_build.learning.checkpoints import Run
from shopcast_build.learning.training import train

processes.join()
folder = Path(processes.from_first(sys.argv[1]) + sys.argv[2])
problem = Problem()
model = problem.fresh()
alone = model.vectors.clone()
found = {"before": weights(model), "first": processes.is_first(), "count": processes.count()}

seen = []
class Batches(type(problem.batches(problem.training))):
    def collate(self, rows):
        seen.append(tuple(rows))
        return super().collate(rows)

training = Batches(problem.training, problem.timeline, 6)
validation = problem.batches(problem.validation)
run = Run(folder)
run.begin(SETTINGS)
before = problem.loss(model)
best = train(model, training, validation, HEAD, SETTINGS, run=run)
found["losses"] = [before, best.loss]
found["rows"] = seen[:]
model.refresh()
found["vectors apart"] = (model.vectors - alone).abs().max()
# A weight that no step uses; the others must not wait for its gradient.
model.behavior.unused = torch.nn.Linear(2, 2)
found["losses"].append(train(model, training, validation, JOINT, SETTINGS, run=run).loss)
found |= {"weights": weights(model), "vectors": model.vectors}
run.close()
torch.save(found, folder.with_suffix(f".{processes.number()}.pt"))
processes.leave()
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of the two processes has at the end."""
    folder = tmp_path_factory.mktemp("processes")
    (folder / "trainer.py").write_text(TRAINER)
    sources = [Path(shopcast_build.__file__).parents[1], Path(__file__).parents[1]]
    paths = [*map(str, sources), os.environ.get("PYTHONPATH", "")]
    more = {
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONPATH": os.pathsep.join(paths),
    }
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
         folder / "trainer.py", folder, "/run"],
        env=os.environ | more,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [torch.load(folder / f"run.{n}.pt") for n in range(2)]


def test_both_end_with_the_same_weights_and_vectors(found: list[dict[str, Any]]) -> None:
    one, other = found
    assert [one["first"], other["first"]] == [True, False]
    assert [one["count"], other["count"]] == [2, 2]
    for name, weight in one["weights"].items():
        assert torch.equal(weight, other["weights"][name]), name
    assert torch.equal(one["vectors"], other["vectors"])
    assert one["losses"] == other["losses"]


def test_the_loss_falls_and_the_texts_learn(found: list[dict[str, Any]]) -> None:
    before, head, joint = found[0]["losses"]
    assert head < 0.7 * before
    assert joint < before
    changed = {
        name
        for name, weight in found[0]["before"].items()
        if not torch.equal(weight, found[0]["weights"][name])
    }
    assert "encoder.bert.encoder.layer.3.output.dense.weight" in changed
    assert "encoder.bert.encoder.layer.0.output.dense.weight" not in changed


def test_they_share_the_exposures(found: list[dict[str, Any]]) -> None:
    """In a pass each sees another half."""
    batches = [one["rows"] for one in found]
    first_pass = [{row for rows in mine[:3] for row in rows} for mine in batches]
    assert first_pass[0] & first_pass[1] == set()
    assert len(first_pass[0]) == len(first_pass[1]) == 3 * 64


def test_they_share_the_encoding_of_the_catalogue(found: list[dict[str, Any]]) -> None:
    """The vectors are those that one process alone gets, to rounding."""
    assert all(one["vectors apart"] < 1e-6 for one in found)
