from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from shopcast_build.learning.behavior import BehaviorModel
from shopcast_build.learning.calibration import fit_calibration
from shopcast_build.learning.export import BEHAVIOR_INPUTS, export_behavior, open_session
from shopcast_build.learning.scorer import Scorer, blend, trees_alone
from shopcast_build.learning.scorer_graph import into_graph
from shopcast_build.learning.trees import Rows, TextComponents, Trees, member_seeds
from shopcast_domain.features import FEATURES
from shopcast_domain.manifest import NO_CHANCE

DIM, TEXTS = 8, 40
RNG = np.random.default_rng(3)
VECTORS = RNG.normal(size=(TEXTS, DIM)).astype(np.float32)


def rows(n: int, outcomes: tuple[int, ...]) -> tuple[Rows, np.ndarray]:
    """Exposures whose outcome depends on a number and on a text; and which text each has."""
    features = RNG.normal(size=(n, len(FEATURES))).astype(np.float32)
    text = RNG.integers(TEXTS, size=n)
    drive = features[:, 0] + 2 * VECTORS[text, 1] + 0.3 * RNG.normal(size=n)
    place = np.digitize(drive, [-0.5, 1.5][: len(outcomes) - 1])
    return Rows(features, VECTORS[text], np.array(outcomes)[place]), text


@cache
def fitted(outcomes: tuple[int, ...], *, text: bool = True, members: int = 1) -> tuple[Trees, Rows]:
    train, validation = rows(800, outcomes)[0], rows(200, outcomes)[0]
    components = TextComponents.of(VECTORS, 4, seed=0) if text else None
    trees = Trees.fit(train, validation, text=components, seed=0, members=members)
    return trees, validation


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The graph of a head with random weights."""
    torch.manual_seed(0)
    model = BehaviorModel(DIM)
    model.numbers.fit(rows(100, (0, 1, 2))[0].features)
    path = tmp_path_factory.mktemp("head") / "head.onnx"
    export_behavior(model, path, vector_dim=DIM)
    return path


def accuracy(logits: np.ndarray, outcome: np.ndarray) -> float:
    return float((logits.argmax(1) == outcome).mean())


def test_trees_learn_from_numbers_and_from_texts() -> None:
    with_text, _ = fitted((0, 1, 2))
    numbers, _ = fitted((0, 1, 2), text=False)
    test, _ = rows(600, (0, 1, 2))
    assert accuracy(numbers.logits(test), test.outcome) < 0.7
    assert accuracy(with_text.logits(test), test.outcome) > 0.8


def test_outcomes_never_seen_have_a_logit_of_zero_and_get_no_chance() -> None:
    trees, validation = fitted((1, 2))
    logits = trees.logits(validation)
    assert (logits[:, :2] == 0).all()
    own = fit_calibration(logits, validation.outcome)
    assert own.bias[0] == NO_CHANCE
    assert (own.apply(trees_alone(trees, own).logits(logits, validation))[:, 0] == 0).all()


def test_trees_fitted_again_grow_with_the_rows() -> None:
    trees, _ = fitted((0, 1, 2))
    more, _ = rows(1600, (0, 1, 2))
    again = trees.refit(more, growth=1.5)
    assert again.members[0].n_iter_ == min(round(1.5 * trees.members[0].n_iter_), 400)
    assert not np.array_equal(again.logits(more), trees.logits(more))


def test_members_are_forests_of_different_seeds_whose_logits_are_averaged() -> None:
    trees, validation = fitted((0, 1, 2), members=3)
    each = [Trees((one,), trees.text).logits(validation) for one in trees.members]
    np.testing.assert_allclose(trees.logits(validation), np.mean(each, axis=0), atol=1e-5)
    assert np.abs(each[0] - each[1]).max() > 1e-3
    more, _ = rows(1600, (0, 1, 2))
    again = trees.refit(more, growth=1.5)
    assert len({one.random_state for one in again.members}) == 3


def test_neighbouring_seeds_share_no_member() -> None:
    assert not set(member_seeds(7, 16)) & set(member_seeds(8, 16))
    assert len(set(member_seeds(2**31 - 1, 16))) == 16


@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize("outcomes", [(0, 1, 2), (1, 2)])
@pytest.mark.parametrize("kind", ["head", "trees", "blend"])
def test_the_served_graph_says_what_the_scorer_says(
    head: Path, tmp_path: Path, outcomes: tuple[int, ...], kind: str, members: int
) -> None:
    trees, validation = fitted(outcomes, members=members)
    plain = open_session(head, 1)
    people, events, n = 5, 3, 7
    test, _ = rows(people * n, outcomes)
    inputs = {
        "history_vectors": VECTORS[RNG.integers(TEXTS, size=(people, events))],
        "history_kind": RNG.integers(4, size=(people, events)),
        "history_numbers": RNG.random((people, events, 3)).astype(np.float32),
        "history_mask": np.ones((people, events), dtype=np.float32),
        "candidate_vectors": test.vectors.reshape(people, n, DIM),
        "candidate_features": test.features.reshape(people, n, -1),
    }
    head_logits = plain.run(["logits"], inputs)[0].reshape(people * n, 3)
    own = fit_calibration(trees.logits(validation), validation.outcome)
    theirs = fit_calibration(head_logits, test.outcome)
    scorer = {
        "head": Scorer("head"),
        "trees": trees_alone(trees, own),
        "blend": blend(trees, theirs, own),
    }[kind]

    served = into_graph(onnx.load(head), scorer)
    (tmp_path / "served.onnx").write_bytes(served.SerializeToString(deterministic=True))
    session = open_session(tmp_path / "served.onnx", 1)
    assert [tensor.name for tensor in session.get_inputs()] == list(BEHAVIOR_INPUTS)
    found = session.run(["logits"], inputs)[0]
    assert found.shape == (people, n, 3)
    trained = list(outcomes)
    expected = scorer.logits(head_logits, test)
    np.testing.assert_allclose(found.reshape(-1, 3)[:, trained], expected[:, trained], atol=1e-4)
    one = {name: tensor[2:3] for name, tensor in inputs.items()}
    np.testing.assert_allclose(session.run(["logits"], one)[0][0], found[2], atol=1e-4)


def test_trees_alone_leave_nothing_of_the_head_in_the_graph(head: Path) -> None:
    trees, validation = fitted((0, 1, 2))
    own = fit_calibration(trees.logits(validation), validation.outcome)
    served = into_graph(onnx.load(head), trees_alone(trees, own))
    assert not any(node.op_type in ("Softmax", "LayerNormalization") for node in served.graph.node)
    assert sum(node.op_type.startswith("TreeEnsemble") for node in served.graph.node) == 1
