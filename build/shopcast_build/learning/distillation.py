"""A smaller encoder that says what a larger one says.

The student begins as the teacher without some of its layers (Sanh et al., 2019, arXiv:1910.01108)
and learns the teacher's vectors of the catalogue's texts, and of the same texts with words left
out, so that it also follows where nobody has been yet. No outcome is needed for it.
"""

import copy
import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from shopcast_build.data.errors import DataError
from shopcast_build.learning import processes
from shopcast_build.learning.augmentation import Augmentation
from shopcast_build.learning.encoder import ItemEncoder, layer_stack
from shopcast_build.learning.examples import Progress
from shopcast_build.learning.optimisation import rate_factor
from shopcast_build.learning.settings import AugmentationSettings, DistillationSettings
from shopcast_build.learning.token_table import TokenTable

_HELD_OUT = 0.1
_MOST_HELD_OUT = 512
_WARMUP_SHARE = 0.1
_WEIGHT_DECAY = 0.01
_TIMED_TEXTS, _TIMES = 64, 5


@dataclass(frozen=True, slots=True)
class Distilled:
    """A student. cosine: its mean similarity to the teacher on texts it was not shown. faster: how
    many times as many texts it encodes in the same time, here and now."""

    encoder: ItemEncoder
    cosine: float
    faster: float


def distil(
    teacher: ItemEncoder,
    table: TokenTable,
    vectors: Tensor,
    settings: DistillationSettings,
    *,
    seed: int,
    progress: Progress,
) -> Distilled:
    """Train a student of `settings.layers` layers. Raises DataError when it would not be smaller.

    vectors: the teacher's, of every text of the table, float32 (n, d). Ends at the same weights for
    the same seed.
    """
    student = fewer_layers(teacher, settings.layers)
    teacher = teacher.eval()
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    texts = rng.permutation(np.arange(1, len(table)))
    held_out = min(_MOST_HELD_OUT, int(len(texts) * _HELD_OUT))
    unseen, shown = texts[:held_out], texts[held_out:]
    changed = Augmentation(AugmentationSettings(word_dropout=settings.word_dropout))
    learning = [weight for weight in student.parameters() if weight.requires_grad]
    optimiser = torch.optim.AdamW(learning, settings.learning_rate, weight_decay=_WEIGHT_DECAY)
    warmup = round(settings.steps * _WARMUP_SHARE)
    student.train()
    for step in range(settings.steps):
        rate = settings.learning_rate * rate_factor("cosine", step, settings.steps, warmup)
        for group in optimiser.param_groups:
            group["lr"] = rate
        rows = torch.from_numpy(rng.choice(shown, min(settings.batch_size, len(shown)), False))
        rows = rows.to(table.lengths.device)
        if step % 2:  # texts as they are, whose vectors are known
            read, wanted = table.rows(rows), vectors[rows]
        else:
            read = table.changed_rows(rows, changed.change_texts)
            with torch.no_grad():
                wanted = teacher(*read)
        loss = (1.0 - (student(*read) * wanted).sum(-1)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        progress(step + 1, settings.steps)
    student.eval()
    judged = unseen if len(unseen) else shown
    return Distilled(
        encoder=student,
        cosine=_similarity(student, teacher, table, judged),
        faster=_faster(student, teacher, table, shown),
    )


def fewer_layers(teacher: ItemEncoder, layers: int) -> ItemEncoder:
    """A copy with some of the layers, evenly spread, the first and the last among them where there
    are two or more. All of it learns but the embeddings of tokens, so that words nobody has seen
    yet keep their place. Raises DataError when the teacher has no more layers than that."""
    check_smaller(teacher, layers)
    student = copy.deepcopy(teacher)
    stack = layer_stack(student.bert)
    chosen = np.linspace(0, len(stack) - 1, layers).round().astype(int)
    if layers == 1:
        chosen = np.array([len(stack) - 1])
    kept = [stack[int(number)] for number in chosen]
    while len(stack):
        stack.pop(-1)
    stack.extend(kept)
    student.bert.config.num_hidden_layers = layers
    student.requires_grad_(True)
    student.bert.get_input_embeddings().requires_grad_(False)
    return student


def check_smaller(teacher: ItemEncoder, layers: int) -> None:
    """Raises DataError where a student of so many layers cannot be made here."""
    have = len(layer_stack(teacher.bert))
    if layers >= have:
        raise DataError(
            f"the encoder has {have} layers, so distilling it into {layers} makes nothing smaller:"
            " give distillation.layers (--layers) a lower number"
        )
    if processes.count() > 1:
        raise DataError(
            "a smaller encoder is made by one process: build without torchrun, or leave"
            " distillation.layers (--layers) out"
        )


@torch.no_grad()
def _similarity(
    student: ItemEncoder, teacher: ItemEncoder, table: TokenTable, texts: np.ndarray
) -> float:
    total = 0.0
    for rows in np.array_split(texts, -(-len(texts) // 64)):
        read = table.rows(torch.from_numpy(rows).to(table.lengths.device))
        total += float((student(*read) * teacher(*read)).sum())
    return total / len(texts)


@torch.no_grad()
def _faster(
    student: ItemEncoder, teacher: ItemEncoder, table: TokenTable, texts: np.ndarray
) -> float:
    """The ratio of medians over turns, so that a busy machine slows both."""
    rows = torch.from_numpy(texts[:_TIMED_TEXTS]).to(table.lengths.device)
    read: tuple[Tensor, Tensor] = table.rows(rows)
    seconds: dict[ItemEncoder, list[float]] = {student: [], teacher: []}
    for _ in range(_TIMES):
        for encoder, taken in seconds.items():
            began = time.perf_counter()
            encoder(*read)
            taken.append(time.perf_counter() - began)
    return float(np.median(seconds[teacher]) / np.median(seconds[student]))
