"""Building a TensorRT plan: only where the GPU is that will run it.

Never run: no GPU was at hand. Written after
https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/python-api-docs.html
"""

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shopcast_build.release.errors import TargetError
from shopcast_domain.manifest import Plan, Precision
from shopcast_repository.locking import replace_file
from shopcast_repository.triton_config import ServedModel, shape_of

_WORKSPACE_BYTES = 2**30
CACHE = "timing.cache"
Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Profile:
    """The shapes of one input that an engine is made for, batch axis first."""

    smallest: Shape
    usual: Shape
    largest: Shape


def profiles(model: ServedModel) -> dict[str, Profile]:
    """The range of shapes of every input: one row of the smallest sizes that callers pad to, up to
    a full batch of the limits; tuned for the middle one of the sizes."""
    sizes = {axis: model.padding.get(axis) or (1, limit) for axis, limit in model.limits.items()}
    smallest = {axis: some[0] for axis, some in sizes.items()}
    usual = {axis: some[len(some) // 2] for axis, some in sizes.items()}
    return {
        tensor.name: Profile(
            smallest=(1, *shape_of(tensor, smallest)),
            usual=(max(1, model.max_batch // 4), *shape_of(tensor, usual)),
            largest=(model.max_batch, *shape_of(tensor, model.limits)),
        )
        for tensor in model.inputs
    }


def build_plan(
    graph: Path, model: ServedModel, precision: Precision, output: Path, cache: Path
) -> Plan:
    """Build the plan of an ONNX graph on this machine's GPU, and say what it is tied to.

    cache: file of kernel timings, read and renewed, so that a second build is quick and alike.
    Raises TargetError where TensorRT or a GPU is missing, or TensorRT refuses the graph.
    """
    trt, torch = _tensorrt(), importlib.import_module("torch")
    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(graph.read_bytes()):
        raise TargetError(f"TensorRT refuses the graph: {parser.get_error(0).desc()}")
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, _WORKSPACE_BYTES)
    if precision == "fp16":
        config.set_flag(trt.BuilderFlag.FP16)
    profile = builder.create_optimization_profile()
    for name, shapes in profiles(model).items():
        profile.set_shape(name, shapes.smallest, shapes.usual, shapes.largest)
    config.add_optimization_profile(profile)
    timings = config.create_timing_cache(cache.read_bytes() if cache.is_file() else b"")
    if not config.set_timing_cache(timings, ignore_mismatch=False):  # of another TensorRT
        config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise TargetError("TensorRT could not build a plan: its log above says why")
    output.write_bytes(plan)
    replace_file(cache, bytes(config.get_timing_cache().serialize()))
    major, minor = torch.cuda.get_device_capability(0)
    return Plan(
        gpu=torch.cuda.get_device_name(0),
        compute_capability=f"{major}.{minor}",
        tensorrt=trt.__version__,
    )


class PlanSession:
    """A plan, run as onnxruntime.InferenceSession runs a graph."""

    def __init__(self, plan: Path) -> None:
        trt = _tensorrt()
        runtime = trt.Runtime(trt.Logger(trt.Logger.WARNING))
        self._engine = runtime.deserialize_cuda_engine(plan.read_bytes())
        if self._engine is None:
            raise TargetError(f"{plan} was built for another GPU or TensorRT: export it again here")
        self._context = self._engine.create_execution_context()

    def run(self, outputs: Sequence[str], feed: Mapping[str, NDArray[Any]]) -> list[Any]:
        """One batch; float32 outputs."""
        torch = importlib.import_module("torch")
        context, stream = self._context, torch.cuda.current_stream()
        held = {
            name: torch.from_numpy(np.ascontiguousarray(array)).cuda()
            for name, array in feed.items()
        }
        for name, tensor in held.items():
            if not context.set_input_shape(name, tuple(tensor.shape)):
                raise TargetError(f"the plan does not take {name} of shape {tuple(tensor.shape)}")
            context.set_tensor_address(name, tensor.data_ptr())
        found = []
        for name in outputs:
            shape = tuple(context.get_tensor_shape(name))
            found.append(torch.empty(shape, dtype=torch.float32, device="cuda"))
            context.set_tensor_address(name, found[-1].data_ptr())
        if not context.execute_async_v3(stream.cuda_stream):
            raise TargetError("the plan could not be run: TensorRT's log above says why")
        stream.synchronize()
        return [tensor.cpu().numpy() for tensor in found]


def check_available() -> None:
    """Raises TargetError where a plan cannot be built."""
    _tensorrt()


def _tensorrt() -> Any:
    torch = importlib.import_module("torch")
    if not torch.cuda.is_available():
        raise TargetError(
            "a TensorRT plan is built on the GPU that will run it, and this machine shows none: run"
            " this command where it is, on a copy of the repository"
        )
    try:
        return importlib.import_module("tensorrt")
    except ImportError:
        raise TargetError(
            "TensorRT's Python package is missing: run `pip install tensorrt` here, in the version"
            " that Triton has, and this command again"
        ) from None
