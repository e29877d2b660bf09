"""The textbook recipe: one BERT over one text, the candidate and then the history.

Every exposure costs a full pass over a long text, so its training and its judgement are bounded: so
many steps, and a part of the people.
"""

import copy
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from shopcast_build.learning import processes
from shopcast_build.learning.base_model import BaseModel
from shopcast_build.learning.calibration import fit_calibration
from shopcast_build.learning.encoder import ItemEncoder
from shopcast_build.learning.evaluation import Judged
from shopcast_build.learning.examples import Examples, Progress
from shopcast_build.learning.preparation import Parts
from shopcast_build.learning.timeline import KIND_NAMES, Timeline
from shopcast_domain.events import Outcome
from shopcast_domain.features import Ints
from shopcast_domain.tokeniser import ItemTokeniser

TOKENS = 128
BATCH = 16
VALIDATION_ROWS = 400
TEST_ROWS = 1_500
_RATE, _HEAD_RATE = 3e-5, 1e-3


@dataclass(frozen=True, slots=True)
class Textbook:
    """What it says. judged: of `validation_rows`, and of every test exposure, zeros where `asked`,
    bool (test exposures,), is not set. exposures: how many it was trained on."""

    judged: Judged
    validation_rows: Ints
    asked: NDArray[np.bool_]
    exposures: int


def textbook_recipe(
    base: BaseModel,
    timeline: Timeline,
    parts: Parts,
    *,
    steps: int,
    seed: int,
    progress: Progress = lambda done, total: None,
) -> Textbook:
    """Fine-tune the whole base model, AdamW with a linear schedule, for so many steps of BATCH
    random training exposures; calibrate on random validation exposures."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    texts = LongTexts(base, timeline)
    trained = [int(label) for label in np.unique(parts.train.outcome)]
    model = _Classifier(base, trained).to(processes.device())
    drawn = np.resize(rng.permutation(len(parts.train)), steps * BATCH)
    calls = -(-VALIDATION_ROWS // BATCH) + -(-TEST_ROWS // BATCH)
    optimiser = torch.optim.AdamW(
        [
            {"params": list(model.encoder.bert.parameters()), "lr": _RATE},
            {"params": list(model.head.parameters()), "lr": _HEAD_RATE},
        ],
        weight_decay=0.01,
    )
    warmup = max(1, steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda n: min((n + 1) / warmup, (steps - n) / max(steps - warmup, 1), 1.0)
    )
    model.train()
    for step, rows in enumerate(np.split(drawn, steps), 1):
        logits = model(*texts.batch(parts.train, rows))
        outcome = torch.from_numpy(parts.train.outcome[rows]).to(logits.device)
        loss = nn.functional.cross_entropy(logits, outcome)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad()
        progress(step, steps + calls)
    size = min(VALIDATION_ROWS, len(parts.validation))
    some = np.sort(rng.choice(len(parts.validation), size, replace=False))
    asked = _people(parts.test, rng)
    logits = model.logits(texts, parts.validation, some)
    calibration = fit_calibration(logits, parts.validation.outcome[some])
    test = np.zeros((len(parts.test), len(Outcome)))
    test[asked] = calibration.apply(model.logits(texts, parts.test, np.flatnonzero(asked)))
    progress(steps + calls, steps + calls)
    judged = Judged("textbook", calibration.apply(logits), test)
    return Textbook(judged, some, asked, len(np.unique(drawn)))


def _people(test: Examples, rng: np.random.Generator) -> NDArray[np.bool_]:
    """All test exposures of random people, about TEST_ROWS."""
    people, counts = np.unique(test.person, return_counts=True)
    order = rng.permutation(len(people))
    enough = int(np.searchsorted(np.cumsum(counts[order]), TEST_ROWS)) + 1
    return np.isin(test.person, people[order[:enough]])


class LongTexts:
    """Candidate, [SEP], then the history, newest first, each event with its kind as a word."""

    def __init__(self, base: BaseModel, timeline: Timeline) -> None:
        self._limit = min(TOKENS, getattr(base.model.config, "max_position_embeddings", TOKENS))
        tokeniser = ItemTokeniser(base.tokeniser, max_tokens=self._limit, pad_id=base.pad_id)
        self._pad, self._timeline = tokeniser.pad, timeline
        items = tokeniser.encode(timeline.catalogue.texts)
        opening = {ids[0] for ids in items if ids}
        skip = 1 if len(opening) == 1 else 0  # [CLS], where the tokeniser has one
        self._items = items
        self._tails = [ids[skip:] for ids in items]
        kinds = tokeniser.encode(KIND_NAMES)
        closing = 1 if skip and len({ids[-1] for ids in kinds}) == 1 else 0  # [SEP]
        self._kinds = [ids[skip : len(ids) - closing] for ids in kinds]

    def ids(self, examples: Examples, row: int) -> list[int]:
        """Token ids of one exposure, at most TOKENS and what the model takes."""
        log = self._timeline
        found = list(self._items[examples.text[row]])
        first, end = int(examples.first[row]), int(examples.position[row])
        texts = log.catalogue.text_at(log.item[first:end], examples.at_s[row])
        for at in range(end - 1, first - 1, -1):
            if len(found) >= self._limit:
                break
            found += self._kinds[log.kind[at]] + self._tails[texts[at - first]]
        return found[: self._limit]

    def batch(self, examples: Examples, rows: Ints) -> tuple[Tensor, Tensor]:
        """Ids and mask, padded to the longest: int64 (n, length) each."""
        ids, mask = self._pad([self.ids(examples, int(row)) for row in rows])
        return torch.from_numpy(ids), torch.from_numpy(mask)


class _Classifier(nn.Module):
    def __init__(self, base: BaseModel, trained: list[int]) -> None:
        super().__init__()
        self.encoder = ItemEncoder(copy.deepcopy(base.model), 1)
        self.encoder.bert.requires_grad_(True)
        self.head = nn.Linear(base.model.config.hidden_size, len(Outcome))
        self._never = [kind for kind in range(len(Outcome)) if kind not in trained]

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        read = (part.to(self.head.weight.device) for part in (input_ids, attention_mask))
        logits = self.head(self.encoder.pooled(*read))
        logits[:, self._never] = -1e4
        return logits

    @torch.inference_mode()
    def logits(self, texts: LongTexts, examples: Examples, rows: Ints) -> NDArray[np.float32]:
        """In batches of like length, because padding is work."""
        self.eval()
        lengths = np.array([len(texts.ids(examples, int(row))) for row in rows])
        order = np.argsort(lengths, kind="stable")
        found = np.empty((len(rows), len(Outcome)), dtype=np.float32)
        for batch in np.array_split(order, max(1, len(order) // BATCH)):
            found[batch] = self(*texts.batch(examples, rows[batch])).cpu().numpy()
        return found
