from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2Model

from shopcast_build.learning import trunk
from shopcast_build.learning.base_model import load_base_model
from shopcast_build.learning.encoder import ItemEncoder, TokenTable
from shopcast_build.learning.trunk import keep_trunk
from shopcast_domain.tokeniser import ItemTokeniser

pytestmark = pytest.mark.usefixtures("one_thread")

TEXTS = ("", "red shoe", "blue hat under 8 | north", "lamp", "green lamp | price 4 to 8 | north")
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
    kept = keep_trunk(encoder, table, trained_layers)
    assert kept is not None
    assert_same_vectors(kept, encoder, table)


def test_they_still_do_after_the_top_layers_have_learned(
    encoder: ItemEncoder, table: TokenTable
) -> None:
    kept = keep_trunk(encoder, table, 2)
    assert kept is not None
    encoder.train_top(2)
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
    kept = keep_trunk(encoder, table, 2)
    assert kept is not None
    encoder.train_top(2)
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
    kept = keep_trunk(encoder, table, 1)
    assert kept is not None
    with torch.no_grad():
        kept.encode(torch.tensor([2]))
        torch.testing.assert_close(encoder(*table.rows(torch.tensor([1]))), before)
    assert {name for name, _ in encoder.named_parameters()} == names


def test_nothing_is_kept_where_every_layer_learns(encoder: ItemEncoder, table: TokenTable) -> None:
    assert keep_trunk(encoder, table, 4) is None


def test_nothing_is_kept_where_memory_would_not_do(
    encoder: ItemEncoder, table: TokenTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trunk, "MEMORY_LIMIT", table.input_ids.numel() * 32 * 4 - 1)
    assert keep_trunk(encoder, table, 2) is None


def test_nothing_is_kept_of_another_architecture(table: TokenTable) -> None:
    decoder = GPT2Model(GPT2Config(vocab_size=128, n_positions=64, n_embd=32, n_layer=3, n_head=2))
    assert keep_trunk(ItemEncoder(decoder.eval(), 8), table, 1) is None
