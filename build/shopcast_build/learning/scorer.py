"""What scores inside `behavior`: the head, trees over numbers and text, or the blend of both."""

import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from skl2onnx import to_onnx

from shopcast_build.learning.trees import Rows, Trees
from shopcast_domain.events import Outcome
from shopcast_domain.manifest import Calibration

ScorerKind = Literal["head", "trees", "blend"]
_OPSETS = {"": 18, "ai.onnx.ml": 3}


@dataclass(frozen=True, slots=True)
class Part:
    """One of the two that are blended: logits count as weight * (scale * logits + bias)."""

    weight: float
    calibration: Calibration

    def apply(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """(..., 3) -> (..., 3)."""
        scale, bias = self.constants
        return (logits * scale + bias).astype(np.float32)

    @property
    def constants(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Scale, float32 (), and bias, float32 (3,)."""
        scale = np.float32(self.weight * self.calibration.scale)
        bias = np.array(self.calibration.bias, dtype=np.float32) * np.float32(self.weight)
        return np.asarray(scale), bias


@dataclass(frozen=True, slots=True)
class Scorer:
    """How the logits of the head and of the trees become one. trees: None with kind 'head'."""

    kind: ScorerKind
    trees: Trees | None = None
    head_part: Part | None = None
    trees_part: Part | None = None

    def logits(self, head: NDArray[np.float32], rows: Rows) -> NDArray[np.float32]:
        """head: the head's logits, float32 (M, 3), of the same exposures as rows."""
        if self.trees is None:
            return head
        total = np.zeros_like(head)
        if self.head_part is not None:
            total += self.head_part.apply(head)
        if self.trees_part is not None:
            total += self.trees_part.apply(self.trees.logits(rows))
        return total


def blend(trees: Trees, head: Calibration, own: Calibration) -> Scorer:
    """The mean of the calibrated logits of head and trees."""
    return Scorer("blend", trees, Part(0.5, head), Part(0.5, own))


def trees_alone(trees: Trees, own: Calibration) -> Scorer:
    """Trees without the head."""
    return Scorer("trees", trees, None, Part(1.0, own))


def into_graph(head: onnx.ModelProto, scorer: Scorer) -> onnx.ModelProto:
    """The head's graph with the scorer's trees beside it, or in its place.

    Inputs and the output `logits` stay as they are, so whoever serves it sees no difference.
    """
    if scorer.trees is None or scorer.trees_part is None:
        return head
    graph, trees = head.graph, scorer.trees
    graph.node.extend(_tree_nodes(graph, trees))
    own = _affine(graph, "tree_logits", "trees", scorer.trees_part)
    _rename_output(graph, "logits", "head_logits")
    if scorer.head_part is not None:
        theirs = _affine(graph, "head_logits", "head", scorer.head_part)
        graph.node.append(helper.make_node("Add", [theirs, own], ["logits"], name="blend"))
    else:
        graph.node.append(helper.make_node("Identity", [own], ["logits"], name="trees_only"))
        _prune(graph)
    if not any(opset.domain == "ai.onnx.ml" for opset in head.opset_import):
        head.opset_import.append(helper.make_opsetid("ai.onnx.ml", _OPSETS["ai.onnx.ml"]))
    onnx.checker.check_model(head)
    return head


def _tree_nodes(graph: onnx.GraphProto, trees: Trees) -> list[onnx.NodeProto]:
    """candidate_vectors (b, n, d) and candidate_features (b, n, f) -> tree_logits (b, n, 3)."""
    width = trees.model.n_features_in_
    example = np.zeros((1, width), dtype=np.float32)
    options = {"zipmap": False, "raw_scores": True}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the converter's own making
        converted = to_onnx(trees.model, example, options=options, target_opset=_OPSETS)
    (ensemble,) = (n for n in converted.graph.node if n.op_type.startswith("TreeEnsemble"))
    ensemble.input[:] = ["tree_rows"]
    ensemble.output[:] = ["tree_label", "tree_raw"]
    classes = trees.model.classes_
    # With two outcomes the second column holds the log odds, the first their negative.
    choose = np.zeros((len(classes), len(Outcome)), dtype=np.float32)
    for column in range(len(classes) == 2, len(classes)):
        choose[column, classes[column]] = 1.0
    _constant(graph, "tree_choose", choose)
    _constant(graph, "tree_three", np.array([len(Outcome)], dtype=np.int64))
    _constant(graph, "tree_flat", np.array([-1, width], dtype=np.int64))
    columns, nodes = ["candidate_features"], []
    if trees.text is not None:
        _constant(graph, "tree_axes", trees.text.axes)
        _constant(graph, "tree_mean", trees.text.mean)
        nodes += [
            helper.make_node("Sub", ["candidate_vectors", "tree_mean"], ["tree_centred"]),
            helper.make_node("MatMul", ["tree_centred", "tree_axes"], ["tree_text"]),
        ]
        columns.append("tree_text")
    return [
        *nodes,
        helper.make_node("Concat", columns, ["tree_columns"], axis=-1),
        helper.make_node("Reshape", ["tree_columns", "tree_flat"], ["tree_rows"]),
        ensemble,
        helper.make_node("MatMul", ["tree_raw", "tree_choose"], ["tree_chosen"]),
        helper.make_node("Shape", ["candidate_features"], ["tree_people"], start=0, end=2),
        helper.make_node("Concat", ["tree_people", "tree_three"], ["tree_shape"], axis=0),
        helper.make_node("Reshape", ["tree_chosen", "tree_shape"], ["tree_logits"]),
    ]


def _affine(graph: onnx.GraphProto, logits: str, name: str, part: Part) -> str:
    scale, bias = part.constants
    _constant(graph, f"{name}_scale", scale)
    _constant(graph, f"{name}_bias", bias)
    graph.node.extend(
        [
            helper.make_node("Mul", [logits, f"{name}_scale"], [f"{name}_scaled"]),
            helper.make_node("Add", [f"{name}_scaled", f"{name}_bias"], [f"{name}_part"]),
        ]
    )
    return f"{name}_part"


def _constant(graph: onnx.GraphProto, name: str, value: NDArray[np.generic]) -> None:
    graph.initializer.append(numpy_helper.from_array(value, name))


def _rename_output(graph: onnx.GraphProto, old: str, new: str) -> None:
    for node in graph.node:
        for names in (node.output, node.input):
            for place, name in enumerate(names):
                if name == old:
                    names[place] = new


def _prune(graph: onnx.GraphProto) -> None:
    """Leave only the nodes and constants that the output depends on."""
    wanted, kept = {output.name for output in graph.output}, []
    for node in reversed(graph.node):
        if wanted & set(node.output):
            kept.append(node)
            wanted |= set(node.input)
    constants = [constant for constant in graph.initializer if constant.name in wanted]
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(reversed(kept))
    graph.initializer.extend(constants)
