"""What people see, whatever it holds."""

import errno
import json

import pytest
import typer

from shopcast_cli.commands import requests
from shopcast_cli.console import fail, failures, out, print_json, styled, table
from shopcast_client import Evidence, Prediction, PredictResult

HOSTILE = "[/x] [red]a\x1b]0;pwn\x07 \x9b31m\u202e:smile: \udcff"
SHOWN = r"[/x] [red]a\x1b]0;pwn\x07 \x9b31m\u202e:smile: \udcff"


def test_cells_titles_and_sentences_are_shown_as_they_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    shown = table(HOSTILE, "what")
    shown.add_row(HOSTILE)
    shown.add_row(styled(HOSTILE, "bold"))
    out.print(shown)
    out.print(HOSTILE, soft_wrap=True)
    with pytest.raises(typer.Exit):
        fail(HOSTILE)
    said = capsys.readouterr()
    assert said.out.count(SHOWN) == 4
    assert said.err == f"error: {SHOWN}\n"


def test_json_says_the_same_and_steers_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"item": HOSTILE})
    said = capsys.readouterr().out
    assert json.loads(said) == {"item": HOSTILE}
    assert said.encode("utf-8").isascii()


def test_an_answer_shows_any_item_id(capsys: pytest.CaptureFixture[str]) -> None:
    evidence = Evidence("p", "1", "1", (), False, (), 0, None, 0)
    prediction = Prediction(HOSTILE, 0.5, 0.4, 0.1, True, True)
    requests.show(PredictResult((prediction,), evidence))
    assert SHOWN in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device"),
            "A file cannot be written (No space left on device): make room there, or name a place"
            " on another disk",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", "out"),
            "out cannot be used (Permission denied): let this user write there, or name another"
            " place",
        ),
        (
            NotADirectoryError(errno.ENOTDIR, "x", "f/o"),
            "f/o cannot be used (x): name another place",
        ),
        (FileExistsError("out holds files of yours"), "out holds files of yours"),
    ],
)
def test_what_the_system_refuses_is_a_sentence(
    capsys: pytest.CaptureFixture[str], error: OSError, sentence: str
) -> None:
    with pytest.raises(typer.Exit), failures(OSError):
        raise error
    assert capsys.readouterr().err == f"error: {sentence}\n"
