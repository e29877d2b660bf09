"""`platform people` against a gateway's server, with the embedded directory."""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from shopcast_cli.app import app
from shopcast_domain.events import Account, Event, EventKind, Item
from shopcast_gateway.core.protocol import Prediction, PredictQuery
from shopcast_gateway.directory.open import open_directory
from shopcast_gateway.directory.types import LinkKind
from shopcast_gateway.transport.server import build_server

ANNA = ("--platform", "web", "--user", "anna@example.com")
PHONE = ("--other-platform", "app", "--other-user", "anna-phone")


class NoPredictor:
    async def predict(self, query: PredictQuery, *, timeout_s: float) -> Prediction:
        raise NotImplementedError


@dataclass(frozen=True)
class Served:
    """A server in a thread of its own."""

    target: str
    stop: Callable[[], None]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """Anna has an account on the web and one in the app."""
    started, address = threading.Event(), []
    loop = asyncio.new_event_loop()
    stopping = asyncio.Event()

    async def serve() -> None:
        directory = await open_directory(tmp_path / "shop.db")
        web, phone = Account("web", ANNA[3]), Account("app", PHONE[3])
        now = time.time()
        shoe = Item("s1", "Trail shoe [/xl] [red]", price=89.0)
        await directory.record(
            [
                Event("1", web, EventKind.VIEW, now - 60, shoe),
                Event("2", phone, EventKind.BUY, now - 30, shoe, 2),
            ]
        )
        await directory.link(
            web, phone, kind=LinkKind.DEVICE, confidence=0.7, source="[/b] nightly"
        )
        server = build_server(NoPredictor(), directory, port=0)
        await server.start()
        address.append(f"127.0.0.1:{server.port}")
        started.set()
        await stopping.wait()
        await server.stop(0.5)
        await directory.close()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    assert started.wait(20)

    def stop() -> None:
        loop.call_soon_threadsafe(stopping.set)
        thread.join(20)

    yield Served(address[0], stop)
    stop()
    loop.close()


@pytest.fixture
def target(served: Served) -> str:
    return served.target


def run(target: str, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["people", *arguments, "--target", target])


def found(target: str, *arguments: str) -> Any:
    done = run(target, *arguments, "--json")
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


def test_a_person_is_shown_with_all_accounts(target: str) -> None:
    assert [one["platform"] for one in found(target, "show", *ANNA)["accounts"]] == ["app", "web"]
    shown = run(target, "show", *ANNA)
    assert shown.stdout.startswith("p_")
    assert "anna" not in shown.stdout
    unknown = run(target, "show", "--platform", "web", "--user", "nobody")
    assert (unknown.exit_code, unknown.stderr) == (1, "error: this account has never been seen\n")
    before = run(target, "show", *ANNA, "--as-of", "2020-01-01")
    assert "by then" in before.stderr


def test_a_history_is_a_table_or_json(target: str) -> None:
    newest, oldest = found(target, "history", *ANNA)
    assert (newest["kind"], newest["platform"], newest["confidence"]) == ("buy", "app", 0.7)
    assert (oldest["price"], oldest["title"]) == (89.0, "Trail shoe [/xl] [red]")
    shown = run(target, "history", *ANNA).stdout
    assert "Trail shoe [/xl] [red]" in shown
    assert "70%" in shown


def test_a_wrong_link_is_removed_and_the_removal_taken_back(target: str) -> None:
    gone = found(target, "unlink", *ANNA, *PHONE)
    assert gone["removed"] == 1
    assert gone["person_id"] != gone["other_person_id"]
    assert len(found(target, "show", *ANNA)["accounts"]) == 1
    undone = found(target, "undo", "2")
    assert (undone["kind"], undone["source"]) == ("linked", "[/b] nightly")
    assert len(found(target, "show", *ANNA)["accounts"]) == 2
    assert "by [/b] nightly" in run(target, "undo", "3").stdout
    found(target, "undo", "4")
    assert "1 link removed; the account is p_" in run(target, "split", *ANNA).stdout
    missing = run(target, "undo", "99")
    assert missing.exit_code == 1
    assert "no such change" in missing.stderr


def test_consent_is_told_and_changed(target: str) -> None:
    assert "web: allows everything" in run(target, "consent", *ANNA).stdout
    held = found(target, "consent", *ANNA, "--refuse", "marketing", "--all-platforms")
    assert held["app"]["marketing"] is held["web"]["marketing"] is False
    assert "web: refuses marketing" in run(target, "consent", *ANNA).stdout
    assert found(target, "consent", *ANNA, "--allow", "marketing")["web"]["marketing"]
    assert run(target, "consent", *ANNA, "--refuse", "fun").exit_code == 2
    both = run(target, "consent", *ANNA, "--refuse", "risk", "--allow", "risk")
    assert both.exit_code == 2
    unknown = run(target, "consent", "--platform", "web", "--user", "nobody", "--json")
    assert (unknown.exit_code, unknown.stdout) == (1, "")


def test_a_person_takes_a_copy_and_goes(target: str, tmp_path: Path) -> None:
    copy = tmp_path / "anna.json"
    assert "2 events of 2 accounts" in run(target, "export", *ANNA, "--output", str(copy)).stdout
    assert len(json.loads(copy.read_text())["events"]) == 2
    asked = CliRunner().invoke(
        app, ["people", "erase", *ANNA, "--target", target, "--json"], input="n\n"
    )
    assert asked.exit_code == 1
    assert "for good?" not in asked.stdout
    assert "for good?" in asked.stderr
    assert len(found(target, "show", *ANNA)["accounts"]) == 2
    receipt = found(target, "erase", *ANNA, "--yes")
    assert (receipt["accounts"], receipt["events"], receipt["links"]) == (2, 2, 1)
    again = run(target, "erase", *ANNA, "--yes")
    assert again.exit_code == 1
    assert "never been seen" in again.stderr


def test_watching_changes_fails_when_the_gateway_stops(served: Served) -> None:
    stopping = threading.Timer(1.0, served.stop)
    stopping.start()
    done = run(served.target, "changes")
    stopping.join(20)
    assert done.exit_code == 1
    assert done.stdout.startswith("1 ")
    assert done.stderr.endswith("stops: call another with --after 1\n")
