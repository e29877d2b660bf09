"""What is served says what was trained, whatever the base model, its adaptation and its tuning."""

from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import pytest
import torch
from tiny_bases import DECODERS, ENCODERS, save_base

from shopcast_build.learning.adaptation import Adaptation
from shopcast_build.learning.base_model import load_base_model
from shopcast_build.learning.encoder import ItemEncoder, layer_stack
from shopcast_build.learning.export import ENCODER_INPUTS, export_encoder, open_session
from shopcast_build.learning.settings import EncoderSettings
from shopcast_build.learning.tuning import start_tuning
from shopcast_domain.tokeniser import ItemTokeniser

TEXTS = ["red shoe", "a", "蓝帽子 | 北方", "green lamp | price 4 to 8 | north", "hat " * 20]
# Every base model; every adaptation and way of tuning with models that see all of a text and with
# those that see what stands before: an export takes seconds, so not everything with everything.
CASES = [
    ("bert", "linear", "frozen"),
    ("chinese-bert", "mlp", "frozen"),
    ("roberta", "linear", "lora"),
    ("distilbert", "linear", "adapter"),
    ("electra", "convolution", "frozen"),
    ("modernbert", "linear", "frozen"),
    ("bert", "linear", "adalora"),
    ("bert", "linear", "prefix"),
    ("gpt2", "mlp", "lora"),
    ("gpt2", "convolution", "adapter"),
    ("gpt2", "linear", "prefix"),
    ("qwen2", "linear", "frozen"),
    ("qwen2", "convolution", "adalora"),
    ("qwen2", "linear", "prefix"),
]


@pytest.mark.parametrize("names", [ENCODERS, DECODERS], ids=["encoders", "decoders"])
def test_everything_is_tried_with_both_kinds_of_models(names: tuple[str, ...]) -> None:
    tried = [case for case in CASES if case[0] in names]
    tunings = get_args(EncoderSettings.model_fields["tuning"].annotation)
    assert {name for name, *_ in tried} == set(names)
    assert {adaptation for _, adaptation, _ in tried} == set(get_args(Adaptation))
    # What learns of a plain encoder makes no difference to its graph.
    assert {tuning for *_, tuning in tried} == set(tunings) - {"top", "full"}


@pytest.mark.parametrize(("name", "adaptation", "tuning"), CASES, ids=map("-".join, CASES))
def test_the_graph_says_what_torch_says_alone_and_together(
    tmp_path: Path, name: str, adaptation: Any, tuning: Any
) -> None:
    base = load_base_model(str(save_base(name, tmp_path)))
    del layer_stack(base.model)[1:]  # one layer is as good as four, and exports faster
    tokeniser = ItemTokeniser(base.tokeniser, max_tokens=16, pad_id=base.pad_id)
    torch.manual_seed(1)
    encoder = ItemEncoder(base.model, 8, adaptation).eval()
    settings = EncoderSettings(tuning=tuning, max_tokens=16, rank=2, prefix_tokens=3)
    made = start_tuning(encoder, settings, 10)
    with torch.no_grad():  # as if it had learned
        for parameter in encoder.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    ids, mask = tokeniser.pad(tokeniser.encode(TEXTS))
    with torch.no_grad():
        expected = encoder(torch.from_numpy(ids), torch.from_numpy(mask)).numpy()
    made.finish()
    export_encoder(encoder, tmp_path / "model.onnx", max_tokens=16)
    graph = onnx.load(tmp_path / "model.onnx").graph
    assert [tensor.name for tensor in graph.input] == list(ENCODER_INPUTS)
    assert {node.domain for node in graph.node} <= {"", "pkg.onnxscript.torch_lib.common"}
    assert not any("lora" in weight.name for weight in graph.initializer)

    session = open_session(tmp_path / "model.onnx", threads=1)

    def served(token_ids: np.ndarray, attention_mask: np.ndarray) -> np.ndarray:
        feed = dict(zip(ENCODER_INPUTS, (token_ids, attention_mask), strict=True))
        return session.run(["vectors"], feed)[0]

    np.testing.assert_allclose(served(ids, mask), expected, atol=2e-5)
    for row in range(len(TEXTS)):
        length = mask[row].sum()
        alone = served(ids[row : row + 1, :length], mask[row : row + 1, :length])
        np.testing.assert_allclose(alone[0], expected[row], atol=2e-5)
        # Triton's model pads with zeros, whatever the padding token is.
        zeros = np.where(mask == 1, ids, 0)[row : row + 1]
        np.testing.assert_allclose(served(zeros, mask[row : row + 1])[0], expected[row], atol=2e-5)
