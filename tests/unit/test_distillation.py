"""A smaller encoder that says what a larger one says."""

from pathlib import Path

import pytest
import torch
from learning_problem import DIM, Problem, changed, weights

from shopcast_build.data.errors import DataError
from shopcast_build.learning import processes
from shopcast_build.learning.distillation import check_smaller, distil, fewer_layers
from shopcast_build.learning.encoder import layer_stack
from shopcast_build.learning.export import export_encoder, open_session
from shopcast_build.learning.settings import DistillationSettings


def quiet(done: int, total: int) -> None:
    """Nothing is shown."""


@pytest.fixture(scope="module")
def problem() -> Problem:
    return Problem()


def settings(**changes: object) -> DistillationSettings:
    small = {"layers": 2, "steps": 120, "batch_size": 32, "learning_rate": 2e-3}
    return DistillationSettings.model_validate(small | changes)


def test_the_student_learns_what_the_teacher_says(problem: Problem) -> None:
    model = problem.fresh()
    table = model.table
    taught = distil(model.encoder, table, model.vectors, settings(), seed=0, progress=quiet)
    untaught = distil(
        model.encoder, table, model.vectors, settings(steps=1), seed=0, progress=quiet
    )
    assert len(layer_stack(taught.encoder.bert)) == 2
    assert taught.cosine > 0.8 > 0.5 > untaught.cosine
    assert sum(w.numel() for w in taught.encoder.parameters()) < sum(
        w.numel() for w in model.encoder.parameters()
    )


def test_the_teacher_stays_as_it_was(problem: Problem) -> None:
    model = problem.fresh()
    before = weights(model.encoder)
    distil(model.encoder, model.table, model.vectors, settings(steps=3), seed=0, progress=quiet)
    assert changed(before, weights(model.encoder)) == set()
    assert len(layer_stack(model.encoder.bert)) == 4


def test_the_same_seed_gives_the_same_student(problem: Problem) -> None:
    model = problem.fresh()
    one, same, other = (
        weights(
            distil(
                model.encoder, model.table, model.vectors, settings(steps=5), seed=s, progress=quiet
            ).encoder
        )
        for s in (0, 0, 1)
    )
    assert changed(one, same) == set()
    assert changed(one, other)


@pytest.mark.parametrize(("layers", "expected"), [(1, [3]), (2, [0, 3]), (3, [0, 2, 3])])
def test_layers_are_taken_evenly(problem: Problem, layers: int, expected: list[int]) -> None:
    encoder = problem.fresh().encoder
    student = fewer_layers(encoder, layers)
    stack = layer_stack(encoder.bert)
    for kept, number in zip(layer_stack(student.bert), expected, strict=True):
        assert changed(weights(stack[number]), weights(kept)) == set()
    assert student.bert.config.num_hidden_layers == layers


@pytest.mark.parametrize("layers", [4, 9])
def test_what_is_not_smaller_is_refused(problem: Problem, layers: int) -> None:
    with pytest.raises(DataError, match=r"give distillation\.layers"):
        fewer_layers(problem.fresh().encoder, layers)


def test_several_processes_are_told_before_they_train(
    problem: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = problem.fresh().encoder
    check_smaller(encoder, 2)
    monkeypatch.setattr(processes, "count", lambda: 2)
    with pytest.raises(DataError, match="build without torchrun"):
        check_smaller(encoder, 2)


def test_a_student_is_exported_as_any_encoder(problem: Problem, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    student = fewer_layers(problem.fresh().encoder, 2).eval()
    export_encoder(student, path, max_tokens=16)
    ids, mask = problem.fresh().table.rows(torch.arange(1, 9))
    feed = {"input_ids": ids.numpy(), "attention_mask": mask.numpy()}
    found = open_session(path, 1).run(["vectors"], feed)[0]
    assert found.shape == (8, DIM)
    with torch.inference_mode():
        torch.testing.assert_close(torch.from_numpy(found), student(ids, mask), atol=1e-5, rtol=0)
