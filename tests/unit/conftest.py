import string
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from transformers import PreTrainedModel

from shopcast_domain.manifest import Calibration, Golden, GoldenEvent, Manifest, Tokeniser, Training

WORDS = ("red", "blue", "green", "shoe", "hat", "lamp", "north", "price", "to", "under")


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a BERT of 4 layers, 32 wide, with random weights and a small vocabulary."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    special = {
        f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")
    }
    letters = string.ascii_lowercase + string.digits
    names = (*special.values(), *WORDS, *letters, *(f"##{c}" for c in letters), *"|>[]")
    vocabulary = {name: number for number, name in enumerate(names)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=special["unk_token"]))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(
        ("[SEP]", vocabulary["[SEP]"]), ("[CLS]", vocabulary["[CLS]"])
    )
    # As published models do: baked in, and to be undone by whoever serves.
    tokenizer.enable_padding(length=32)
    folder = tmp_path_factory.mktemp("base") / "tiny-bert"
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
        initializer_range=0.2,  # so that texts differ although nothing was learned
    )
    BertModel(config).save_pretrained(folder)
    return folder


CHINESE = "红蓝绿色运动鞋帽子灯具北方价格到以下女士男童装连衣裙手机壳保温杯"
DECODERS = ("gpt2", "qwen2")
ENCODERS = ("bert", "chinese-bert", "roberta", "distilbert", "electra", "modernbert")

BaseOf = Callable[[str], Path]


@pytest.fixture(scope="session")
def base_of(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> BaseOf:
    """The folder of a tiny model with random weights, by its name in ENCODERS or DECODERS."""
    import functools

    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    def bytes_level(*special: str) -> Tokenizer:
        names = (*special, *sorted(pre_tokenizers.ByteLevel.alphabet()))
        tokenizer = Tokenizer(models.BPE({name: n for n, name in enumerate(names)}, []))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        return tokenizer

    def save_tokeniser(name: str, folder: Path) -> None:
        if name == "chinese-bert":
            names = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *dict.fromkeys(CHINESE))
            vocabulary = {token: n for n, token in enumerate((*names, *string.digits, "|"))}
            tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=names[1]))
            tokenizer.normalizer = normalizers.BertNormalizer()
            tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
            tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
            special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "sep_token": "[SEP]"}
        elif name == "roberta":
            tokenizer = bytes_level("<s>", "<pad>", "</s>", "<unk>")
            tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
            special = {"pad_token": "<pad>", "unk_token": "<unk>", "eos_token": "</s>"}
        elif name == "gpt2":  # one token for everything, and none of it is added to a text
            tokenizer = bytes_level("<|endoftext|>")
            special = {f"{role}_token": "<|endoftext|>" for role in ("bos", "eos", "unk")}
        elif name == "qwen2":
            tokenizer = bytes_level("<|im_end|>")
            special = {"eos_token": "<|im_end|>"}
        else:
            for file in ("tokenizer.json", "tokenizer_config.json"):
                (folder / file).write_bytes((tiny_base / file).read_bytes())
            return
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)

    @functools.cache
    def folder(name: str) -> Path:
        if name == "bert":
            return tiny_base
        made = tmp_path_factory.mktemp("bases") / f"tiny-{name}"
        made.mkdir()
        save_tokeniser(name, made)
        _tiny_model(name).save_pretrained(made)
        return made

    return folder


def _tiny_model(name: str) -> "PreTrainedModel":
    """Four layers, 32 wide; weights drawn so widely that texts differ although nothing learned."""
    import torch
    from transformers import AutoConfig, AutoModel

    shape = {"num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 64}
    shape |= {"hidden_size": 32, "max_position_embeddings": 64, "pad_token_id": 0}
    special = {"bos_token_id": 0, "eos_token_id": 0}
    kind, values = {
        "chinese-bert": ("bert", shape),
        "roberta": ("roberta", shape | {"pad_token_id": 1}),
        "distilbert": (
            "distilbert",
            {"dim": 32, "n_layers": 4, "n_heads": 4, "hidden_dim": 64}
            | {"max_position_embeddings": 64},
        ),
        "electra": ("electra", shape | {"embedding_size": 16}),
        "modernbert": ("modernbert", shape | special | {"cls_token_id": 0, "sep_token_id": 0}),
        "gpt2": ("gpt2", {"n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 64} | special),
        "qwen2": ("qwen2", shape | special | {"num_key_value_heads": 2, "pad_token_id": None}),
    }[name]
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, vocab_size=320, initializer_range=0.2, **values)
    return AutoModel.from_config(config)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """One thread: the tensors and tables of tests are far too small to share among several."""
    import torch
    from threadpoolctl import threadpool_limits

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with threadpool_limits(1):
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def manifest() -> Manifest:
    """A manifest with every field filled in; its `files` are empty."""
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    return Manifest(
        created=moment,
        shopcast_version="0.1.0",
        encoder_version=1,
        behavior_version=1,
        trained_outcomes=("view", "buy", "return"),
        vector_dim=8,
        history_events=4,
        feature_events=16,
        features=("a", "b"),
        history_numbers=("age", "here", "price"),
        tokeniser=Tokeniser(sha256="0" * 64, vocabulary=100, max_tokens=16, pad_id=0),
        calibration=Calibration(scale=1.5, bias=(0.0, 0.25, -0.5)),
        decision_weights=(1.0, 2.0, 4.0),
        training=Training(
            base_model="tiny-bert",
            published_as="after fine-tuning",
            log_start=moment,
            log_end=moment,
            train=(moment, moment),
            validation=(moment, moment),
            test=(moment, moment),
            gap_days=15.0,
            exposures={"train": 10},
            platforms=("a", "b"),
            settings={"seed": 7, "threads": None},
        ),
        metrics={"majority class": {"log_loss": 0.5}},
        parity={"vector": 1e-6},
        files={},
        goldens=(
            Golden(
                text="red shoe",
                token_ids=(2, 5, 8, 3),
                vector=(0.5, 0.5),
                features=(0.0, 1.0),
                history=(GoldenEvent(text="", kind=2, numbers=(1.0, 0.0, 2.5)),),
                probabilities=(0.7, 0.2, 0.1),
            ),
        ),
    )
