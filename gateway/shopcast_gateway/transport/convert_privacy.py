"""Consent, export and erasure: protos to domain objects and back."""

from collections.abc import Sequence
from typing import Any

from google.protobuf import json_format

from shopcast.v1 import privacy_service_pb2
from shopcast_domain.events import Account
from shopcast_gateway.directory.types import Consents, PersonData, Purpose, Receipt
from shopcast_gateway.errors import BadRequest
from shopcast_gateway.transport.checks import PURPOSES, Checks
from shopcast_gateway.transport.convert_events import timestamp

_MOST_BYTES = 4_000_000  # clients take 4 MiB, with what is around it
_LEAST_BYTES = 100  # of an event
_PURPOSES = {purpose: value for value, purpose in PURPOSES.items()}


def consent_query(
    request: privacy_service_pb2.SetConsentRequest,
) -> tuple[Account, dict[Purpose, bool]]:
    """Raises BadRequest."""
    checks = Checks()
    account = checks.account(request.account, "account", given=request.HasField("account"))
    said: dict[Purpose, bool] = {}
    for i, one in enumerate(checks.batch(request.consents, "consents", most=len(Purpose))):
        purpose = checks.kind(PURPOSES, one.purpose, f"consents[{i}].purpose")
        if purpose in said:
            checks.fail(f"consents[{i}].purpose", "repeats an earlier one")
        said[purpose] = one.allowed
    checks.finish()
    return account, said


def platforms(consents: Consents) -> list[privacy_service_pb2.PlatformConsent]:
    """What is allowed, as the contract has it."""
    return [
        privacy_service_pb2.PlatformConsent(
            platform=platform,
            consents=[
                privacy_service_pb2.Consent(
                    purpose=_PURPOSES[purpose],  # type: ignore[arg-type]
                    allowed=allowed,
                )
                for purpose, allowed in said.items()
            ],
        )
        for platform, said in consents.items()
    ]


def export_response(data: PersonData | None) -> privacy_service_pb2.ExportPersonResponse:
    """Raises BadRequest when it is more than a message holds."""
    response = privacy_service_pb2.ExportPersonResponse(known=data is not None)
    if data is not None:
        events = len(data["events"]) + len(data["quarantined"])
        if events * _LEAST_BYTES < _MOST_BYTES:
            json_format.ParseDict(data, response.data)
        if events * _LEAST_BYTES >= _MOST_BYTES or response.ByteSize() > _MOST_BYTES:
            raise BadRequest(
                "account", "has more than 4 MB of data: use `platform directory export-person`"
            )
    return response


def erase_response(
    receipt: Receipt | None, model_versions: Sequence[str]
) -> privacy_service_pb2.ErasePersonResponse:
    """The receipt as the contract has it."""
    if receipt is None:
        return privacy_service_pb2.ErasePersonResponse()
    fields: dict[str, Any] = {
        name: getattr(receipt, name)
        for name in ("person_id", "platforms", "accounts", "events", "links", "journal_entries")
    }
    return privacy_service_pb2.ErasePersonResponse(
        known=True, time=timestamp(receipt.at_s), model_versions=model_versions, **fields
    )
