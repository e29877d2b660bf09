"""Event logs as lazy frames: CSV, TSV and JSON lines, also as gzip files, Parquet and XLSX; files,
folders, globs."""

import codecs
import glob
import gzip
import json
import os
import re
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BufferedReader
from pathlib import Path
from urllib.parse import unquote

import fastexcel
import polars as pl

from shopcast_build.data.errors import DataError
from shopcast_build.data.header import instead

ROW = "__row__"
"""Name of the column that numbers a file's rows of data from 1."""

Progress = Callable[[int, int], None]
"""Takes how many of how many are done."""

_ANY_JSON = (".json", ".json.gz")
_LINES = (".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz", *_ANY_JSON)
_TSV = (".tsv", ".tsv.gz")
_CSV = (".csv", ".csv.gz", *_TSV)
_SUFFIXES = (*_CSV, ".parquet", *_LINES, ".xlsx")
_NO_DATA = (".toml", ".md")
_TABLES = {
    "_delta_log": "Delta Lake",
    ".hoodie": "Hudi",
    "metadata/*.metadata.json": "Iceberg",
}
"""What keeps the state of a table, beside files that hold rows of other states, too."""
_PARTITION = re.compile(r"([A-Za-z]\w*)=(.*)")
_NO_VALUE = "__HIVE_DEFAULT_PARTITION__"
_READABLE = "CSV, TSV and JSONL files, also as .gz, Parquet and XLSX files can be read"
_HEAD_BYTES = 4096
_SNIFFED_BYTES = 1_000_000
_BATCH_ROWS = 500_000
_AGAIN = "_duplicated_0"  # how polars names the second column of a name


@dataclass(frozen=True, slots=True)
class Layout:
    """How a file lies on disk: separator and encoding of CSV; the sheet of a workbook to read;
    columns: the names of those of CSV and sheets, where no header row tells them."""

    separator: str = ","
    encoding: str = "utf-8"
    sheet: str | None = None
    columns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Source:
    """One file of a log, or one sheet of it, by the name that reports give it.

    rows: its columns beside ROW, their names without blanks around them; those of CSV, JSONL and
    XLSX are all text, and so are those that its folders tell, as in platform=web/. schema: their
    types, but for columns of JSONL that hold objects or lists: those of what is in them. state: of
    the file when it was opened. numbers: columns of JSONL that hold numbers only, with a dot before
    fractions, whatever texts have.
    """

    path: Path
    name: str
    rows: pl.LazyFrame
    schema: dict[str, pl.DataType]
    state: tuple[int, ...]
    numbers: frozenset[str] = frozenset()


def scan(
    paths: Sequence[Path], layout_of: Callable[[Path], Layout] = lambda _: Layout()
) -> list[Source]:
    """Open every file of the paths, in order of their names, each once; sheets as they come.

    A path is a file, a folder (its readable files, recursively and through links; hidden ones are
    skipped) or a glob.
    Raises DataError for what is missing, empty, or not what its name says.
    """
    return [
        _with_partitions(source)
        for file in files_of(paths)
        for source in _open(file, layout_of(file))
    ]


def unread_of(paths: Sequence[Path]) -> list[Path]:
    """Files in the folders of the paths that are of no type that can be read, in order of their
    names; hidden ones, mappings and notes (TOML, Markdown) aside."""
    folders = {folder.resolve(): folder for path in paths for folder in _folders(path)}
    others = (file for folder in folders.values() for file in _inside(folder) if not _is_log(file))
    data = {file.resolve(): file for file in others if file.suffix.lower() not in _NO_DATA}
    return sorted(data.values())


def sniff_layout(path: Path, columns: tuple[str, ...] = ()) -> Layout:
    """The likeliest separator and encoding of a CSV file; the usual ones of any other. columns:
    names of those without a header row."""
    if _suffix(path) not in _CSV:
        return Layout(columns=columns)
    try:
        with _opened(path) as file:
            head = file.read(_SNIFFED_BYTES)
    except (OSError, EOFError, zlib.error):
        return Layout(columns=columns)  # opening it says what is wrong
    encoding = "utf-16" if head.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8"
    try:
        codecs.getincrementaldecoder(encoding)().decode(head)
    except UnicodeError:
        encoding = "cp1252"
    line = head.decode(encoding, "ignore").partition("\n")[0]
    return Layout(max(",;\t|", key=line.count), encoding, columns=columns)


