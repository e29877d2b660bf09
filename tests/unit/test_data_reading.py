import gzip
from pathlib import Path

import polars as pl
import pytest

from shopcast_build.data.errors import DataError
from shopcast_build.data.reading import ROW, Layout, Source, batches, collect, scan, unread_of


def rows(*paths: Path) -> list[list[str | None]]:
    return [collect(s, s.rows)["a"].cast(pl.String).to_list() for s in scan(paths)]


def test_every_format_gives_the_same_text(tmp_path: Path) -> None:
    (tmp_path / "1.csv").write_text("a,b\n007,x\n,y\n")
    (tmp_path / "2.CSV.gz").write_bytes(gzip.compress(b"a,b\n007,x\n,y\n", mtime=0))
    (tmp_path / "3.jsonl").write_text('{"a": "007", "b": "x"}\n{"b": "y"}\n')
    pl.DataFrame({"a": ["007", None], "b": ["x", "y"]}).write_parquet(tmp_path / "4.parquet")
    pl.DataFrame({"a": ["007", None], "b": ["x", "y"]}).write_excel(tmp_path / "5.xlsx")
    (tmp_path / "6.jsonl.gz").write_bytes(gzip.compress(b'{"a": "007"}\n{"b": "y"}\n', mtime=0))
    (tmp_path / "7.tsv").write_text("a\tb\n007\tx\n\ty\n")
    assert rows(tmp_path) == [["007", None]] * 7


def test_json_numbers_keep_their_digits(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"a": 12345678901234567}\n{"a": "x7"}\n')
    assert rows(path) == [["12345678901234567", "x7"]]


def test_csv_may_start_with_a_byte_order_mark_and_hold_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_bytes(b"\xef\xbb\xbfa,b\n1,2\n\n3,4\n\n")
    (source,) = scan([path])
    found = collect(source, source.rows)
    assert found["a"].to_list() == ["1", "3"]
    assert found[ROW].to_list() == [1, 3]


def test_json_lines_may_start_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": "007"}\n{"a": 5}\n')
    (source,) = scan([path])
    found = collect(source, source.rows)
    assert found["a"].to_list() == ["007", "5"]
    assert found[ROW].to_list() == [1, 2]
    path.write_bytes(b"\xef\xbb\xbf")
    with pytest.raises(DataError, match=r"log\.jsonl"):
        scan([path])


def test_folders_are_read_recursively_in_order_without_hidden_files(tmp_path: Path) -> None:
    for name in ("b/2.csv", "a/1.csv", "a/.hidden.csv", "_SUCCESS", "notes.md"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"a,b\n{path.name},x\n")
    assert rows(tmp_path) == [["1.csv"], ["2.csv"]]


def test_folders_are_read_through_links_each_file_once(tmp_path: Path) -> None:
    log, other = tmp_path / "log", tmp_path / "disk" / "shop_b"
    for name in (log / "1.csv", other / "deep" / "2.csv"):
        name.parent.mkdir(parents=True)
        name.write_text(f"a,b\n{name.name},x\n")
    (log / "shop_b").symlink_to(other)
    (log / "again.csv").symlink_to(log / "1.csv")
    (other / "above").symlink_to(other)
    assert sorted(rows(log)) == [["1.csv"], ["2.csv"]]


@pytest.mark.parametrize("name", ["shop_b", "2.csv"])
def test_links_that_lead_nowhere_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "1.csv").write_text("a,b\n1,x\n")
    (tmp_path / name).symlink_to(tmp_path / "unmounted" / name)
    with pytest.raises(DataError, match=f"{name} is a link to what is not there"):
        scan([tmp_path])


def test_globs_and_overlapping_paths_read_each_file_once(tmp_path: Path) -> None:
    for name in ("1.csv", "2.csv", "3.jsonl"):
        (tmp_path / name).write_text('{"a": "j"}' if name.endswith("l") else f"a,b\n{name},x\n")
    assert rows(tmp_path / "*.csv", tmp_path / "2.csv") == [["1.csv"], ["2.csv"]]


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_a_name_with_brackets_is_that_file_only(tmp_path: Path, suffix: str) -> None:
    for name in ("[a]", "a"):
        path = tmp_path / f"{name}.{suffix}"
        frame = pl.DataFrame({"a": [name], "b": ["x"]})
        {"csv": frame.write_csv, "jsonl": frame.write_ndjson, "parquet": frame.write_parquet}[
            suffix
        ](path)
    assert rows(tmp_path / f"[a].{suffix}") == [["[a]"]]


