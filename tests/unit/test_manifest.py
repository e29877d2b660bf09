from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from shopcast_domain.manifest import (
    BEHAVIOR,
    MANIFEST,
    NO_CHANCE,
    Calibration,
    Manifest,
    ManifestError,
    manifest_path,
    published_versions,
    read_manifest,
)


def test_what_is_written_is_read_back(manifest: Manifest, tmp_path: Path) -> None:
    path = tmp_path / MANIFEST
    path.write_text(manifest.model_dump_json(indent=1))
    assert read_manifest(path) == manifest


@pytest.mark.parametrize(
    ("old", "new", "where"),
    [
        ('"schema_version":1', '"schema_version":0', "schema_version"),
        ('"scale":1.5', '"scale":0', "calibration.scale"),
        ('"vector_dim":8', '"vector_dim":8,"surprise":1', "surprise"),
        ('"kind":2', '"kind":4', "goldens.0.history.0.kind"),
        ('"probabilities":[0.7', '"probabilities":[1.7', "probabilities"),
        ("{", "", "the file"),
    ],
)
def test_a_manifest_of_another_schema_is_refused_in_one_sentence(
    manifest: Manifest, tmp_path: Path, old: str, new: str, where: str
) -> None:
    path = tmp_path / MANIFEST
    text = manifest.model_dump_json()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(ManifestError, match="publish the model again") as refused:
        read_manifest(path)
    assert where in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_manifest_of_a_newer_schema_says_to_upgrade(manifest: Manifest, tmp_path: Path) -> None:
    path = tmp_path / MANIFEST
    # Whatever else a newer schema has.
    path.write_text('{"schema_version": 2, "surprise": true}')
    with pytest.raises(ManifestError, match=r"has schema 2 .* upgrade shopcast") as refused:
        read_manifest(path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "name", ["encoder/2/model.onnx", "encoder/1/../../secret", "/etc/passwd", "behavior/1/../2/x"]
)
def test_files_outside_of_the_version_are_refused(
    manifest: Manifest, tmp_path: Path, name: str
) -> None:
    path = tmp_path / MANIFEST
    path.write_text(manifest.model_copy(update={"files": {name: "0" * 64}}).model_dump_json())
    with pytest.raises(ManifestError, match="not in the version's folders"):
        read_manifest(path)


def test_a_manifest_without_goldens_is_refused(manifest: Manifest, tmp_path: Path) -> None:
    path = tmp_path / MANIFEST
    path.write_text(manifest.model_copy(update={"goldens": ()}).model_dump_json())
    with pytest.raises(ManifestError, match="goldens"):
        read_manifest(path)


def test_a_missing_manifest_says_that_the_version_is_not_whole(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="not published whole"):
        read_manifest(tmp_path / MANIFEST)
    with pytest.raises(ManifestError, match="cannot be read"):
        read_manifest(tmp_path)


def test_only_versions_with_a_manifest_are_published(tmp_path: Path) -> None:
    assert published_versions(tmp_path) == []
    for name in ("10", "2", ".staging", "x"):
        path = tmp_path / BEHAVIOR / name / MANIFEST
        path.parent.mkdir(parents=True)
        path.touch()
    (tmp_path / BEHAVIOR / "11").mkdir()
    assert published_versions(tmp_path) == [2, 10]
    assert manifest_path(tmp_path, BEHAVIOR, 2).is_file()


logits = arrays(np.float32, (5, 3), elements=st.floats(-1e4, 1e4, width=32))


@given(logits, st.floats(1e-3, 1e3), st.tuples(*[st.floats(-50, 50)] * 3))
def test_calibrated_probabilities_sum_to_one(
    logits: np.ndarray, scale: float, bias: tuple[float, float, float]
) -> None:
    found = Calibration(scale=scale, bias=bias).apply(logits)
    assert found.dtype == np.float64
    assert (found >= 0).all()
    np.testing.assert_allclose(found.sum(1), 1.0, atol=1e-12)


@given(logits)
def test_an_outcome_that_was_not_trained_has_no_chance(logits: np.ndarray) -> None:
    found = Calibration(scale=2.0, bias=(0.0, NO_CHANCE, 1.0)).apply(logits)
    assert (found[:, 1] == 0.0).all()


def test_calibration_is_a_softmax_of_scaled_and_shifted_logits() -> None:
    found = Calibration(scale=2.0, bias=(0.0, 1.0, 0.0)).apply(np.float32([[1, 0, 0.5]]))
    expected = np.exp([2.0, 1.0, 1.0])
    np.testing.assert_allclose(found[0], expected / expected.sum(), rtol=1e-12)
