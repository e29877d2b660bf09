"""Bad files, requests and surroundings: each is one clear sentence, and nothing is half done."""

import json
import math
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import polars as pl
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from typer.testing import CliRunner

from shopcast.v1 import (
    event_service_pb2,
    event_service_pb2_grpc,
    identity_service_pb2,
    identity_service_pb2_grpc,
    prediction_service_pb2,
    prediction_service_pb2_grpc,
    types_pb2,
)
from shopcast_cli.app import app
from shopcast_client import Item, ShopcastClient

if TYPE_CHECKING:
    from tests.conftest import Built, Gateway

Serve = Callable[..., "Gateway"]
Listing = Callable[[Path], Any]
HEADER = "platform,platform_user_id,time,kind,item_id,title\n"


def log(folder: Path, *, time: str = "", kind: str = "view", rows: int = 60) -> Path:
    """A log of views, one an hour, every one of an account of its own."""
    path = folder / "log.csv"
    lines = [
        f"web,anna-{n},{time or f'2026-03-{1 + n // 24:02}T{n % 24:02}:00:00Z'},{kind},i-{n},Shoe"
        for n in range(rows)
    ]
    path.write_text(HEADER + "\n".join(lines) + "\n")
    return path


def market(built: "Built") -> pl.DataFrame:
    return pl.read_csv(built.events / "*.csv", infer_schema=False)


def missing_columns(folder: Path, _: "Built") -> tuple[object, ...]:
    path = log(folder)
    path.write_text(path.read_text().replace("time,kind", "when,what", 1))
    return ("--events", path)


def unreadable_times(folder: Path, _: "Built") -> tuple[object, ...]:
    return ("--events", log(folder, time="last tuesday"))


def unknown_kind(folder: Path, _: "Built") -> tuple[object, ...]:
    return ("--events", log(folder, kind="wishlist"))


def empty_file(folder: Path, _: "Built") -> tuple[object, ...]:
    (folder / "log.csv").touch()
    return ("--events", folder / "log.csv")


def other_type(folder: Path, _: "Built") -> tuple[object, ...]:
    (folder / "log.docx").write_bytes(b"PK\x03\x04" + os.urandom(500))
    return ("--events", folder / "log.docx")


def other_type_in_disguise(folder: Path, _: "Built") -> tuple[object, ...]:
    (folder / "log.csv").write_bytes(b"PK\x03\x04" + os.urandom(500))
    return ("--events", folder / "log.csv")


def no_such_log(folder: Path, _: "Built") -> tuple[object, ...]:
    return ("--events", folder / "nowhere.csv")


def no_such_base_model(folder: Path, built: "Built") -> tuple[object, ...]:
    return ("--events", built.events, "--base-model", folder / "bert")


def no_model_in_the_folder(folder: Path, built: "Built") -> tuple[object, ...]:
    (folder / "bert").mkdir()
    return ("--events", built.events, "--base-model", folder / "bert")


def too_short(folder: Path, _: "Built") -> tuple[object, ...]:
    return ("--events", log(folder))


def too_few(folder: Path, built: "Built") -> tuple[object, ...]:
    market(built).sort("time").gather_every(60).write_csv(folder / "log.csv")
    return ("--events", folder / "log.csv")


def single_class(folder: Path, built: "Built") -> tuple[object, ...]:
    market(built).filter(pl.col("kind") == "view").write_csv(folder / "log.csv")
    return ("--events", folder / "log.csv")


def one_person(folder: Path, _: "Built") -> tuple[object, ...]:
    path = log(folder)
    path.write_text(re.sub(r"anna-\d+", "anna", path.read_text()))
    return ("--events", path)


def returns_in_another_zone(folder: Path, _: "Built") -> tuple[object, ...]:
    """Everything comes back at once, by a clock five hours behind."""
    path = log(folder, kind="buy", rows=200)
    header, *bought = path.read_text().splitlines()
    returned = [line.replace("buy", "return").replace("Z,", "+05:00,") for line in bought]
    path.write_text("\n".join([header, *bought, *returned]) + "\n")
    return ("--events", path)


