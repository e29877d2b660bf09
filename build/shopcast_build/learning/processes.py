"""Several processes that train one model: who am I, and what do the others say?

`torchrun --nproc-per-node N -m shopcast_cli build-model ...` starts N processes that do the same
and share the batches. Without it there is one, and everything here is trivial.
"""

import os
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from shopcast_build.data.errors import DataError

T = TypeVar("T")

_PATIENCE = timedelta(hours=12)
"""The others wait this long while the first one judges and exports."""


def join() -> None:
    """Meet the other processes, if torchrun started this one. Raises DataError where they are more
    than there are GPUs."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        return
    if torch.cuda.is_available():
        gpus, here = torch.cuda.device_count(), int(os.environ["LOCAL_WORLD_SIZE"])
        if here > gpus:
            raise DataError(
                f"torchrun started {here} processes on a machine with {gpus} GPU(s), and each needs"
                f" one of its own: run it with --nproc-per-node {gpus}"
            )
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo", timeout=_PATIENCE)


def leave() -> None:
    """Part from the others; they need not be there any more."""
    if dist.is_initialized():
        dist.destroy_process_group()


def count() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def number() -> int:
    """Which of them this is, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_first() -> bool:
    """Whether this is the one that reports, judges, exports and publishes."""
    return number() == 0


def device() -> torch.device:
    """Where this process computes."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())


def wait() -> None:
    """Until all are here."""
    if dist.is_initialized():
        dist.barrier()


def from_first(value: T) -> T:
    """What the first process has, in all of them."""
    if not dist.is_initialized():
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def shared_out(run: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """`run` over rows, each process running its part of them; all get the same whole answer."""
    if count() == 1:
        return run

    def together(rows: Tensor) -> Tensor:
        size = -(-len(rows) // count())
        # All parts are of one size, so the last rows may be run twice.
        at = torch.arange(number() * size, (number() + 1) * size).clamp(max=len(rows) - 1)
        mine = run(rows[at.to(rows.device)]).contiguous()
        parts = [torch.empty_like(mine) for _ in range(count())]
        dist.all_gather(parts, mine)
        return torch.cat(parts)[: len(rows)]

    return together
