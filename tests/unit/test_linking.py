import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from shopcast_build.data.errors import DataError
from shopcast_build.data.people import read_links, resolve_people
from shopcast_build.learning.reporter import Silent
from shopcast_build.linking import linkage as linkage_module
from shopcast_build.linking.attributes import parse_columns, read_attributes
from shopcast_build.linking.guard import Guarded, guard
from shopcast_build.linking.linkage import Linkage, link_people
from shopcast_build.linking.model import open_database
from shopcast_build.linking.normalising import normalised
from shopcast_build.linking.writing import check_output, write_links
from shopcast_cli.app import app

PEOPLE = 240
LINK_COLUMNS = [
    "platform",
    "platform_user_id",
    "other_platform",
    "other_platform_user_id",
    "kind",
    "confidence",
    "source",
]
Account = dict[str, str | None]


def word(rng: random.Random, syllables: int) -> str:
    return "".join(rng.choice("bdfgklmnprst") + rng.choice("aeiou") for _ in range(syllables))


def people(seed: int = 5) -> list[Account]:
    """Everybody once, as they would write themselves."""
    rng = random.Random(seed)
    given, surnames, streets = (
        [word(rng, syllables) for _ in range(n)] for n, syllables in ((60, 2), (150, 3), (90, 4))
    )
    return [
        {
            "given_name": rng.choice(given).title(),
            "surname": rng.choice(surnames).title(),
            "date_of_birth": f"{rng.randint(1940, 2004)}-{rng.randint(1, 12):02}-"
            f"{rng.randint(1, 28):02}",
            "street": f"{rng.choice(streets).title()} Street {rng.randint(1, 99)}",
            "city": (city := rng.choice(("Altona", "Bergen", "Celle", "Delft"))),
            "postcode": f"{ord(city[0])}{rng.randint(100, 199)}",
            "email": f"{word(rng, 4)}@mail.example",
            "phone": f"+49 40 {rng.randint(10**6, 10**7 - 1)}",
        }
        for _ in range(PEOPLE)
    ]


def shop(person: Account, user: str) -> Account:
    return {"platform": "shop", "platform_user_id": user} | person


def mall(person: Account, user: str) -> Account:
    return shop(person, user) | {"platform": "mall"}


def accounts() -> list[Account]:
    """Users of one number are one person, but for those who begin with x: they are nobody else."""
    everybody = people()
    rows = [shop(one, f"{n}") for n, one in enumerate(everybody)]
    for n, one in enumerate(everybody[:200]):
        told = dict(one)
        surname, born, email = (str(one[name]) for name in ("surname", "date_of_birth", "email"))
        if n == 0:
            told["surname"] = surname[:2] + surname[3:]
        elif n == 1:
            told |= {"given_name": surname, "surname": one["given_name"]}
        elif n == 2:
            told["date_of_birth"] = born[8:] + "/" + born[5:7] + "/" + born[:4]
        elif n == 3:
            told |= {"given_name": None, "email": None, "phone": None}
        elif n == 4:
            told |= {"street": "Elsewhere Lane 5", "city": "Essen", "postcode": "45127"}
        elif n == 5:
            told["phone"] = "0" + str(one["phone"]).removeprefix("+49 ").replace(" ", "-")
        elif n % 3 == 0:
            told["email"] = email.replace("mail", "post")
        rows.append(mall(told, f"{n}"))
    # She uses the family's e-mail and phone.
    sister = {"given_name": "Xenia", "date_of_birth": "2011-11-30"}
    rows.append(mall(everybody[210] | sister, "x-sister"))
    # Two accounts fit one: neither can be told to be the right one.
    rows += [mall(everybody[220], f"x-double-{n}") for n in range(2)]
    return rows


def write(rows: list[Account], path: Path) -> Path:
    pl.DataFrame(rows).write_csv(path)
    return path


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(accounts(), tmp_path_factory.mktemp("accounts") / "all.csv")


@pytest.fixture(scope="module")
def linkage(file: Path) -> Linkage:
    return link_people([file], {}, reporter=Silent())


@pytest.fixture(scope="module")
def linked(linkage: Linkage) -> dict[str, str]:
    """Users of the shop by users of the mall."""
    ends = linkage.links.select("platform_user_id", "other_platform_user_id")
    return dict(ends.iter_rows())


def test_accounts_of_one_person_are_linked_and_no_others(linked: dict[str, str]) -> None:
    right = sum(user == other for user, other in linked.items())
    assert right >= 0.99 * len(linked)
    assert right >= 0.95 * 200