def files_of(paths: Sequence[Path]) -> list[Path]:
    """The files behind paths, in order of their names, each once; see scan."""
    return sorted({file.resolve(): file for path in paths for file in _files(path)}.values())


def collect(source: Source, rows: pl.LazyFrame) -> pl.DataFrame:
    """Run a query on the rows of a source. Raises DataError where the file turns out broken, or is
    no longer what it was when it was opened."""
    with _reading(source):
        return rows.collect(engine="streaming")


def batches(source: Source, rows: pl.LazyFrame) -> Iterator[pl.DataFrame]:
    """The same, as frames of bounded size in the order of the rows."""
    with _reading(source):
        yield from rows.collect_batches(chunk_size=_BATCH_ROWS, engine="streaming")


@contextmanager
def _reading(source: Source) -> Iterator[None]:
    problem = None
    try:
        yield
    except (pl.exceptions.PolarsError, OSError) as error:
        # The library's own words quote cells, which may be personal.
        problem = _broken(source.path, error)
    if _state(source.path) != source.state:
        problem = (
            f"{source.path} changed while it was read; wait until it is written, or copy it, and"
            " begin again."
        )
    if problem:
        raise DataError(problem) from None


def _state(path: Path) -> tuple[int, ...]:
    """What tells that a file was written to or replaced; nothing where it is gone."""
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_ino, found.st_size, found.st_mtime_ns


def check_columns(source: Source, wanted: Iterable[str], advice: str) -> None:
    """Raise DataError when the file lacks one of the columns, naming those it has, or has several
    of a name, or where one holds objects or lists."""
    wanted = set(wanted)
    nested = sorted(wanted.intersection(nested_columns(source)))
    if nested:
        raise DataError(
            f"{source.path} holds objects or lists in {', '.join(nested)}: export what is in them"
            " as columns of their own, or map other columns."
        )
    twice = sorted(name for name in wanted if f"{name}{_AGAIN}" in source.schema)
    if twice and _suffix(source.path) in _CSV:
        raise DataError(
            f"{source.path} has several columns called {', '.join(twice)}: rename all but the one"
            " that is meant."
        )
    missing = sorted(wanted.difference(source.schema))
    if not missing:
        return
    columns = list(source.schema)
    if len(columns) == 1 and (mark := next((m for m in ";\t|" if m in columns[0]), None)):
        columns = columns[0].split(mark)
        shown = "\\t" if mark == "\t" else mark
        advice = (
            f'save it with commas between the columns, or give the mapping separator = "{shown}"'
        )
    where = source.path if source.name == source.path.name else f"{source.path}: {source.name}"
    raise DataError(
        f"{where} has no column {', '.join(missing)}; {instead(source.path, columns, advice)}"
    )


def nested_columns(source: Source) -> list[str]:
    """The columns that hold objects or lists, and cannot be read as one value."""
    return [name for name, dtype in source.schema.items() if dtype.is_nested()]


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        files = [file for file in _inside(path) if _is_log(file)]
        if not files:
            raise DataError(f"The folder {path} holds no event log; {_READABLE}.")
        return files
    if path.exists():
        return [path]
    matches = [Path(match) for match in glob.glob(str(path), recursive=True)]  # noqa: PTH207
    if not matches:
        raise DataError(f"There is no file {path}; check the path.")
    return [file for match in matches for file in _files(match)]


def _folders(path: Path) -> list[Path]:
    """The folders that a path means: itself, or those that a glob matches."""
    matches = [path] if path.exists() else map(Path, glob.glob(str(path), recursive=True))  # noqa: PTH207
    return [match for match in matches if match.is_dir()]


def _inside(folder: Path) -> Iterator[Path]:
    """The files of a folder, recursively and through links, but for hidden ones and those of hidden
    folders. Raises DataError for links that lead nowhere and folders that cannot be listed, since
    what is there would be missed, and for tables in a format with a state of its own."""
    seen: set[Path] = set()
    for place, folders, names in os.walk(folder, onerror=_unlisted, followlinks=True):
        here = Path(place)
        _refuse_table(here)
        folders[:] = [name for name in folders if not _is_hidden(name)]
        if here.resolve() in seen:  # a link to a folder above it
            folders.clear()
            continue
        seen.add(here.resolve())
        for file in (here / name for name in names if not _is_hidden(name)):
            if file.is_file():
                yield file
            elif file.is_symlink():
                raise DataError(f"{file} is a link to what is not there; correct or remove it.")


