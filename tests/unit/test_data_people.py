import json
import random
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from shopcast_build.data.errors import DataError
from shopcast_build.data.people import People, check_links, read_links, resolve_people

EVENTS = pl.DataFrame(
    [("b", "1"), ("a", "2"), ("a", "1"), ("b", "1"), ("a", "3"), ("b", "2")],
    schema=["platform", "user"],
    orient="row",
)
H, G = "5e" * 32, "0f" * 16  # SHA-256 and MD5 in hex
COLUMNS = ["platform", "platform_user_id", "identifier_kind", "identifier_hash"]


def resolve(*links: tuple[str | None, ...], guard: int = 10) -> People:
    table = pl.DataFrame(list(links), schema=dict.fromkeys(COLUMNS, pl.String), orient="row")
    return resolve_people(EVENTS, table, max_accounts_per_identifier=guard)


def test_without_links_every_account_is_a_person() -> None:
    people = resolve_people(EVENTS, None)
    assert people.person.tolist() == [3, 1, 0, 3, 2, 4]
    assert people.person.dtype == "int32"
    assert people.count == 5
    assert people.report.accounts_per_person == {1: 5}
    assert people.pairs.is_empty()


def test_shared_identifiers_join_accounts_through_others() -> None:
    people = resolve(
        ("a", "1", "hashed_email", "h1"),
        ("b", "1", "hashed_email", "h1"),
        ("b", "1", "device", "d1"),
        ("a", "3", "device", "d1"),
        ("a", "2", "login", "alone"),
    )
    assert people.person.tolist() == [0, 1, 0, 0, 0, 2]
    assert people.report.accounts_per_person == {1: 2, 3: 1}
    assert (people.report.links, people.report.links_used) == (5, 4)
    assert people.pairs.rows() == [
        ("a", "1", "b", "1", "hashed_email", 1.0, None),
        ("a", "3", "b", "1", "device", 1.0, None),
    ]


def test_one_hash_of_two_kinds_is_two_identifiers() -> None:
    people = resolve(("a", "1", "hashed_email", "h"), ("b", "1", "hashed_phone", "h"))
    assert people.count == 5


def test_an_account_without_events_still_joins_others() -> None:
    people = resolve(
        ("a", "1", "login", "x"),
        ("c", "9", "login", "x"),
        ("c", "9", "device", "y"),
        ("b", "2", "device", "y"),
    )
    assert people.person.tolist() == [3, 1, 0, 3, 2, 0]
    assert people.report.links_without_events == 2
    assert people.report.accounts == 5
    assert len(people.pairs) == 2


def test_links_that_name_nobody_of_the_log_are_refused() -> None:
    strangers = resolve(("a", "01", "device", "d"), ("b", "02", "device", "d"))
    with pytest.raises(DataError, match="None of the 2 links names an account that has events"):
        check_links(strangers.report)
    check_links(resolve(("a", "01", "device", "d"), ("b", "2", "device", "d")).report)
    check_links(resolve_people(EVENTS, None).report)
    pair = {"platform": "a", "platform_user_id": "01", "other_platform": "b"}
    pair |= {"other_platform_user_id": "02", "kind": "probabilistic", "source": None}
    for other, refused in (("02", True), ("2", False)):
        row = pair | {"other_platform_user_id": other, "confidence": 0.99}
        report = resolve_people(EVENTS, pl.DataFrame([row])).report
        assert (report.unmatched is not None) == refused


def test_identifiers_of_many_accounts_are_ignored() -> None:
    links = [(p, u, "device", "kiosk") for p, u in (("a", "1"), ("a", "2"), ("b", "1"))]
    assert resolve(*links, guard=3).count == 3
    people = resolve(*links, guard=2)
    assert people.count == 5
    assert people.report.identifiers_ignored == 1
    assert people.report.links_used == 0
    assert people.pairs.is_empty()


