"""Tasks for the encoder that need no head: fine_tuning_steps.py --learns items runs them.

Two texts of one basket, or of a basket and the same person's next, should be nearer to each other
than to the batch's others (InfoNCE, van den Oord et al., 2018, arXiv:1807.03748); and a text's
vector should tell how often it is bought and how often returned. All of it is known from the
exposures of the training part.
"""

import copy
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from shopcast_build.learning.encoder import ItemEncoder
from shopcast_build.learning.examples import Examples
from shopcast_build.learning.pretrained import Pretrained
from shopcast_build.learning.settings import BuildSettings
from shopcast_build.learning.token_table import TokenTable, encode_all
from shopcast_build.learning.trees import Matrix
from shopcast_build.study.material import Material
from shopcast_domain.events import Outcome
from shopcast_domain.features import Ints

PAIRS = 128  # of a step, and as many texts again for the targets
TEMPERATURE = 0.07
WARM_UP = 30  # steps
PRIOR_LINES = 20  # that a text's return rate is smoothed with


class Pairs:
    """Texts met together: of one basket, or of a basket and the person's next."""

    def __init__(self, examples: Examples) -> None:
        order = np.lexsort((examples.at_s, examples.person))
        person, at_s = examples.person[order], examples.at_s[order]
        self._text = examples.text[order]
        new = np.flatnonzero((np.diff(person) != 0) | (np.diff(at_s) != 0)) + 1
        self._first = np.concatenate(([0], new))
        self._count = np.diff(self._first, append=len(order))
        owner = person[self._first]
        self._has_next = np.append(owner[1:] == owner[:-1], False)

    def draw(self, n: int, rng: np.random.Generator) -> tuple[Ints, Ints]:
        """n pairs of different texts, int64 (n,) each; at least half of them within one basket."""
        left, right = [], []
        while sum(map(len, left)) < n:
            basket = rng.integers(len(self._first), size=4 * n)
            ahead = self._has_next[basket] & (rng.random(4 * n) < 0.5)
            one, other = self._some(basket, rng), self._some(basket + ahead, rng)
            left.append(one[one != other])
            right.append(other[one != other])
        return np.concatenate(left)[:n], np.concatenate(right)[:n]

    def _some(self, basket: Ints, rng: np.random.Generator) -> Ints:
        chosen = self._first[basket] + rng.integers(self._count[basket])
        return self._text[chosen]


def targets(examples: Examples, texts: int) -> tuple[Tensor, Tensor]:
    """Of each text the log of its lines and the log odds of its smoothed return rate, standardised:
    float32 (texts, 2); and how much each is to be trusted, (texts,), 0 for one without lines."""
    lines = np.bincount(examples.text, minlength=texts)
    returned = np.bincount(examples.text[examples.outcome == Outcome.RETURN], minlength=texts)
    base = returned.sum() / lines.sum()
    rate = (returned + PRIOR_LINES * base) / (lines + PRIOR_LINES)
    raw = np.stack([np.log1p(lines), np.log(rate / (1 - rate))], axis=1)
    seen = raw[lines > 0]
    scaled = (raw - seen.mean(0)) / seen.std(0)
    trust = lines / (lines + PRIOR_LINES)
    return torch.from_numpy(scaled).float(), torch.from_numpy(trust).float()


def item_marks(
    material: Material, settings: BuildSettings, start: Pretrained, steps: Sequence[int]
) -> Iterator[tuple[int, Matrix]]:
    """The catalogue's vectors, float32 (texts, d), after so many steps of all layers."""
    table, encoder = start.table, copy.deepcopy(start.encoder).train()
    device = start.vectors.device
    pairs = Pairs(material.parts.train)
    wanted, trust = (part.to(device) for part in targets(material.parts.train, len(table)))
    rng = np.random.default_rng(settings.seed)
    torch.manual_seed(settings.seed)
    tell = nn.Linear(settings.encoder.vector_dim, 2).to(device)
    rate = settings.encoder.learning_rate
    optimiser = torch.optim.AdamW(
        [{"params": encoder.parameters(), "lr": rate}, {"params": tell.parameters(), "lr": 1e-2}],
        weight_decay=settings.optimiser.weight_decay,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: min(1, step / WARM_UP))
    for step in range(1, max(steps) + 1):
        left, right = (torch.from_numpy(part).to(device) for part in pairs.draw(PAIRS, rng))
        loss = _loss(encoder, table, left, right, wanted, trust, tell)
        loss.backward()
        nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad()
        if step % 20 == 0:
            print(f"step {step}: loss {loss.item():.3f}", flush=True)
        if step in steps:
            encoder.eval()
            yield step, encode_all(lambda text: encoder(*table.rows(text)), table).cpu().numpy()
            encoder.train()


def _loss(
    encoder: ItemEncoder,
    table: TokenTable,
    left: Tensor,
    right: Tensor,
    wanted: Tensor,
    trust: Tensor,
    tell: nn.Linear,
) -> Tensor:
    """left, right: int64 (n,), texts that belong together."""
    text, place = torch.unique(torch.cat([left, right]), return_inverse=True)
    vectors = encoder(*table.rows(text))
    a, b = place.split(len(left))
    likeness = vectors[a] @ vectors[b].T / TEMPERATURE
    # A text that stands twice in a batch is not its own opposite.
    same = (right[:, None] == right[None, :]) | (left[:, None] == left[None, :])
    same.fill_diagonal_(False)
    likeness = likeness.masked_fill(same, -1e4)
    own = torch.arange(len(left), device=left.device)
    together = nn.functional.cross_entropy(likeness, own)
    together = (together + nn.functional.cross_entropy(likeness.T, own)) / 2
    off = (tell(vectors) - wanted[text]).square().mean(1)
    return together + (off * trust[text]).sum() / trust[text].sum().clamp(min=1)
