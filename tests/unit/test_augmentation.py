"""What training examples lose or swap, and that nobody else's do."""

import re
from collections import Counter
from typing import Any

import pytest
import torch
from learning_problem import JOINT, SETTINGS, Problem, changed, weights

from shopcast_build.learning.augmentation import Augmentation
from shopcast_build.learning.settings import AugmentationSettings, BuildSettings

TEXT = "Trail running shoe | Nordwind | shoes > trainers | price 64 to 128"
SYNONYMS = {"running shoe": ("runner", "jogger"), "shoe": ("boot",), "Nordwind": ("north",)}


def augmentation(**settings: Any) -> Augmentation:
    torch.manual_seed(0)
    return Augmentation(AugmentationSettings(**settings))


def test_as_many_events_are_dropped_as_asked_for() -> None:
    mask = torch.ones(200, 50)
    mask[:, 40:] = 0
    dropped = augmentation(event_dropout=0.3).drop_events(mask)
    assert set(dropped.unique().tolist()) == {0.0, 1.0}
    assert dropped[:, 40:].sum() == 0
    assert dropped.sum().item() == pytest.approx(0.7 * 200 * 40, rel=0.03)
    assert torch.equal(augmentation().drop_events(mask), mask)


def test_as_many_words_are_dropped_as_asked_for() -> None:
    texts = augmentation(word_dropout=0.25).change_texts([TEXT] * 500)
    words = Counter(word for text in texts for word in text.split() if word != "|")
    for word in TEXT.replace("|", "").split():
        assert words[word] == pytest.approx(375, rel=0.15), word
    assert set(words) == set(TEXT.replace("|", "").split())


def test_words_keep_their_order_and_parts_that_are_empty_go() -> None:
    pattern = re.compile(" ?".join(f"({re.escape(word)})?" for word in TEXT.split()))
    for text in augmentation(word_dropout=0.6).change_texts([TEXT] * 300):
        assert pattern.fullmatch(text), text
        assert text
        assert "| |" not in text
        assert not text.startswith("|")
        assert not text.endswith("|")


def test_one_word_stays_at_least() -> None:
    texts = augmentation(word_dropout=0.99).change_texts(["red shoe | north"] * 50)
    assert set(texts) == {"red", "shoe", "north"}
    assert augmentation(word_dropout=0.99).change_texts(["", "|"]) == ["", "|"]


def test_scripts_without_blanks_lose_characters_not_titles() -> None:
    text = "红色运动鞋 | price 8 to 16"
    texts = augmentation(word_dropout=0.3).change_texts([text] * 200)
    lengths = Counter(len(re.findall("[红色运动鞋]", t)) for t in texts)
    assert {2, 3, 4, 5} <= set(lengths)


def test_words_and_phrases_are_swapped_as_often_as_asked_for() -> None:
    texts = augmentation(synonym_chance=0.5, synonyms=SYNONYMS).change_texts([TEXT] * 400)
    assert sum("Nordwind" in text for text in texts) == pytest.approx(200, rel=0.2)
    runners = sum("Trail runner |" in text for text in texts)
    joggers = sum("Trail jogger |" in text for text in texts)
    assert runners == pytest.approx(100, rel=0.35)
    assert joggers == pytest.approx(100, rel=0.35)
    # A phrase that was left alone is not swapped by halves, nor is a part of a longer word.
    assert not any("boot" in text for text in texts)
    assert all("shoes > trainers" in text for text in texts)


def test_letters_whose_case_is_not_told_by_one_other_letter_are_swapped() -> None:
    synonyms = {"gift": ("present",), "Fuß": ("Bein",)}
    always = augmentation(synonym_chance=0.999, synonyms=synonyms)
    texts = ["G\u0130FT box", "g\u0131ft box", "Der Fuß tut weh", "FUSS"]
    assert always.change_texts(texts) == ["present box", "present box", "Der Bein tut weh", "Bein"]


def test_case_does_not_matter_nor_blanks_in_chinese() -> None:
    synonyms = {"SHOE": ("boot",), "鞋": ("靴",)}
    always = augmentation(synonym_chance=0.999, synonyms=synonyms)
    assert always.change_texts(["red Shoe", "运动鞋 a"]) == ["red boot", "运动靴 a"]


def test_the_same_seed_gives_the_same_texts() -> None:
    settings: dict[str, Any] = {"word_dropout": 0.3, "synonym_chance": 0.5, "synonyms": SYNONYMS}
    once, again = (augmentation(**settings) for _ in range(2))
    torch.manual_seed(4)
    first = [once.change_texts([TEXT] * 5) for _ in range(2)]
    torch.manual_seed(4)
    assert [again.change_texts([TEXT] * 5) for _ in range(2)] == first
    assert first[0] != first[1]


@pytest.mark.parametrize(
    ("settings", "changes"),
    [
        ({}, False),
        ({"event_dropout": 0.5}, False),
        ({"synonym_chance": 0.5}, False),
        ({"synonyms": SYNONYMS}, False),
        ({"word_dropout": 0.1}, True),
        ({"synonym_chance": 0.5, "synonyms": SYNONYMS}, True),
    ],
)
def test_texts_are_read_anew_only_where_they_change(settings: Any, changes: bool) -> None:
    assert augmentation(**settings).changes_texts is changes


@pytest.fixture(scope="module")
def problem() -> Problem:
    return Problem()


def with_augmentation(**settings: Any) -> BuildSettings:
    return SETTINGS.model_copy(update={"augmentation": AugmentationSettings(**settings)})


@pytest.mark.parametrize(
    "settings",
    [
        {"event_dropout": 0.5},
        {"word_dropout": 0.3},
        {"synonym_chance": 0.9, "synonyms": {"shoe": ("hat",)}},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_training_is_changed_by_it_and_the_same_each_time(
    problem: Problem, settings: dict[str, Any]
) -> None:
    ends = []
    for chosen in ({}, settings, settings):
        model = problem.fresh()
        before = problem.loss(model)
        assert problem.train(model, JOINT, with_augmentation(**chosen)) < before
        ends.append(weights(model))
    assert changed(ends[0], ends[1])
    assert not changed(ends[1], ends[2])


def test_evaluation_and_vectors_are_of_the_texts_as_they_are(problem: Problem) -> None:
    model = problem.fresh()
    loss = problem.train(model, JOINT, with_augmentation(word_dropout=0.5, event_dropout=0.5))
    assert problem.loss(model) == pytest.approx(loss, rel=1e-4) == problem.loss(model)
    with torch.no_grad():
        expected = model.encoder(*model.table.rows(torch.arange(1, len(model.table))))
    torch.testing.assert_close(model.vectors[1:], expected, atol=1e-5, rtol=0)


def test_a_model_that_evaluates_changes_nothing(problem: Problem) -> None:
    model = problem.fresh().eval()
    batch = problem.batches(problem.validation).collate(list(range(20)))
    model.learn_texts = True
    with torch.no_grad():
        plain = model(**batch)["logits"]
        model.augmentation = augmentation(word_dropout=0.5, event_dropout=0.5)
        assert torch.equal(model(**batch)["logits"], plain)
