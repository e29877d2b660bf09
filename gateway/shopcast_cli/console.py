"""What people see: progress on stderr, results on stdout, failures as one sentence."""

import errno
import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from rich.text import Text

Advance = Callable[[int, int], None]

_REMEDIES = {
    **dict.fromkeys(
        (errno.ENOSPC, errno.EDQUOT), "make room there, or name a place on another disk"
    ),
    **dict.fromkeys(
        (errno.EACCES, errno.EPERM, errno.EROFS),
        "let this user write there, or name another place",
    ),
}
_PIPE_WIDTH = 110  # where there is no terminal to ask
_UNSAFE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """Text in which nothing steers a terminal or cannot be written: such characters are told.

    >>> printable("shoe\\x1b]0;pwn\\x07")
    'shoe\\\\x1b]0;pwn\\\\x07'
    """
    return _UNSAFE.sub(lambda one: one[0].encode("unicode_escape", "surrogatepass").decode(), text)


def styled(text: str, style: str) -> Text:
    """Text to print, or for a cell, in a style of rich's."""
    return Text(printable(text), style)


class _Plain(Console):
    """Prints every text as it is, in sentences and in cells: brackets are no markup."""

    def __init__(self, *, stderr: bool, width: int | None = None) -> None:
        super().__init__(stderr=stderr, width=width, highlight=False, markup=False, emoji=False)

    def render_str(self, text: str, **options: Any) -> Text:
        """What rich makes of any text."""
        return super().render_str(printable(text), **options)


def _console(*, stderr: bool) -> Console:
    console = _Plain(stderr=stderr)
    return console if console.is_terminal else _Plain(stderr=stderr, width=_PIPE_WIDTH)


out = _console(stderr=False)
err = _console(stderr=True)


def fail(message: object) -> NoReturn:
    """Print one sentence on stderr and end with exit code 1."""
    err.print(styled("error:", "red"), str(message), soft_wrap=True)
    raise typer.Exit(1)


@contextmanager
def failures(*kinds: type[Exception]) -> Iterator[None]:
    """Turn the given errors into their one sentence and exit code 1."""
    try:
        yield
    except kinds as error:
        fail(_refusal(error) if isinstance(error, OSError) and error.errno else error)


def _refusal(error: OSError) -> str:
    """What the system refuses, in a sentence with what to do."""
    place = f"{error.filename} cannot be used" if error.filename else "A file cannot be written"
    remedy = _REMEDIES.get(error.errno or 0, "name another place")
    return f"{place} ({error.strerror}): {remedy}"


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    text = json.dumps(value, indent=2, ensure_ascii=False, default=str)
    sys.stdout.write(_UNSAFE.sub(lambda one: f"\\u{ord(one[0]):04x}", text) + "\n")


def table(title: str, *columns: str) -> Table:
    """An empty table whose first column is text and whose others are numbers."""
    made = Table(title=title, title_justify="left", title_style="bold")
    for index, name in enumerate(columns):
        made.add_column(name, justify="right" if index else "left")
    return made


def age(seconds: float) -> str:
    """How long ago, in the largest unit that fits.

    >>> age(90.0), age(7200.0), age(200_000.0)
    ('2 min', '2 h', '2 d')
    """
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def counted(number: int, one: str, many: str | None = None) -> str:
    """How many of what; `many` where that is not `one` and an s.

    >>> counted(1, "link"), counted(1_200, "link"), counted(0, "person", "people")
    ('1 link', '1,200 links', '0 people')
    """
    return f"{number:,} {one if number == 1 else many or one + 's'}"


class ProgressReporter:
    """Bars on a terminal; one line per finished stage elsewhere, so that logs stay readable."""

    @contextmanager
    def stage(self, title: str) -> Iterator[Advance]:
        """A stretch of work; the value takes (done, total)."""
        began = time.monotonic()
        if err.is_terminal:
            with Progress(
                SpinnerColumn(),
                TextColumn("{task.description}", markup=False),
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
        err.print(f"  {title}", styled(f"{time.monotonic() - began:.1f} s", "dim"))
