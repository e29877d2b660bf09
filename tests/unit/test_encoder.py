from pathlib import Path

import numpy as np
import pytest
import torch

from shopcast_build.learning.base_model import load_base_model
from shopcast_build.learning.encoder import ItemEncoder
from shopcast_build.learning.token_table import TokenTable
from shopcast_domain.tokeniser import ItemTokeniser

pytestmark = pytest.mark.usefixtures("one_thread")

TEXTS = ("", "red shoe", "blue hat under 8 | north", "lamp", "green lamp | price 4 to 8 | north")


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
