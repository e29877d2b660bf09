"""`config.pbtxt` of the two served models: written from typed settings, and read back."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

DType = Literal["INT64", "FP32"]
Axes = tuple[str | int, ...]

MAX_BATCH = 64


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor of a model. axes: those after the batch axis, a name where the size may vary."""

    name: str
    dtype: DType
    axes: Axes


@dataclass(frozen=True, slots=True)
class ServedModel:
    """What Triton has to know of a model.

    limits: the largest size of each named axis. instances: copies that run side by side.
    threads: ONNX Runtime threads of each. Two instances with one thread each beat one with two.
    """

    name: str
    inputs: tuple[Tensor, ...]
    output: Tensor
    limits: Mapping[str, int] = field(default_factory=dict)
    max_batch: int = MAX_BATCH
    instances: int = 2
    threads: int = 1


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
        proto = text_format.Parse(path.read_text(encoding="utf-8"), pb.ModelConfig())
        return _from_proto(proto)
    except (text_format.ParseError, ValueError, LookupError, TypeError) as problem:
        raise ValueError(f"{path} is not a configuration of a served model") from problem


def _to_proto(model: ServedModel) -> pb.ModelConfig:
    tensors = (*model.inputs, model.output)
    parameters = {
        "axes": json.dumps({tensor.name: tensor.axes for tensor in tensors}),
        "limits": json.dumps(dict(model.limits)),
        "intra_op_threads": str(model.threads),
    }
    return pb.ModelConfig(
        name=model.name,
        backend="python",
        max_batch_size=model.max_batch,
        input=[
            pb.ModelInput(
                name=tensor.name,
                data_type=_proto_dtype(tensor.dtype),
                dims=_dims(tensor.axes),
                allow_ragged_batch=True,
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
        instance_group=[
            pb.ModelInstanceGroup(count=model.instances, kind=pb.ModelInstanceGroup.KIND_CPU)
        ],
        # Bare on purpose: with a queue policy requests stall for half a second.
        dynamic_batching=pb.ModelDynamicBatching(),
        parameters={key: pb.ModelParameter(string_value=text) for key, text in parameters.items()},
    )


def _from_proto(proto: pb.ModelConfig) -> ServedModel:
    axes = json.loads(proto.parameters["axes"].string_value)

    def tensor(spec: pb.ModelInput | pb.ModelOutput) -> Tensor:
        dtype = pb.DataType.Name(spec.data_type).removeprefix("TYPE_")
        return Tensor(spec.name, dtype, tuple(axes[spec.name]))

    return ServedModel(
        name=proto.name,
        inputs=tuple(tensor(spec) for spec in proto.input),
        output=tensor(proto.output[0]),
        limits=json.loads(proto.parameters["limits"].string_value),
        max_batch=proto.max_batch_size,
        instances=proto.instance_group[0].count,
        threads=int(proto.parameters["intra_op_threads"].string_value),
    )


def _dims(axes: Axes) -> list[int]:
    return [axis if isinstance(axis, int) else -1 for axis in axes]


def _proto_dtype(dtype: DType) -> int:
    return pb.DataType.Value(f"TYPE_{dtype}")
