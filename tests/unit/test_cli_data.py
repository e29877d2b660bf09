"""`platform data ...` as its user meets it."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from typer.testing import CliRunner

from shopcast_cli.app import app

LINES = "platform,platform_user_id,time,kind,item_id\n" + "".join(
    f"web,anna-{n},2024-01-{1 + n % 28:02}T10:{n % 60:02}:00Z,view,i-{n % 7}\n" for n in range(50)
)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "log.csv"
    path.write_text(LINES)
    return path


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["data", *(str(one) for one in arguments)])


def test_check_counts_and_writes_its_report(log: Path, tmp_path: Path) -> None:
    done = run("check", "--events", log, "--report", tmp_path / "quality", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["kept"] == 50
    assert (tmp_path / "quality" / "data-quality.html").read_text().startswith("<!doctype html>")
    assert (tmp_path / "quality" / "data-quality.json").is_file()
    shown = run("check", "--events", log)
    assert "50 of 50 rows" in shown.stdout
    assert "anna" not in shown.output


def test_check_says_once_what_holds_for_many_platforms(log: Path) -> None:
    tills = [f"till-{n:02},anna,2024-01-{1 + n % 9:02}T10:00:00Z,buy,i\n" for n in range(30)]
    log.write_text(LINES + "".join(tills))
    shown = " ".join(run("check", "--events", log).stdout.split())
    assert "till-00, till-01, till-02 and 27 more are asked at orders" in shown
    assert shown.count("before that of all") == 3
    assert "they are left out. The same of 27 more platforms." in shown
    told = json.loads(run("check", "--events", log, "--json").stdout)["suspicious"]
    assert sum("before that of all" in one["sentence"] for one in told) == 30


def test_check_says_whom_links_join(log: Path, tmp_path: Path) -> None:
    links = tmp_path / "links.csv"
    header = "platform,platform_user_id,identifier_kind,identifier_hash\n"
    links.write_text(header + "".join(f"web,anna-{n},email,{7:064x}\n" for n in range(3)))
    done = run("check", "--events", log, "--links", links)
    assert done.exit_code == 0, done.output
    assert "50 accounts are of 48 people" in done.stdout
    machine = json.loads(run("check", "--events", log, "--links", links, "--json").stdout)
    assert machine["people"]["people"] == 48
    links.write_text(header + f"web,anna-077,email,{7:064x}\nweb,anna-078,email,{7:064x}\n")
    done = run("check", "--events", log, "--links", links)
    assert done.exit_code == 1
    assert "names an account that has events" in done.stderr


def test_check_reports_before_a_limit_stops_it(log: Path, tmp_path: Path) -> None:
    log.write_text(LINES.replace("view", "gaze"))
    mapping = tmp_path / "mapping.toml"
    mapping.write_text('[kind]\ndefault = "view"\n[limits]\nmin_returns = 3\n')
    done = run("check", "--events", log, "--mapping", mapping, "--report", tmp_path / "quality")
    assert done.exit_code == 1
    assert "error: The log has no return events, fewer than the 3 needed" in done.stderr
    assert (tmp_path / "quality" / "data-quality.html").is_file()


def test_check_holds_the_limit_on_bad_rows(log: Path) -> None:
    log.write_text(LINES.replace("view", "gaze", 10))
    done = run("check", "--events", log)
    assert done.exit_code == 1
    assert "10 of 50 rows (20%) cannot be used" in done.stderr
    assert "unknown kind" in done.stdout


@pytest.mark.parametrize("command", [("check", "--events"), ("inspect",)])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (LINES.partition("\n")[2], "its first row holds values, not names: add a header row"),
        (LINES.partition("\n")[2].replace(",", ";"), "its first row holds values, not names"),
        (LINES.replace("\n", "\r"), "save it with usual line ends"),
        ("anna," + ",".join(f"a{n}" for n in range(40)) + "\nx,y\n", "a18 and 21 more; "),
    ],
)
def test_what_may_be_a_value_is_no_columns_name(
    log: Path, command: tuple[str, ...], content: str, words: str
) -> None:
    log.write_bytes(content.encode())
    done = run(*command, log)
    assert done.exit_code == 1
    assert words in done.stderr
    assert "anna-" not in done.output


@pytest.mark.parametrize("command", [("check", "--events"), ("inspect",)])
def test_a_title_above_the_header_of_a_sheet_is_told(
    tmp_path: Path, command: tuple[str, ...]
) -> None:
    path = tmp_path / "log.xlsx"
    rows = [line.split(",") for line in ("Sales of Anna,,", "user,time,item", "u-1,2024-01-01,i")]
    pl.DataFrame(rows, orient="row").write_excel(path, include_header=False)
    done = run(*command, path)
    assert done.exit_code == 1
    assert "delete what stands above the names of the columns" in done.stderr
    assert "Anna" not in done.output


def test_a_name_that_is_no_text_is_told(log: Path) -> None:
    path = log.rename(log.with_name("\udcffname.csv"))
    done = run("inspect", path)
    assert done.exit_code == 1
    assert r"\udcffname.csv has a name that is no UTF-8 text; rename it" in done.stderr


def test_inspecting_a_header_row_alone_says_so(log: Path) -> None:
    log.write_text(LINES.partition("\n")[0] + "\n")
    done = run("inspect", log)
    assert done.exit_code == 1
    assert "has a header row alone; export it again" in done.stderr


@pytest.mark.parametrize(
    ("mapping", "words"),
    [
        ('[item_id]\ncolumn = "SKU"', ["has no column SKU", "--mapping", "platform data inspect"]),
        ('[time]\nzone = "Europe/Berlyn"', ["time.zone", "IANA time zone"]),
        ('[time]\nformat = "%Y-%m-%d %H:%M %Z"', ["time.format", "without %Z", "%z", "zone"]),
        ('[time]\nformat = "%H:%M:%S,%f"', ["time.format", "after a dot", "%6f"]),
        ("[limits]\nmax_bad_shares = 0.5", ["limits.max_bad_shares", "no such key"]),
        ("[limits]\nmax_bad_share = 2", ["limits.max_bad_share"]),
        ("[currencies]\nrates = { USD = 1.0 }", ["currencies.base"]),
        ('[currencies]\nbase = "EUR"\nrates = { USD = 0 }', ["currencies.rates.USD"]),
        ('[[source]]\nfiles = ["a.csv"]', ["No [[source]]", "log.csv"]),
        ('separator = ";"\n[[source]]\nfiles = ["*"]', ["move separator into the [[source]]"]),
    ],
)
def test_a_wrong_mapping_is_one_sentence(
    log: Path, tmp_path: Path, mapping: str, words: list[str]
) -> None:
    path = tmp_path / "mapping.toml"
    path.write_text(mapping)
    done = run("check", "--events", log, "--mapping", path)
    assert done.exit_code == 1
    (sentence,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert not [word for word in words if word not in sentence], sentence
    assert "Traceback" not in done.output


def test_inspect_writes_a_mapping_that_check_accepts(log: Path, tmp_path: Path) -> None:
    log.write_text(LINES.replace("platform_user_id", "member_id").replace("item_id", "sku"))
    output = tmp_path / "mapping.toml"
    done = run("inspect", log, "--output", output)
    assert done.exit_code == 0, done.output
    assert "anna" not in done.output
    assert "of 50 rows: 50 view" in done.stdout
    assert run("check", "--events", log, "--mapping", output).exit_code == 0
    again = run("inspect", log, "--output", output)
    assert again.exit_code == 1
    assert "exists; name another file" in again.stderr
    machine = json.loads(run("inspect", log, "--json").stdout)
    assert machine["mapping"] == output.read_text()
    assert machine["kinds"] == {"view": 50}
