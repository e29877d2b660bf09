"""The `model.py` of every published version: runs the `model.onnx` beside it in Triton.

It is copied as it stands, so it imports nothing of the product. Requests of one batch may differ in
their variable axes (tokens, events, candidates): they are padded with zeros to the longest, run as
one, and cut back. Masks are inputs, so zeros are neutral.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

Array = NDArray[Any]
Axes = Sequence[str | int]

# Requests are run together as long as padding adds at most half to their work.
_MAX_PADDING = 1.5


class InvalidRequest(Exception):
    """The tensors of one request do not fit the model; the message says which."""


class Contract:
    """What the configuration says of the tensors.

    axes: per tensor, its axes after the batch axis: a name where the size may vary, else a number.
    limits: the largest size of each named axis.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        axes: dict[str, Axes] = json.loads(config["parameters"]["axes"]["string_value"])
        self.limits: dict[str, int] = json.loads(config["parameters"]["limits"]["string_value"])
        self.max_rows = int(config["max_batch_size"])
        self.dtypes = {
            spec["name"]: pb_utils.triton_string_to_numpy(spec["data_type"])
            for spec in (*config["input"], *config["output"])
        }
        self.inputs = {spec["name"]: axes[spec["name"]] for spec in config["input"]}
        self.outputs = {spec["name"]: axes[spec["name"]] for spec in config["output"]}

    def sizes(self, tensors: Mapping[str, Array]) -> dict[str, int]:
        """The size of every named axis of one request. Raises InvalidRequest."""
        sizes: dict[str, int] = {}
        rows: int | None = None
        for name, axes in self.inputs.items():
            tensor = tensors[name]
            if tensor.ndim != len(axes) + 1:
                raise InvalidRequest(f"{name} has {tensor.ndim} axes, expected {len(axes) + 1}")
            if rows is None:
                rows = tensor.shape[0]
            if tensor.shape[0] != rows or not 1 <= rows <= self.max_rows:
                raise InvalidRequest(f"{name} has {tensor.shape[0]} rows")
            for axis, size in zip(axes, tensor.shape[1:], strict=True):
                expected = sizes.setdefault(axis, size) if isinstance(axis, str) else axis
                limit = self.limits[axis] if isinstance(axis, str) else axis
                if size != expected or not 1 <= size <= limit:
                    raise InvalidRequest(
                        f"{name} has {size} on axis {axis}, expected {expected}, at most {limit}"
                    )
        return sizes

    def check(self, session: ort.InferenceSession) -> None:
        """Raises ValueError when the graph does not have exactly these tensors, or cannot run."""
        names = {tensor.name for tensor in session.get_inputs()}
        if names != set(self.inputs):
            raise ValueError(f"model.onnx takes {sorted(names)}, expected {sorted(self.inputs)}")
        blank = {
            name: np.zeros((1, *shape_of(axes, dict.fromkeys(self.limits, 1))), self.dtypes[name])
            for name, axes in self.inputs.items()
        }
        answers = session.run(list(self.outputs), blank)
        for (name, axes), answer in zip(self.outputs.items(), answers, strict=True):
            expected = (1, *shape_of(axes, dict.fromkeys(self.limits, 1)))
            if answer.shape != expected or answer.dtype != self.dtypes[name]:
                raise ValueError(f"model.onnx answers {name} as {answer.dtype} {answer.shape}")


def providers(device: str, args: Mapping[str, str]) -> list[Any]:
    """What runs the graph. Raises RuntimeError when a GPU is asked for and ONNX Runtime has none:
    by itself it would go on, on the CPU, without a word."""
    if device == "cpu":
        return ["CPUExecutionProvider"]
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        raise RuntimeError("this ONNX Runtime has no CUDA provider")
    gpu = {"device_id": int(args.get("model_instance_device_id", "0"))}
    return [("CUDAExecutionProvider", gpu), "CPUExecutionProvider"]