@pytest.mark.parametrize(
    "user",
    [
        pytest.param("0", id="letter lost"),
        pytest.param("1", id="names swapped"),
        pytest.param("2", id="date written day first"),
        pytest.param("3", id="values missing"),
        pytest.param("4", id="moved"),
        pytest.param("5", id="phone written another way"),
        pytest.param("6", id="another e-mail"),
    ],
)
def test_what_people_write_differently_does_not_part_them(
    linked: dict[str, str], user: str
) -> None:
    assert linked[user] == user


def test_a_household_is_not_a_person(linkage: Linkage, linked: dict[str, str]) -> None:
    assert "x-sister" not in linked
    assert linkage.report.households >= 1


def test_of_equal_rivals_none_is_linked(linkage: Linkage, linked: dict[str, str]) -> None:
    assert not {"x-double-0", "x-double-1"} & set(linked)
    assert "220" not in linked.values()
    assert linkage.report.rivals == 2


def test_links_are_probabilities_between_platforms(linkage: Linkage) -> None:
    links = linkage.links
    assert links.columns == LINK_COLUMNS
    assert set(links["kind"]) == {"probabilistic"}
    assert links["source"].str.starts_with("splink ").all()
    assert links["confidence"].is_between(0.95, 0.9999).all()
    assert (links["confidence"] == links["confidence"].round(4)).all()
    assert (links["platform"] != links["other_platform"]).all()
    assert linkage.report.links == len(links)


@pytest.mark.parametrize("name", ["links.csv", "links.parquet"])
def test_a_build_joins_whom_the_file_links(linkage: Linkage, tmp_path: Path, name: str) -> None:
    write_links(linkage.links, tmp_path / name)
    known = pl.DataFrame(
        [("shop", "7"), ("mall", "7"), ("shop", "8")], schema=["platform", "user"], orient="row"
    )
    people = resolve_people(known, read_links(tmp_path / name))
    assert people.person.tolist() == [0, 0, 1]
    assert people.report.pairs == len(linkage.links)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_order_and_files_play_no_part(linkage: Linkage, tmp_path: Path) -> None:
    rows = accounts()
    random.Random(1).shuffle(rows)
    write(rows[:100], tmp_path / "b.csv")
    pl.DataFrame(rows[100:]).write_parquet(tmp_path / "a.parquet")
    again = link_people([tmp_path], {}, reporter=Silent())
    assert again.links.write_csv() == linkage.links.write_csv()
    assert again.report == linkage.report


def couples(seed: int, *, typed: float = 0.0, placeholders: float = 0.0) -> list[Account]:
    """300 households of two, who share surname, address and phone; users of one number are one
    person. typed: the share of values in which two characters have changed places. placeholders:
    of birthdays that nobody has."""
    rng = random.Random(seed)
    given, surnames, streets, cities = (
        [word(rng, syllables) for _ in range(n)]
        for n, syllables in ((40, 2), (600, 3), (300, 3), (60, 2))
    )
    rows: list[Account] = []
    for n in range(600):
        if n % 2 == 0:
            address: Account = {
                "surname": rng.choice(surnames),
                "street": rng.choice(streets),
                "street_number": f"{rng.randint(1, 120)}",
                "city": (city := rng.choice(cities)),
                "postcode": f"{10_000 + cities.index(city)}",
                "phone": f"0{rng.randint(10**9, 10**10 - 1)}",
            }
        born = f"{rng.randint(1950, 2003)}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}"
        one = address | {"given_name": rng.choice(given[n % 2 :: 2]), "date_of_birth": born}
        for platform in rng.choice(("shop mall", "shop mall", "shop", "mall")).split():
            told = {name: mistyped(value, typed, rng) for name, value in one.items()}
            if rng.random() < placeholders:
                told["date_of_birth"] = "1900-01-01"
            rows.append({"platform": platform, "platform_user_id": f"{n}"} | told)
    return rows


def mistyped(value: str | None, share: float, rng: random.Random) -> str | None:
    if value is None or len(value) < 2 or rng.random() >= share:
        return value
    at = rng.randrange(len(value) - 1)
    return value[:at] + value[at + 1] + value[at] + value[at + 2 :]


def unmistakable() -> list[Account]:
    """People whose every value is their own, and written alike everywhere."""
    rng = random.Random(6)
    everybody = [
        {name: word(rng, 6) for name in ("given_name", "surname", "street", "city", "postcode")}
        | {"street_number": f"{n}"}
        | {"date_of_birth": f"{19_000_101 + 97 * n}", "phone": f"0{rng.randint(10**9, 10**10 - 1)}"}
        | {"email": f"{word(rng, 6)}@mail.example"}
        for n in range(300)
    ]
    return [
        told for n, one in enumerate(everybody) for told in (shop(one, f"{n}"), mall(one, f"{n}"))
    ]


