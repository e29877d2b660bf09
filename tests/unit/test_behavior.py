from collections.abc import Mapping

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from shopcast_build.learning.behavior import BehaviorModel, PiecewiseLinear
from shopcast_domain.features import FEATURES, HISTORY_NUMBERS, KINDS

DIM = 8
Inputs = dict[str, Tensor]


@pytest.fixture(scope="module")
def model() -> BehaviorModel:
    torch.manual_seed(3)
    model = BehaviorModel(DIM)
    rng = np.random.default_rng(3)
    model.numbers.fit(rng.normal(size=(500, len(FEATURES))).astype(np.float32))
    with torch.no_grad():
        model.nothing.normal_()  # as if learned
    return model.eval()


def inputs(people: int, events: int, candidates: int, seed: int = 0) -> Inputs:
    """Arguments of the model; the histories of a batch have different lengths."""
    torch.manual_seed(seed)
    unit = torch.nn.functional.normalize
    mask = torch.zeros(people, events)
    for row in range(people):
        mask[row, : max(1, events - row)] = 1.0
    return {
        "history_vectors": unit(torch.randn(people, events, DIM), dim=-1),
        "history_kind": torch.randint(0, KINDS, (people, events)),
        "history_numbers": torch.rand(people, events, len(HISTORY_NUMBERS)) * 8,
        "history_mask": mask,
        "candidate_vectors": unit(torch.randn(people, candidates, DIM), dim=-1),
        "candidate_features": torch.randn(people, candidates, len(FEATURES)),
    }


def run(model: BehaviorModel, given: Mapping[str, Tensor]) -> Tensor:
    with torch.no_grad():
        return model(**given)


def assert_close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def padded(given: Inputs, more: int) -> Inputs:
    """The same with `more` masked events of nonsense behind each history."""
    longer = dict(given)
    for name in ("history_vectors", "history_kind", "history_numbers"):
        tensor = given[name]
        fill = torch.full((tensor.shape[0], more, *tensor.shape[2:]), 3, dtype=tensor.dtype)
        longer[name] = torch.cat([tensor, fill], 1)
    longer["history_mask"] = torch.cat([given["history_mask"], torch.zeros(len(fill), more)], 1)
    return longer


def history(given: Inputs, order: Tensor) -> Inputs:
    """The same with the events of every history rearranged."""
    return {
        name: tensor[:, order] if name.startswith("history") else tensor
        for name, tensor in given.items()
    }


def test_padding_changes_nothing_whatever_it_holds(model: BehaviorModel) -> None:
    one = inputs(4, 6, 3)
    assert_close(run(model, padded(one, 10)), run(model, one))


def test_a_row_is_the_same_alone_and_in_a_batch(model: BehaviorModel) -> None:
    batch = inputs(4, 6, 3)
    together = run(model, batch)
    for row in range(4):
        length = int(batch["history_mask"][row].sum())
        alone = {
            name: tensor[row : row + 1, :length] if name.startswith("history") else tensor[[row]]
            for name, tensor in batch.items()
        }
        assert_close(run(model, alone)[0], together[row])


def test_a_candidate_is_the_same_alone_and_among_others(model: BehaviorModel) -> None:
    many = inputs(2, 6, 5)
    together = run(model, many)
    for n in range(5):
        alone = {
            name: tensor[:, n : n + 1] if name.startswith("candidate") else tensor
            for name, tensor in many.items()
        }
        assert_close(run(model, alone)[:, 0], together[:, n])


def test_an_empty_history_is_no_history(model: BehaviorModel) -> None:
    """The graph takes at least one event, so a stranger comes with one that is masked."""
    one, other = inputs(2, 1, 3, seed=1), inputs(2, 9, 3, seed=2)
    for stranger in (one, other):
        stranger["history_mask"] = torch.zeros_like(stranger["history_mask"])
    other |= {name: one[name] for name in one if name.startswith("candidate")}
    assert_close(run(model, one), run(model, other))


@settings(max_examples=20)
@given(st.permutations(range(7)))
def test_the_order_of_events_does_not_matter(model: BehaviorModel, order: list[int]) -> None:
    one = inputs(3, 7, 2)
    assert_close(run(model, history(one, torch.tensor(order))), run(model, one))


def test_events_their_kind_age_and_candidates_do_matter(model: BehaviorModel) -> None:
    one = inputs(1, 4, 2)
    base = run(model, one)
    for name in one:
        changed = dict(one)
        changed[name] = one[name].flip(-1)
        if name == "history_kind":
            changed[name] = (one[name] + 1) % KINDS
        elif name == "history_mask":
            changed[name] = torch.tensor([[1.0, 1.0, 0.0, 1.0]])
        assert (run(model, changed) - base).abs().max() > 1e-3, name


def test_logits_are_finite_whatever_the_features(model: BehaviorModel) -> None:
    one = inputs(2, 3, 2)
    one["candidate_features"] = torch.tensor([[1e30, -1e30], [0.0, 1e-30]])[..., None].expand(
        2, 2, len(FEATURES)
    )
    one["history_numbers"][..., 0] = 12.0  # 18 years
    assert torch.isfinite(run(model, one)).all()


def test_numbers_are_encoded_by_the_bins_they_lie_in() -> None:
    numbers = PiecewiseLinear(2)
    values = np.stack([np.arange(13.0), np.zeros(13)], 1).astype(np.float32)
    numbers.fit(values)
    found = numbers(torch.tensor([[0.0, 0.0], [12.0, 0.0], [2.5, 0.0], [99.0, -1.0]]))
    first = found[:, :12]
    torch.testing.assert_close(first[0], torch.zeros(12))
    torch.testing.assert_close(first[1], torch.ones(12))
    torch.testing.assert_close(first[2], torch.tensor([1.0, 1.0, 0.5] + [0.0] * 9))
    torch.testing.assert_close(first[3], torch.ones(12))
    assert torch.isfinite(found).all()  # also of a feature that never varied
