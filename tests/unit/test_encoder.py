from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from learning_problem import JOINT, Problem
from tiny_bases import DECODERS, ENCODERS

from shopcast_build.learning.adaptation import pool, shares
from shopcast_build.learning.base_model import load_base_model
from shopcast_build.learning.encoder import ItemEncoder
from shopcast_build.learning.optimisation import set_dropout
from shopcast_build.learning.token_table import TokenTable
from shopcast_domain.tokeniser import ItemTokeniser

TEXTS = ("", "red shoe", "blue hat under 8 | north", "lamp", "green lamp | price 4 to 8 | north")

ADAPTATIONS = ("linear", "mlp", "convolution")
BaseOf = Callable[[str], Path]


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


def of(base_of: BaseOf, name: str, adaptation: Any = "linear") -> tuple[ItemEncoder, TokenTable]:
    """An encoder whose adaptation is no longer at its start, and its catalogue."""
    base = load_base_model(str(base_of(name)))
    tokeniser = ItemTokeniser(base.tokeniser, max_tokens=16, pad_id=base.pad_id)
    torch.manual_seed(1)
    encoder = ItemEncoder(base.model, 8, adaptation).eval()
    if encoder.addition is not None:
        with torch.no_grad():
            encoder.addition.get_submodule("out").weight.normal_()
    return encoder, TokenTable(TEXTS, tokeniser, torch.device("cpu"))


@pytest.mark.parametrize("name", [*ENCODERS, *DECODERS])
@pytest.mark.parametrize("adaptation", ADAPTATIONS)
def test_whatever_the_architecture_padding_and_company_change_nothing(
    base_of: BaseOf, name: str, adaptation: str
) -> None:
    encoder, table = of(base_of, name, adaptation)
    assert encoder.causal == (name in DECODERS)
    with torch.no_grad():
        together = encoder(*table.rows(torch.arange(1, 5)))
        torch.testing.assert_close(together.norm(dim=1), torch.ones(4))
        assert (together @ together.T - torch.eye(4)).max() < 0.999
        for n in range(4):
            ids, mask = table.rows(torch.tensor([n + 1]))
            torch.testing.assert_close(encoder(ids, mask)[0], together[n], atol=2e-6, rtol=0)
            ids, mask = (torch.nn.functional.pad(given, (0, 5)) for given in (ids, mask))
            torch.testing.assert_close(encoder(ids, mask)[0], together[n], atol=2e-6, rtol=0)


def test_the_states_are_those_of_the_model_itself(encoder: ItemEncoder, table: TokenTable) -> None:
    ids, mask = table.rows(torch.tensor([2, 4]))
    one_segment = torch.zeros_like(ids)
    with torch.no_grad():
        states = encoder.bert(ids, mask, token_type_ids=one_segment).last_hidden_state
        expected = (states * mask.unsqueeze(2)).sum(1) / mask.sum(1, keepdim=True)
        torch.testing.assert_close(encoder.pooled(ids, mask), expected)


def test_tokens_count_alike_or_by_what_they_have_seen() -> None:
    mask = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]])
    alike = shares(mask, torch.float32, causal=False)
    torch.testing.assert_close(alike[:2], torch.tensor([[1, 1, 1, 0], [3, 0, 0, 0]]) / 3)
    by_position = shares(mask, torch.float32, causal=True)
    torch.testing.assert_close(by_position[:2], torch.tensor([[1, 2, 3, 0], [6, 0, 0, 0]]) / 6)
    assert (alike[2] == 0).all()
    hidden = torch.randn(3, 4, 5)
    torch.testing.assert_close(pool(hidden, alike)[0], hidden[0, :3].mean(0))


@pytest.mark.parametrize("adaptation", ["mlp", "convolution"])
def test_every_adaptation_starts_from_the_same_vectors(
    tiny_base: Path, encoder: ItemEncoder, table: TokenTable, adaptation: Any
) -> None:
    other = ItemEncoder(encoder.bert, 8, adaptation).eval()
    pooled = torch.randn(20, 32).numpy()
    text = torch.arange(1, 5)
    for one in (encoder, other):
        one.start_projection(pooled)
    with torch.no_grad():
        expected = encoder(*table.rows(text))
        torch.testing.assert_close(other(*table.rows(text)), expected)
        torch.testing.assert_close(other.start_vectors(other.pooled(*table.rows(text))), expected)


@pytest.mark.parametrize("adaptation", ADAPTATIONS)
def test_only_the_convolution_reads_the_order_of_states(base_of: BaseOf, adaptation: str) -> None:
    encoder, _ = of(base_of, "bert", adaptation)
    states, mask = torch.randn(1, 5, 32), torch.ones(1, 5)
    with torch.no_grad():
        there, back = (encoder.project(s, mask) for s in (states, states.flip(1)))
    assert torch.allclose(there, back, atol=1e-5) == (adaptation != "convolution")


@pytest.mark.parametrize("name", [*ENCODERS, *DECODERS])
def test_dropout_is_what_the_setting_says(base_of: BaseOf, name: str) -> None:
    encoder, table = of(base_of, name)
    rows = table.rows(torch.arange(1, 5))
    encoder.train()
    with torch.no_grad():
        set_dropout(encoder, 0.0)
        assert torch.equal(encoder(*rows), encoder(*rows))
        set_dropout(encoder, 0.5)
        assert (encoder(*rows) - encoder(*rows)).abs().max() > 1e-2
        encoder.eval()
        assert torch.equal(encoder(*rows), encoder(*rows))


@pytest.fixture(scope="module")
def problem() -> Problem:
    return Problem()


@pytest.mark.parametrize("name", ["roberta", "distilbert", "modernbert", *DECODERS])
def test_whatever_the_architecture_a_few_steps_teach_it(
    problem: Problem, base_of: BaseOf, name: str
) -> None:
    model = problem.fresh(load_base_model(str(base_of(name))).model)
    before = problem.loss(model)
    stage = replace(JOINT, steps=40, head_learning_rate=1e-2, evaluate_every=20)
    assert problem.train(model, stage) < 0.9 * before


@pytest.mark.parametrize("adaptation", ADAPTATIONS)
def test_every_adaptation_learns(problem: Problem, adaptation: Any) -> None:
    model = problem.fresh(adaptation=adaptation)
    before = problem.loss(model)
    start = {name: p.clone() for name, p in model.encoder.named_parameters()}
    stage = replace(JOINT, steps=40, head_learning_rate=1e-2, evaluate_every=20)
    assert problem.train(model, stage) < 0.9 * before
    for name, p in model.encoder.named_parameters():
        if not name.startswith("bert."):
            assert not torch.equal(p, start[name]), name
