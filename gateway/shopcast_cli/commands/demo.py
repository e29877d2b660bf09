"""`platform demo`: the whole chain, from logs to answers, on this machine."""

import asyncio
import contextlib
import hashlib
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from shopcast_cli.console import (
    ProgressReporter,
    fail,
    failures,
    out,
    styled,
)

_DAYS = 180
_SERVE_LIMIT_S = 120.0
_STOP_LIMIT_S = 40.0


def demo(
    folder: Annotated[
        Path, typer.Option(help="Where the demo keeps its market, model and directory.")
    ] = Path(".demo"),
    people: Annotated[int, typer.Option(help="People of the simulated market.")] = 2000,
) -> None:
    """Simulate a market, build a model from its logs, serve it on the real Triton, and ask it.

    Everything stays on this machine and under one folder. What a first run made and is still valid
    is used again: the market until the week is over, the model until market or code change.
    """
    from shopcast_cli.commands.directory import import_logs
    from shopcast_cli.commands.triton import install

    began = time.monotonic()
    market, repository = folder / "market", folder / "model_repository"
    store = folder / "directory.db"
    out.print(styled("Triton:", "bold"), "the model server, in an environment of its own")
    install(None)
    out.print(styled("Market:", "bold"), "the event logs of three platforms")
    _simulate(market, people)
    out.print(styled("Model:", "bold"), "BERT and the behaviour model learn from the logs")
    fingerprint = _fingerprint(market)
    if _stamp(folder) == fingerprint and any((repository / "behavior").glob("*/manifest.json")):
        out.print(f"  the model in {repository} is current")
    else:
        _forget(folder)
        _build(market, repository)
        import_logs(
            events=[market / "events"],
            links=market / "links.csv",
            mapping=None,
            file=str(store),
            max_bad_share=0.01,
            as_json=False,
        )
        (folder / "stamp").write_text(fingerprint, encoding="utf-8")
    out.print(styled("Story:", "bold"), "served on the real Triton, asked over gRPC")
    _tell(market, repository, store)
    _say_what_next(folder, market, repository, store, time.monotonic() - began)


def _simulate(market: Path, people: int) -> None:
    from shopcast_build.simulation.settings import MarketSettings
    from shopcast_build.simulation.writer import simulate

    today = datetime.now(UTC).date()
    # The log ends last Monday: histories are fresh, and a second run in the week finds it again.
    start = today - timedelta(days=today.weekday() + _DAYS)
    try:
        settings = MarketSettings(people=people, items_per_platform=400, days=_DAYS, start=start)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    wanted = repr(settings)
    mark = market.with_name("market.settings")
    if mark.is_file() and mark.read_text(encoding="utf-8") == wanted and market.is_dir():
        out.print(f"  the market in {market} is current")
        return
    with failures(OSError), ProgressReporter().stage("simulate") as progress:
        market.parent.mkdir(parents=True, exist_ok=True)
        summary = simulate(settings, market, progress)
        mark.write_text(wanted, encoding="utf-8")
    counts = ", ".join(f"{n:,} {kind}s" for kind, n in summary.events_by_kind.items())
    out.print(f"  {summary.people:,} people, {summary.accounts:,} accounts; {counts}")


def _fingerprint(market: Path) -> str:
    """Changes with the market and with the code that learns from it."""
    import shopcast_build
    import shopcast_domain

    digest = hashlib.sha256((market / "simulation.json").read_bytes())
    for package in (shopcast_build, shopcast_domain):
        for path in sorted(Path(str(package.__file__)).parent.rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _stamp(folder: Path) -> str | None:
    with contextlib.suppress(OSError):
        return (folder / "stamp").read_text(encoding="utf-8")
    return None


def _forget(folder: Path) -> None:
    """Remove what belongs to another market or other code."""
    (folder / "stamp").unlink(missing_ok=True)
    for made in ("model_repository", "run"):
        shutil.rmtree(folder / made, ignore_errors=True)
    for path in folder.glob("directory.db*"):
        path.unlink()


def _build(market: Path, repository: Path) -> None:
    from shopcast_cli.commands.model import build_model

    build_model(
        events=[market / "events"],
        links=market / "links.csv",
        repository=repository,
        run_folder=repository.with_name("run"),
        encoder_steps=48,
        head_epochs=5,
    )


def _tell(market: Path, repository: Path, store: Path) -> None:
    from shopcast_cli.story import choose_cast, tell
    from shopcast_client import ShopcastClient, ShopcastError

    with failures(LookupError):
        cast = choose_cast(market)

    async def story(target: str) -> None:
        async with ShopcastClient(target, timeout_s=10.0) as client:
            await tell(cast, client, out)

    # The story links and records; on a copy, so that it can be told again.
    with tempfile.TemporaryDirectory(prefix="shopcast-demo-") as scratch:
        copy = copy_store(store, Path(scratch))
        with gateway(repository, copy) as target, failures(ShopcastError):
            asyncio.run(story(target))


def copy_store(store: Path, folder: Path) -> Path:
    """A copy of a directory file and its key, also of one that is being served."""
    copy = folder / store.name
    with (
        contextlib.closing(sqlite3.connect(store)) as source,
        contextlib.closing(sqlite3.connect(copy)) as target,
    ):
        source.backup(target)
    copy.chmod(0o600)
    shutil.copy2(f"{store}.key", folder)
    return copy


@contextlib.contextmanager
def gateway(repository: Path, store: Path, *more: str) -> Iterator[str]:
    """`platform serve` on a free port, as a process of its own; the value is its address. more:
    options."""
    command = [sys.executable, "-m", "shopcast_cli", "serve", "--port", "0", "--drain-wait", "0"]
    command += ["--repository", str(repository), "--directory", str(store), *more]
    log = store.with_name("gateway.log")
    with log.open("w") as errors:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, stdin=subprocess.DEVNULL, text=True
        )
    try:
        yield _address(process, log)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout:
            process.stdout.close()


def _address(process: "subprocess.Popen[str]", log: Path) -> str:
    assert process.stdout is not None  # noqa: S101 - asked for above
    found = None
    with ProgressReporter().stage("load the model and replay its golden predictions"):
        while found is None and (line := process.stdout.readline()):
            found = re.search(r"serving version \d+ on (\S+)", line)
    if found is None:
        said = log.read_text(encoding="utf-8").strip().splitlines()
        fail("the gateway did not start: " + (said[-1] if said else "it gave no reason"))
    return found[1]


def _say_what_next(
    folder: Path, market: Path, repository: Path, store: Path, seconds: float
) -> None:
    from shopcast_cli.story import choose_cast

    cast = choose_cast(market)
    out.print(
        styled("\ndone", "bold green"),
        f"in {seconds:.0f} s; nothing is left running. To keep it"
        " running:\n\n"
        f"  .venv/bin/platform serve --repository {repository} --directory {store}\n\n"
        "and, in another terminal, a first request of your own:\n\n"
        f"  .venv/bin/platform predict --platform {cast.here.platform} --user"
        f" {cast.here.user_id} \\\n    --item {cast.items[0].item_id} --item"
        ' \'{"item_id": "mine", "title": "Premium merino wool sweater", "price": 59}\'\n',
        soft_wrap=True,
    )
    out.print(styled(f"everything is in {folder}; remove it to start over", "dim"))