def _is_hidden(name: str) -> bool:
    return name.startswith((".", "_", "~$"))


def _refuse_table(folder: Path) -> None:
    for pattern, kind in _TABLES.items():
        if (state := next(folder.glob(pattern), None)) is not None:
            raise DataError(
                f"{state} is the state of a table of {kind}, whose files also hold rows that were"
                " deleted or replaced: export the table as Parquet or CSV."
            )


def _unlisted(error: OSError) -> None:
    raise DataError(f"The folder {error.filename} cannot be read ({error.strerror}); check it.")


def _is_log(file: Path) -> bool:
    """Whether a file of a folder can be read. What is called .json is mostly something else: it is
    a log if its first line is an object."""
    suffix = _suffix(file)
    if suffix not in _ANY_JSON:
        return suffix is not None
    try:
        with _opened(file) as opened:
            return isinstance(json.loads(opened.readline(_SNIFFED_BYTES)), dict)
    except (OSError, EOFError, zlib.error, ValueError):
        return False


def _opened(path: Path) -> gzip.GzipFile | BufferedReader:
    """What a file holds, unpacked."""
    return gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb")


def _suffix(path: Path) -> str | None:
    return next((suffix for suffix in _SUFFIXES if path.name.lower().endswith(suffix)), None)


def _open(path: Path, layout: Layout) -> list[Source]:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise DataError(f"{path} has a name that is no UTF-8 text; rename it.") from None
    suffix = _suffix(path)
    if suffix is None:
        raise DataError(
            f"{path} is of a type that cannot be read; save it as CSV or Parquet ({_READABLE})."
        )
    state = _state(path)
    _check_head(path, suffix, layout)
    if suffix == ".xlsx":
        return _sheets(path, layout, state)
    try:
        rows, told = _scan(path, suffix, layout)
        nested = {name: dtype for name, dtype in told.items() if dtype.is_nested()}
        types = dict(rows.collect_schema()) | nested
        names = _renamed(types)
        rows = rows.rename(names)
        schema = {names.get(name, name): dtype for name, dtype in types.items()}
    except UnicodeError:
        raise DataError(f"{path} is not {layout.encoding} text; correct the encoding.") from None
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(_broken(path, error)) from None
    numbered = rows.with_row_index(ROW, offset=1)
    if suffix in _CSV:
        # Blank lines come as rows without any value.
        numbered = numbered.filter(pl.any_horizontal(pl.col(*schema).is_not_null()))
    numbers = frozenset(names.get(name, name) for name in told if told[name].is_numeric())
    return [Source(path, path.name, numbered, schema, state, numbers)]


def _with_partitions(source: Source) -> Source:
    """With the columns that folders tell, as Spark and Hive write them: platform=web/. What the
    file tells itself counts."""
    told = {}
    for part in source.path.parts[:-1]:
        if (found := _PARTITION.fullmatch(part)) and found[1] not in source.schema:
            value = unquote(found[2])
            told[found[1]] = None if value == _NO_VALUE else value
    if not told:
        return source
    columns = [pl.lit(value, pl.String).alias(name) for name, value in told.items()]
    return replace(
        source,
        rows=source.rows.with_columns(columns),
        schema=source.schema | dict.fromkeys(told, pl.String()),
    )


def _renamed(columns: Collection[str]) -> dict[str, str]:
    """New names of columns that have blanks around theirs, as where one follows each comma; none
    where two would be called alike."""
    plain = {name: name.strip() for name in columns}
    if len({*plain.values()}) < len(columns):
        return {}
    return {name: bare for name, bare in plain.items() if bare != name}


def _scan(path: Path, suffix: str, layout: Layout) -> tuple[pl.LazyFrame, dict[str, pl.DataType]]:
    """The rows, and the types of what is read as text and need not be."""
    if suffix == ".parquet":
        return pl.scan_parquet(path, glob=False, hive_partitioning=False), {}
    if suffix in _CSV:
        data: Path | bytes = path
        if layout.encoding != "utf-8":
            with _opened(path) as file:
                data = file.read().decode(layout.encoding).encode()
        rows = pl.scan_csv(
            data,
            infer_schema=False,  # guessed types turn 00123 into 123 and depend on the first rows
            glob=False,
            separator="\t" if suffix in _TSV else layout.separator,
            has_header=not layout.columns,
        )
        return _named(path, rows, layout.columns), {}
    lines: str | bytes = glob.escape(str(path))
    with _opened(path) as file:
        if file.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8:  # which the library does not know
            lines = file.read()
    types = pl.scan_ndjson(lines, infer_schema_length=None).collect_schema()
    return pl.scan_ndjson(lines, schema=dict.fromkeys(types, pl.String())), dict(types)