def shape_of(axes: Axes, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """The shape after the batch axis when the named axes have these sizes."""
    return tuple(sizes[axis] if isinstance(axis, str) else axis for axis in axes)


class Job:
    """One valid request: its tensors, the sizes of its named axes, its rows and where it stood."""

    def __init__(self, index: int, tensors: Mapping[str, Array], sizes: dict[str, int]) -> None:
        self.index = index
        self.tensors = tensors
        self.sizes = sizes
        self.rows = next(iter(tensors.values())).shape[0]
        self.work = sum(tensor.size for tensor in tensors.values())


def longest(jobs: Sequence[Job]) -> dict[str, int]:
    """The largest size of each named axis over the jobs."""
    return {axis: max(job.sizes[axis] for job in jobs) for axis in jobs[0].sizes}


def groups(jobs: Sequence[Job], inputs: Mapping[str, Axes]) -> Iterator[list[Job]]:
    """Split jobs, longest first, so that no short one pays for being padded to a far longer one."""
    group: list[Job] = []
    for job in sorted(jobs, key=lambda job: job.work / job.rows, reverse=True):
        wider = [*group, job]
        sizes = longest(wider)
        row = sum(int(np.prod(shape_of(axes, sizes))) for axes in inputs.values())
        padded = row * sum(job.rows for job in wider)
        if group and padded > _MAX_PADDING * sum(job.work for job in wider):
            yield group
            wider = [job]
        group = wider
    if group:
        yield group


class TritonPythonModel:
    """The class Triton's Python backend looks for."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Load the graph; what is raised here makes Triton refuse the version."""
        config = json.loads(args["model_config"])
        self._contract = Contract(config)
        options = ort.SessionOptions()
        options.intra_op_num_threads = int(config["parameters"]["intra_op_threads"]["string_value"])
        options.inter_op_num_threads = 1
        # Spinning threads of several sessions take the cores from one another.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        wanted = providers(config["parameters"]["device"]["string_value"], args)
        self._session = ort.InferenceSession(
            str(Path(__file__).with_name("model.onnx")), options, providers=wanted
        )
        first = wanted[0] if isinstance(wanted[0], str) else wanted[0][0]
        if self._session.get_providers()[0] != first:  # its libraries did not load
            raise RuntimeError(f"ONNX Runtime's {first} does not work on this machine")
        self._contract.check(self._session)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """One response per request, in order; a bad request fails alone."""
        responses: list[Any] = [None] * len(requests)
        jobs = []
        for index, request in enumerate(requests):
            tensors = {
                name: pb_utils.get_input_tensor_by_name(request, name).as_numpy()
                for name in self._contract.inputs
            }
            try:
                jobs.append(Job(index, tensors, self._contract.sizes(tensors)))
            except InvalidRequest as problem:
                responses[index] = refusal(str(problem), pb_utils.TritonError.INVALID_ARG)
        for group in groups(jobs, self._contract.inputs):
            for job, response in zip(group, self._respond(group), strict=True):
                responses[job.index] = response
        return responses

    def _respond(self, group: Sequence[Job]) -> list[Any]:
        """One response per job. Where the graph fails, jobs are tried alone."""
        try:
            answers = self._run(group)
        except Exception as problem:
            if len(group) > 1:
                return [response for job in group for response in self._respond([job])]
            invalid = type(problem).__name__ == "InvalidArgument"  # such as a token id out of range
            code = pb_utils.TritonError.INVALID_ARG if invalid else pb_utils.TritonError.INTERNAL
            return [refusal("the graph cannot run on these values", code)]
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor(name, answer[name]) for name in answer])
            for answer in answers
        ]

    def _run(self, group: Sequence[Job]) -> Iterator[dict[str, Array]]:
        """The outputs of each job, from one run over all."""
        contract = self._contract
        sizes, rows = longest(group), sum(job.rows for job in group)
        feeds = {
            name: np.zeros((rows, *shape_of(axes, sizes)), contract.dtypes[name])
            for name, axes in contract.inputs.items()
        }
        first = 0
        for job in group:
            for name, tensor in job.tensors.items():
                own = tuple(slice(size) for size in tensor.shape[1:])
                feeds[name][(slice(first, first + job.rows), *own)] = tensor
            first += job.rows
        outputs = self._session.run(list(contract.outputs), feeds)
        return self._cut(group, outputs)

    def _cut(self, group: Sequence[Job], outputs: Sequence[Array]) -> Iterator[dict[str, Array]]:
        """Give each job its rows, with padded axes cut back to its own sizes."""
        first = 0
        for job in group:
            answer = {}
            for (name, axes), output in zip(self._contract.outputs.items(), outputs, strict=True):
                own = tuple(slice(size) for size in shape_of(axes, job.sizes))
                answer[name] = np.ascontiguousarray(output[(slice(first, first + job.rows), *own)])
            first += job.rows
            yield answer


def refusal(message: str, code: int) -> Any:
    """A response that carries an error instead of tensors."""
    return pb_utils.InferenceResponse(output_tensors=[], error=pb_utils.TritonError(message, code))