LONG = gzip.compress(b"".join(b'{"a": %d}\n' % (n * n) for n in range(20_000)), mtime=0)
PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("log.csv", b"", "is empty"),
        ("log.csv.gz", gzip.compress(b"", mtime=0), "is empty"),
        ("log.jsonl", b"", "is empty"),
        ("log.png", PNG, "save it as CSV or Parquet"),
        ("log.json", b'[{"a": 1}]', "not one JSON object per line"),
        ("log.xlsx", b"PK\x03\x04", "damaged or locked XLSX"),
        ("log.xlsx", PNG, "not an XLSX file"),
        ("log.csv", PNG, "not a text file"),
        ("log.csv", b"PK\x03\x04xl", "not a text file"),
        ("log.csv", gzip.compress(b"a\n1\n", mtime=0), "not a text file"),
        ("log.csv", "a,b\n1,2".encode("utf-16"), "not a text file"),
        ("log.csv", "a,b\n1,£2\n".encode("latin-1"), "not UTF-8"),
        ("log.csv", b"a,b\n1,2,3\n", "cannot be read as CSV"),
        ("log.csv", b'a,b\n1,"2\n3,4\n', "cannot be read as CSV"),
        ("log.csv.gz", b"a,b\n1,2\n", "not a complete gzip"),
        ("log.csv.gz", gzip.compress(b"a,b\n1,2\n", mtime=0)[:-12], "not a complete gzip"),
        ("log.parquet", b"a,b\n1,2\n", "not a Parquet file"),
        ("log.parquet", b"PAR1 damaged PAR1", "damaged Parquet"),
        ("log.jsonl", b'{"a": 1}\n{"a": \n', "not one JSON object per line"),
        ("log.jsonl", b'[1, 2]\n"x"\n', "not one JSON object per line"),
        ("log.jsonl.gz", b'{"a": 1}\n', "not a complete gzip"),
        ("log.jsonl.gz", LONG[: len(LONG) // 2], "or is cut off"),
        ("log.jsonl.gz", LONG[:-4], "or is cut off"),
    ],
)
def test_unreadable_files_say_what_to_do(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        rows(path)
    assert name in str(caught.value)
    assert str(caught.value).count(". ") == 0


def test_missing_paths(tmp_path: Path) -> None:
    for path in (tmp_path / "no.csv", tmp_path / "*.csv"):
        with pytest.raises(DataError, match="There is no file"):
            scan([path])
    with pytest.raises(DataError, match="holds no event log"):
        scan([tmp_path])


@pytest.mark.parametrize(
    "name", ["log.csv", "log.csv.gz", "log.jsonl", "log.jsonl.gz", "log.parquet", "log.xlsx"]
)
def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path, name: str) -> None:
    def write(values: list[str]) -> Path:
        table, path = pl.DataFrame({"a": values}), tmp_path / name
        if name.endswith("l.gz"):
            path.write_bytes(gzip.compress(table.write_ndjson().encode()))
        elif name.endswith(".gz"):
            path.write_bytes(gzip.compress("\n".join(["a", *values]).encode()))
        elif name.endswith("xlsx"):
            table.write_excel(path)
        else:
            kind = path.suffix[1:].replace("jsonl", "ndjson")
            getattr(table, f"write_{kind}")(path)
        return path

    (source,) = scan([write(["1"] * 50)])
    assert len(collect(source, source.rows)) == 50
    write(["1"] * 20)
    for read in (collect, lambda *given: list(batches(*given))):
        with pytest.raises(DataError, match=rf"{name} changed while it was read; wait"):
            read(source, source.rows)
    (source,) = scan([tmp_path / name])
    (tmp_path / name).unlink()
    with pytest.raises(DataError, match=rf"{name} changed while it was read"):
        collect(source, source.rows)


@pytest.mark.parametrize("name", ["log.csv", "log.jsonl", "log.parquet", "log.xlsx"])
def test_blanks_around_names_of_columns_do_not_count(tmp_path: Path, name: str) -> None:
    path, table = tmp_path / name, pl.DataFrame({"id": ["1"], " a ": ["2"]})
    if name.endswith("xlsx"):
        table.write_excel(path)
    else:
        getattr(table, f"write_{path.suffix[1:].replace('jsonl', 'ndjson')}")(path)
    (source,) = scan([path])
    assert list(source.schema) == ["id", "a"]
    assert rows(path) == [["2"]]


