"""ONNX: the graphs that are served."""

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path

import onnx
import onnxruntime
import torch
from torch import Tensor, nn
from torch.export import Dim

from shopcast_build.learning.encoder import ItemEncoder
from shopcast_domain.features import FEATURES, HISTORY_NUMBERS

ENCODER_INPUTS = ("input_ids", "attention_mask")
BEHAVIOR_INPUTS = (
    "history_vectors",
    "history_kind",
    "history_numbers",
    "history_mask",
    "candidate_vectors",
    "candidate_features",
)


class ParityError(Exception):
    """An exported graph strays too far from the torch model. One sentence with the measurement."""


def export_encoder(encoder: ItemEncoder, path: Path, *, max_tokens: int) -> None:
    """Write the encoder: input_ids, attention_mask (n, length) -> vectors (n, d)."""
    ids = torch.ones(2, 7, dtype=torch.int64)
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0  # a partial mask, or the exporter folds it away
    n, length = Dim("n", min=1, max=4096), Dim("length", min=2, max=max_tokens)
    shapes = {name: {0: n, 1: length} for name in ENCODER_INPUTS}
    _export(encoder, (ids, mask), path, ENCODER_INPUTS, "vectors", shapes)


def export_behavior(behavior: nn.Module, path: Path, *, vector_dim: int) -> None:
    """Write the behaviour model: the arguments of BehaviorModel.forward -> logits (b, n, 3)."""
    b, h, n = 2, 5, 3
    mask = torch.ones(b, h)
    mask[1, 3:] = 0
    inputs = (
        torch.randn(b, h, vector_dim),
        torch.ones(b, h, dtype=torch.int64),
        torch.rand(b, h, len(HISTORY_NUMBERS)),
        mask,
        torch.randn(b, n, vector_dim),
        torch.rand(b, n, len(FEATURES)),
    )
    people, events, candidates = Dim("b", min=1), Dim("h", min=1), Dim("n", min=1)
    shapes = {
        name: {0: people, 1: events if name.startswith("history") else candidates}
        for name in BEHAVIOR_INPUTS
    }
    _export(behavior, inputs, path, BEHAVIOR_INPUTS, "logits", shapes)


def _export(
    module: nn.Module,
    inputs: tuple[Tensor, ...],
    path: Path,
    names: tuple[str, ...],
    output: str,
    shapes: dict[str, dict[int, Dim]],
) -> None:
    module = module.eval().cpu()
    for noisy in ("torch.onnx", "onnxscript", "onnx_ir"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of the exporter's own making
        program = torch.onnx.export(
            module,
            inputs,
            dynamo=True,
            input_names=list(names),
            output_names=[output],
            dynamic_shapes=tuple(shapes[name] for name in names),
            opset_version=18,
            verbose=False,
        )
    assert program is not None  # noqa: S101 - dynamo=True without a file always gives a program
    model = program.model_proto
    del model.metadata_props[:]
    for (
        node
    ) in model.graph.node:  # stack traces with this machine's paths, and of no use in service
        del node.metadata_props[:]
        node.doc_string = ""
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString(deterministic=True))


def open_session(
    path: Path, threads: int = 0, providers: Sequence[str] = ("CPUExecutionProvider",)
) -> onnxruntime.InferenceSession:
    """A graph in ONNX Runtime, on the CPU unless told otherwise. threads: 0 lets it choose.

    Raises RuntimeError where the first of the providers does not work here: by itself ONNX Runtime
    would go on with the next, and say so in its log only.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(str(path), options, providers=list(providers))
    if session.get_providers()[0] != providers[0]:
        raise RuntimeError(f"ONNX Runtime's {providers[0]} does not work on this machine")
    return session
