"""One line for each administrative call: who changed, read out or erased what is
kept of people, and who said which model serves."""

import logging

import grpc

from shopcast_gateway.transport.access_file import Role
from shopcast_gateway.transport.authorisation import METHODS

LOGGER = "shopcast_gateway.audit"
ADMINISTRATIVE = frozenset(
    method for method, role in METHODS.items() if role in (Role.IDENTITY, Role.PRIVACY, Role.MODELS)
)

_audit = logging.getLogger(LOGGER)


def audit(method: str, code: grpc.StatusCode, caller: str, request_id: str) -> None:
    """Tell of a call that has ended, refused ones included; nothing of whom it was about."""
    if method in ADMINISTRATIVE:
        _audit.info(
            "method=%s code=%s caller=%s request_id=%s", method, code.name, caller, request_id
        )
