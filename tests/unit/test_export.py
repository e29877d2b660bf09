import site
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor

from shopcast_build.learning.base_model import load_base_model
from shopcast_build.learning.behavior import BehaviorModel
from shopcast_build.learning.encoder import ItemEncoder, layer_stack
from shopcast_build.learning.export import (
    BEHAVIOR_INPUTS,
    ENCODER_INPUTS,
    export_behavior,
    export_encoder,
    open_session,
)
from shopcast_domain.features import FEATURES, HISTORY_NUMBERS, KINDS

DIM = 8
ROOT = Path(__file__).parents[2]
Arrays = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def encoder(tiny_base: Path) -> ItemEncoder:
    torch.manual_seed(1)
    bert = load_base_model(str(tiny_base)).model
    del layer_stack(bert)[1:]  # one layer is as good as four, and exports faster
    return ItemEncoder(bert, DIM).eval()


@pytest.fixture(scope="module")
def behavior() -> BehaviorModel:
    torch.manual_seed(2)
    model = BehaviorModel(DIM)
    rng = np.random.default_rng(2)
    model.numbers.fit(rng.normal(size=(500, len(FEATURES))).astype(np.float32))
    with torch.no_grad():
        model.nothing.normal_()
    return model.eval()


@pytest.fixture(scope="module")
def folder(
    encoder: ItemEncoder, behavior: BehaviorModel, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Both graphs, exported twice."""
    folder = tmp_path_factory.mktemp("graphs")
    for copy in ("", "-again"):
        export_encoder(encoder, folder / f"encoder{copy}.onnx", max_tokens=16)
        export_behavior(behavior, folder / f"behavior{copy}.onnx", vector_dim=DIM)
    return folder


def texts(n: int, length: int, seed: int = 0) -> Arrays:
    rng = np.random.default_rng(seed)
    lengths = np.maximum(2, length - np.arange(n))
    return {
        "input_ids": rng.integers(1, 90, (n, length)),
        "attention_mask": (np.arange(length) < lengths[:, None]).astype(np.int64),
    }


def shoppers(b: int, h: int, n: int, seed: int = 0) -> Arrays:
    rng = np.random.default_rng(seed)
    lengths = np.maximum(0, h - np.arange(b))
    arrays = {
        "history_vectors": rng.normal(size=(b, h, DIM)) / DIM**0.5,
        "history_kind": rng.integers(0, KINDS, (b, h)),
        "history_numbers": rng.random((b, h, len(HISTORY_NUMBERS))) * 5,
        "history_mask": np.arange(h) < lengths[:, None],
        "candidate_vectors": rng.normal(size=(b, n, DIM)) / DIM**0.5,
        "candidate_features": rng.normal(size=(b, n, len(FEATURES))),
    }
    return {
        name: array.astype(np.int64 if name == "history_kind" else np.float32)
        for name, array in arrays.items()
    }


def padded(arrays: Arrays, names: str, more: int) -> Arrays:
    """The same with `more` zeros behind axis 1 of the tensors whose names begin so."""
    return {
        name: np.pad(array, [(0, 0), (0, more), *[(0, 0)] * (array.ndim - 2)])
        if name.startswith(names)
        else array
        for name, array in arrays.items()
    }


def as_torch(module: torch.nn.Module, names: tuple[str, ...], arrays: Arrays) -> np.ndarray:
    with torch.no_grad():
        answer: Tensor = module(*(torch.from_numpy(arrays[name]) for name in names))
    return answer.numpy()


Run = Callable[[Arrays], np.ndarray]


@pytest.fixture(scope="module")
def encode(folder: Path) -> Run:
    session: onnxruntime.InferenceSession = open_session(folder / "encoder.onnx", threads=1)
    return lambda arrays: session.run(["vectors"], arrays)[0]


@pytest.fixture(scope="module")
def score(folder: Path) -> Run:
    session: onnxruntime.InferenceSession = open_session(folder / "behavior.onnx", threads=1)
    return lambda arrays: session.run(["logits"], arrays)[0]


@pytest.mark.parametrize(("n", "length"), [(1, 2), (1, 16), (2, 7), (5, 3), (33, 16)])
def test_the_encoder_says_what_torch_says_at_any_size(
    encoder: ItemEncoder, encode: Run, n: int, length: int
) -> None:
    given = texts(n, length)
    found = encode(given)
    assert found.shape == (n, DIM)
    np.testing.assert_allclose(found, as_torch(encoder, ENCODER_INPUTS, given), atol=1e-5)


@pytest.mark.parametrize(("b", "h", "n"), [(1, 1, 1), (1, 64, 1), (2, 5, 3), (7, 3, 1), (3, 9, 50)])
def test_the_behaviour_model_says_what_torch_says_at_any_size(
    behavior: BehaviorModel, score: Run, b: int, h: int, n: int
) -> None:
    given = shoppers(b, h, n)
    found = score(given)
    assert found.shape == (b, n, 3)
    np.testing.assert_allclose(found, as_torch(behavior, BEHAVIOR_INPUTS, given), atol=1e-4)


def test_a_vector_is_bitwise_the_same_alone_in_a_batch_and_with_more_padding(encode: Run) -> None:
    batch = texts(8, 12)
    together = encode(batch)
    np.testing.assert_array_equal(encode(padded(batch, "", 4)), together)
    for row in range(8):
        alone = {name: array[[row]] for name, array in batch.items()}
        np.testing.assert_array_equal(encode(alone)[0], together[row])
        length = int(batch["attention_mask"][row].sum())
        cut = {name: array[:, :length] for name, array in alone.items()}
        # Nearly: sums over an odd number of tokens may be added up in another order.
        np.testing.assert_allclose(encode(cut)[0], together[row], atol=1e-6)


def test_logits_are_bitwise_the_same_alone_in_a_batch_and_with_more_padding(score: Run) -> None:
    batch = shoppers(6, 12, 4)
    together = score(batch)
    np.testing.assert_array_equal(score(padded(batch, "history", 9)), together)
    np.testing.assert_array_equal(score(padded(batch, "candidate", 3))[:, :4], together)
    for row in range(6):
        length = max(1, int(batch["history_mask"][row].sum()))
        alone = {
            name: array[row : row + 1, :length] if name.startswith("history") else array[[row]]
            for name, array in batch.items()
        }
        np.testing.assert_array_equal(score(alone)[0], together[row])


@pytest.mark.parametrize("name", ["encoder", "behavior"])
def test_two_exports_of_the_same_weights_are_the_same_bytes(folder: Path, name: str) -> None:
    first, again = (folder / f"{name}{copy}.onnx" for copy in ("", "-again"))
    assert first.read_bytes() == again.read_bytes()


@pytest.mark.parametrize("name", ["encoder", "behavior"])
def test_an_exported_graph_holds_no_path_of_this_machine(
    folder: Path, tiny_base: Path, name: str
) -> None:
    content = (folder / f"{name}.onnx").read_bytes()
    paths = [ROOT, Path.home(), tiny_base, folder, *map(Path, site.getsitepackages())]
    for text in (*map(str, paths), "site-packages", "shopcast_build", ".py"):
        assert text.encode() not in content, text
