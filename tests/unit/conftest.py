import string
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from shopcast_domain.base_rates import BaseRates, PlatformRates
from shopcast_domain.manifest import (
    Artefact,
    Calibration,
    Check,
    Gate,
    Golden,
    GoldenEvent,
    Manifest,
    Parity,
    ParityRow,
    Tokeniser,
    Training,
)

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


@pytest.fixture(scope="session")
def base_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a tiny model with random weights, by its name in tiny_bases."""
    from tiny_bases import save_base

    folder = tmp_path_factory.mktemp("bases")
    return lambda name: save_base(name, folder)


@pytest.fixture(scope="session")
def manifest() -> Manifest:
    """A manifest with every field filled in; its `files` are empty."""
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    return Manifest(
        created=moment,
        shopcast_version="0.1.0",
        software={"onnxruntime": "1.23.0"},
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
        artefact=Artefact(
            backends={"encoder": "python", "behavior": "python"}, layers=4, parameters=1000
        ),
        training=Training(
            base_model="tiny-bert",
            base_model_licence="apache-2.0",
            published_as="after fine-tuning",
            encoder="fine-tuned",
            scorer="head",
            log_start=moment,
            log_end=moment,
            data_sha256="0" * 64,
            train=(moment, moment),
            validation=(moment, moment),
            test=(moment, moment),
            gap_days=15.0,
            exposures={"train": 10, "test": 5},
            platforms=("a", "b"),
            settings={"seed": 7, "threads": None},
            currency="EUR",
        ),
        metrics={"majority class": {"log_loss": 0.5}},
        parity=Parity(
            exposures=5,
            rows=(ParityRow(how="alone", worst=1e-6, p999=1e-6, same_label=1.0, auc_change=0.0),),
            between=1e-6,
            bound=0.01,
        ),
        gate=Gate(checks=(Check(name="calibrated", passed=True, finding="it is"),)),
        base_rates=BaseRates(
            exposures=10,
            rates=(0.7, 0.2, 0.1),
            platform_strength=1.0,
            category_strength=2.0,
            platforms={
                "web": PlatformRates(
                    exposures=10, rates=(0.6, 0.3, 0.1), categories={"shoes": (0.5, 0.25, 0.25)}
                )
            },
        ),
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
