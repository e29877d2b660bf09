"""`config.pbtxt` of the two served models: written from typed settings, and read back."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, Literal, get_args

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from shopcast_domain.manifest import Device, Precision, Target

DType = Literal["INT64", "FP32"]
Axes = tuple[str | int, ...]

MAX_BATCH = 64
GRAPH, PLAN = "model.onnx", "model.plan"
_BACKENDS: dict[Target, str] = {
    "python": "python",
    "onnxruntime": "onnxruntime",
    "onnxruntime-tensorrt": "onnxruntime",
    "tensorrt": "tensorrt",
}
_WORKSPACE_BYTES = 2**30


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor of a model. axes: those after the batch axis, a name where the size may vary."""

    name: str
    dtype: DType
    axes: Axes


@dataclass(frozen=True, slots=True)
class ServedModel:
    """What Triton has to know of a model.

    limits: the largest size of each named axis. padding: the sizes callers pad a named axis up to,
    in rising order; none where requests of any size go into one batch. version: the only one that
    is loaded; None leaves Triton its default, the newest. instances: copies that run side by side.
    threads: ONNX Runtime threads of each. Two instances with one thread each beat one with two.
    """

    name: str
    inputs: tuple[Tensor, ...]
    output: Tensor
    limits: Mapping[str, int] = field(default_factory=dict)
    target: Target = "python"
    device: Device = "cpu"
    precision: Precision = "fp32"
    padding: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    version: int | None = None
    max_batch: int = MAX_BATCH
    instances: int = 2
    threads: int = 1

    def warm_ups(self) -> Iterator[tuple[int, dict[str, int]]]:
        """Rows, and sizes of the named axes, of the requests to warm up with.

        Every size that callers pad to, or where they do not, the smallest and the largest. A GPU
        chooses kernels and reserves memory by the rows too; on a CPU they change nothing, and a
        full batch of a BERT takes seconds.
        """
        sizes = {
            axis: self.padding.get(axis) or (1, limit)
            for axis, limit in sorted(self.limits.items())
        }
        for rows in (1,) if self.device == "cpu" else (1, self.max_batch):
            for chosen in product(*sizes.values()):
                yield rows, dict(zip(sizes, chosen, strict=True))


def encoder(*, width: int, max_tokens: int, instances: int = 2, threads: int = 1) -> ServedModel:
    """The item encoder: token ids and mask, int64 (B, tokens), to vectors, float32 (B, width)."""
    return ServedModel(
        name="encoder",
        inputs=(
            Tensor("input_ids", "INT64", ("tokens",)),
            Tensor("attention_mask", "INT64", ("tokens",)),
        ),
        output=Tensor("vectors", "FP32", (width,)),
        limits={"tokens": max_tokens},
        instances=instances,
        threads=threads,
    )


def behavior(
    *,
    width: int,
    features: int,
    max_events: int,
    max_candidates: int,
    instances: int = 2,
    threads: int = 1,
) -> ServedModel:
    """The behaviour head: B persons with events and candidates to logits, (B, candidates, 3).

    width: of the encoder's vectors. features: columns of candidate_features.
    """
    return ServedModel(
        name="behavior",
        inputs=(
            Tensor("history_vectors", "FP32", ("events", width)),
            Tensor("history_kind", "INT64", ("events",)),
            Tensor("history_numbers", "FP32", ("events", 3)),
            Tensor("history_mask", "FP32", ("events",)),
            Tensor("candidate_vectors", "FP32", ("candidates", width)),
            Tensor("candidate_features", "FP32", ("candidates", features)),
        ),
        output=Tensor("logits", "FP32", ("candidates", 3)),
        limits={"events": max_events, "candidates": max_candidates},
        instances=instances,
        threads=threads,
    )


def write(model: ServedModel, path: Path) -> None:
    """Write `config.pbtxt`."""
    path.write_text(text_format.MessageToString(_to_proto(model)), encoding="utf-8")


def read(path: Path) -> ServedModel:
    """Read a `config.pbtxt` that `write` made. Raises ValueError when it is none."""
    try:
        return _from_proto(read_proto(path))
    except (ValueError, LookupError, TypeError) as problem:
        raise ValueError(f"{path} is not a configuration of a served model") from problem


def warm_up_of(proto: pb.ModelConfig) -> list[tuple[int, dict[str, tuple[int, ...]]]]:
    """The rows of every warm-up request, and its shapes without the batch axis, by input."""
    return [
        (request.batch_size, {name: tuple(one.dims) for name, one in request.inputs.items()})
        for request in proto.model_warmup
    ]


def read_proto(path: Path) -> pb.ModelConfig:
    """A `config.pbtxt` as Triton sees it. Raises ValueError when it is none."""
    try:
        return text_format.Parse(path.read_text(encoding="utf-8"), pb.ModelConfig())
    except (text_format.ParseError, UnicodeDecodeError) as problem:
        raise ValueError(f"{path} is not a configuration of a served model") from problem


