"""The documentation says what is there."""

import ast
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from typer.core import TyperGroup, TyperOption
from typer.main import get_command

from shopcast_build.learning import settings_page
from shopcast_build.learning.settings import BuildSettings, load_settings
from shopcast_cli.app import app
from shopcast_repository.manifest_schema import manifest_schema

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


def test_the_reference_of_settings_is_current() -> None:
    committed = (ROOT / "docs" / "settings.md").read_text()
    assert settings_page.render() == committed, "run `make docs`"


def test_the_schema_of_the_manifest_is_current() -> None:
    committed = (ROOT / "docs" / "manifest.schema.json").read_text()
    assert manifest_schema() == committed, "run `make docs`"


def test_every_setting_is_explained_once() -> None:
    def unexplained(model: type[BaseModel], prefix: str = "") -> list[str]:
        found = []
        for name, field in model.model_fields.items():
            kind = field.annotation
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                found += unexplained(kind, f"{prefix}{name}.")
            elif not field.description or f"| `{name}` |" not in settings_page.render():
                found.append(f"{prefix}{name}")
        return found

    assert unexplained(BuildSettings) == []


def test_the_example_of_settings_is_read_and_changes_every_section_it_names() -> None:
    path = ROOT / "examples" / "build_settings.toml"
    found, named = load_settings(path, {}), tomllib.loads(path.read_text())
    for section, values in named.items():
        if isinstance(values, dict):
            assert getattr(found, section) != getattr(BuildSettings(), section)
            shown = getattr(found, section).model_dump(mode="json")
            assert {name: shown[name] for name in values} == values


@pytest.mark.parametrize(("page", "line"), shell_lines())
def test_a_documented_command_exists_with_its_options(page: str, line: str) -> None:
    words = shlex.split(line, comments=True)
    if words[0] == "make":
        targets = re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert set(words[1:]) <= set(targets)
        return
    if words[:1] == [".venv/bin/python"]:
        script = (ROOT / words[1]).read_text()
        assert all(f'"{word}"' in script for word in words[2:] if word.startswith("--"))
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


def test_every_metric_is_in_the_table_of_metrics() -> None:
    found = set()
    for path in (ROOT / "gateway" / "shopcast_gateway").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(
                    func=ast.Name(id=kind),
                    args=[ast.Constant(value=str(name)), *rest],
                    keywords=keywords,
                ) if kind.removesuffix("MetricFamily") in ("Counter", "Gauge", "Histogram"):
                    rest += [one.value for one in keywords if one.arg == "labels"]
                    labels = [one for one in rest if isinstance(one, ast.List)]
                    names = ",".join(ast.literal_eval(labels[0])) if labels else ""
                    total = "_total" if kind.startswith("Counter") else ""
                    found.add(f"{name}{total}" + (f"{{{names}}}" if names else ""))
    page = (ROOT / "docs" / "operations.md").read_text()
    documented = re.findall(r"^\| `(shopcast_[^`]*)` \|", page, re.MULTILINE)
    assert len(documented) == len(set(documented))
    assert set(documented) == found


def test_alerts_ask_for_metrics_and_labels_that_are_there() -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    known: dict[str, set[str]] = {}
    for name, _, labels in re.findall(r"^\| `(shopcast_\w+)(\{(.*)\})?` \|", page, re.MULTILINE):
        known[name] = {"instance", *filter(None, labels.split(","))}
        if re.search(rf"`{name}.*\| histogram", page):
            known[f"{name}_bucket"] = known[name] | {"le"}
    alerts = (ROOT / "examples" / "alerts.yml").read_text()
    asked = re.findall(r"(shopcast_\w+)(?:\{([^}]*)\})?", alerts)
    assert len(asked) > 10
    for name, labels in asked:
        told = set(re.findall(r"(\w+)(?:=~|!=|=)\"", labels))
        assert told <= known[name], name
    headings = re.findall(r"^#+ (.*)$", page, re.MULTILINE)
    anchors = {re.sub(r"[^a-z0-9-]", "", one.lower().replace(" ", "-")) for one in headings}
    runbooks = re.findall(r"runbook: docs/operations\.md#(\S+)", alerts)
    assert len(runbooks) == alerts.count("- alert: ")
    assert set(runbooks) <= anchors
