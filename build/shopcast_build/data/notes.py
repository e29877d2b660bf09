"""What happened to rows that did not pass as they came, counted while a log is read."""

import polars as pl

from shopcast_build.data.reading import ROW

HIDDEN = "(not shown)"
NO_PLATFORM = "(unknown)"
"""In place of the platform of rows that name none, or none that could be one."""

RULE, DEFECT, GAP = "rule", "defect", "gap"
"""Why a row is dropped: by the mapping, because the log is wrong, or because nobody is named."""
DROPPED = (RULE, DEFECT, GAP)
REPAIRED = "repaired"
NOTE_COLUMNS = ("file", ROW, "platform", "cause", "reason", "value")
_EXAMPLES = 3
_SHOWN_CHARS = 60


class Notes:
    """Counts by cause, reason and platform, with a few examples of each reason."""

    def __init__(self) -> None:
        self._counts: list[pl.DataFrame] = []
        self._examples: dict[str, list[str]] = {}

    def add(self, notes: pl.DataFrame) -> None:
        """Take down what happened. notes: NOTE_COLUMNS, in the order of the rows."""
        if notes.is_empty():
            return
        self._counts.append(notes.group_by("cause", "reason", "platform").len("rows"))
        first = notes.group_by("reason", maintain_order=True).head(_EXAMPLES)
        for reason, text in first.select("reason", _example()).iter_rows():
            shown = self._examples.setdefault(reason, [])
            if len(shown) < _EXAMPLES:
                shown.append(text)

    def rows(self, *causes: str, platform: str | None = None) -> dict[str, int]:
        """Rows by reason, most frequent first; of one platform, or of all."""
        wanted = self.table().filter(pl.col("cause").is_in(causes))
        if platform is not None:
            wanted = wanted.filter(pl.col("platform") == platform)
        counts = wanted.group_by("reason").agg(pl.col("rows").sum())
        return dict(counts.sort("rows", "reason", descending=[True, False]).iter_rows())

    def table(self) -> pl.DataFrame:
        """Columns cause, reason, platform, rows."""
        columns = {"cause": pl.String, "reason": pl.String, "platform": pl.String}
        parts = [pl.DataFrame(schema=columns | {"rows": pl.UInt32}), *self._counts]
        return pl.concat(parts).group_by(*columns).agg(pl.col("rows").cast(pl.Int64).sum())

    @property
    def examples(self) -> dict[str, tuple[str, ...]]:
        """The first few notes of every reason, as 'row N of FILE: VALUE'."""
        return {reason: tuple(shown) for reason, shown in sorted(self._examples.items())}


def _example() -> pl.Expr:
    """Nothing is shown of a value that looks like an e-mail address, slipped in from elsewhere."""
    value = pl.col("value")
    shown = (
        pl.when(value.str.contains("@", literal=True))
        .then(pl.lit(f": {HIDDEN}"))
        .otherwise(": " + value.str.slice(0, _SHOWN_CHARS))
        .fill_null("")
    )
    return pl.format("row {} of {}{}", ROW, "file", shown).alias("text")