@pytest.mark.parametrize(
    ("kind", "own", "shared"),
    [("hashed_email", 10, 11), ("hashed_phone", 10, 11), ("device", 100, 101)],
)
def test_an_account_that_all_guests_share_joins_nobody(kind: str, own: int, shared: int) -> None:
    def resolved(identifiers: int) -> People:
        guests = [("a", "1", kind, f"h{n}") for n in range(identifiers)]
        # With one kind too many, what else such an account has is nobody's own either.
        also = [("a", "1", "login", "x"), ("b", "2", "login", "x")]
        return resolve(*guests, ("b", "1", kind, "h0"), ("a", "3", kind, "h1"), *also)

    assert resolved(own).count == 2
    people = resolved(shared)
    assert people.count == 5
    assert people.pairs.is_empty()
    assert people.report.accounts_ignored == 1
    (found,) = people.report.suspicious
    assert "1 account of the links has more than 10 logins" in found.sentence


def test_an_account_that_is_paired_with_many_of_one_platform_joins_nobody() -> None:
    def resolved(others: int) -> People:
        row = {"platform": "a", "platform_user_id": "1", "other_platform": "b", "kind": "login"}
        row |= {"source": None}
        ends = [{"other_platform_user_id": str(n), "confidence": 0.99} for n in range(others)]
        return resolve_people(EVENTS, pl.DataFrame([row | end for end in ends]))

    assert resolved(10).count == 3
    people = resolved(11)
    assert (people.count, people.report.accounts_ignored) == (5, 1)


def test_links_by_ids_that_a_spreadsheet_rounded_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "links.csv"
    path.write_text(f"{','.join(COLUMNS)}\na,4.91512E+12,device,{H}\nb,1,device,{H}\n")
    with pytest.raises(DataError, match="1 rows with an id that a spreadsheet rounded"):
        read_links(path)
    path.write_text(
        "platform,platform_user_id,other_platform,other_platform_user_id,kind,confidence\n"
        "a,1,b,1.2345678901234568e+18,device,1\n"
    )
    with pytest.raises(DataError, match="1 rows with an id that a spreadsheet rounded"):
        read_links(path)


def test_repeated_and_incomplete_links() -> None:
    people = resolve(
        ("a", "1", "login", "x"),
        ("a", "1", "login", "x"),
        ("b", "1", "login", "x"),
        ("b", "2", "login", None),
    )
    assert people.report.links == 2
    assert people.report.links_incomplete == 1
    assert people.count == 4


def test_order_of_links_and_events_plays_no_part() -> None:
    links = [("a", "1", "login", "x"), ("b", "2", "login", "x"), ("b", "2", "device", "y")]
    links += [("a", "3", "device", "y"), ("b", "1", "device", "z"), ("a", "2", "device", "z")]
    first = resolve(*links)
    for seed in range(5):
        again = resolve(*random.Random(seed).sample(links, len(links)))
        assert again.person.tolist() == first.person.tolist()
        assert_frame_equal(again.pairs, first.pairs)
    backwards = resolve_people(EVENTS.reverse(), None)
    assert backwards.person.tolist() == resolve_people(EVENTS, None).person.tolist()[::-1]


def test_neither_repr_nor_report_names_accounts() -> None:
    people = resolve(("a", "1", "login", "topsecret"), ("b", "1", "login", "topsecret"))
    assert "topsecret" not in repr(people)
    assert json.loads(json.dumps(people.report.to_json()))["accounts_per_person"] == {
        "1": 3,
        "2": 1,
    }


def test_links_are_read_as_events_are(tmp_path: Path) -> None:
    path = tmp_path / "links.csv"
    path.write_text(
        ",".join(COLUMNS) + "\n Shop ,13085.0,Device, " + H + " \nmall,7,email," + G + "\n"
    )
    assert read_links(path).rows() == [
        ("shop", "13085", "device", H),
        ("mall", "7", "hashed_email", G),
    ]


