"""A problem small enough to learn in seconds, for tests that train.

Red items are bought, the rest only viewed; nothing but the text tells them apart.
"""

import string
from datetime import UTC, datetime, timedelta
from functools import cache

import numpy as np
import polars as pl
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from transformers import BertConfig, BertModel, PreTrainedModel

from shopcast_build.learning import processes
from shopcast_build.learning.adaptation import Adaptation
from shopcast_build.learning.batches import ExposureBatches
from shopcast_build.learning.behavior import BehaviorModel
from shopcast_build.learning.catalogue import build_catalogue
from shopcast_build.learning.encoder import ItemEncoder
from shopcast_build.learning.examples import Examples, build_examples
from shopcast_build.learning.exposures import cut_exposures
from shopcast_build.learning.prediction import predict_logits
from shopcast_build.learning.settings import BuildSettings, EncoderSettings, OptimiserSettings
from shopcast_build.learning.shopper_model import ShopperModel
from shopcast_build.learning.stages import Stage
from shopcast_build.learning.timeline import KIND_NAMES, Timeline
from shopcast_build.learning.token_table import TokenTable, encode_all
from shopcast_build.learning.training import train
from shopcast_domain.tokeniser import ItemTokeniser

DIM = 8
HISTORY = 6
SETTINGS = BuildSettings(
    optimiser=OptimiserSettings(batch_size=64),
    encoder=EncoderSettings(vector_dim=DIM, layers=2, max_tokens=16),
)
HEAD = Stage("the head", False, steps=40, head_learning_rate=1e-2, evaluate_every=10)
JOINT = Stage(
    "the texts",
    True,
    steps=12,
    head_learning_rate=2e-3,
    evaluate_every=5,
    encoder_learning_rate=1e-3,
)


_WORDS = ("red", "blue", "green", "shoe", "hat", "lamp", "north", "price", "to", "under")


@cache
def vocabulary() -> dict[str, int]:
    """A word piece for each word of the titles, and for every letter."""
    letters = string.ascii_lowercase + string.digits
    special = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    names = (*special, *_WORDS, *letters, *(f"##{c}" for c in letters), *"|>")
    return {name: number for number, name in enumerate(names)}


def tokeniser() -> ItemTokeniser:
    """One for the vocabulary above."""
    names = list(vocabulary())
    made = Tokenizer(models.WordPiece(vocabulary(), unk_token=names[1]))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return ItemTokeniser(made.to_str(), max_tokens=16, pad_id=0)


def tiny_bert() -> BertModel:
    """A BERT of 4 layers, 32 wide, with the same random weights each time."""
    torch.manual_seed(0)
    return BertModel(
        BertConfig(
            vocab_size=len(vocabulary()),
            hidden_size=32,
            num_hidden_layers=4,
            num_attention_heads=4,
            intermediate_size=64,
            max_position_embeddings=64,
            initializer_range=0.2,  # so that texts differ although nothing was learned
        ),
    )


class Problem:
    """Exposures of 40 people to 36 items, and models to learn them."""

    def __init__(self) -> None:
        colours, things = ("red", "blue", "green"), ("shoe", "hat", "lamp")
        items = pl.DataFrame(
            {
                "title": [f"{c} {t} {n}" for c in colours for t in things for n in range(4)],
                "brand": ["north"] * 36,
                "category": [None] * 36,
                "price": [5.0] * 36,
            },
            schema_overrides={"category": pl.String},
        )
        rng = np.random.default_rng(5)
        start = datetime(2026, 1, 1, tzinfo=UTC)
        rows = []
        for person in range(40):
            for n in range(16):
                item = int(rng.integers(36))
                moment = start + timedelta(hours=30 * n, minutes=person)
                rows.append((person, 0, item, moment, "view", 5.0, 1))
                if item < 12:
                    rows.append((person, 0, item, moment + timedelta(minutes=60), "buy", 5.0, 1))
        events = pl.DataFrame(
            sorted(rows, key=lambda row: row[3]),
            schema={
                "person": pl.Int64, "platform": pl.Int64, "item": pl.Int64,
                "time": pl.Datetime("us", "UTC"), "kind": pl.Enum(KIND_NAMES), "price": pl.Float64,
                "quantity": pl.Int64,
            },
            orient="row",
        )  # fmt: skip
        self.timeline = Timeline(events, build_catalogue(items))
        exposures = cut_exposures(events, [0], SETTINGS.exposures)
        self.training = self._examples(exposures[:450])
        self.validation = self._examples(exposures[450:])

    def _examples(self, exposures: pl.DataFrame) -> Examples:
        found = build_examples(self.timeline, exposures, feature_events=64, history_events=HISTORY)
        found.features[:] = 0.0  # item tallies would give it away
        return found

    def batches(self, examples: Examples) -> ExposureBatches:
        return ExposureBatches(examples, self.timeline, HISTORY)

    def train(self, model: ShopperModel, stage: Stage, settings: BuildSettings = SETTINGS) -> float:
        training, validation = self.batches(self.training), self.batches(self.validation)
        return train(model, training, validation, stage, settings).loss

    def fresh(
        self,
        bert: PreTrainedModel | None = None,
        dropout: float = 0.1,
        adaptation: Adaptation = "linear",
    ) -> ShopperModel:
        """The same untrained model each time."""
        table = TokenTable(self.timeline.catalogue.texts, tokeniser(), processes.device())
        bert = bert or tiny_bert()
        torch.manual_seed(1)
        encoder = ItemEncoder(bert, DIM, adaptation).to(processes.device()).eval()
        pooled = encode_all(lambda text: encoder.pooled(*table.rows(text)), table)
        encoder.start_projection(pooled[1:].cpu().numpy())
        head = BehaviorModel(DIM, dropout)
        head.numbers.fit(self.training.features)
        model = ShopperModel(encoder, head, table, [True, True, False]).to(processes.device())
        model.refresh()
        return model

    def loss(self, model: ShopperModel) -> float:
        logits = torch.from_numpy(predict_logits(model, self.batches(self.validation)))
        labels = torch.tensor(self.validation.outcome)
        return float(torch.nn.functional.cross_entropy(logits, labels))


def weights(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}
