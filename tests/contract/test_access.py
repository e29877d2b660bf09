"""Every method is somebody's, and the page of it says whose."""

import re
from pathlib import Path

from shopcast.v1 import (
    event_service_pb2,
    identity_service_pb2,
    model_admin_service_pb2,
    prediction_service_pb2,
    privacy_service_pb2,
)
from shopcast_gateway.transport.access_file import Role, read_access
from shopcast_gateway.transport.admin_server import ADMIN_METHODS, ADMIN_SERVICES
from shopcast_gateway.transport.audit import ADMINISTRATIVE
from shopcast_gateway.transport.authorisation import METHODS
from shopcast_gateway.transport.server import SERVICES

ROOT = Path(__file__).parents[2]
SERVED = {
    f"/{service.full_name}/{method.name}"
    for module in (
        prediction_service_pb2,
        event_service_pb2,
        identity_service_pb2,
        model_admin_service_pb2,
        privacy_service_pb2,
    )
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}


def test_every_method_of_every_service_asks_for_a_role() -> None:
    assert set(METHODS) == SERVED
    assert {method.split("/")[1] for method in METHODS} == {*SERVICES, *ADMIN_SERVICES}
    assert not set(SERVICES) & set(ADMIN_SERVICES), "nothing is served on both ports"
    protos = "".join(path.read_text() for path in (ROOT / "protos/shopcast/v1").glob("*.proto"))
    assert len(METHODS) == len(re.findall(r"^\s*rpc ", protos, re.MULTILINE))


def test_every_role_has_methods() -> None:
    assert set(METHODS.values()) == set(Role) - {Role.ADMIN}


def test_what_changes_or_tells_of_people_is_audited() -> None:
    names = {method.rpartition("/")[2] for method in ADMINISTRATIVE}
    assert names >= {
        "LinkAccounts",
        "MergePeople",
        "UnlinkAccounts",
        "SplitAccount",
        "UndoChange",
        "SetConsent",
        "ExportPerson",
        "ErasePerson",
        *(method.rpartition("/")[2] for method in ADMIN_METHODS),
    }


def test_the_page_of_roles_is_current() -> None:
    page = (ROOT / "docs" / "access.md").read_text()
    rows = dict(re.findall(r"^\| `([a-z]+)` \| (.*) \|$", page, re.MULTILINE))
    assert set(rows) == set(Role)
    for role in set(Role) - {Role.ADMIN}:
        names = {method.rpartition("/")[2] for method, one in METHODS.items() if one is role}
        assert set(re.findall(r"`(\w+)`", rows[role])) == names


def test_the_example_is_read_and_is_the_one_on_the_page() -> None:
    text = (ROOT / "examples" / "access.toml").read_text()
    found = read_access(text.encode())
    assert found.tokens
    assert found.quotas
    assert {role for one in found.caller for role in one.roles} == set(Role) - {Role.ADMIN}
    (shown,) = re.findall(
        r"^```toml\n(.*?)^```", (ROOT / "docs" / "access.md").read_text(), re.MULTILINE | re.DOTALL
    )
    assert shown.strip() == text.partition("\n\n")[2].strip()