def test_names_that_only_blanks_tell_apart_stay_apart(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("a, a\n1,2\n")
    (source,) = scan([tmp_path])
    assert collect(source, source.rows).select("a", " a").row(0) == ("1", "2")


def test_errors_do_not_quote_cells(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text('a,b\nzoe@example.com,"oops\n')
    with pytest.raises(DataError) as caught:
        rows(path)
    assert "zoe" not in str(caught.value)
    assert caught.value.__suppress_context__


@pytest.mark.parametrize("name", ["log.csv", "log.csv.gz", "log.xlsx", "old.csv"])
def test_columns_are_named_where_no_header_row_does(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    table = pl.DataFrame({"x": ["007", "8"], "y": ["é", "f"]})
    encoding = "cp1252" if name == "old.csv" else "utf-8"
    if name.endswith("xlsx"):
        table.write_excel(path, include_header=False)
    else:
        data = table.write_csv(include_header=False).encode(encoding)
        path.write_bytes(gzip.compress(data) if name.endswith("gz") else data)

    def opened(*columns: str) -> Source:
        return scan([path], lambda _: Layout(encoding=encoding, columns=columns))[0]

    source = opened("who", "what")
    assert collect(source, source.rows).rows() == [(1, "007", "é"), (2, "8", "f")]
    with pytest.raises(DataError, match="has 2 columns, not the 1 that `columns` names"):
        opened("who")
    with pytest.raises(DataError, match="names two columns"):
        opened("who", "who")


def test_folders_tell_columns_as_spark_writes_them(tmp_path: Path) -> None:
    written = {"web": ["1", "2"], "a%2Fb": ["3"], "__HIVE_DEFAULT_PARTITION__": ["4"]}
    for platform, values in written.items():
        folder = tmp_path / f"platform={platform}" / "day=2024-01-01"
        folder.mkdir(parents=True)
        pl.DataFrame({"a": values, "day": ["own"] * len(values)}).write_parquet(folder / "part-0")
        (folder / "part-0").rename(folder / "part-0.snappy.parquet")
        (folder / "_SUCCESS").touch()
        hidden = tmp_path / "_temporary" / "0"
        hidden.mkdir(parents=True, exist_ok=True)
        pl.DataFrame({"a": ["half written"]}).write_parquet(hidden / "part-0.parquet")
    sources = scan([tmp_path])
    found = pl.concat(collect(source, source.rows) for source in sources)
    assert found.sort("a").select("a", "platform", "day").rows() == [
        ("1", "web", "own"),
        ("2", "web", "own"),
        ("3", "a/b", "own"),
        ("4", None, "own"),
    ]
    assert all(source.schema["platform"] == pl.String() for source in sources)


def test_json_lines_of_a_folder_may_be_called_json(tmp_path: Path) -> None:
    (tmp_path / "part-0.json").write_text('{"a": "1"}\n{"a": "2"}\n')
    (tmp_path / "part-1.json.gz").write_bytes(gzip.compress(b'{"a": "3"}\n'))
    (tmp_path / "schema.json").write_text('{\n  "a": "string"\n}\n')
    (tmp_path / "broken.json.gz").write_bytes(b"{")
    assert rows(tmp_path) == [["1", "2"], ["3"]]
    assert [path.name for path in unread_of([tmp_path])] == ["broken.json.gz", "schema.json"]


@pytest.mark.parametrize(
    ("state", "name"),
    [
        ("_delta_log/0.json", "Delta Lake"),
        (".hoodie/hoodie.properties", "Hudi"),
        ("metadata/v1.metadata.json", "Iceberg"),
    ],
)
def test_tables_whose_files_hold_more_than_the_table_are_refused(
    tmp_path: Path, state: str, name: str
) -> None:
    (tmp_path / "sales" / state).parent.mkdir(parents=True)
    (tmp_path / "sales" / state).write_text("{}")
    pl.DataFrame({"a": ["deleted"]}).write_parquet(tmp_path / "sales" / "part-0.parquet")
    with pytest.raises(DataError, match=f"is the state of a table of {name}"):
        scan([tmp_path])
