"""The encoder's graph in fewer bits. The behaviour model stays fp32 in every variant: it is small,
and its trees compare numbers that fewer bits would move across their thresholds."""

import logging
import tempfile
import warnings
from pathlib import Path

import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.transformers.float16 import convert_float_to_float16

from shopcast_domain.manifest import Precision


def convert(graph: Path, precision: Precision, output: Path) -> None:
    """Write a graph of fp32 in another precision; inputs and outputs keep their types.

    fp16: weights and arithmetic. int8: weights of matrix products, and their inputs as they come
    (dynamic quantisation): a row then depends on what it is batched with.
    """
    if precision == "fp32":
        output.write_bytes(graph.read_bytes())
    elif precision == "fp16":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of weights too small for fp16: the gate measures it
            half = convert_float_to_float16(onnx.load(graph), keep_io_types=True)
        output.write_bytes(half.SerializeToString(deterministic=True))
    else:
        logging.getLogger().addFilter(_no_advice)
        try:
            with tempfile.TemporaryDirectory(prefix="shopcast-int8-") as folder:
                written = Path(folder) / "int8.onnx"
                quantize_dynamic(graph, written, weight_type=QuantType.QInt8)
                small = onnx.load(written)
        finally:
            logging.getLogger().removeFilter(_no_advice)
        output.write_bytes(small.SerializeToString(deterministic=True))


def _no_advice(record: logging.LogRecord) -> bool:
    """Keeps the library's advice to preprocess off the root logger: the exporter has done it."""
    return "pre-processing before quantization" not in record.getMessage()
