"""The rival that counts words: logistic regression on TF-IDF of item and history texts."""

import warnings

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix, csr_matrix, hstack
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from shopcast_build.learning.calibration import fit_calibrations
from shopcast_build.learning.evaluation import Judged
from shopcast_build.learning.examples import Examples
from shopcast_build.learning.preparation import Parts
from shopcast_build.learning.scoring import losses
from shopcast_build.learning.timeline import Timeline
from shopcast_domain.events import Outcome
from shopcast_domain.features import Ints

WORDS = 20_000
HISTORY = 10
ROWS = 100_000
_STRENGTHS = (0.1, 1.0, 10.0)


def word_regression(timeline: Timeline, parts: Parts, *, seed: int) -> Judged:
    """Fit on the newest ROWS training exposures; the strength of its penalty is chosen, and its
    probabilities are calibrated, on validation. History: the mean over the newest HISTORY texts."""
    train = _newest(parts.train)
    again = parts.refit and _newest(parts.refit)
    texts = timeline.catalogue.texts
    words = TfidfVectorizer(max_features=WORDS, sublinear_tf=True)
    words.fit([*(texts[text] for text in np.unique(train.text)), "nothing"])
    table = words.transform(texts)
    inputs = {
        name: _inputs(table, timeline, examples)
        for name, examples in (
            ("train", train), ("validation", parts.validation), ("test", parts.test),
            ("again", again),
        )
        if examples is not None
    }  # fmt: skip
    known = parts.validation if again is None else again
    best: tuple[float, Judged] | None = None
    for strength in _STRENGTHS:
        model = LogisticRegression(C=strength, max_iter=200, random_state=seed)
        _fit(model, inputs["train"], train.outcome)
        validation = _logits(model, inputs["validation"])
        if again is not None:
            _fit(model, inputs["again"], again.outcome)
        learned = _logits(model, inputs["validation" if again is None else "again"])
        first, last = fit_calibrations(
            (validation, parts.validation.outcome), (learned, known.outcome)
        )
        test = last.apply(_logits(model, inputs["test"]))
        judged = Judged("words", first.apply(validation), test)
        loss = float(losses(judged, parts.validation).mean())
        if best is None or loss < best[0]:
            best = loss, judged
    assert best is not None  # noqa: S101 - there are strengths
    return best[1]


def _newest(examples: Examples) -> Examples:
    return examples.take(np.arange(len(examples))[-ROWS:])


def _fit(model: LogisticRegression, inputs: csr_matrix, outcome: Ints) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a rival may stop short
        model.fit(inputs, outcome)


def _inputs(table: csr_matrix, timeline: Timeline, examples: Examples) -> csr_matrix:
    """TF-IDF of the item beside the mean TF-IDF of the newest texts before: sparse (M, 2 words)."""
    rows, texts = newest_texts(timeline, examples, HISTORY)
    sizes = np.bincount(rows, minlength=len(examples))
    mean = coo_matrix((1.0 / sizes[rows], (rows, texts)), shape=(len(examples), table.shape[0]))
    return hstack([table[examples.text], mean.tocsr() @ table]).tocsr()


def newest_texts(timeline: Timeline, examples: Examples, limit: int) -> tuple[Ints, Ints]:
    """Texts of the newest events of histories, newest first, as (exposure, text) pairs by exposure.
    int64 (k,) each."""
    counts = np.minimum(examples.position - examples.first, limit)
    rows = np.repeat(np.arange(len(examples)), counts)
    back = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    at = examples.position[rows] - 1 - back
    return rows, timeline.catalogue.text_at(timeline.item[at], examples.at_s[rows])


def _logits(model: LogisticRegression, inputs: csr_matrix) -> NDArray[np.float32]:
    found = np.zeros((inputs.shape[0], len(Outcome)), dtype=np.float32)
    found[:, model.classes_] = np.log(np.maximum(model.predict_proba(inputs), 1e-9))
    return found
