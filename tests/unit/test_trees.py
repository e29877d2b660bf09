"""Trees that the last bit of a vector does not lead down another branch."""

import numpy as np
import pytest

from shopcast_build.learning.trees import Matrix, Rows, TextComponents, Trees


@pytest.fixture(scope="module")
def problem() -> tuple[Matrix, np.ndarray, Matrix, np.ndarray]:
    """Vectors of 300 items, the items of 4,000 rows (few of them popular), numbers, outcomes."""
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((300, 12)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    item = rng.zipf(1.3, 4000) % 300
    numbers = rng.random((4000, 3)).astype(np.float32)
    odds = 6 * vectors[item, 0] - 4 * vectors[item, 1] + numbers[:, 0]
    return vectors, item, numbers, (rng.random(4000) < 1 / (1 + np.exp(-odds))).astype(np.int64)


@pytest.mark.parametrize("again", [False, True], ids=["fitted", "fitted again"])
def test_noise_in_the_last_bits_changes_nothing(
    problem: tuple[Matrix, np.ndarray, Matrix, np.ndarray], again: bool
) -> None:
    vectors, item, numbers, outcome = problem
    text = TextComponents.of(vectors, 6, seed=0)
    rows = Rows(numbers, vectors[item], outcome)
    trees = Trees.fit(rows, rows, text=text, seed=0)
    if again:
        trees = trees.refit(rows, growth=1.0)
    expected = trees.logits(rows)
    assert expected[:, 1].std() > 0.5  # it has learned from the text
    noise = np.random.default_rng(1).standard_normal(vectors.shape).astype(np.float32)
    for size in (1e-7, 1e-6):
        off = Rows(numbers, (vectors + np.float32(size) * noise)[item], outcome)
        assert np.abs(trees.logits(off) - expected).max() < 1e-6


def test_moving_thresholds_keeps_what_is_said_of_the_training_rows(
    problem: tuple[Matrix, np.ndarray, Matrix, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors, item, _, outcome = problem
    # Numbers, so that an item has one value in all rows: a product of matrices may not give it.
    # Some of them are small, as the shares of items are.
    scale = np.float32([1.0, 1.0, 1e-6, 1e-8])
    rows = Rows(vectors[item, :4] * scale, vectors[item], outcome)
    moved = Trees.fit(rows, rows, text=None, seed=0).logits(rows)
    monkeypatch.setattr("shopcast_build.learning.trees._widened", lambda fitted, x, numbers: fitted)
    np.testing.assert_array_equal(moved, Trees.fit(rows, rows, text=None, seed=0).logits(rows))