def bad_links(folder: Path, built: "Built") -> tuple[object, ...]:
    (folder / "links.csv").write_text("who,knows\n1,2\n")
    return ("--events", built.events, "--links", folder / "links.csv")


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        (missing_columns, ["has no column", "kind, time", "--mapping"]),
        (unreadable_times, ["60 of 60 rows", "last tuesday", "--mapping"]),
        (unknown_kind, ["60 of 60 rows", "wishlist", "--mapping"]),
        (empty_file, ["is empty"]),
        (other_type, ["of a type that cannot be read", "CSV"]),
        (other_type_in_disguise, ["is not a text file"]),
        (no_such_log, ["There is no file"]),
        (no_such_base_model, ["there is no base model folder", "--base-model"]),
        (no_model_in_the_folder, ["could not be loaded", "--base-model"]),
        (too_short, ["the log spans 2 days", "longer log"]),
        (too_few, ["exposures fall into the", "give more events"]),
        (single_class, ["ended in 'view'", "more kinds"]),
        (one_person, ["only 1 account", "platform_user_id"]),
        (returns_in_another_zone, ["200 of 200 returns", "5 h later", "time zones"]),
        (bad_links, ["has no column"]),
    ],
)
def test_a_build_that_cannot_be_done_says_why_and_publishes_nothing(
    built: "Built",
    repository: Path,
    listing: Listing,
    tmp_path: Path,
    prepare: "Callable[[Path, Built], tuple[object, ...]]",
    words: list[str],
) -> None:
    before = listing(repository)
    arguments = ("build-model", *prepare(tmp_path, built), "--repository", repository, "--json")
    done = CliRunner().invoke(app, [str(one) for one in arguments])
    assert done.exit_code == 1, done.output
    assert done.stdout == ""
    sentence = done.stderr.splitlines()[-1]
    assert sentence.startswith("error: ")
    assert not [word for word in words if word not in sentence], sentence
    assert "anna" not in done.stderr
    assert "Traceback" not in done.stderr
    assert listing(repository) == before


def test_duplicate_events_are_kept_once_and_counted(built: "Built", tmp_path: Path) -> None:
    events = market(built)
    pl.concat([events, events.sample(fraction=1.0, shuffle=True, seed=1)]).write_csv(
        tmp_path / "twice.csv"
    )
    call = ["directory", "import", "--events", str(tmp_path / "twice.csv")]
    done = CliRunner().invoke(app, [*call, "--directory", str(tmp_path / "a.db"), "--json"])
    assert done.exit_code == 0
    report = json.loads(done.stdout)
    assert report["recorded"] == report["cleaning"]["kept"] == events.height
    assert report["cleaning"]["duplicates"] == events.height


def test_a_build_killed_while_publishing_leaves_the_old_version_in_service(
    built: "Built",
    repository: Path,
    store: Path,
    listing: Listing,
    serve: Serve,
    wait_until: Callable[..., Any],
    tmp_path: Path,
) -> None:
    before = listing(repository)
    command = [sys.executable, "-m", "shopcast_cli", "build-model", "--events", str(built.events)]
    quick = ["--encoder-steps", "0", "--head-epochs", "1", "--repository", str(repository)]
    quick += ["--run-folder", str(tmp_path / "run")]
    quiet = os.environ | {"TMPDIR": str(tmp_path)}
    staged = repository / ".staging" / "encoder" / "model.onnx"
    with (tmp_path / "build.log").open("w") as output:
        build = subprocess.Popen([*command, *quick], env=quiet, stdout=output, stderr=output)

    def publishing() -> bool:
        assert build.poll() is None, (tmp_path / "build.log").read_text()
        return staged.is_file()

    try:
        wait_until(publishing, "the build publishes")
    finally:
        build.kill()
    assert build.wait() == -signal.SIGKILL
    after = listing(repository)
    published = [name for name in before if "/" in name]
    assert {name: after.get(name) for name in published} == {n: before[n] for n in published}
    assert (repository / ".staging").exists(), "it was killed in the middle"
    gateway = serve(repository, store).wait_ready()
    assert predict(gateway, title("Trail shoe")).evidence.model_version == "1"
    assert gateway.stop() == 0