def shape_of(tensor: Tensor, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """A tensor's shape without the batch axis when the named axes have these sizes."""
    return tuple(sizes[axis] if isinstance(axis, str) else axis for axis in tensor.axes)


def _to_proto(model: ServedModel) -> pb.ModelConfig:
    tensors = (*model.inputs, model.output)
    parameters = {
        "axes": json.dumps({tensor.name: tensor.axes for tensor in tensors}),
        "limits": json.dumps(dict(model.limits)),
        "padding": json.dumps({axis: list(sizes) for axis, sizes in model.padding.items()}),
        "target": model.target,
        "device": model.device,
        "precision": model.precision,
        "intra_op_threads": str(model.threads),
    }
    if model.target.startswith("onnxruntime"):
        parameters["intra_op_thread_count"] = str(model.threads)
    ragged = model.target == "python"  # ours pads by itself; the others take one shape at a time
    kind = (
        pb.ModelInstanceGroup.KIND_CPU if model.device == "cpu" else pb.ModelInstanceGroup.KIND_GPU
    )
    proto = pb.ModelConfig(
        name=model.name,
        backend=_BACKENDS[model.target],
        default_model_filename="" if ragged else PLAN if model.target == "tensorrt" else GRAPH,
        max_batch_size=model.max_batch,
        input=[
            pb.ModelInput(
                name=tensor.name,
                data_type=_proto_dtype(tensor.dtype),
                dims=_dims(tensor.axes),
                allow_ragged_batch=ragged,
            )
            for tensor in model.inputs
        ],
        output=[
            pb.ModelOutput(
                name=model.output.name,
                data_type=_proto_dtype(model.output.dtype),
                dims=_dims(model.output.axes),
            )
        ],
        instance_group=[pb.ModelInstanceGroup(count=model.instances, kind=kind)],
        # Bare on purpose: with a queue policy requests stall for half a second.
        dynamic_batching=pb.ModelDynamicBatching(),
        model_warmup=[_warm_up(model, rows, sizes) for rows, sizes in model.warm_ups()],
        parameters={key: pb.ModelParameter(string_value=text) for key, text in parameters.items()},
    )
    if model.version is not None:
        proto.version_policy.specific.versions[:] = [model.version]
    if model.target == "onnxruntime-tensorrt":
        accelerator = proto.optimization.execution_accelerators.gpu_execution_accelerator.add()
        accelerator.name = "tensorrt"
        accelerator.parameters["precision_mode"] = "FP16" if model.precision == "fp16" else "FP32"
        accelerator.parameters["max_workspace_size_bytes"] = str(_WORKSPACE_BYTES)
        accelerator.parameters["trt_engine_cache_enable"] = "true"
    return proto


def _warm_up(model: ServedModel, rows: int, sizes: Mapping[str, int]) -> pb.ModelWarmup:
    """One request of these sizes, all zeros: a token id that exists, and masks that hide it."""
    inputs = {
        tensor.name: pb.ModelWarmup.Input(
            data_type=_proto_dtype(tensor.dtype), dims=shape_of(tensor, sizes), zero_data=True
        )
        for tensor in model.inputs
    }
    name = " ".join(f"{axis}={size}" for axis, size in {"rows": rows, **sizes}.items())
    return pb.ModelWarmup(name=name, batch_size=rows, inputs=inputs)


def _from_proto(proto: pb.ModelConfig) -> ServedModel:
    axes = json.loads(proto.parameters["axes"].string_value)

    def tensor(spec: pb.ModelInput | pb.ModelOutput) -> Tensor:
        dtype = pb.DataType.Name(spec.data_type).removeprefix("TYPE_")
        return Tensor(spec.name, dtype, tuple(axes[spec.name]))

    def said(name: str) -> str:
        return proto.parameters[name].string_value

    return ServedModel(
        name=proto.name,
        inputs=tuple(tensor(spec) for spec in proto.input),
        output=tensor(proto.output[0]),
        limits=json.loads(said("limits")),
        target=_one_of(said("target"), Target),
        device=_one_of(said("device"), Device),
        precision=_one_of(said("precision"), Precision),
        padding={axis: tuple(sizes) for axis, sizes in json.loads(said("padding")).items()},
        version=next(iter(proto.version_policy.specific.versions), None),
        max_batch=proto.max_batch_size,
        instances=proto.instance_group[0].count,
        threads=int(said("intra_op_threads")),
    )


def _one_of(value: str, kind: Any) -> Any:
    """Raises ValueError where a literal type does not have the value."""
    if value not in get_args(kind):
        raise ValueError(value)
    return value


def _dims(axes: Axes) -> list[int]:
    return [axis if isinstance(axis, int) else -1 for axis in axes]


def _proto_dtype(dtype: DType) -> int:
    return pb.DataType.Value(f"TYPE_{dtype}")
