"""A file of links, as `--links` takes it."""

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from shopcast_build.data.errors import DataError
from shopcast_build.data.links import PAIR_COLUMNS
from shopcast_build.data.reading import files_of, scan

_STEPS = 10_000
SUFFIXES = (".csv", ".parquet")


def check_output(path: Path, accounts: Sequence[Path] = ()) -> None:
    """Raise DataError for a path that links cannot be written to, and for a file that is no earlier
    file of links: one of accounts, or any other."""
    if path.suffix.lower() not in SUFFIXES:
        raise DataError(f"{path} is neither .csv nor .parquet; give --output such a name.")
    if not path.parent.is_dir():
        raise DataError(f"The folder {path.parent} does not exist; make it first.")
    if not path.exists():
        return
    if path.resolve() in [file.resolve() for file in files_of(accounts)]:
        raise DataError(f"{path} is one of the files of --accounts; give --output another name.")
    if not _holds_pairs(path):
        raise DataError(
            f"{path} is there and holds no pairs of accounts; give --output another name."
        )


def _holds_pairs(path: Path) -> bool:
    try:
        return all(source.schema.keys() >= set(PAIR_COLUMNS) for source in scan([path]))
    except DataError:
        return False


def named_links(links: pl.DataFrame, accounts: pl.DataFrame, source: str) -> pl.DataFrame:
    """Links by the names of their accounts, sorted; confidence is rounded down to four digits.

    links: columns left, right, confidence. accounts: columns platform, platform_user_id.
    """
    left, right = accounts[links["left"]], accounts[links["right"]]
    made = left.hstack(
        [
            right["platform"].alias("other_platform"),
            right["platform_user_id"].alias("other_platform_user_id"),
            links["confidence"],
        ]
    )
    return made.select(
        pl.exclude("confidence"),
        pl.lit("probabilistic").alias("kind"),
        (pl.col("confidence") * _STEPS + 1e-9).floor() / _STEPS,
        pl.lit(source).alias("source"),
    ).sort(pl.all())


def write_links(links: pl.DataFrame, path: Path) -> None:
    """Write named links as CSV or Parquet, whichever the suffix says; replaces a file in one step.

    Raises DataError where the file cannot be written.
    """
    check_output(path)
    partial = path.with_name(f".{path.name}.partial")
    try:
        if path.suffix.lower() == ".csv":
            links.write_csv(partial)
        else:
            links.write_parquet(partial)
        partial.replace(path)
    except OSError as error:
        raise DataError(f"{path} cannot be written ({error.strerror}); check the folder.") from None
    finally:
        partial.unlink(missing_ok=True)
