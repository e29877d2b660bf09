"""The scorer as one ONNX graph: the head's, with the trees beside it or in its place."""

import warnings

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from skl2onnx import to_onnx
from sklearn.ensemble import HistGradientBoostingClassifier

from shopcast_build.learning.scorer import Part, Scorer
from shopcast_build.learning.trees import Trees
from shopcast_domain.events import Outcome

_OPSETS = {"": 18, "ai.onnx.ml": 3}


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
    width = trees.members[0].n_features_in_
    outcomes, members = trees.outcomes, len(trees.members)
    # With two outcomes the second column holds the log odds, the first their negative.
    choose = np.zeros((len(outcomes), len(Outcome)), dtype=np.float32)
    for column in range(len(outcomes) == 2, len(outcomes)):
        choose[column, outcomes[column]] = 1.0 / members
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
    raw = [f"tree_raw_{member}" for member in range(members)]
    return [
        *nodes,
        helper.make_node("Concat", columns, ["tree_columns"], axis=-1),
        helper.make_node("Reshape", ["tree_columns", "tree_flat"], ["tree_rows"]),
        *(_ensemble(one, name) for one, name in zip(trees.members, raw, strict=True)),
        helper.make_node("Sum", raw, ["tree_raw"]),
        helper.make_node("MatMul", ["tree_raw", "tree_choose"], ["tree_chosen"]),
        helper.make_node("Shape", ["candidate_features"], ["tree_people"], start=0, end=2),
        helper.make_node("Concat", ["tree_people", "tree_three"], ["tree_shape"], axis=0),
        helper.make_node("Reshape", ["tree_chosen", "tree_shape"], ["tree_logits"]),
    ]


def _ensemble(member: HistGradientBoostingClassifier, raw: str) -> onnx.NodeProto:
    """tree_rows (rows, width) -> `raw` (rows, outcomes)."""
    example = np.zeros((1, member.n_features_in_), dtype=np.float32)
    options = {"zipmap": False, "raw_scores": True}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the converter's own making
        converted = to_onnx(member, example, options=options, target_opset=_OPSETS)
    (node,) = (n for n in converted.graph.node if n.op_type.startswith("TreeEnsemble"))
    node.name = node.name + raw
    node.input[:] = ["tree_rows"]
    node.output[:] = [raw.replace("raw", "label"), raw]
    return node


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
