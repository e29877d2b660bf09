"""The command as a whole: help, wrong usage, what is missing, and sentences in place of traces."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from typer.core import TyperGroup
from typer.main import get_command
from typer.testing import CliRunner, Result

from shopcast_cli.app import app
from shopcast_cli.entry import main

HEADER = "platform,platform_user_id,time,kind,item_id\n"
ROW = "web,u-1,2026-03-01T12:00:00Z,view,i-1\n"


def commands(command: Any = None, *path: str) -> list[tuple[str, ...]]:
    command = command or get_command(app)
    if not isinstance(command, TyperGroup):
        return [path]
    below = [
        found for name, sub in command.commands.items() for found in commands(sub, *path, name)
    ]
    return [path, *below]


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})


@pytest.mark.parametrize("path", commands(), ids=" ".join)
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_every_command_explains_itself(path: tuple[str, ...], flag: str) -> None:
    done = run(*path, flag)
    assert done.exit_code == 0
    assert done.stderr == ""
    command: Any = get_command(app)
    for name in path:
        command = command.commands[name]
    text = " ".join(done.stdout.replace("│", " ").split())
    for parameter in command.params:
        if path or parameter.name not in ("install_completion", "show_completion"):
            assert max(parameter.opts, key=len) in text
            assert parameter.help
    for sub in getattr(command, "commands", ()):
        assert sub in text


@pytest.mark.parametrize(
    "place",
    [
        "redis+sentinel://:secret@10.0.0.1:26379/0",
        "postgres://localhost/shop",
        "redis:10.0.0.1",
        "Rediss:/10.0.0.1",
        "redis://127.0.0.1:1/notadb",
    ],
)
@pytest.mark.parametrize(
    "command",
    [
        ("serve",),
        ("doctor",),
        *(("directory", name) for name in ("stats", "rotate-key")),
        ("directory", "compact", "--max-events", "1"),
        ("directory", "export", "--output", "people.jsonl"),
    ],
    ids=" ".join,
)
def test_a_place_that_is_no_url_of_redis_is_not_taken_for_a_file(
    command: tuple[str, ...], place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SHOPCAST_DIRECTORY_KEY", "00" * 32)
    if command[-1] == "rotate-key":
        monkeypatch.delenv("SHOPCAST_DIRECTORY_KEY")
        command = (*command, "--directory-key", "ring.key")
        Path("ring.key").write_bytes(bytes(32))
        Path("ring.key").chmod(0o600)
    done = run(*command, "--directory", place)
    assert done.exit_code == 1
    text = " ".join(done.output.split())
    assert f"The {place.split(':')[0]}: URL of the directory is none that can be used" in text
    assert "write redis://HOST:PORT/0" in text
    assert "secret" not in text
    assert {one.name for one in tmp_path.iterdir()} <= {"ring.key"}


def test_it_says_which_version_it_is() -> None:
    done = run("--version")
    assert (done.exit_code, done.stdout) == (0, f"shopcast {version('shopcast')}\n")


def test_the_help_of_a_leaf_command_shows_how_to_call_it() -> None:
    for path in commands():
        command: Any = get_command(app)
        for name in path:
            command = command.commands[name]
        if not isinstance(command, TyperGroup) and path not in (("demo",), ("triton", "install")):
            assert f"Example: platform {' '.join(path)}" in run(*path, "--help").stdout


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("directory",),
        ("nonsense",),
        ("serve", "--port", "70000"),
        ("serve", "--port", "http"),
        ("serve", "--log-level", "loud"),
        ("serve", "--triton-url", "triton:8001", "--hedge-after", "20"),
        ("simulate", "--people", "3"),
        ("simulate", "--start", "monday"),
        ("simulate", "--format", "xml"),
        ("build-model",),
        ("build-model", "--events", "x", "--max-bad-share", "-1"),
        ("build-model", "--events", "x", "--max-bad-share", "2"),
        ("directory", "import"),
        ("directory", "import", "--events", "x", "--max-bad-share", "-1"),
    ],
    ids=" ".join,
)
def test_wrong_usage_ends_with_2(arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert done.exit_code == 2
    assert "Traceback" not in done.output


def failed(done: Result) -> str:
    """The one sentence of a command that failed."""
    assert done.exit_code == 1, done.output
    assert done.stdout == ""
    (sentence,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.stderr.splitlines()[-1] == sentence
    return sentence


def test_serving_without_a_model_names_the_command_that_makes_one(tmp_path: Path) -> None:
    store = tmp_path / "store.db"
    done = run("serve", "--repository", str(tmp_path), "--directory", str(store))
    assert "publish one with `platform build-model" in failed(done)
    assert not store.exists()


SERVE = """
import sys
from shopcast_cli.app import app
from shopcast_gateway import runtime