def test_hex_is_one_hash_in_either_case_and_base64_is_not(tmp_path: Path) -> None:
    base64, other = "q83vEjRWeJCrze8SNFZ4kA==", "Q83vEjRWeJCrze8SNFZ4kA=="
    path = tmp_path / "links.csv"
    rows = [("a", H.upper()), ("b", H), ("c", base64), ("d", other)]
    path.write_text(
        ",".join(COLUMNS) + "\n" + "".join(f"{p},1,login,{hashed}\n" for p, hashed in rows)
    )
    assert read_links(path)["identifier_hash"].to_list() == [H, H, base64, other]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "platform,user\na,1\n",
            "no column identifier_hash, .*; it has platform, user; links need",
        ),
        (
            ",".join(COLUMNS) + "\na,1,shoe_size," + H + "\n",
            "unknown identifier_kind; use one of login",
        ),
        (",".join(COLUMNS) + "\na,1,login,ann@example.com\n", "before linking"),
        (",".join(COLUMNS) + "\na,1,phone,+4915112345678\n", "that is no hash"),
        ("", "is empty"),
    ],
)
def test_wrong_links_say_what_to_do(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "links.csv"
    path.write_text(content)
    with pytest.raises(DataError, match=message) as caught:
        read_links(path)
    assert "ann" not in str(caught.value)
    with pytest.raises(DataError, match="There is no file"):
        read_links(tmp_path / "none.csv")


PAIRS = "platform,platform_user_id,other_platform,other_platform_user_id,kind,confidence,source\n"


def test_pairs_join_accounts_where_they_are_certain_enough(tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text(
        PAIRS
        + "b,1,A,1.0,probabilistic,0.97,splink\n"
        + "a,1,b,1,probabilistic,0.96,other\n"  # the same pair again
        + "a,2,b,2,probabilistic,0.94,splink\n"
        + "a,2,a,2,probabilistic,0.99,splink\n"
        + "a,3,,2,probabilistic,0.99,splink\n"
        + "a,3,b,1,device,1,\n"
    )
    links = read_links(tmp_path)
    people = resolve_people(EVENTS, links)
    assert people.person.tolist() == [0, 1, 0, 0, 0, 2]
    assert people.pairs.rows() == [
        ("a", "1", "b", "1", "probabilistic", 0.97, "splink"),
        ("a", "3", "b", "1", "device", 1.0, None),
    ]
    report = people.report
    assert (report.pairs, report.pairs_uncertain, report.links_incomplete) == (2, 1, 1)
    assert (report.links, report.links_used) == (0, 0)
    assert resolve_people(EVENTS, links, min_confidence=0.9).count == 2
    assert resolve_people(EVENTS, links, min_confidence=1.0).count == 4


def test_pairs_and_identifiers_may_lie_together(tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text(
        PAIRS.replace(",source", "") + "a,1,b,1,probabilistic,0.97\n"
    )
    (tmp_path / "identifiers.csv").write_text(
        ",".join(COLUMNS) + f"\na,1,email,{H}\na,3,email,{H}\na,2,,{H}\n"
    )
    people = resolve_people(EVENTS, read_links(tmp_path))
    assert people.person.tolist() == [0, 1, 0, 0, 0, 2]
    assert people.pairs["confidence"].to_list() == [1.0, 0.97]
    assert (people.report.links_used, people.report.pairs) == (2, 1)
    assert people.report.links_incomplete == 1


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a,1,b,1,friend,0.97,x", "1 links of an unknown kind; use one of login"),
        ("a,1,b,1,probabilistic,1.5,x", "1 pairs whose confidence is not a number over 0"),
        ("a,1,b,1,probabilistic,sure,x", "1 pairs whose confidence is not a number over 0"),
        ("a,1,b,1,probabilistic,NaN,x", "1 pairs whose confidence is not a number over 0"),
    ],
)
def test_wrong_pairs_say_what_to_do(tmp_path: Path, row: str, message: str) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text(PAIRS + row + "\n")
    with pytest.raises(DataError, match=message):
        read_links(path)
    path.write_text(PAIRS.replace(",confidence", "") + "a,1,b,1,probabilistic,x\n")
    with pytest.raises(DataError, match="has no column confidence"):
        read_links(path)
