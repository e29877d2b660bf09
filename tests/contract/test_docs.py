"""The documentation says what is there."""

import ast
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.core import TyperGroup, TyperOption
from typer.main import get_command

from shopcast_cli.app import app

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("*/README.md")])
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?://|#)([^)#]+)")


def blocks(language: str) -> list[tuple[str, str]]:
    return [
        (page.name, text)
        for page in PAGES
        for found, text in BLOCK.findall(page.read_text())
        if found == language
    ]


def shell_lines() -> list[tuple[str, str]]:
    return [
        (page, line)
        for page, text in blocks("sh")
        for line in text.replace("\\\n", " ").splitlines()
        if line.strip()
    ]


def test_the_reference_of_commands_is_current(tmp_path: Path) -> None:
    fresh = tmp_path / "commands.md"
    made = [sys.executable, "-m", "typer", "shopcast_cli.app", "utils", "docs"]
    subprocess.run(
        [*made, "--name", "platform", "--output", str(fresh)], check=True, capture_output=True
    )
    committed = (ROOT / "docs" / "commands.md").read_text()
    assert fresh.read_text() == committed, "run `make docs`"


@pytest.mark.parametrize(("page", "line"), shell_lines())
def test_a_documented_command_exists_with_its_options(page: str, line: str) -> None:
    words = shlex.split(line, comments=True)
    if words[0] == "make":
        targets = re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert set(words[1:]) <= set(targets)
        return
    assert words[0] == ".venv/bin/platform", f"{page} tells to run something unknown"
    command: Any = get_command(app)
    rest = words[1:]
    while isinstance(command, TyperGroup):
        assert rest[0] in command.commands
        command, rest = command.commands[rest[0]], rest[1:]
    options = {name for parameter in command.params for name in parameter.opts}
    assert {word for word in rest if word.startswith("--")} <= options


@pytest.mark.parametrize(("page", "code"), blocks("python"))
def test_documented_python_compiles(page: str, code: str) -> None:
    ast.parse(code, page)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    broken = [to for to in LINK.findall(page.read_text()) if not (page.parent / to).exists()]
    assert not broken


def test_every_setting_of_a_command_is_explained() -> None:
    def unexplained(command: Any, path: str) -> list[str]:
        if isinstance(command, TyperGroup):
            return [
                found
                for name, sub in command.commands.items()
                for found in unexplained(sub, f"{path} {name}")
            ]
        return [
            f"{path} {parameter.opts[0]}"
            for parameter in command.params
            if isinstance(parameter, TyperOption) and not parameter.help
        ]

    assert unexplained(get_command(app), "platform") == []
