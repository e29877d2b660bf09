"""Base models made on the spot: every kind of architecture, tiny, with random weights."""

import string
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

ENCODERS = ("bert", "chinese-bert", "roberta", "distilbert", "electra", "modernbert")
DECODERS = ("gpt2", "qwen2")
CHINESE = "红蓝绿色运动鞋帽子灯具北方价格到以下女士男童装连衣裙手机壳保温杯"
WORDS = ("red", "blue", "green", "shoe", "hat", "lamp", "north", "price", "to", "under")
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_VOCABULARY = 320


def save_base(name: str, parent: Path) -> Path:
    """The folder of a base model as one would be downloaded; made once per parent."""
    folder = parent / f"tiny-{name}"
    if not folder.exists():
        _tokeniser(name).save_pretrained(folder)
        _model(name).save_pretrained(folder)
    return folder


def _tokeniser(name: str) -> PreTrainedTokenizerFast:
    if name == "roberta":
        made = _bytes_level("<s>", "<pad>", "</s>", "<unk>")
        made.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
        return _fast(made, pad="<pad>", unk="<unk>", eos="</s>", bos="<s>")
    if name == "gpt2":  # one token for everything, none to pad with, and none added to a text
        end = "<|endoftext|>"
        return _fast(_bytes_level(end), bos=end, eos=end, unk=end)
    if name == "qwen2":
        made = _bytes_level("<|im_end|>", "<|endoftext|>")
        return _fast(made, eos="<|im_end|>", pad="<|endoftext|>", unk="<|endoftext|>")
    pieces = dict.fromkeys(CHINESE) if name == "chinese-bert" else WORDS
    letters = string.ascii_lowercase + string.digits
    names = (*_SPECIAL, *pieces, *letters, *(f"##{c}" for c in letters), *"|>[]")
    vocabulary = {token: number for number, token in enumerate(names)}
    made = Tokenizer(models.WordPiece(vocabulary, unk_token=_SPECIAL[1]))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    pad, unknown, begin, end, mask = _SPECIAL
    return _fast(made, pad=pad, unk=unknown, cls=begin, sep=end, mask=mask)


def _bytes_level(*special: str) -> Tokenizer:
    names = (*special, *sorted(pre_tokenizers.ByteLevel.alphabet()))
    made = Tokenizer(models.BPE({name: number for number, name in enumerate(names)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return made


def _fast(tokeniser: Tokenizer, **special: str) -> PreTrainedTokenizerFast:
    named = {f"{role}_token": token for role, token in special.items()}
    return PreTrainedTokenizerFast(tokenizer_object=tokeniser, **named)


def _model(name: str) -> Any:
    """Four layers, 32 wide; weights drawn so widely that texts differ although nothing learned."""
    layers = {"num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 64}
    shape = layers | {"hidden_size": 32, "max_position_embeddings": 64, "pad_token_id": 0}
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    distil = {"dim": 32, "n_layers": 4, "n_heads": 4, "hidden_dim": 64}
    kind, values = {
        "bert": ("bert", shape),
        "chinese-bert": ("bert", shape),
        "roberta": ("roberta", shape | {"pad_token_id": 1}),
        "distilbert": ("distilbert", distil | {"max_position_embeddings": 64}),
        "electra": ("electra", shape | {"embedding_size": 16}),
        "modernbert": ("modernbert", shape | ends | {"cls_token_id": 0, "sep_token_id": 0}),
        "gpt2": ("gpt2", {"n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 64} | ends),
        "qwen2": ("qwen2", shape | ends | {"num_key_value_heads": 2, "pad_token_id": None}),
    }[name]
    torch.manual_seed(0)
    made = AutoConfig.for_model(kind, vocab_size=_VOCABULARY, initializer_range=0.2, **values)
    return AutoModel.from_config(made)
