"""Taking a version into service: whole, fitting and true to its goldens, or refused."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, pre_tokenizers

from shopcast_domain.features import FEATURES, HISTORY_NUMBERS
from shopcast_domain.manifest import (
    BEHAVIOR,
    CONFIG,
    ENCODER,
    MANIFEST,
    Golden,
    GoldenEvent,
    Manifest,
    manifest_path,
    read_manifest,
)
from shopcast_domain.tokeniser import TOKENISER, ItemTokeniser
from shopcast_gateway.core.adoption import Refused, adopt
from shopcast_gateway.core.exposure import History, Scene
from shopcast_gateway.core.model import Model
from shopcast_gateway.errors import ContractMismatch, StartupError, Unavailable
from shopcast_gateway.promoted import versions_to_try
from shopcast_repository.digests import sha256
from shopcast_repository.served import write_configs
from shopcast_repository.serving import SERVING, Serving

DIM = 8
EVENT = GoldenEvent(text="blue hat", kind=2, numbers=(1.0, 0.0, 2.5))
PARAMETERS = {
    ENCODER: ("model.onnx", "model.py", TOKENISER),
    BEHAVIOR: ("model.onnx", "model.py"),
}
FILES = [f"{model}/2/{name}" for model, names in PARAMETERS.items() for name in names]


class Backend:
    """Sums, in place of networks. vector_off, logit_off: what is added to every answer."""

    def __init__(self) -> None:
        self.loaded: list[tuple[str, int]] = []
        self.refuses: dict[tuple[str, int], Exception] = {}
        self.vector_off = 0.0
        self.logit_off = 0.0
        self.dim = DIM

    async def load(self, model: str, version: int) -> None:
        if (model, version) in self.refuses:
            raise self.refuses[model, version]
        self.loaded.append((model, version))

    async def infer(
        self,
        model: str,
        version: int,
        inputs: Mapping[str, NDArray[Any]],
        output: str,
        *,
        timeout_s: float,
        wanted_s: float | None = None,
    ) -> NDArray[np.float32]:
        if model == ENCODER:
            sums = inputs["input_ids"].sum(axis=1, keepdims=True).astype(np.float32)
            return np.tile(np.sin(sums), (1, self.dim)) + np.float32(self.vector_off)
        if inputs["candidate_features"].shape[2] != len(FEATURES):
            raise ContractMismatch("behavior: the model refused the tensors")
        person = inputs["history_vectors"].sum() + inputs["history_numbers"].sum()
        item = inputs["candidate_vectors"].sum() + inputs["candidate_features"].sum()
        one = np.float32([0.1 * person + self.logit_off, 0.01 * item, 0.0])
        return one.reshape(1, 1, 3)

    async def close(self) -> None:
        raise NotImplementedError


def definition(*words: str) -> str:
    vocabulary = {word: number for number, word in enumerate(["[UNK]", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer.to_str()


async def golden(model: Model, text: str, *history: GoldenEvent) -> Golden:
    """What the model does now."""
    vectors = await model.encode([text, *(event.text for event in history)], timeout_s=1.0)
    features = np.linspace(0, 1, len(FEATURES), dtype=np.float32)
    told = History(
        vectors[1:],
        np.array([event.kind for event in history], dtype=np.int64),
        np.array([event.numbers for event in history], dtype=np.float32).reshape(-1, 3),
    )
    found = await model.score(Scene(told, vectors[:1], features[np.newaxis]), timeout_s=1.0)
    return Golden(
        text=text,
        token_ids=tuple(model.tokeniser.encode([text])[0]),
        vector=tuple(vectors[0].tolist()),
        features=tuple(features.tolist()),
        history=history,
        probabilities=tuple(found[0].tolist()),
    )


@pytest.fixture
def backend() -> Backend:
    return Backend()


@pytest.fixture
async def repository(tmp_path: Path, manifest: Manifest) -> Path:
    """Versions 1 and 2, both as they should be."""
    folder = tmp_path / "models"
    for version in (1, 2):
        for model, names in PARAMETERS.items():
            (folder / model / str(version)).mkdir(parents=True)
            for name in names:
                (folder / model / str(version) / name).write_bytes(f"{model} {name}".encode() * 99)
        tokeniser = definition("red", "blue", "shoe", "hat")
        (folder / ENCODER / str(version) / TOKENISER).write_text(tokeniser)
        built = manifest.model_copy(
            update={
                "encoder_version": version,
                "behavior_version": version,
                "vector_dim": DIM,
                "features": FEATURES,
                "history_numbers": HISTORY_NUMBERS,
            }
        )
        model = Model(built, ItemTokeniser(tokeniser, max_tokens=16, pad_id=0), Backend())
        goldens = (await golden(model, "red shoe", EVENT, EVENT), await golden(model, "blue shoe"))
        built = built.model_copy(update={"goldens": goldens})
        publish(folder, version, built)
    return folder


def publish(repository: Path, version: int, manifest: Manifest) -> None:
    """Write a version's manifests, with the digests its files now have."""
    write_configs(manifest, {model: repository / model / str(version) for model in PARAMETERS})
    files = {
        f"{model}/{version}/{name}": sha256(repository / model / str(version) / name)
        for model, names in PARAMETERS.items()
        for name in (*names, CONFIG)
    }
    text = manifest.model_copy(update={"files": files}).model_dump_json()
    for model in PARAMETERS:
        manifest_path(repository, model, version).write_text(text)


