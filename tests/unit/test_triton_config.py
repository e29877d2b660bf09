from pathlib import Path

import pytest

from shopcast_repository import triton_config


@pytest.mark.parametrize(
    "model",
    [
        triton_config.encoder(width=64, max_tokens=48),
        triton_config.behavior(
            width=64, features=44, max_events=64, max_candidates=1000, instances=3, threads=2
        ),
    ],
    ids=lambda model: model.name,
)
def test_what_is_written_is_read_back(model: triton_config.ServedModel, tmp_path: Path) -> None:
    path = tmp_path / "config.pbtxt"
    triton_config.write(model, path)
    assert triton_config.read(path) == model


def test_batching_has_no_queue_policy_and_inputs_may_be_ragged(tmp_path: Path) -> None:
    path = tmp_path / "config.pbtxt"
    triton_config.write(triton_config.encoder(width=8, max_tokens=16), path)
    text = "".join(path.read_text("utf-8").split())
    assert "dynamic_batching{}" in text
    assert text.count("allow_ragged_batch:true") == 2


@pytest.mark.parametrize("text", ["", "name: 'encoder'", "{", "surprise: 1", "\x00"])
def test_a_file_that_is_no_configuration_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "config.pbtxt"
    path.write_text(text, "utf-8")
    with pytest.raises(ValueError, match="is not a configuration of a served model"):
        triton_config.read(path)
