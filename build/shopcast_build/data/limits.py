"""How wrong a log may be before a build stops: the [limits] table of a mapping."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]


class Limits(BaseModel):
    """What stops a build.

    max_bad_share: rows that cannot be used, of those the drop rules leave. max_dropped_share: rows
    dropped for any reason, of those read. max_early_return_share: returns that come within hours
    before their only purchase, of the returns with one purchase. max_platform_share,
    max_account_share: events of the largest platform or account. min_accounts, min_buys,
    min_returns: events or accounts there have to be.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_bad_share: Share = 0.01
    max_dropped_share: Share = 1.0
    max_early_return_share: Share = 0.2
    max_platform_share: Share = 1.0
    max_account_share: Share = 1.0
    min_accounts: Count = 2
    min_buys: Count = 0
    min_returns: Count = 0
