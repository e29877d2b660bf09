"""Taking a published version into service: only one that is whole, fits, and does what it did when
it was built."""

import asyncio
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from shopcast_domain.features import FEATURES, HISTORY_NUMBERS
from shopcast_domain.manifest import (
    BEHAVIOR,
    ENCODER,
    Golden,
    Manifest,
    ManifestError,
    manifest_path,
    read_manifest,
)
from shopcast_domain.tokeniser import TOKENISER, ItemTokeniser
from shopcast_gateway.backend.protocol import Backend
from shopcast_gateway.core.exposure import History, Scene, Vectors
from shopcast_gateway.core.model import ENCODE_BATCH, Model
from shopcast_gateway.errors import GatewayError, StartupError
from shopcast_repository.verification import verify

_GRAPH = "model.onnx"
_REPLAY_TIMEOUT_S = 30.0


Reason = Literal["manifest", "files", "contract", "tokeniser", "load", "replay", "golden"]


_MOST_TOLD = 1_000  # characters


class Refused(Exception):
    """A version that must not serve. One sentence says why; `reason` is what metrics count."""

    def __init__(self, reason: Reason, sentence: str) -> None:
        # It goes into metadata, and may name what a file of the version says.
        super().__init__(sentence if len(sentence) <= _MOST_TOLD else sentence[:_MOST_TOLD] + "...")
        self.reason = reason


async def adopt(repository: Path, version: int, backend: Backend) -> Model:
    """Check a version's files, load it, and replay its goldens. Raises Refused."""
    manifest, tokeniser = await check(repository, version)
    model = Model(manifest, tokeniser, backend)
    await load_and_replay(model, backend)
    return model


async def check(repository: Path, version: int) -> tuple[Manifest, ItemTokeniser]:
    """What a version consists of, if its files are whole and fit. Raises Refused."""
    try:
        manifest = read_manifest(manifest_path(repository, BEHAVIOR, version))
    except ManifestError as error:
        raise Refused("manifest", str(error)) from None
    if manifest.behavior_version != version:
        raise Refused(
            "manifest", f"its manifest is the manifest of version {manifest.behavior_version}"
        )
    check_contract(manifest)
    await asyncio.to_thread(_check_files, repository, manifest)
    return manifest, await asyncio.to_thread(_tokeniser, repository, manifest)


async def load_and_replay(model: Model, backend: Backend) -> None:
    """Load a model on the backend it is scored through, and replay its goldens. Raises Refused."""
    try:
        await backend.load(ENCODER, model.manifest.encoder_version)
        await backend.load(BEHAVIOR, model.manifest.behavior_version)
        await replay(model)
    except StartupError as error:
        raise Refused("load", str(error)) from None
    except GatewayError as error:
        raise Refused(
            "replay", f"its goldens could not be replayed ({type(error).__name__})"
        ) from error


def _check_files(repository: Path, manifest: Manifest) -> None:
    encoder, behavior = (
        f"{ENCODER}/{manifest.encoder_version}",
        f"{BEHAVIOR}/{manifest.behavior_version}",
    )
    for name in (f"{encoder}/{TOKENISER}", f"{encoder}/{_GRAPH}", f"{behavior}/{_GRAPH}"):
        if name not in manifest.files:
            raise Refused("manifest", f"its manifest does not list {name}")
    if problems := verify(repository, manifest.behavior_version):
        raise Refused("files", problems[0])


def check_contract(manifest: Manifest) -> None:
    """Raises Refused when a version was built for other features than are computed here."""
    if manifest.features != FEATURES or manifest.history_numbers != HISTORY_NUMBERS:
        raise Refused(
            "contract",
            "it was built for other features than this gateway computes: build it again with this"
            " version of shopcast",
        )


def _tokeniser(repository: Path, manifest: Manifest) -> ItemTokeniser:
    name = f"{ENCODER}/{manifest.encoder_version}/{TOKENISER}"
    limits = manifest.tokeniser
    try:
        return ItemTokeniser.load(
            repository / name, max_tokens=limits.max_tokens, pad_id=limits.pad_id
        )
    except Exception:  # tokenizers raises nothing more specific
        raise Refused("tokeniser", f"{name} is no tokeniser") from None


async def replay(model: Model) -> None:
    """Raises Refused when a golden does not reproduce, and what Scoring.infer raises."""
    tolerance = model.manifest.tolerance
    for number, golden in enumerate(model.manifest.goldens):
        if tuple(model.tokeniser.encode([golden.text])[0]) != golden.token_ids:
            raise Refused(
                "tokeniser", f"golden {number}: the tokeniser gives other tokens than at build time"
            )
        texts = [golden.text, *(event.text for event in golden.history)]
        vectors = await _encode(model, texts)
        _check(f"golden {number}: the vector", vectors[0], golden.vector, tolerance.vector)
        scene = Scene(
            _history(golden, vectors[1:]),
            vectors[:1],
            np.array([golden.features], dtype=np.float32),
        )
        found = await model.score(scene, timeout_s=_REPLAY_TIMEOUT_S)
        _check(
            f"golden {number}: a probability",
            found[0],
            golden.probabilities,
            tolerance.probability,
        )


async def _encode(model: Model, texts: list[str]) -> Vectors:
    """As ItemVectors does, without a memory."""
    vectors = np.zeros((len(texts), model.manifest.vector_dim), dtype=np.float32)
    rows = [row for row, text in enumerate(texts) if text]
    for start in range(0, len(rows), ENCODE_BATCH):
        batch = rows[start : start + ENCODE_BATCH]
        vectors[batch] = await model.encode([texts[r] for r in batch], timeout_s=_REPLAY_TIMEOUT_S)
    return vectors


def _history(golden: Golden, vectors: Vectors) -> History:
    return History(
        vectors=vectors,
        kind=np.array([event.kind for event in golden.history], dtype=np.int64),
        numbers=np.array([event.numbers for event in golden.history], dtype=np.float32).reshape(
            -1, len(HISTORY_NUMBERS)
        ),
    )


def _check(what: str, found: NDArray[Any], expected: tuple[float, ...], limit: float) -> None:
    if found.shape != (len(expected),):
        raise Refused("golden", f"{what} has {len(found)} numbers and {len(expected)} are expected")
    difference = float(np.abs(found - np.array(expected)).max())
    if not difference <= limit:
        raise Refused(
            "golden", f"{what} differs from build time by {difference:.2g}, more than {limit:.2g}"
        )