async def run(settings, ready):
    ready(runtime.Serving("127.0.0.1:50051", 1, "nowhere", None))
    print("it goes on", file=sys.stderr)

runtime.run = run
app(["serve"])
"""


@pytest.mark.parametrize("output", ["> /dev/full", "| true", ">&-"])
def test_a_gateway_serves_whether_its_stdout_is_read_or_not(output: str) -> None:
    command = f'set -o pipefail; "{sys.executable}" -c "$SERVE" {output}'
    done = subprocess.run(
        ["bash", "-c", command],
        env=os.environ | {"SERVE": SERVE},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "it goes on\n")


CANNOT_SERVE = """
from shopcast_cli.app import app
from shopcast_cli.commands import serve
from shopcast_gateway import runtime
from shopcast_gateway.errors import StartupError

async def run(settings, ready):
    raise StartupError("Triton keeps ending: see its log")

runtime.run = run
serve._SAYING_S = 1.0
app(["serve"])
"""


def test_a_gateway_that_cannot_serve_ends_even_if_nobody_reads_why() -> None:
    unread, stderr = os.pipe()
    try:
        os.set_blocking(stderr, False)
        with contextlib.suppress(BlockingIOError):
            while os.write(stderr, b" " * 4096):
                pass
        os.set_blocking(stderr, True)
        command = [sys.executable, "-c", CANNOT_SERVE]
        assert subprocess.run(command, stderr=stderr, timeout=60, check=False).returncode == 1
    finally:
        os.close(unread)
        os.close(stderr)


def test_a_simulation_tells_its_numbers_as_json_too(tmp_path: Path) -> None:
    size = ("--people", "20", "--items-per-platform", "50", "--days", "20", "--platforms", "2")
    done = run("simulate", "--out", str(tmp_path / "market"), *size, "--json")
    summary = json.loads(done.stdout)
    assert summary["people"] == 20
    assert sum(summary["events_by_kind"].values()) == sum(summary["events_by_platform"].values())
    told = run("simulate", "--out", str(tmp_path / "market"), *size)
    assert told.exit_code == 0
    assert f"next: `platform build-model --events {tmp_path / 'market'}" in told.stdout.replace(
        "\n", ""
    )


def test_a_simulation_ends_in_the_past(tmp_path: Path) -> None:
    yesterday = (datetime.now(UTC) - timedelta(days=1)).strftime("%Y-%m-%d")
    size = ("--people", "10", "--items-per-platform", "50", "--out", str(tmp_path / "market"))
    done = run("simulate", *size, "--start", yesterday, "--days", "2")
    assert done.exit_code == 2
    said = " ".join(done.stderr.replace("│", " ").split())
    assert "earlier --start or fewer --days" in said
    assert run("simulate", *size, "--start", "9999-06-01", "--days", "3650").exit_code == 2
    assert run("simulate", *size, "--start", "1999-12-31").exit_code == 2
    assert not (tmp_path / "market").exists()
    assert run("simulate", *size, "--start", yesterday, "--days", "1").exit_code == 0


def test_a_simulation_does_not_overwrite_what_is_no_simulation(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    assert "name a new or an empty folder" in failed(run("simulate", "--out", str(tmp_path)))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_an_import_tells_what_it_did_and_repeats_change_nothing(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    rows = [f"{event_id},{ROW}" for event_id in ("e-1", "e-1", "e-2")]
    log.write_text("event_id," + HEADER + "".join(rows))
    call = ("directory", "import", "--events", str(log), "--directory", str(tmp_path / "a.db"))
    first, second = (json.loads(run(*call, "--json").stdout) for _ in range(2))
    assert (first["recorded"], first["duplicates"], first["people"]) == (2, 0, 1)
    assert first["cleaning"]["duplicates"] == 1
    assert (second["recorded"], second["duplicates"]) == (0, 2)
    told = run(*call)
    assert told.exit_code == 0
    assert "0 events recorded, 2 were there before" in told.stdout


def no_time(folder: Path) -> tuple[str, ...]:
    (folder / "log.csv").write_text("platform,platform_user_id,kind,item_id\nweb,u,view,i\n")
    return ()


def no_rows(folder: Path) -> tuple[str, ...]:
    (folder / "log.csv").write_text(HEADER)
    return ()


def bad_mapping(folder: Path) -> tuple[str, ...]:
    (folder / "log.csv").write_text(HEADER + ROW)
    (folder / "mapping.toml").write_text("[tme]\ncolumn = 'at'\n")
    return ("--mapping", str(folder / "mapping.toml"))


def bad_links(folder: Path) -> tuple[str, ...]:
    (folder / "log.csv").write_text(HEADER + ROW)
    (folder / "links.csv").write_text("who,knows\n1,2\n")
    return ("--links", str(folder / "links.csv"))


def missing_links(folder: Path) -> tuple[str, ...]:
    (folder / "log.csv").write_text(HEADER + ROW)
    return ("--links", str(folder / "nowhere.csv"))


def not_a_store(folder: Path) -> tuple[str, ...]:
    (folder / "log.csv").write_text(HEADER + ROW)
    (folder / "store.db").write_text("a shopping list\n" * 100)
    return ()


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        (lambda _: (), "There is no file"),
        (no_time, "has no column time"),
        (no_rows, "has no rows"),
        (bad_mapping, "no such key"),
        (bad_links, "has no column"),
        (missing_links, "There is no file"),
        (not_a_store, "is damaged or no directory file"),
    ],
)
def test_an_import_that_cannot_be_done_says_why_and_changes_nothing(
    tmp_path: Path, prepare: Callable[[Path], tuple[str, ...]], words: str
) -> None:
    more = prepare(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    log, store = str(tmp_path / "log.csv"), tmp_path / "store.db"
    done = run("directory", "import", "--events", log, "--directory", str(store), *more, "--json")
    assert words in failed(done)
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert after == before | {name: after[name] for name in after if name == "store.db.key"}


EXTRAS = [
    ("typer", ("predict", "--help"), "cli"),
    ("rich", ("predict", "--help"), "cli"),
    ("polars", ("directory", "import", "--events", "x"), "build"),
    ("torch", ("build-model", "--events", __file__), "build"),
    ("tritonclient", ("serve",), "gateway"),
    ("grpc_health", ("serve",), "gateway"),
    ("tokenizers", ("serve",), "gateway"),
]


def without(package: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run the console script where a package is not installed."""
    blocked = f"import sys; sys.modules[{package!r}] = None; sys.argv[0] = 'platform'; "
    script = blocked + "from shopcast_cli.entry import main; main()"
    return subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False
    )


