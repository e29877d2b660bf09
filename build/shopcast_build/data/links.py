"""Files of links between accounts: identifiers they share, or pairs somebody found to be one."""

from collections.abc import Iterable
from pathlib import Path

import polars as pl

from shopcast_build.data.columns import (
    NOTHING,
    check_ids,
    hash_text,
    id_rounded,
    id_text,
    text,
)
from shopcast_build.data.errors import DataError
from shopcast_build.data.reading import Source, check_columns, collect, scan

IDENTIFIER_KINDS = ("login", "hashed_email", "hashed_phone", "device", "probabilistic")
IDENTIFIER_COLUMNS = ("platform", "platform_user_id", "identifier_kind", "identifier_hash")
PAIR_COLUMNS = (
    "platform",
    "platform_user_id",
    "other_platform",
    "other_platform_user_id",
    "kind",
    "confidence",
)
"""Of a file of pairs, beside an optional `source`. Each file is told by its columns."""

_ROUNDED = "rounded"
_SHORT_KINDS = {"email": "hashed_email", "phone": "hashed_phone"}


def read_links(path: Path) -> pl.DataFrame:
    """Links between accounts, as text columns but for the Float64 confidence.

    IDENTIFIER_COLUMNS of files of identifiers; PAIR_COLUMNS and source of files of pairs; where
    `path` holds both, all of them, null where a row is of the other sort. Kinds are those of
    IDENTIFIER_KINDS; email and phone stand for the hashed ones.
    Raises DataError for files that cannot be read, columns that are missing, ids that were rounded,
    unknown kinds, identifiers that are not hashed, and confidences that are none.
    """
    sources = scan([path])
    identifiers = [one for one in sources if not _holds_pairs(one)]
    pairs = [one for one in sources if _holds_pairs(one)]
    parts = []
    if identifiers:
        parts.append(_identifiers(path, identifiers))
    if pairs:
        parts.append(_pairs(path, pairs))
    return pl.concat(parts, how="diagonal")


def _holds_pairs(source: Source) -> bool:
    return "other_platform_user_id" in source.schema


def _identifiers(path: Path, sources: Iterable[Source]) -> pl.DataFrame:
    advice = (
        f"links need the columns {', '.join(IDENTIFIER_COLUMNS)}, or those of pairs:"
        f" {', '.join(PAIR_COLUMNS)}"
    )
    parts = []
    for source in sources:
        check_columns(source, IDENTIFIER_COLUMNS, advice)
        rows = source.rows.select(
            text(source, "platform").str.to_lowercase(),
            id_text(source, "platform_user_id"),
            _kind(source, "identifier_kind"),
            text(source, "identifier_hash"),
            id_rounded(source, "platform_user_id").alias(_ROUNDED),
        )
        parts.append(collect(source, rows))
    links = pl.concat(parts)
    check_ids(path, links.drop_in_place(_ROUNDED))
    _check_kinds(path, links["identifier_kind"])
    hashes = links.select(hash_text(pl.col("identifier_hash"))).to_series()
    if hashes.null_count() > links["identifier_hash"].null_count():
        raise DataError(
            f"{path} holds an identifier_hash that is no hash of 16 to 64 bytes in hex or base64;"
            " hash identifiers, with SHA-256 for example, before linking."
        )
    return links.with_columns(hashes)


def _pairs(path: Path, sources: Iterable[Source]) -> pl.DataFrame:
    parts = []
    for source in sources:
        check_columns(source, PAIR_COLUMNS, f"pairs need the columns {', '.join(PAIR_COLUMNS)}")
        rows = source.rows.select(
            text(source, "platform").str.to_lowercase(),
            id_text(source, "platform_user_id"),
            text(source, "other_platform").str.to_lowercase(),
            id_text(source, "other_platform_user_id"),
            _kind(source, "kind"),
            text(source, "confidence"),
            text(source, "source") if "source" in source.schema else NOTHING.alias("source"),
            pl.any_horizontal(
                id_rounded(source, "platform_user_id"),
                id_rounded(source, "other_platform_user_id"),
            ).alias(_ROUNDED),
        )
        parts.append(collect(source, rows))
    pairs = pl.concat(parts)
    check_ids(path, pairs.drop_in_place(_ROUNDED))
    _check_kinds(path, pairs["kind"])
    confidence = pairs["confidence"].cast(pl.Float64, strict=False)
    if wrong := int((pairs["confidence"].is_not_null() & ~_is_confidence(confidence)).sum()):
        raise DataError(
            f"{path} has {wrong} pairs whose confidence is not a number over 0 and at most 1;"
            " correct them."
        )
    return pairs.with_columns(confidence)


def _is_confidence(confidence: pl.Series) -> pl.Series:
    return ((confidence > 0) & (confidence <= 1)).fill_null(value=False)


def _kind(source: Source, column: str) -> pl.Expr:
    return text(source, column).str.to_lowercase().replace(_SHORT_KINDS)


def _check_kinds(path: Path, kinds: pl.Series) -> None:
    if unknown := len(kinds.filter(~kinds.is_in(IDENTIFIER_KINDS))):
        raise DataError(
            f"{path} has {unknown} links of an unknown {kinds.name}; use one of"
            f" {', '.join(IDENTIFIER_KINDS)}."
        )
