"""The seam between the gateway's core and the model server."""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Tensors = Mapping[str, NDArray[Any]]


class Scoring(Protocol):
    """What answers for models."""

    async def infer(
        self,
        model: str,
        version: int,
        inputs: Tensors,
        output: str,
        *,
        timeout_s: float,
        wanted_s: float | None = None,
    ) -> NDArray[np.float32]:
        """Run one batch and return the named output, float32.

        timeout_s: how long the answer is waited for; a call that has begun is not cancelled.
        wanted_s: how soon somebody needs it, if sooner.
        Raises Unavailable, DeadlineExpired, Overloaded, ContractMismatch.
        """
        ...

    async def close(self) -> None:
        """Close the channel."""
        ...


class Backend(Scoring, Protocol):
    """A model server that holds versioned models."""

    async def load(self, model: str, version: int) -> None:
        """Load exactly this version of a model; returns when it can answer.

        Raises StartupError when the server refuses it, Unavailable when the server is away.
        """
        ...
