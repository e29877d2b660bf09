"""The published `model.py` with stand-ins for Triton's module and for ONNX Runtime's session."""

import importlib.util
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from google.protobuf import json_format, text_format
from numpy.typing import NDArray
from tritonclient.grpc import model_config_pb2
from tritonclient.utils import triton_to_np_dtype

from shopcast_repository import triton_config


class Tensor:
    def __init__(self, name: str, array: NDArray[Any]) -> None:
        self.name, self.array = name, array

    def as_numpy(self) -> NDArray[Any]:
        return self.array


class TritonError(Exception):
    INVALID_ARG, INTERNAL = 3, 1

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class InferenceResponse:
    def __init__(self, output_tensors: Sequence[Tensor], error: TritonError | None = None) -> None:
        self.outputs = {tensor.name: tensor.array for tensor in output_tensors}
        self.error = error


class InvalidArgument(Exception):
    """Named as ONNX Runtime's own."""


class DoublingSession:
    """Answers (B, N, 3) logits: twice the sum of each candidate's features. Counts what it ran."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def run(
        self, _: list[str], feeds: Mapping[str, NDArray[np.float32]]
    ) -> list[NDArray[np.float32]]:
        features = feeds["candidate_features"]
        if (features == 666).any():
            raise InvalidArgument
        self.shapes.append(features.shape)
        return [np.repeat(2 * features.sum(-1, keepdims=True), 3, axis=-1)]


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    triton = ModuleType("triton_python_backend_utils")
    triton.__dict__.update(
        Tensor=Tensor,
        TritonError=TritonError,
        InferenceResponse=InferenceResponse,
        get_input_tensor_by_name=lambda request, name: Tensor(name, request[name]),
        triton_string_to_numpy=lambda name: triton_to_np_dtype(name.removeprefix("TYPE_")),
    )
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", triton)
    path = Path(triton_config.__file__).with_name("triton_model.py")
    spec = importlib.util.spec_from_file_location("published_model", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def session() -> DoublingSession:
    return DoublingSession()


@pytest.fixture
def model(module: ModuleType, session: DoublingSession, tmp_path: Path) -> Any:
    settings = triton_config.behavior(width=4, features=5, max_events=8, max_candidates=1000)
    triton_config.write(settings, tmp_path / "config.pbtxt")
    text = (tmp_path / "config.pbtxt").read_text("utf-8")
    proto = text_format.Parse(text, model_config_pb2.ModelConfig())
    config = json.loads(json_format.MessageToJson(proto, preserving_proto_field_name=True))
    model = module.TritonPythonModel()
    model._contract, model._session = module.Contract(config), session
    return model


def person(candidates: int, *, rows: int = 1, value: float = 1.0) -> dict[str, NDArray[Any]]:
    return {
        "history_vectors": np.ones((rows, 2, 4), np.float32),
        "history_kind": np.ones((rows, 2), np.int64),
        "history_numbers": np.ones((rows, 2, 3), np.float32),
        "history_mask": np.ones((rows, 2), np.float32),
        "candidate_vectors": np.ones((rows, candidates, 4), np.float32),
        "candidate_features": np.full((rows, candidates, 5), value, np.float32),
    }


def test_requests_of_several_lengths_run_as_one_and_are_cut_back(
    model: Any, session: DoublingSession
) -> None:
    responses = model.execute([person(3), person(5, rows=2, value=2.0), person(4, value=3.0)])
    assert session.shapes == [(4, 5, 5)]
    shapes = [response.outputs["logits"].shape for response in responses]
    assert shapes == [(1, 3, 3), (2, 5, 3), (1, 4, 3)]
    for response, value in zip(responses, (10, 20, 30), strict=True):
        assert (response.outputs["logits"] == value).all()


def test_a_short_request_is_not_padded_to_a_far_longer_one(
    model: Any, session: DoublingSession
) -> None:
    responses = model.execute([person(1), person(1000), person(2), person(900)])
    assert session.shapes == [(2, 1000, 5), (2, 2, 5)]
    assert [r.outputs["logits"].shape[1] for r in responses] == [1, 1000, 2, 900]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"history_kind": np.ones((1, 3), np.int64)}, "history_kind has 3 on axis events"),
        ({"history_mask": np.ones((1, 2, 1), np.float32)}, "history_mask has 3 axes"),
        ({"candidate_features": np.ones((1, 3, 6), np.float32)}, "has 6 on axis 5"),
        ({"candidate_vectors": np.ones((2, 3, 4), np.float32)}, "candidate_vectors has 2 rows"),
        (person(0), "candidate_vectors has 0 on axis candidates"),
        (person(1001), "at most 1000"),
        (person(3, rows=65), "has 65 rows"),
        (person(3, value=666), "cannot run on these values"),
    ],
)
def test_a_request_that_does_not_fit_is_refused_alone(
    model: Any, change: dict[str, NDArray[Any]], said: str
) -> None:
    before, bad, after = model.execute([person(3), person(3) | change, person(4)])
    assert said in str(bad.error)
    assert bad.error.code == TritonError.INVALID_ARG
    assert before.outputs["logits"].shape == (1, 3, 3)
    assert after.outputs["logits"].shape == (1, 4, 3)


def test_a_gpu_is_used_where_it_is_asked_for_or_the_load_fails(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    instance = {"model_instance_device_id": "1"}
    assert module.providers("cpu", instance) == ["CPUExecutionProvider"]
    with pytest.raises(RuntimeError, match="no CUDA provider"):
        module.providers("cuda", instance)
    have = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(module.ort, "get_available_providers", lambda: have)
    (name, options), rest = module.providers("cuda", instance)
    assert (name, options, rest) == (
        "CUDAExecutionProvider", {"device_id": 1}, "CPUExecutionProvider",
    )  # fmt: skip
