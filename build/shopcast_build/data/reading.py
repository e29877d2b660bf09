"""Event logs as lazy frames: CSV, CSV.gz, Parquet and JSON lines; files, folders and globs."""

import glob
import gzip
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from shopcast_build.data.errors import DataError

ROW = "__row__"
"""Name of the column that numbers a file's rows of data from 1."""

_SUFFIXES = (".csv", ".csv.gz", ".parquet", ".jsonl", ".ndjson")
_READABLE = "CSV, CSV.gz, Parquet and JSONL files can be read"
_HEAD_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Source:
    """One file of a log. rows: its columns beside ROW; those of CSV and JSONL are all text."""

    path: Path
    rows: pl.LazyFrame
    schema: dict[str, pl.DataType]


def scan(paths: Sequence[Path]) -> list[Source]:
    """Open every file of the paths, in order of their names, each once.

    A path is a file, a folder (its readable files, recursively; hidden ones are skipped) or a glob.
    Raises DataError for what is missing, empty, or not what its name says.
    """
    files = {file.resolve(): file for path in paths for file in _files(path)}
    return [_open(file) for file in sorted(files.values())]


def collect(source: Source, rows: pl.LazyFrame) -> pl.DataFrame:
    """Run a query on the rows of a source. Raises DataError where the file turns out broken."""
    try:
        return rows.collect(engine="streaming")
    except (pl.exceptions.PolarsError, OSError) as error:
        # The library's own words quote cells, which may be personal.
        raise DataError(_broken(source.path, error)) from None


def check_columns(source: Source, wanted: Iterable[str], advice: str) -> None:
    """Raise DataError when the file lacks one of the columns, naming those it has."""
    missing = sorted({column for column in wanted if column not in source.schema})
    if not missing:
        return
    found = ", ".join(source.schema)
    if len(source.schema) == 1 and any(mark in found for mark in ";\t|"):
        advice = "save it with commas between the columns"
    raise DataError(f"{source.path} has no column {', '.join(missing)}; it has {found}; {advice}.")


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        inside = (file for file in path.rglob("*") if not file.name.startswith((".", "_")))
        files = [file for file in inside if file.is_file() and _suffix(file)]
        if not files:
            raise DataError(f"The folder {path} holds no event log; {_READABLE}.")
        return files
    if path.exists():
        return [path]
    matches = [Path(match) for match in glob.glob(str(path), recursive=True)]  # noqa: PTH207
    if not matches:
        raise DataError(f"There is no file {path}; check the path.")
    return [file for match in matches for file in _files(match)]


def _suffix(path: Path) -> str | None:
    return next((suffix for suffix in _SUFFIXES if path.name.lower().endswith(suffix)), None)


def _open(path: Path) -> Source:
    suffix = _suffix(path)
    if suffix is None:
        raise DataError(
            f"{path} is of a type that cannot be read; save it as CSV or Parquet ({_READABLE})."
        )
    _check_head(path, suffix)
    try:
        rows = _scan(path, suffix)
        schema = dict(rows.collect_schema())
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(_broken(path, error)) from None
    numbered = rows.with_row_index(ROW, offset=1)
    if suffix.startswith(".csv"):
        # Blank lines come as rows without any value.
        numbered = numbered.filter(pl.any_horizontal(pl.col(*schema).is_not_null()))
    return Source(path, numbered, schema)


def _scan(path: Path, suffix: str) -> pl.LazyFrame:
    if suffix == ".parquet":
        return pl.scan_parquet(path, glob=False, hive_partitioning=False)
    if suffix in (".csv", ".csv.gz"):
        # Text first: guessed types turn 00123 into 123 and depend on which rows come first.
        return pl.scan_csv(path, infer_schema=False, glob=False)
    literal = glob.escape(str(path))
    names = pl.scan_ndjson(literal, infer_schema_length=None).collect_schema().names()
    return pl.scan_ndjson(literal, schema=dict.fromkeys(names, pl.String()))


def _check_head(path: Path, suffix: str) -> None:
    try:
        if path.stat().st_size == 0:
            raise DataError(f"{path} is empty; export it again.")
        with gzip.open(path) if suffix == ".csv.gz" else path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise DataError(f"{path} is not a complete gzip file; export it again.") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); check the file.") from None
    if suffix == ".parquet":
        if not head.startswith(b"PAR1"):
            raise DataError(f"{path} is not a Parquet file; save it as CSV or Parquet.")
    elif b"\0" in head or head.startswith((b"PK\x03\x04", b"PAR1", b"\x1f\x8b")):
        raise DataError(f"{path} is not a text file; save it as CSV (UTF-8) or Parquet.")


def _broken(path: Path, error: Exception) -> str:
    if isinstance(error, pl.exceptions.NoDataError):
        return f"{path} is empty; export it again."
    if "utf-8" in str(error).lower():
        return f"{path} is not UTF-8 text; save it as UTF-8."
    if _suffix(path) in (".jsonl", ".ndjson"):
        return f"{path} is not one JSON object per line; export it again or save it as CSV."
    if _suffix(path) == ".parquet":
        return f"{path} is a damaged Parquet file or has nested columns; export it again."
    return (
        f"{path} cannot be read as CSV (a row has more fields than the header, a quote is not "
        "closed, or the file is cut off); repair it or save it as Parquet."
    )