def mend(**changes: Any) -> Callable[[Path, Backend], None]:
    """A publication of version 2 whose manifest says something else."""

    def spoil(repository: Path, _: Backend) -> None:
        found = read_manifest(manifest_path(repository, BEHAVIOR, 2))
        publish(repository, 2, found.model_copy(update=changes))

    return spoil


def mend_golden(**changes: Any) -> Callable[[Path, Backend], None]:
    def spoil(repository: Path, _: Backend) -> None:
        found = read_manifest(manifest_path(repository, BEHAVIOR, 2))
        first, *others = found.goldens
        goldens = (first.model_copy(update=changes), *others)
        publish(repository, 2, found.model_copy(update={"goldens": goldens}))

    return spoil


def other_tokeniser(repository: Path, _: Backend) -> None:
    path = repository / ENCODER / "2" / TOKENISER
    path.write_text(definition("shoe", "hat", "red", "blue"))
    publish(repository, 2, read_manifest(manifest_path(repository, BEHAVIOR, 2)))


def no_tokeniser(repository: Path, _: Backend) -> None:
    """Whole by its digests, and no tokeniser all the same."""
    (repository / ENCODER / "2" / TOKENISER).write_text("{}")
    publish(repository, 2, read_manifest(manifest_path(repository, BEHAVIOR, 2)))


def raw(change: Callable[[dict[str, Any]], object]) -> Callable[[Path, Backend], None]:
    def spoil(repository: Path, _: Backend) -> None:
        content = json.loads(manifest_path(repository, BEHAVIOR, 2).read_text())
        change(content)
        for model in PARAMETERS:
            manifest_path(repository, model, 2).write_text(json.dumps(content))

    return spoil


def garbage(content: bytes) -> Callable[[Path, Backend], None]:
    def spoil(repository: Path, _: Backend) -> None:
        manifest_path(repository, BEHAVIOR, 2).write_bytes(content)

    return spoil


def refuse(model: str, error: Exception) -> Callable[[Path, Backend], None]:
    def spoil(_: Path, backend: Backend) -> None:
        backend.refuses[model, 2] = error

    return spoil


def flip(name: str) -> Callable[[Path, Backend], None]:
    def spoil(repository: Path, _: Backend) -> None:
        path = repository / name
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)

    return spoil


def remove(name: str) -> Callable[[Path, Backend], None]:
    def spoil(repository: Path, _: Backend) -> None:
        (repository / name).unlink()

    return spoil


def one_copy(repository: Path, _: Backend) -> None:
    """The behaviour model's manifest alone says how to decide otherwise."""
    path = manifest_path(repository, BEHAVIOR, 2)
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"decision_weights": [100.0, 1e-6, 1e-6]}))


def of_version_1(manifest: dict[str, Any]) -> None:
    files = manifest["files"]
    manifest["files"] = {n.replace("behavior/2/", "behavior/1/"): d for n, d in files.items()}
    manifest["behavior_version"] = 1


NO_MODEL = "Triton refused to load"
SPOILED = [
    *(
        pytest.param(
            flip(name), "files", f"{name} is not the file that was published", id=f"flip {name}"
        )
        for name in FILES
    ),
    *(
        pytest.param(remove(name), "files", f"{name} cannot be read", id=f"remove {name}")
        for name in FILES
    ),
    pytest.param(
        mend(features=(FEATURES[1], FEATURES[0], *FEATURES[2:])),
        "contract",
        "other features",
        id="features",
    ),
    pytest.param(
        mend(history_numbers=HISTORY_NUMBERS[::-1]),
        "contract",
        "other features",
        id="history numbers",
    ),
    pytest.param(
        other_tokeniser, "tokeniser", "golden 0: the tokeniser gives other tokens", id="tokens"
    ),
    pytest.param(no_tokeniser, "tokeniser", TOKENISER, id="no tokeniser"),
    pytest.param(
        mend_golden(vector=(0.123,) * DIM),
        "golden",
        "golden 0: the vector differs",
        id="golden vector",
    ),
    pytest.param(
        mend_golden(vector=(float("nan"),) * DIM), "manifest", "goldens.0.vector", id="NaN"
    ),
    pytest.param(
        mend_golden(vector=(0.5,) * 3), "golden", "golden 0: the vector", id="short vector"
    ),
    pytest.param(mend_golden(vector=()), "golden", "golden 0: the vector", id="no vector"),
    pytest.param(
        mend_golden(probabilities=(0.2, 0.3, 0.5)),
        "golden",
        "golden 0: a probability",
        id="probability",
    ),
    pytest.param(
        mend_golden(features=(1.0, 2.0)), "replay", "could not be replayed", id="golden features"
    ),
    pytest.param(mend(vector_dim=DIM + 1), "replay", "could not be replayed", id="width"),
    pytest.param(
        raw(of_version_1), "manifest", "is the manifest of version 1", id="another version"
    ),
    pytest.param(one_copy, "files", "one was changed", id="one copy of the manifest"),
    pytest.param(raw(lambda m: m["files"].clear()), "manifest", "does not list", id="no digests"),
    pytest.param(
        raw(lambda m: m.update(schema_version=2)), "manifest", "upgrade shopcast", id="newer schema"
    ),
    pytest.param(raw(lambda m: m.update(surprise=1)), "manifest", "surprise", id="newer field"),
    pytest.param(raw(lambda m: m.pop("calibration")), "manifest", "calibration", id="older"),
    pytest.param(garbage(b""), "manifest", "not a manifest", id="empty"),
    pytest.param(garbage(b"\xff\xfe\x00garbage"), "manifest", "not a manifest", id="garbage"),
    pytest.param(garbage(b'{"files": '), "manifest", "not a manifest", id="cut off"),
    pytest.param(garbage(b"[]"), "manifest", "not a manifest", id="another type"),
    pytest.param(refuse(ENCODER, StartupError(NO_MODEL)), "load", NO_MODEL, id="encoder refused"),
    pytest.param(refuse(BEHAVIOR, StartupError(NO_MODEL)), "load", NO_MODEL, id="behavior refused"),
    pytest.param(refuse(BEHAVIOR, Unavailable("away")), "replay", "Unavailable", id="server away"),
]