@pytest.mark.parametrize(
    "rows",
    [
        pytest.param(couples(2), id="as clean as can be"),
        pytest.param(couples(1, typed=0.05), id="typing errors"),
        pytest.param(unmistakable(), id="all values different"),
    ],
)
def test_what_always_agrees_can_be_learned(rows: list[Account], tmp_path: Path) -> None:
    links = link_people([write(rows, tmp_path / "all.csv")], {}, reporter=Silent()).links
    both = len(rows) - len({one["platform_user_id"] for one in rows})
    assert (links["platform_user_id"] == links["other_platform_user_id"]).all()
    assert len(links) >= 0.99 * both


def test_too_little_memory_is_said_in_one_sentence(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def small() -> Iterator[duckdb.DuckDBPyConnection]:
        with open_database() as database:
            database.execute("SET memory_limit = '8MB'; SET max_temp_directory_size = '0KB'")
            yield database

    monkeypatch.setattr(linkage_module, "open_database", small)
    with pytest.raises(DataError, match=r"more memory .* with TMPDIR"):
        link_people([file], {}, reporter=Silent())


def test_nothing_personal_is_told(linkage: Linkage) -> None:
    told = (
        linkage.links.write_csv() + repr(linkage) + json.dumps(linkage.report.to_json())
    ).lower()
    for name in ("given_name", "surname", "date_of_birth", "street", "email", "phone"):
        assert not [one for one in people() if str(one[name]).lower() in told]


def test_within_a_platform_several_accounts_may_be_one_persons(tmp_path: Path) -> None:
    rows = [shop(one, f"{n}") for n, one in enumerate(people())]
    rows += [shop(one, f"{n}-again") for n, one in enumerate(people()[:100])]
    file = write(rows, tmp_path / "shop.csv")
    with pytest.raises(DataError, match=r"of one platform; .* --within-platforms"):
        link_people([file], {}, reporter=Silent())
    links = link_people([file], {}, within=True, reporter=Silent()).links
    assert {f"{n}" for n in range(100)} == set(links["platform_user_id"])
    assert (links["other_platform_user_id"] == links["platform_user_id"] + "-again").all()


def guarded(
    pairs: list[tuple[int, int, float]], platforms: list[int], **options: object
) -> Guarded:
    scored = pl.DataFrame(pairs, schema=["left", "right", "odds"], orient="row").with_columns(
        household=pl.lit(value=False)
    )
    settings = {"min_confidence": 0.9, "max_accounts": 10, "within": False} | options
    return guard(scored, np.array(platforms), **settings)  # type: ignore[arg-type]


def test_the_guard_keeps_a_clear_best_and_lowers_its_confidence() -> None:
    kept = guarded([(0, 1, 1e6), (0, 2, 1e4)], [0, 1, 1])
    assert kept.links.rows() == [(0, 1, pytest.approx(1e6 / (1 + 1e6 + 1e4)))]
    assert kept.rivals == 1
    assert guarded([(0, 1, 1e6), (0, 2, 1e6)], [0, 1, 1]).links.is_empty()
    assert len(guarded([(0, 1, 1e6), (0, 2, 1e6)], [0, 1, 2]).links) == 2


def test_the_guard_gives_nobody_two_accounts_of_a_platform() -> None:
    chain = [(0, 1, 1e5), (1, 2, 1e4), (2, 3, 1e3)]  # of the platforms 0, 1, 2, 0
    kept = guarded(chain, [0, 1, 2, 0])
    assert [row[:2] for row in kept.links.rows()] == [(0, 1), (1, 2)]
    assert kept.clashes == 1


def test_the_guard_leaves_crowds_alone() -> None:
    crowd = [(a, b, 1e6) for a in range(5) for b in range(a + 1, 5)]
    kept = guarded([*crowd, (5, 6, 1e6)], [0] * 7, within=True, max_accounts=4)
    assert [row[:2] for row in kept.links.rows()] == [(5, 6)]
    assert (kept.crowds, kept.crowd_links) == (1, 10)
    assert kept.links["confidence"].to_list() == [0.9999]


@pytest.mark.parametrize(
    ("name", "written", "read"),
    [
        ("given_name", "  José-María ", "jose maria"),
        ("surname", "O\u2019Brien", "obrien"),
        ("surname", "n/a", None),
        ("surname", "Ørsted 李", "ørsted 李"),
        ("date_of_birth", "1984-02-29", "19840229"),
        ("date_of_birth", "19841331", "19841331"),
        ("date_of_birth", "3.7.1984", "19840703"),
        ("date_of_birth", "12/31/1984", "19841231"),
        ("date_of_birth", "1984-02-29 00:00:00.000000", "19840229"),
        ("date_of_birth", "sometime", None),
        ("postcode", " sw1a 1aa", "sw1a1aa"),
        ("email", "Ann@Example.com", "ann@example.com"),
        ("email", "AB" * 32, "ab" * 32),
        ("email", "none", None),
        ("phone", "+49 (0)151 123-45678", "112345678"),
        ("phone", "00", None),
    ],
)
def test_values_are_brought_into_one_spelling(name: str, written: str, read: str | None) -> None:
    assert pl.DataFrame({name: [written]}).select(**normalised([name])).item() == read


@pytest.mark.parametrize(
    ("street", "number", "read"),
    [
        ("12 High St.", None, ("high st", "12")),
        ("Lange Gasse 7b", None, ("lange gasse", "7b")),
        ("High Street", "12", ("high street", "12")),
        ("17th Avenue", None, ("17th avenue", None)),
    ],
)
def test_house_numbers_are_told_from_streets(
    street: str, number: str | None, read: tuple[str, str | None]
) -> None:
    row = pl.DataFrame(
        {"street": [street], "street_number": [number]},
        schema_overrides={"street_number": pl.String},
    )
    assert row.select(**normalised(["street", "street_number"])).row(0) == read


def test_columns_may_have_other_names_and_be_several(tmp_path: Path) -> None:
    rows = pl.DataFrame(accounts()).rename({"surname": "Last Name", "platform_user_id": "id"})
    line = pl.col("street").str.split(" ").list
    rows = rows.with_columns(line_1=line.get(0), line_2=line.get(1), suburb="city")
    rows.drop("street", "city").write_parquet(tmp_path / "other.parquet")
    columns = parse_columns(
        ["surname=Last Name", "platform_user_id=id", "street=line_1", "street=line_2"]
    )
    read = read_attributes([tmp_path], columns, max_accounts=10)
    assert read.values["street"].drop_nulls().str.ends_with("street").sum() > PEOPLE
    assert {"surname", "city"} <= set(read.values.columns)


def test_what_too_many_share_is_not_compared(tmp_path: Path) -> None:
    rows = [
        one | {"email": "info@shop.example"} if n < 9 else one for n, one in enumerate(accounts())
    ]
    read = read_attributes([write(rows, tmp_path / "all.csv")], {}, max_accounts=8)
    assert read.shared == 1
    assert "info@shop.example" not in set(read.values["email"])


def test_where_nobody_is_linked_nothing_is_to_be_built(tmp_path: Path) -> None:
    same: Account = {"surname": "Muster", "street": "Main", "city": "Bonn", "postcode": "1"}
    rows = [
        one | same | {"email": None, "phone": None}
        for n, person in enumerate(people())
        for one in (shop(person, f"{n}"), mall(person, f"{n}"))
    ]
    arguments = ["--accounts", str(write(rows, tmp_path / "all.csv")), "--output"]
    ran = CliRunner().invoke(app, ["link-people", *arguments, str(tmp_path / "pairs.csv")])
    assert ran.exit_code == 0
    assert "no two accounts are alike enough" in ran.stdout
    assert "build-model" not in ran.stdout


def test_a_placeholder_is_nobodys_birthday(tmp_path: Path) -> None:
    rows = couples(2, placeholders=0.5)
    found = link_people([write(rows, tmp_path / "all.csv")], {}, reporter=Silent())
    links = found.links
    assert (links["platform_user_id"] == links["other_platform_user_id"]).mean() >= 0.99  # type: ignore[operator]
    assert len(links) >= 0.95 * (len(rows) - len({one["platform_user_id"] for one in rows}))
    assert found.report.birthdays_ignored == 1


def test_what_cannot_be_read_is_counted(tmp_path: Path) -> None:
    rows = [
        one | {"date_of_birth": str(one["date_of_birth"])[:4] if n % 2 else one["date_of_birth"]}
        for n, one in enumerate(couples(2))
    ]
    rows[0] |= {"email": "none", "phone": " "}
    arguments = ["--accounts", str(write(rows, tmp_path / "all.csv")), "--output"]
    arguments.append(str(tmp_path / "pairs.csv"))
    ran = CliRunner().invoke(app, ["link-people", *arguments])
    assert f"{len(rows) // 2:,} rows whose date_of_birth cannot be read" in ran.stdout
    assert "1 rows whose email cannot be read" in ran.stdout
    assert "phone" not in "".join(line for line in ran.stdout.splitlines() if "rows whose" in line)


def test_years_alone_are_birthdays(tmp_path: Path) -> None:
    rows = [one | {"date_of_birth": f"{str(one['date_of_birth'])[:4]}-01-01"} for one in couples(2)]
    read = read_attributes([write(rows, tmp_path / "all.csv")], {}, max_accounts=10)
    assert read.placeholders == 0
    assert read.values["date_of_birth"].null_count() == 0


def test_an_account_is_read_once_and_unnamed_rows_are_left_out(tmp_path: Path) -> None:
    rows = accounts()
    rows += [rows[0] | {"street": None}, rows[1] | {"platform_user_id": None}]
    read = read_attributes([write(rows, tmp_path / "all.csv")], {}, max_accounts=10)
    assert (read.repeated, read.incomplete) == (1, 1)
    assert len(read.accounts) == len(rows) - 2
    first = read.accounts.with_row_index().filter(platform="shop", platform_user_id="0")["index"]
    assert read.values["street"][first.item()] is not None


def only(*names: str) -> list[Account]:
    return [
        {name: one[name] for name in ("platform", "platform_user_id", *names)} for one in accounts()
    ]


def strangers() -> list[Account]:
    rng = random.Random(3)
    return [
        one
        | {
            "given_name": word(rng, 5),
            "surname": word(rng, 5),
            "date_of_birth": f"{1900 + n}-01-01",
        }
        | {"email": None, "phone": None}
        for n, one in enumerate(accounts()[:80] + accounts()[240:300])
    ]


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (accounts()[:50], [], "hold 50 accounts; at least 100 are needed"),
        (only("given_name", "surname"), [], "tell given_name, surname of people in common"),
        (only("surname", "city", "phone"), [], "nothing that differs within a household"),
        (accounts(), ["--column", "surname=nachname"], "No file has the column nachname"),
        (accounts(), ["--column", "shoe_size=x"], "not of the form ATTRIBUTE=COLUMN"),
        (accounts(), ["--output", "links.txt"], "neither .csv nor .parquet"),
        ([{"Ann": "1", "Smith": "2"}], [], "has no column platform; name"),
        (
            [one | {"platform_user_id": "1.5E+12"} for one in accounts()],
            [],
            "a spreadsheet rounded",
        ),
        (strangers(), [], "No two accounts agree on enough attributes"),
    ],
)
def test_what_cannot_be_linked_is_said_in_one_sentence(
    tmp_path: Path, rows: list[Account], options: list[str], message: str
) -> None:
    file = write(rows, tmp_path / "accounts.csv")
    defaults = ["--output", str(tmp_path / "links.csv")]
    ran = CliRunner().invoke(
        app, ["link-people", "--accounts", str(file), *defaults, *options], catch_exceptions=False
    )
    assert ran.exit_code == 1
    assert message in ran.stderr
    assert len([line for line in ran.stderr.splitlines() if "error" in line]) == 1
    assert "Ann" not in ran.output
    assert not (tmp_path / "links.csv").exists()


