"""What the process that looks after workers and the workers tell each other."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Base64Bytes, Field, TypeAdapter

from shopcast_gateway.core.trial import Comparison, Trial
from shopcast_gateway.engine import Engine
from shopcast_gateway.settings import ServeSettings
from shopcast_gateway.transport.quotas import Spending

SHARE_S = 0.1
"""After which a process tells the others what it has let in."""


@dataclass(frozen=True, slots=True)
class Begin:
    """The first message to a worker. number: which it is, from 0. port: the one that all share.
    files: what those of certificates and callers hold that are in force, secret keys included."""

    settings: ServeSettings
    number: int
    port: int
    files: Mapping[Path, Base64Bytes] = field(default_factory=dict, repr=False)
    kind: Literal["begin"] = "begin"


@dataclass(frozen=True, slots=True)
class Place:
    """An engine that a worker is to answer with, too. address, rotation: as of Engine."""

    number: int
    version: int
    address: str
    rotation: dict[str, bool]

    @classmethod
    def of(cls, engine: Engine) -> "Place":
        """Where an engine of this process is now."""
        return cls(engine.number, engine.version, engine.address, engine.rotation)


@dataclass(frozen=True, slots=True)
class OnTrial:
    """A version on trial, and its shares as of core.trial."""

    place: Place
    share: float
    shadow: float


@dataclass(frozen=True, slots=True)
class Assignment:
    """All that a worker is to do from now on; each has a higher number than the one before.

    serving: None while there is no Triton. able: whether predictions can be made. refusal: why
    another version does not serve, for health to say. leaving: whether balancers are to notice.
    """

    number: int
    serving: Place | None
    trial: OnTrial | None
    able: bool
    refusal: str | None
    leaving: bool
    kind: Literal["assignment"] = "assignment"


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The calls to this model hang in what was replaced."""

    model: str
    kind: Literal["give_up"] = "give_up"


@dataclass(frozen=True, slots=True)
class Forget:
    """Somebody's events may be used for less than before. Told by the worker that was asked, and
    then to all others."""

    kind: Literal["forget"] = "forget"


@dataclass(frozen=True, slots=True)
class Spent:
    """Calls that were let in, for all others to count as well."""

    spendings: tuple[Spending, ...]
    kind: Literal["spent"] = "spent"


@dataclass(frozen=True, slots=True)
class Failing:
    """A worker's calls to one of an engine's Tritons failed too often: it sends none there until it
    is told anew who takes calls."""

    engine: int
    address: str
    kind: Literal["failing"] = "failing"


@dataclass(frozen=True, slots=True)
class Stop:
    """Drain and end. grace_s: what running calls get."""

    grace_s: float
    kind: Literal["stop"] = "stop"


@dataclass(frozen=True, slots=True)
class Compared:
    """A Comparison, and how many answers were given on trial, as one worker counted them. engine:
    the number of the one on trial."""

    engine: int
    answered: int
    compared: int
    failed: int
    skipped: int
    items: int
    flips: int
    correlations: int
    rank_correlation: float
    serving: tuple[float, ...]
    trial: tuple[float, ...]

    @classmethod
    def of(cls, engine: int, trial: Trial) -> "Compared":
        """What has been counted so far."""
        counted = asdict(trial.comparison)
        for name in ("serving", "trial"):
            counted[name] = tuple(counted[name].tolist())
        return cls(engine=engine, answered=trial.answered, **counted)


def in_all(counted: Sequence[Compared]) -> Comparison:
    """What several workers counted, as one."""
    total = Comparison()
    for one in counted:
        for name in (one.name for one in fields(Comparison)):
            value = getattr(one, name)
            value = np.array(value) if isinstance(value, tuple) else value
            setattr(total, name, getattr(total, name) + value)
    return total


@dataclass(frozen=True, slots=True)
class Report:
    """How a worker does; sent at every change, and every second as a sign of life.

    number: of the assignment that it has carried out. held: numbers of the engines that it may
    still call.
    """

    number: int
    held: tuple[int, ...]
    compared: Compared | None = None
    kind: Literal["report"] = "report"


@dataclass(frozen=True, slots=True)
class Failed:
    """A worker that cannot start. One sentence says why."""

    sentence: str
    kind: Literal["failed"] = "failed"


ToWorker = Begin | Assignment | GiveUp | Forget | Spent | Stop
FromWorker = Report | Forget | Spent | Failing | Failed
TO_WORKER: TypeAdapter[ToWorker] = TypeAdapter(Annotated[ToWorker, Field(discriminator="kind")])
FROM_WORKER: TypeAdapter[FromWorker] = TypeAdapter(
    Annotated[FromWorker, Field(discriminator="kind")]
)
