"""What people see: progress on stderr, results on stdout, failures as one sentence."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

Advance = Callable[[int, int], None]

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


def fail(message: object) -> NoReturn:
    """Print one sentence on stderr and end with exit code 1."""
    err.print(f"[red]error:[/red] {escape(str(message))}", soft_wrap=True)
    raise typer.Exit(1)


@contextmanager
def failures(*kinds: type[Exception]) -> Iterator[None]:
    """Turn the given errors into their one sentence and exit code 1."""
    try:
        yield
    except kinds as error:
        fail(error)


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    json.dump(value, sys.stdout, indent=2, ensure_ascii=False, default=str)
    sys.stdout.write("\n")


def table(title: str, *columns: str) -> Table:
    """An empty table whose first column is text and whose others are numbers."""
    made = Table(title=title, title_justify="left", title_style="bold")
    for index, name in enumerate(columns):
        made.add_column(name, justify="right" if index else "left")
    return made


class ProgressReporter:
    """Bars on a terminal; one line per finished stage elsewhere, so that logs stay readable."""

    @contextmanager
    def stage(self, title: str) -> Iterator[Advance]:
        """A stretch of work; the value takes (done, total)."""
        began = time.monotonic()
        if err.is_terminal:
            with Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                console=err,
                transient=True,
            ) as progress:
                task = progress.add_task(title, total=None)
                yield lambda done, total: progress.update(task, completed=done, total=total)
        else:
            yield lambda done, total: None
        err.print(f"  {escape(title)} [dim]{time.monotonic() - began:.1f} s[/dim]")
