"""What an error may say of the columns of a file: their names, never what may be a value."""

import re
from collections.abc import Collection
from pathlib import Path

_MOST_NAMES = 20
_NAME = re.compile(r"[^\W\d][\w ./()#%&+-]{0,63}")
_VALUE = re.compile(
    r"[+-]?[\d.,]+"  # a number
    r"|.*\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}.*"  # a date
    r"|.*@.*"
    r"|[0-9a-f]{16,}",
    re.IGNORECASE,
)
_NAMED = {".parquet", ".json", ".jsonl", ".ndjson"}
"""Types of files in which every value has its column's name."""
_UNNAMED = "__UNNAMED__"  # fastexcel: the cell of the header row is empty


def instead(path: Path, columns: Collection[str], advice: str) -> str:
    """The end of a sentence that begins with what a file lacks: what it has, and what to do. A
    first row of values is no header row, and none of it is told.

    >>> instead(Path("a.csv"), ["who", "what"], "name them in the mapping")
    'it has who, what; name them in the mapping.'
    >>> instead(Path("a.csv"), ["web", "anna@example.com"], "name them in the mapping")[:38]
    'its first row holds values, not names:'
    """
    if not {suffix.lower() for suffix in path.suffixes} & _NAMED:
        if any(column.startswith(_UNNAMED) for column in columns):
            return (
                "its first row is no header row: delete what stands above the names of the columns."
            )
        if any(_VALUE.fullmatch(column.strip()) for column in columns):
            return (
                "its first row holds values, not names: add a header row, or name the columns"
                " (`columns` of a mapping, --columns of `platform data inspect`)."
            )
    names = [column for column in columns if _NAME.fullmatch(column)][:_MOST_NAMES]
    rest = len(columns) - len(names)
    told = ", ".join(names) + (f" and {rest} more" if names and rest else "")
    return f"it has {told or f'{rest} columns'}; {advice}."