def test_onnx_runtime_tells_its_makers_nothing(tmp_path: Path) -> None:
    """It makes an id of the machine, to be sent along, where it may."""
    script = (
        "import contextlib, sys; from shopcast_cli.entry import main\n"
        "sys.argv[1:] = ['--version']\n"
        "with contextlib.suppress(SystemExit): main()\n"
        "import onnxruntime"
    )
    free = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    for home in ("HOME", "XDG_CACHE_HOME"):
        free[home] = str(tmp_path)
    subprocess.run([sys.executable, "-c", script], env=free, capture_output=True, check=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("package", "arguments", "extra"), EXTRAS)
def test_a_missing_extra_is_named_with_the_command_that_installs_it(
    package: str, arguments: tuple[str, ...], extra: str
) -> None:
    done = without(package, *arguments)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == (
        f"this command needs {package}: install it with `pip install 'shopcast[{extra}]'`\n"
    )


@pytest.mark.parametrize("command", ["build-model", "evaluate"])
@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (("--events", "nowhere"), "There is no file nowhere"),
        (("--events", __file__, "--links", "nowhere"), "There is no file nowhere"),
        (("--events", __file__, "--mapping", "nowhere"), "The mapping nowhere cannot be read"),
        (("--events", __file__, "--set", "head.epochs=0"), "The setting head.epochs is wrong"),
    ],
)
def test_what_is_wrong_with_a_call_is_said_before_torch_is_imported(
    command: str, wrong: tuple[str, ...], said: str
) -> None:
    done = without("torch", command, *wrong)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {said}")


def test_a_missing_module_that_no_extra_brings_is_a_mistake_of_ours() -> None:
    call = ("predict", "--platform", "web", "--user", "u", "--item", "i")
    done = without("shopcast_client", *call)
    assert done.returncode == 1
    assert "ModuleNotFoundError" in done.stderr
    assert "pip install" not in done.stderr


def test_the_package_runs_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "shopcast_cli", "--help"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    assert "build-model" in done.stdout


@pytest.mark.parametrize("words", [("undo", str(2**63)), ("changes", "--after", str(2**63))])
def test_a_number_no_change_has_is_wrong_usage(words: tuple[str, ...]) -> None:
    assert run("people", *words, "--target", "127.0.0.1:1").exit_code == 2


def test_an_early_interrupt_leaves_no_trace(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("shopcast_cli.app.app", interrupted)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130
    assert capsys.readouterr().err == ""


def test_the_first_process_of_a_container_is_ended_by_sigterm_before_it_has_begun(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def told_to_stop() -> None:
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr("os.getpid", lambda: 1)
    monkeypatch.setattr("shopcast_cli.app.app", told_to_stop)
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as the kernel does there
    try:
        with pytest.raises(SystemExit) as ended:
            main()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert ended.value.code == 143
