"""Calls about what people have a say in."""

from collections.abc import Mapping
from typing import Any

from google.protobuf import json_format

from shopcast.v1 import privacy_service_pb2
from shopcast_client.building import built
from shopcast_client.calls import Caller
from shopcast_client.messages import account_message, consents, purpose_value, receipt
from shopcast_client.types import Account, Purpose, Receipt


class PrivacyCalls(Caller):
    """Consent, a copy of everything, and being forgotten."""

    async def set_consent(
        self, account: Account, purposes: Mapping[Purpose, bool], *, all_platforms: bool = False
    ) -> dict[str, dict[Purpose, bool]]:
        """Allow or refuse what an account's events, or all of the person's, may be used for.

        Returns what holds, by platform. Raises a ShopcastError.
        """
        request = privacy_service_pb2.SetConsentRequest(
            account=account_message(account),
            consents=[
                built(
                    privacy_service_pb2.Consent,
                    f"consents[{n}].",
                    purpose=purpose_value(purpose, f"consents[{n}].purpose"),
                    allowed=allowed,
                )
                for n, (purpose, allowed) in enumerate(purposes.items())
            ],
            all_platforms=all_platforms,
        )
        response = await self._call(self._connection.privacy.SetConsent, request)
        return consents(response.platforms)

    async def consents(self, account: Account) -> dict[str, dict[Purpose, bool]]:
        """What is allowed, by platform; empty for an account never seen. Raises a ShopcastError."""
        request = privacy_service_pb2.GetConsentRequest(account=account_message(account))
        return consents((await self._call(self._connection.privacy.GetConsent, request)).platforms)

    async def export_person(self, account: Account) -> dict[str, Any] | None:
        """Everything kept about the person behind an account, None where it was never seen.

        Raises a ShopcastError.
        """
        request = privacy_service_pb2.ExportPersonRequest(account=account_message(account))
        response = await self._call(self._connection.privacy.ExportPerson, request)
        return json_format.MessageToDict(response.data) if response.known else None

    async def erase_person(self, account: Account) -> Receipt | None:
        """Remove the person behind an account; None where it was never seen, or was erased before.

        It is sent once: where it raises Unavailable or DeadlineExceeded it may have been done, and
        `export_person` tells. Raises a ShopcastError.
        """
        request = privacy_service_pb2.ErasePersonRequest(account=account_message(account))
        return receipt(await self._call(self._connection.privacy.ErasePerson, request))
