"""What can go wrong, by cause. Knows no transport: `transport/status.py` maps causes to gRPC codes.

GatewayError
├── BadRequest            the caller sent what no server could answer; carries the field path
├── Overloaded            we are full
├── Unavailable           a backend or a store is away, or we drain
├── DeadlineExpired       too late
└── ContractMismatch      our tensors did not fit the model: our mistake

StartupError              the gateway cannot start; the message says what to do
"""


class GatewayError(Exception):
    """Base of what a request can meet. `reason` is stable and goes into google.rpc.ErrorInfo."""

    reason: str = "INTERNAL"


class BadRequest(GatewayError):
    """The request is wrong at `field` (a path such as `items[3].price`)."""

    reason = "BAD_REQUEST"

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


class Overloaded(GatewayError):
    """We are full; try again after a pause."""

    reason = "OVERLOADED"


class Unavailable(GatewayError):
    """A backend or a store is away, or the gateway drains; try again, elsewhere if possible."""

    reason = "UNAVAILABLE"


class DeadlineExpired(GatewayError):
    """The caller's deadline, or the default one, passed before the answer was there."""

    reason = "DEADLINE_EXPIRED"


class ContractMismatch(GatewayError):
    """The model refused our tensors."""

    reason = "CONTRACT_MISMATCH"


class StartupError(Exception):
    """The gateway cannot start. The message is one sentence that says what to do."""
