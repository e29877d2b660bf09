"""However calls and retries come, no more is retried than the budget says."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from shopcast_gateway.backend.retry_budget import (
    CALLS_A_RETRY,
    MOST_SAVED,
    RESERVE,
    RetryBudget,
)


class Budget(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.budget = RetryBudget()
        self.calls = self.retries = 0
        self.refused_since_call = False

    @rule(count=st.integers(1, 300))
    def call(self, count: int) -> None:
        for _ in range(count):
            self.budget.called()
        self.calls += count
        self.refused_since_call = False

    @rule(count=st.integers(1, 50))
    def retry(self, count: int) -> None:
        allowed = sum(self.budget.spend() for _ in range(count))
        self.retries += allowed
        assert allowed <= MOST_SAVED
        assert not (self.refused_since_call and allowed)
        self.refused_since_call = allowed < count

    @invariant()
    def a_fifth_and_the_reserve(self) -> None:
        assert self.retries <= RESERVE + self.calls / CALLS_A_RETRY


TestBudget = Budget.TestCase


def test_after_an_outage_calls_earn_retries_again() -> None:
    budget = RetryBudget()
    assert sum(budget.spend() for _ in range(100)) == RESERVE
    for _ in range(CALLS_A_RETRY):
        assert not budget.spend()
        budget.called()
    assert budget.spend()
    assert not budget.spend()