async def test_a_version_as_published_is_adopted(repository: Path, backend: Backend) -> None:
    model = await adopt(repository, 2, backend)
    assert model.manifest.behavior_version == 2
    assert backend.loaded == [(ENCODER, 2), (BEHAVIOR, 2)]


@pytest.mark.parametrize("off", [0.0015, -0.0015])
async def test_what_rounding_does_is_tolerated(
    repository: Path, backend: Backend, off: float
) -> None:
    backend.vector_off = off
    await adopt(repository, 2, backend)


@pytest.mark.parametrize(
    ("what", "words"), [("vector_off", "the vector"), ("logit_off", "a probability")]
)
async def test_a_server_that_answers_otherwise_is_not_trusted(
    repository: Path, backend: Backend, what: str, words: str
) -> None:
    setattr(backend, what, 0.1)
    with pytest.raises(Refused, match=f"golden 0: {words} differs from build time by"):
        await adopt(repository, 2, backend)


async def test_vectors_of_another_width_are_refused(repository: Path, backend: Backend) -> None:
    backend.dim = DIM - 1
    with pytest.raises(Refused, match="could not be replayed"):
        await adopt(repository, 2, backend)


@pytest.mark.parametrize(("spoil", "reason", "words"), SPOILED)
async def test_a_spoiled_version_is_refused(
    repository: Path,
    backend: Backend,
    spoil: Callable[[Path, Backend], None],
    reason: str,
    words: str,
) -> None:
    spoil(repository, backend)
    with pytest.raises(Refused) as refused:
        await adopt(repository, 2, backend)
    sentence = str(refused.value)
    assert words in sentence
    assert "\n" not in sentence
    assert refused.value.reason == reason


async def test_files_are_checked_before_the_server_loads_them(
    repository: Path, backend: Backend
) -> None:
    flip("behavior/2/model.onnx")(repository, backend)
    with pytest.raises(Refused):
        await adopt(repository, 2, backend)
    assert backend.loaded == []


def test_what_was_promoted_is_tried_first_and_then_what_served_before(repository: Path) -> None:
    assert versions_to_try(repository)[0] == [2, 1]  # nobody has said anything: the newest first
    for said, expected in (((1,), [1]), ((2, 1), [1, 2]), ((7, 2), [2]), ((1, 2), [2, 1])):
        (repository / SERVING).write_text(Serving(versions=said).model_dump_json())
        assert versions_to_try(repository)[0] == expected
    (repository / SERVING).write_text(Serving(versions=(7,)).model_dump_json())
    with pytest.raises(StartupError, match="name one that is with `platform models promote`"):
        versions_to_try(repository)
    (repository / SERVING).write_text("{")
    with pytest.raises(StartupError, match="does not say which version serves"):
        versions_to_try(repository)


def test_a_version_without_manifest_is_not_there(repository: Path) -> None:
    (repository / BEHAVIOR / "2" / MANIFEST).unlink()
    assert versions_to_try(repository)[0] == [1]


def test_version_ten_is_newer_than_nine(repository: Path) -> None:
    found = read_manifest(manifest_path(repository, BEHAVIOR, 2))
    for version in (9, 10):
        for model in (ENCODER, BEHAVIOR):
            shutil.copytree(repository / model / "2", repository / model / str(version))
        numbers = {"encoder_version": version, "behavior_version": version}
        publish(repository, version, found.model_copy(update=numbers))
    assert versions_to_try(repository)[0][:2] == [10, 9]


@pytest.mark.parametrize("folder", ["nowhere", "."])
def test_no_version_at_all_names_the_command_that_makes_one(tmp_path: Path, folder: str) -> None:
    with pytest.raises(StartupError, match="`platform build-model"):
        versions_to_try(tmp_path / folder)
