from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from shopcast_build.learning.base_model import load_base_model
from shopcast_build.learning.encoder import ItemEncoder, TokenTable, encode_all, layer_stack
from shopcast_domain.tokeniser import ItemTokeniser

pytestmark = pytest.mark.usefixtures("one_thread")

TEXTS = ("", "red shoe", "blue hat under 8 | north", "lamp", "green lamp | price 4 to 8 | north")
UNK = 1


@pytest.fixture
def encoder(tiny_base: Path) -> ItemEncoder:
    torch.manual_seed(1)
    return ItemEncoder(load_base_model(str(tiny_base)).model, 8).eval()


@pytest.fixture
def table(tiny_base: Path) -> TokenTable:
    base = load_base_model(str(tiny_base))
    tokeniser = ItemTokeniser(base.tokeniser, max_tokens=16, pad_id=base.pad_id)
    return TokenTable(TEXTS, tokeniser, torch.device("cpu"))


def test_vectors_have_unit_length_and_tell_texts_apart(
    encoder: ItemEncoder, table: TokenTable
) -> None:
    with torch.no_grad():
        vectors = encoder(*table.rows(torch.arange(1, 5)))
    assert vectors.shape == (4, 8)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(4))
    closest = (vectors @ vectors.T - torch.eye(4)).max()
    assert closest < 0.999


def test_padding_does_not_change_a_vector(encoder: ItemEncoder, table: TokenTable) -> None:
    with torch.no_grad():
        together = encoder(*table.rows(torch.arange(1, 5)))
        for n in range(4):
            alone = encoder(*table.rows(torch.tensor([n + 1])))
            torch.testing.assert_close(alone[0], together[n], atol=1e-6, rtol=0)


def test_a_table_cuts_a_batch_to_its_longest_text(table: TokenTable) -> None:
    ids, mask = table.rows(torch.tensor([1, 3]))
    assert ids.shape == mask.shape == (2, 4)
    assert mask.sum().item() == 4 + 3
    assert len(table) == len(TEXTS)


def test_the_share_of_unknown_tokens_counts_text_not_padding(tiny_base: Path) -> None:
    base = load_base_model(str(tiny_base))
    tokeniser = ItemTokeniser(base.tokeniser, max_tokens=16, pad_id=base.pad_id)
    table = TokenTable(("", "漢", "red shoe hat"), tokeniser, torch.device("cpu"))
    assert table.share_of(UNK) == pytest.approx(1 / (2 + 3 + 5))
    assert table.share_of(None) == 0.0


def test_only_the_top_layers_and_the_projection_learn(encoder: ItemEncoder) -> None:
    encoder.train_top(2)
    learning = {name for name, p in encoder.named_parameters() if p.requires_grad}
    assert {name for name in learning if name.startswith("projection")}
    layers = {name.split("layer.")[1][0] for name in learning if "layer." in name}
    assert layers == {"2", "3"}
    assert not any("embeddings" in name for name in learning)


@pytest.mark.parametrize(("asked", "learning"), [(0, 0), (4, 4), (9, 4)])
def test_more_layers_than_there_are_means_all(
    encoder: ItemEncoder, asked: int, learning: int
) -> None:
    encoder.train_top(asked)
    stack = layer_stack(encoder.bert)
    assert sum(next(layer.parameters()).requires_grad for layer in stack) == learning


def test_a_fresh_projection_keeps_the_cosines(encoder: ItemEncoder) -> None:
    rng = np.random.default_rng(0)
    pooled = (
        rng.normal(size=(50, 32)) @ np.diag(np.r_[np.full(8, 5.0), np.full(24, 1e-4)])
    ).astype(np.float32)
    encoder.start_projection(pooled + 3)
    with torch.no_grad():
        vectors = torch.nn.functional.normalize(encoder.projection(torch.tensor(pooled + 3)), dim=1)
    centred = pooled - pooled.mean(0)
    unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    np.testing.assert_allclose((vectors @ vectors.T).numpy(), unit @ unit.T, atol=1e-3)


def test_a_catalogue_smaller_than_the_vectors_still_starts_a_projection(
    encoder: ItemEncoder,
) -> None:
    encoder.start_projection(np.float32([[1.0] * 32, [2.0] * 32]))
    with torch.no_grad():
        found = encoder.projection(torch.full((1, 32), 1.5))
    assert torch.isfinite(found).all()
    assert (encoder.projection.weight[2:] == 0).all()


def test_the_whole_catalogue_is_encoded_in_order_and_the_empty_text_is_zeros(
    encoder: ItemEncoder, table: TokenTable
) -> None:
    batches: list[int] = []
    seen: list[tuple[int, int]] = []

    def run(text: Tensor) -> Tensor:
        batches.append(len(text))
        return encoder(*table.rows(text))

    vectors = encode_all(
        run, table, batch_size=3, progress=lambda done, total: seen.append((done, total))
    )
    assert batches == [3, 1]
    assert seen == [(3, 4), (4, 4)]
    assert (vectors[0] == 0).all()
    with torch.no_grad():
        expected = encoder(*table.rows(torch.arange(1, 5)))
    torch.testing.assert_close(vectors[1:], expected, atol=1e-6, rtol=0)
