from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_bases import DECODERS, ENCODERS

from shopcast_build.learning import trunk
from shopcast_build.learning.base_model import load_base_model
from shopcast_build.learning.encoder import ItemEncoder, layer_stack
from shopcast_build.learning.settings import EncoderSettings
from shopcast_build.learning.token_table import TokenTable
from shopcast_build.learning.trunk import keep_trunk
from shopcast_build.learning.tuning import start_tuning
from shopcast_domain.tokeniser import ItemTokeniser

TEXTS = ("", "red shoe", "blue hat under 8 | north", "lamp", "green lamp | price 4 to 8 | north")
BaseOf = Callable[[str], Path]
SUBSETS = [[1], [3, 1], [1, 2, 3, 4], [4, 4, 3]]


@pytest.fixture
def encoder(tiny_base: Path) -> ItemEncoder:
    torch.manual_seed(1)
    return ItemEncoder(load_base_model(str(tiny_base)).model, 8).eval()


@pytest.fixture
def table(tiny_base: Path) -> TokenTable:
    base = load_base_model(str(tiny_base))
    tokeniser = ItemTokeniser(base.tokeniser, max_tokens=16, pad_id=base.pad_id)
    return TokenTable(TEXTS, tokeniser, torch.device("cpu"))


def learn_top(encoder: ItemEncoder, layers: int) -> None:
    encoder.requires_grad_(True)
    encoder.bert.requires_grad_(False)
    stack = layer_stack(encoder.bert)
    stack[len(stack) - layers :].requires_grad_(True)


def assert_same_vectors(kept: trunk.KeptTrunk, encoder: ItemEncoder, table: TokenTable) -> None:
    with torch.no_grad():
        for subset in SUBSETS:
            text = torch.tensor(subset)
            expected = encoder(*table.rows(text))
            torch.testing.assert_close(kept.encode(text), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("trained_layers", [0, 1, 3])
def test_kept_states_give_the_encoders_vectors(
    encoder: ItemEncoder, table: TokenTable, trained_layers: int
) -> None:
    learn_top(encoder, trained_layers)
    kept = keep_trunk(encoder, table)
    assert kept is not None
    assert_same_vectors(kept, encoder, table)


def test_they_still_do_after_the_top_layers_have_learned(
    encoder: ItemEncoder, table: TokenTable
) -> None:
    learn_top(encoder, 2)
    kept = keep_trunk(encoder, table)
    assert kept is not None
    with torch.no_grad():
        before = encoder(*table.rows(torch.tensor([1, 2])))
    optimizer = torch.optim.AdamW([p for p in encoder.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        (kept.encode(torch.tensor([1, 2, 3, 4])) * torch.randn(4, 8)).sum().backward()
        optimizer.step()
    with torch.no_grad():
        after = encoder(*table.rows(torch.tensor([1, 2])))
    assert (after - before).abs().max() > 1e-2
    assert_same_vectors(kept, encoder, table)


def test_the_gradient_is_the_encoders_own(encoder: ItemEncoder, table: TokenTable) -> None:
    learn_top(encoder, 2)
    kept = keep_trunk(encoder, table)
    assert kept is not None
    direction = torch.randn(4, 8)
    text = torch.arange(1, 5)
    gradients = []
    for vectors in (kept.encode(text), encoder(*table.rows(text))):
        encoder.zero_grad()
        (vectors * direction).sum().backward()
        gradients.append(
            [p.grad.clone() for p in encoder.parameters() if p.grad is not None and p.requires_grad]
        )
    assert gradients[0]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)


def test_it_lets_the_encoder_be_as_it_was(encoder: ItemEncoder, table: TokenTable) -> None:
    names = {name for name, _ in encoder.named_parameters()}
    with torch.no_grad():
        before = encoder(*table.rows(torch.tensor([1])))
    learn_top(encoder, 1)
    kept = keep_trunk(encoder, table)
    assert kept is not None
    with torch.no_grad():
        kept.encode(torch.tensor([2]))
        torch.testing.assert_close(encoder(*table.rows(torch.tensor([1]))), before)
    assert {name for name, _ in encoder.named_parameters()} == names


def test_nothing_is_kept_where_every_layer_learns(encoder: ItemEncoder, table: TokenTable) -> None:
    learn_top(encoder, 4)
    assert keep_trunk(encoder, table) is None


def test_nothing_is_kept_where_memory_would_not_do(
    encoder: ItemEncoder, table: TokenTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    learn_top(encoder, 2)
    monkeypatch.setattr(trunk, "MEMORY_LIMIT", len(table.tokens) * 32 * 4)
    assert keep_trunk(encoder, table) is not None
    monkeypatch.setattr(trunk, "MEMORY_LIMIT", len(table.tokens) * 32 * 4 - 1)
    assert keep_trunk(encoder, table) is None


@pytest.mark.parametrize("name", [*ENCODERS, *DECODERS])
@pytest.mark.parametrize("layers", [0, 2])
def test_whatever_the_architecture_what_is_kept_is_right_or_nothing_is(
    base_of: BaseOf, name: str, layers: int
) -> None:
    base = load_base_model(str(base_of(name)))
    encoder = ItemEncoder(base.model, 8, "convolution").eval()
    tokeniser = ItemTokeniser(base.tokeniser, max_tokens=16, pad_id=base.pad_id)
    table = TokenTable(TEXTS, tokeniser, torch.device("cpu"))
    learn_top(encoder, layers)
    kept = keep_trunk(encoder, table)
    if kept is None:
        assert layers > 0
        assert name not in ("bert", "chinese-bert", "roberta")
    else:
        assert_same_vectors(kept, encoder, table)


@pytest.mark.parametrize("tuning", ["full", "lora", "adalora", "prefix", "adapter"])
def test_nothing_is_kept_where_a_tuning_reaches_the_lowest_layer(
    encoder: ItemEncoder, table: TokenTable, tuning: Any
) -> None:
    start_tuning(encoder, EncoderSettings(tuning=tuning, max_tokens=16, rank=2), 10)
    assert keep_trunk(encoder, table) is None


def test_lora_in_the_top_layer_only_lets_the_others_be_kept(
    encoder: ItemEncoder, table: TokenTable
) -> None:
    start_tuning(encoder, EncoderSettings(tuning="lora", max_tokens=16, rank=2), 10)
    for name, parameter in encoder.bert.named_parameters():
        if "lora_" in name:
            parameter.requires_grad_("layer.3." in name)
    kept = keep_trunk(encoder, table)
    assert kept is not None
    with torch.no_grad():
        for name, parameter in encoder.bert.named_parameters():
            if "layer.3." in name and "lora_B" in name:
                parameter.normal_()
    assert_same_vectors(kept, encoder, table)
