"""How many calls may be sent a second time, so that servers that fail are not hammered."""

CALLS_A_RETRY = 5
"""Calls that pay for one retry: at most 20% of them are sent again,"""
RESERVE = 10
"""and so many retries more, from the start."""
MOST_SAVED = 20
"""Retries that can be saved up while all is well."""


class RetryBudget:
    """A token bucket that calls fill and retries empty, as in Finagle and gRPC.

    Of any n calls on, at most MOST_SAVED + n / CALLS_A_RETRY are retried; since the start, at most
    RESERVE + n / CALLS_A_RETRY.
    """

    def __init__(self) -> None:
        self._calls = RESERVE * CALLS_A_RETRY  # that have not been spent

    def called(self) -> None:
        """A call is made for the first time."""
        self._calls = min(self._calls + 1, MOST_SAVED * CALLS_A_RETRY)

    def spend(self) -> bool:
        """Whether one may be sent again, which is then paid for."""
        if self._calls < CALLS_A_RETRY:
            return False
        self._calls -= CALLS_A_RETRY
        return True