def _named(path: Path, rows: pl.LazyFrame, names: tuple[str, ...]) -> pl.LazyFrame:
    """The rows of a file without a header under the given names; none: as they are."""
    if not names:
        return rows
    columns = rows.collect_schema().names()
    if len(columns) != len(names):
        raise DataError(
            f"{path} has {len(columns)} columns, not the {len(names)} that `columns` names: name"
            " each of them, or correct the separator."
        )
    if len(set(names)) < len(names):
        raise DataError(f"`columns` names two columns of {path} alike: name them apart.")
    return rows.rename(dict(zip(columns, names, strict=True)))


def _sheets(path: Path, layout: Layout, state: tuple[int, ...]) -> list[Source]:
    wanted = layout.sheet
    try:
        book = fastexcel.read_excel(path)
        if wanted is not None and wanted not in book.sheet_names:
            raise DataError(
                f"{path} has no sheet {wanted}; it has {', '.join(book.sheet_names)}; correct"
                " `sheet` in the mapping."
            )
        sheets = {
            name: book.load_sheet(
                name, dtypes="string", header_row=None if layout.columns else 0
            ).to_polars()
            for name in (book.sheet_names if wanted is None else [wanted])
        }
    except fastexcel.FastExcelError:
        raise DataError(
            f"{path} is a damaged or locked XLSX file; save it again or save it as CSV."
        ) from None
    filled = {name: rows for name, rows in sheets.items() if rows.height}
    if not filled:
        raise DataError(f"{path} is empty; export it again.")
    return [
        _sheet(path, f"{path.name} [{name}]", _named(path, rows.lazy(), layout.columns), state)
        for name, rows in filled.items()
    ]


def _sheet(path: Path, name: str, rows: pl.LazyFrame, state: tuple[int, ...]) -> Source:
    rows = rows.rename(_renamed(rows.collect_schema().names()))
    schema = dict(rows.collect_schema())
    numbered = rows.with_row_index(ROW, offset=1)
    filled = numbered.filter(pl.any_horizontal(pl.col(*schema).is_not_null()))
    return Source(path, name, filled, schema, state)


def _check_head(path: Path, suffix: str, layout: Layout) -> None:
    try:
        if path.stat().st_size == 0:
            raise DataError(f"{path} is empty; export it again.")
        with _opened(path) as file:
            head = file.read(_HEAD_BYTES)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise DataError(f"{path} is not a complete gzip file; export it again.") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); check the file.") from None
    if suffix == ".parquet":
        if not head.startswith(b"PAR1"):
            raise DataError(f"{path} is not a Parquet file; save it as CSV or Parquet.")
    elif suffix == ".xlsx":
        if not head.startswith(b"PK\x03\x04"):
            raise DataError(f"{path} is not an XLSX file; save it as XLSX or CSV.")
    elif (b"\0" in head and layout.encoding != "utf-16") or head.startswith(
        (b"PK\x03\x04", b"PAR1", b"\x1f\x8b")
    ):
        raise DataError(
            f"{path} is not a text file; save it as CSV (UTF-8) or Parquet, or name its `encoding`"
            " in the mapping."
        )
    elif b"\r" in head and b"\n" not in head:
        raise DataError(f"{path} ends its lines as old Macs did; save it with usual line ends.")


def _broken(path: Path, error: Exception) -> str:
    if isinstance(error, pl.exceptions.NoDataError):
        return f"{path} is empty; export it again."
    if "utf-8" in str(error).lower():
        return (
            f"{path} is not UTF-8 text; save it as UTF-8, or name its `encoding` in the mapping"
            ' (such as "cp1252").'
        )
    if _suffix(path) in _LINES:
        return (
            f"{path} is not one JSON object per line, or is cut off; export it again or save it as"
            " CSV."
        )
    if _suffix(path) == ".parquet":
        return f"{path} is a damaged Parquet file or has nested columns; export it again."
    return (
        f"{path} cannot be read as CSV (a row has more fields than the header, a quote is not "
        "closed, or the file is cut off); repair it or save it as Parquet."
    )