def test_a_file_that_holds_no_pairs_is_never_replaced(tmp_path: Path) -> None:
    file = write(accounts(), tmp_path / "accounts.csv")
    links = tmp_path / "links.csv"
    links.write_text("platform,platform_user_id,identifier_kind,identifier_hash\n")
    for output in (file, links):
        before = output.read_bytes()
        arguments = ["link-people", "--accounts", str(file), "--output", str(output)]
        ran = CliRunner().invoke(app, arguments, catch_exceptions=False)
        assert ran.exit_code == 1
        assert "give --output another name" in ran.stderr
        assert output.read_bytes() == before


def test_pairs_are_replaced_unless_they_are_read_as_accounts(file: Path, tmp_path: Path) -> None:
    output = tmp_path / "pairs.csv"
    output.write_text(",".join(LINK_COLUMNS) + "\n")
    check_output(output, [file])
    with pytest.raises(DataError, match="one of the files of --accounts"):
        check_output(output, [tmp_path])


@pytest.fixture
def written(file: Path, tmp_path: Path) -> Iterator[tuple[dict[str, object], Path]]:
    output = tmp_path / "links.csv"
    arguments = ["link-people", "--accounts", str(file), "--output", str(output)]
    ran = CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False)
    assert ran.exit_code == 0
    yield json.loads(ran.stdout), output


def test_the_command_writes_links_and_says_what_it_refused(
    written: tuple[dict[str, object], Path], linkage: Linkage
) -> None:
    said, output = written
    assert output.read_text() == linkage.links.write_csv()
    assert said == {"output": str(output), **linkage.report.to_json()}
