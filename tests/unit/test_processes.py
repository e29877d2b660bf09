import pytest
import torch

from shopcast_build.data.errors import DataError
from shopcast_build.learning import processes


def test_more_processes_than_gpus_are_told_how_many_there_may_be(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name, value in (("WORLD_SIZE", "3"), ("LOCAL_WORLD_SIZE", "3"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)
    with pytest.raises(DataError, match=r"started 3 .* 2 GPU.*--nproc-per-node 2"):
        processes.join()
    assert processes.count() == 1