def test_a_flipped_byte_is_noticed_and_the_version_before_serves(
    repository: Path, store: Path, serve: Serve
) -> None:
    for model in ("encoder", "behavior"):
        shutil.copytree(repository / model / "1", repository / model / "2")
    path = repository / "behavior" / "2" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["encoder_version"] = manifest["behavior_version"] = 2
    manifest["files"] = {
        name.replace("/1/", "/2/"): digest for name, digest in manifest["files"].items()
    }
    for model in ("encoder", "behavior"):
        replace(repository / model / "2" / "manifest.json", json.dumps(manifest).encode())
    graph = repository / "behavior" / "2" / "model.onnx"
    content = bytearray(graph.read_bytes())
    content[len(content) // 2] ^= 1
    replace(graph, bytes(content))
    replace(repository / "serving.json", b'{"versions": [1, 2]}')
    gateway = serve(repository, store).wait_ready()
    assert predict(gateway, title("Trail shoe")).evidence.model_version == "1"
    refused = "version 2 is refused: behavior/2/model.onnx is not the file that was published"
    assert gateway.logged(refused)
    assert gateway.stop() == 0


def replace(path: Path, content: bytes) -> None:
    """Write a new file in place of a link."""
    path.unlink()
    path.write_bytes(content)


def title(text: str) -> types_pb2.Item:
    return types_pb2.Item(item_id="i-1", title=text)


ANNA = types_pb2.Account(platform="web", platform_user_id="anna@example.com")


def request(*items: types_pb2.Item, account: types_pb2.Account = ANNA) -> Any:
    return prediction_service_pb2.PredictRequest(account=account, items=items)


def predict(gateway: "Gateway", *items: types_pb2.Item) -> Any:
    with grpc.insecure_channel(gateway.address) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        return stub.Predict(request(*items), timeout=60.0)


def one_event(**changes: Any) -> Any:
    fields: dict[str, Any] = {
        "event_id": "e-1",
        "account": types_pb2.Account(platform="web", platform_user_id="bella@example.com"),
        "kind": types_pb2.EVENT_KIND_VIEW,
        "time": Timestamp(seconds=1_790_000_000),
        "item": types_pb2.Item(item_id="i-1"),
    }
    return event_service_pb2.RecordEventsRequest(
        events=[
            event_service_pb2.Event(**(fields | {"event_id": "good"})),
            event_service_pb2.Event(**(fields | changes)),
        ]
    )


ITEM = types_pb2.Item(item_id="i-1")
REFUSED = [
    (
        request(ITEM, account=types_pb2.Account(platform_user_id="anna@example.com")),
        "account.platform",
    ),
    (request(ITEM, account=types_pb2.Account(platform="web")), "account.platform_user_id"),
    (prediction_service_pb2.PredictRequest(items=[ITEM]), "account"),
    (request(title("")), "items[0].title"),
    (request(title(" \t ")), "items[0].title"),
    (request(title("x" * 100_000)), "items[0].title"),
    (request(), "items"),
    (request(*(types_pb2.Item(item_id=str(n)) for n in range(100_000))), "items"),
    (request(ITEM, ITEM), "items[1].item_id"),
    (request(types_pb2.Item(item_id="i-1", price=-1.0)), "items[0].price"),
    (request(types_pb2.Item(item_id="i-1", price=math.nan)), "items[0].price"),
    (event_service_pb2.RecordEventsRequest(), "events"),
    (identity_service_pb2.LinkAccountsRequest(account=ANNA, other=ANNA, kind=1), "other"),
    (identity_service_pb2.LinkAccountsRequest(account=ANNA, kind=1), "other"),
]
METHODS: dict[type, tuple[Any, str]] = {
    prediction_service_pb2.PredictRequest: (
        prediction_service_pb2_grpc.PredictionServiceStub,
        "Predict",
    ),
    event_service_pb2.RecordEventsRequest: (
        event_service_pb2_grpc.EventServiceStub,
        "RecordEvents",
    ),
    identity_service_pb2.LinkAccountsRequest: (
        identity_service_pb2_grpc.IdentityServiceStub,
        "LinkAccounts",
    ),
}


@pytest.mark.parametrize(
    ("message", "field"),
    REFUSED,
    ids=[f"{type(m).__name__}-{n}-{field}" for n, (m, field) in enumerate(REFUSED)],
)
def test_a_bad_request_names_its_field(gateway: "Gateway", message: Any, field: str) -> None:
    stub, method = METHODS[type(message)]
    with grpc.insecure_channel(gateway.address) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            getattr(stub(channel), method)(message, timeout=60.0)
        known = identity_service_pb2_grpc.IdentityServiceStub(channel).ResolvePerson(
            identity_service_pb2.ResolvePersonRequest(account=ANNA), timeout=60.0
        )
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    check_details(caught.value, field)
    assert not known.known, "nothing of it was kept"


BAD_EVENTS = [
    (one_event(time=Timestamp(seconds=4_000_000_000)), "events[1].time"),
    (one_event(time=Timestamp(seconds=0)), "events[1].time"),
    (one_event(time=None), "events[1].time"),
    (one_event(kind=99), "events[1].kind"),
    (one_event(item=None), "events[1].item"),
    (one_event(quantity=0), "events[1].quantity"),
]


@pytest.mark.parametrize(
    ("message", "field"),
    BAD_EVENTS,
    ids=[f"{n}-{field}" for n, (_, field) in enumerate(BAD_EVENTS)],
)
def test_a_bad_event_names_its_field_and_keeps_no_other_out(
    gateway: "Gateway", message: Any, field: str
) -> None:
    with grpc.insecure_channel(gateway.address) as channel:
        stub = event_service_pb2_grpc.EventServiceStub(channel)
        answer = stub.RecordEvents(message, timeout=60.0)
    good, bad = answer.results
    assert good.status in (
        event_service_pb2.EVENT_STATUS_RECORDED,
        event_service_pb2.EVENT_STATUS_DUPLICATE,
    )
    assert (bad.status, bad.field) == (event_service_pb2.EVENT_STATUS_INVALID, field)
    assert bad.problem
    assert "bella" not in bad.problem
    assert answer.invalid == 1


def test_bytes_that_are_no_message_are_a_bad_request(gateway: "Gateway") -> None:
    with grpc.insecure_channel(gateway.address) as channel:
        call = channel.unary_unary("/shopcast.v1.PredictionService/Predict")
        with pytest.raises(grpc.RpcError) as caught:
            call(b"\xff\xff garbage", timeout=60.0)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    check_details(caught.value, "request")


def check_details(error: Any, field: str) -> None:
    said = error.details()
    assert said.startswith(f"{field}: ")
    assert "\n" not in said
    assert len(said) < 300
    assert "anna" not in said
    status = rpc_status.from_call(error)
    info, id_of, bad = (
        error_details_pb2.ErrorInfo(),
        error_details_pb2.RequestInfo(),
        error_details_pb2.BadRequest(),
    )
    for packed, detail in zip(status.details, (info, id_of, bad), strict=True):
        assert packed.Unpack(detail)
    assert (info.reason, info.domain) == ("BAD_REQUEST", "shopcast")
    assert id_of.request_id
    assert bad.field_violations[0].field == field


@pytest.mark.parametrize(
    "text",
    [
        "[SEP]",
        "[CLS] trail shoe [SEP] [MASK] [PAD]",
        "x" * 1_000,
        "鞋 " * 400,
        "👟👩‍👩‍👧‍👦 \u202eeohs liart\u202c",
        "\x00\x01\x7f tab\tand\nline",
        "' OR 1=1; DROP TABLE events; --",
        "{{7*7}} ${HOME} %s %n",
    ],
)
async def test_an_odd_title_is_answered(gateway: "Gateway", text: str) -> None:
    items = [Item("odd", title=text), Item("plain", title="Trail shoe")]
    async with ShopcastClient(gateway.address, timeout_s=60.0) as client:
        answer = await client.predict(platform="web", user_id=uuid.uuid4().hex, items=items)
    for one in answer.predictions:
        total = one.view_probability + one.buy_probability + one.return_probability
        assert total == pytest.approx(1.0, abs=1e-6)
    assert answer.predictions[1].text_known


def taken_port(_: Path, port: int) -> tuple[object, ...]:
    return ("--port", port)


def no_triton(folder: Path, _: int) -> tuple[object, ...]:
    (folder / "empty").mkdir()
    return ("--triton-home", folder / "empty")


def no_sqlite(folder: Path, _: int) -> tuple[object, ...]:
    (folder / "list.db").write_text("a shopping list\n" * 500)
    return ("--directory", folder / "list.db")


def nobody_at_triton_url(_: Path, __: int) -> tuple[object, ...]:
    return ("--triton-url", "127.0.0.1:1")


def no_repository(folder: Path, _: int) -> tuple[object, ...]:
    return ("--repository", folder / "nowhere")


def not_our_address(_: Path, __: int) -> tuple[object, ...]:
    return ("--host", "192.0.2.1", "--allow-insecure")


def public_address(_: Path, __: int) -> tuple[object, ...]:
    return ("--host", "0.0.0.0")  # noqa: S104


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        (taken_port, ["is already in use", "--port"]),
        (no_triton, ["Triton's environment is missing", "`platform triton install`"]),
        (no_sqlite, ["is damaged or no directory file"]),
        (nobody_at_triton_url, ["No Triton server answers at 127.0.0.1:1"]),
        (no_repository, ["is not there, no model repository", "`platform build-model`"]),
        (not_our_address, ["is not an address of this machine", "--host"]),
        (public_address, ["other machines may reach 0.0.0.0", "--tls-cert", "--client-ca"]),
    ],
)
def test_a_gateway_that_cannot_start_says_why(
    repository: Path,
    store: Path,
    platform: Callable[..., Any],
    listing: Listing,
    tmp_path: Path,
    prepare: Callable[[Path, int], tuple[object, ...]],
    words: list[str],
) -> None:
    before = listing(repository)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        more = prepare(tmp_path, taken.getsockname()[1])
        usual = ("--repository", repository, "--directory", store, "--port", 0)
        done = platform("serve", *usual, *more, SHOPCAST_TRITON_HOME=str(tmp_path / "unused"))
    assert done.returncode == 1, done.stderr
    assert done.stdout == ""
    sentence = done.stderr.splitlines()[-1]
    assert sentence.startswith("error: ")
    assert not [word for word in words if word not in sentence], sentence
    assert "Traceback" not in done.stderr
    assert listing(repository) == before


def test_the_environment_names_where_triton_should_be(
    repository: Path, store: Path, platform: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    usual = ("--repository", repository, "--directory", store, "--port", 0)
    done = platform("serve", *usual, SHOPCAST_TRITON_HOME=str(tmp_path / "empty"))
    assert done.returncode == 1
    assert f"Triton's environment is missing at {tmp_path / 'empty'}" in done.stderr
