from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import Tensor

from shopcast_build.learning.base_model import load_base_model
from shopcast_build.learning.encoder import ItemEncoder
from shopcast_build.learning.kept_states import KeptStates, state_key
from shopcast_build.learning.token_table import TokenTable, encode_all
from shopcast_domain.item_text import text_digest
from shopcast_domain.tokeniser import ItemTokeniser

TEXTS = ("", "red shoe", "blue hat under 8 | north", "lamp", "green lamp | price 4 to 8 | north")
UNK = 1


@pytest.fixture
def tokeniser(tiny_base: Path) -> ItemTokeniser:
    base = load_base_model(str(tiny_base))
    return ItemTokeniser(base.tokeniser, max_tokens=16, pad_id=base.pad_id)


@pytest.fixture
def table(tokeniser: ItemTokeniser) -> TokenTable:
    return TokenTable(TEXTS, tokeniser, torch.device("cpu"))


@pytest.fixture
def encoder(tiny_base: Path) -> ItemEncoder:
    torch.manual_seed(1)
    return ItemEncoder(load_base_model(str(tiny_base)).model, 8).eval()


def test_rows_are_what_the_tokeniser_pads(table: TokenTable, tokeniser: ItemTokeniser) -> None:
    ids, mask = table.rows(torch.tensor([4, 3, 1]))
    expected = tokeniser.pad(tokeniser.encode([TEXTS[4], TEXTS[3], TEXTS[1]]))
    np.testing.assert_array_equal(ids.numpy(), expected[0])
    np.testing.assert_array_equal(mask.numpy(), expected[1])
    assert ids.dtype == mask.dtype == torch.int64


def test_a_table_cuts_a_batch_to_its_longest_text(table: TokenTable) -> None:
    ids, mask = table.rows(torch.tensor([1, 3]))
    assert ids.shape == mask.shape == (2, 4)
    assert mask.sum().item() == 4 + 3
    assert len(table) == len(TEXTS)


def test_the_share_of_unknown_tokens_counts_text_not_padding(tokeniser: ItemTokeniser) -> None:
    table = TokenTable(("", "漢", "red shoe hat"), tokeniser, torch.device("cpu"))
    assert table.share_of(UNK) == pytest.approx(1 / (2 + 3 + 5))
    assert table.share_of(None) == 0.0


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


class Killed(Exception):
    pass


class Counting:
    """Encodes a catalogue of 9,000 texts, and counts; is killed after some of them."""

    def __init__(self, table: TokenTable, dies_after: int | None = None) -> None:
        self.table, self.texts, self._dies_after = table, 0, dies_after

    def __call__(self, text: Tensor) -> Tensor:
        if self._dies_after is not None and self.texts >= self._dies_after:
            raise Killed
        self.texts += len(text)
        ids, mask = self.table.rows(text)
        return torch.stack([(ids * mask).sum(1), mask.sum(1), text], dim=1).float()


@pytest.fixture(scope="module")
def large(tiny_base: Path) -> TokenTable:
    base = load_base_model(str(tiny_base))
    tokeniser = ItemTokeniser(base.tokeniser, max_tokens=16, pad_id=base.pad_id)
    texts = ("", *(f"red shoe {'a' * (n % 7)} {n}" for n in range(9_000)))
    return TokenTable(texts, tokeniser, torch.device("cpu"))


def test_a_killed_build_goes_on_where_it_was(large: TokenTable, tmp_path: Path) -> None:
    whole = encode_all(Counting(large), large)
    with pytest.raises(Killed):
        killed = Counting(large, dies_after=5_000)
        encode_all(killed, large, kept=KeptStates(tmp_path, "key", 3))
    seen: list[tuple[int, int]] = []
    again = Counting(large)
    found = encode_all(
        again, large, kept=KeptStates(tmp_path, "key", 3), progress=lambda *d: seen.append(d)
    )
    assert again.texts == 9_000 - 4_096  # what was written before the kill is not run again
    assert torch.equal(found, whole)
    assert seen[0] == (4_096, 9_000)
    assert seen[-1] == (9_000, 9_000)
    third = Counting(large)
    assert torch.equal(encode_all(third, large, kept=KeptStates(tmp_path, "key", 3)), whole)
    assert third.texts == 0


def test_new_texts_are_encoded_and_the_others_found(
    tokeniser: ItemTokeniser, tmp_path: Path
) -> None:
    for texts, expected in ((TEXTS, 4), (("", "lamp", "blue lamp", "red shoe"), 1)):
        table = TokenTable(texts, tokeniser, torch.device("cpu"))
        run = Counting(table)
        found = encode_all(run, table, kept=KeptStates(tmp_path, "key", 3))
        assert run.texts == expected
        assert torch.equal(found[:, :2], encode_all(Counting(table), table)[:, :2])


def test_another_encoder_finds_nothing(table: TokenTable, tmp_path: Path) -> None:
    for key in ("one", "other"):
        run = Counting(table)
        encode_all(run, table, kept=KeptStates(tmp_path, key, 3))
        assert run.texts == 4


def test_the_key_knows_weights_tokeniser_and_settings(encoder: ItemEncoder) -> None:
    before = state_key(encoder.bert, "tokeniser", "16")
    assert before == state_key(encoder.bert, "tokeniser", "16")
    assert before != state_key(encoder.bert, "tokeniser", "17")
    assert before != state_key(encoder.bert, "tokenise", "r16")
    with torch.no_grad():
        next(encoder.bert.parameters())[0, 0] += 1e-3
    assert before != state_key(encoder.bert, "tokeniser", "16")


def test_a_broken_file_is_encoded_again(table: TokenTable, tmp_path: Path) -> None:
    encode_all(Counting(table), table, kept=KeptStates(tmp_path, "key", 3))
    (file,) = (tmp_path / "key").glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:50])
    run = Counting(table)
    found = encode_all(run, table, kept=KeptStates(tmp_path, "key", 3))
    assert run.texts == 4
    assert torch.equal(found, encode_all(Counting(table), table))


def test_what_is_kept_holds_digests_and_no_texts(table: TokenTable, tmp_path: Path) -> None:
    encode_all(Counting(table), table, kept=KeptStates(tmp_path, "key", 3))
    (file,) = (tmp_path / "key").iterdir()  # and no scratch file is left
    kept = load_file(file)
    assert {row.tobytes() for row in kept["digests"]} == {text_digest(t) for t in TEXTS[1:]}
    assert kept["states"].dtype == np.float32
    assert b"lamp" not in file.read_bytes()
