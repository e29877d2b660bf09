from pathlib import Path

import numpy as np
import pytest

from shopcast_domain.tokeniser import TOKENISER, ItemTokeniser

PAD, UNK, CLS, SEP = 0, 1, 2, 3


@pytest.fixture
def tokeniser(tiny_base: Path) -> ItemTokeniser:
    return ItemTokeniser.load(tiny_base / TOKENISER, max_tokens=8, pad_id=PAD)


def test_a_text_becomes_its_words_between_the_special_tokens(tokeniser: ItemTokeniser) -> None:
    (ids,) = tokeniser.encode(["Red SHOE"])
    assert ids == [CLS, 5, 8, SEP]


@pytest.mark.parametrize("special", ["[SEP]", "[CLS]", "[PAD]", "[MASK]"])
def test_a_title_cannot_smuggle_in_a_special_token(tokeniser: ItemTokeniser, special: str) -> None:
    (ids,) = tokeniser.encode([f"red {special} hat"])
    assert ids[0] == CLS
    assert ids[-1] == SEP
    assert not {PAD, CLS, SEP, 4} & set(ids[1:-1])
    assert len(ids) > 4  # the brackets and letters are read as plain text


def test_long_texts_are_cut_and_keep_their_end_token(tokeniser: ItemTokeniser) -> None:
    (ids,) = tokeniser.encode(["red shoe " * 50])
    assert len(ids) == 8
    assert ids[-1] == SEP


def test_padding_baked_into_the_file_is_undone(tokeniser: ItemTokeniser) -> None:
    assert list(map(len, tokeniser.encode(["red", "red blue green"]))) == [3, 5]


def test_a_text_is_the_same_tokens_alone_and_among_others(tokeniser: ItemTokeniser) -> None:
    texts = ["red shoe", "", "blue lamp under 8", "漢字"]
    together = tokeniser.encode(texts)
    assert together == [tokeniser.encode([text])[0] for text in texts]
    assert together[1] == [CLS, SEP]
    assert together[3] == [CLS, UNK, UNK, SEP]


def test_padding_goes_behind_and_is_masked(tokeniser: ItemTokeniser) -> None:
    ids, mask = tokeniser.pad([[CLS, 5, SEP], [CLS, SEP]])
    np.testing.assert_array_equal(ids, [[CLS, 5, SEP], [CLS, SEP, PAD]])
    np.testing.assert_array_equal(mask, [[1, 1, 1], [1, 1, 0]])
    assert ids.dtype == mask.dtype == np.int64


def test_padding_uses_the_id_of_the_vocabulary(tiny_base: Path) -> None:
    other = ItemTokeniser.load(tiny_base / TOKENISER, max_tokens=8, pad_id=4)
    ids, _ = other.pad([[CLS, SEP], [CLS]])
    assert ids[1, 1] == 4


def test_vocabulary_counts_every_token(tokeniser: ItemTokeniser) -> None:
    (ids,) = tokeniser.encode(["]"])
    assert ids[1] == tokeniser.vocabulary - 1
