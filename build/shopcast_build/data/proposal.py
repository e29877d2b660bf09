"""A mapping for a file nobody has described yet, with the questions only its owner can answer."""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from shopcast_build.data import guesses
from shopcast_build.data.columns import decimal_of, read_number, text
from shopcast_build.data.errors import DataError
from shopcast_build.data.header import instead
from shopcast_build.data.mapping import Mapping as EventMapping
from shopcast_build.data.mapping import parse_mapping
from shopcast_build.data.non_items import ids_like_none, ids_pattern
from shopcast_build.data.reading import Layout, Source, collect, nested_columns

_OWN_NAMES = ("event_id", "title", "brand", "category", "price", "currency", "quantity")
_FEW_WORDS = 40
_SAMPLE_ROWS = 200_000


@dataclass(frozen=True, slots=True)
class Proposal:
    """toml: the text of a mapping file. questions: what could not be known. mapping: the text,
    read."""

    toml: str
    questions: tuple[str, ...]
    mapping: EventMapping


def propose(sources: Sequence[Source], layouts: Mapping[Path, Layout]) -> Proposal:
    """Look at the first rows of sources; those with the same columns share a mapping.

    layouts: of each file, as sniff_layout gives it. Raises DataError when no column looks like a
    time, an item or a user.
    """
    groups: dict[tuple[object, ...], list[Source]] = {}
    for source in sources:
        layout = layouts[source.path]
        groups.setdefault((tuple(source.schema), layout), []).append(source)
    writers = [_Writer(group[0], layouts[group[0].path]) for group in groups.values()]
    parts = [writer.write() for writer in writers]
    if len(parts) > 1:
        files = [{source.path.resolve() for source in group} for group in groups.values()]
        everything = set().union(*files)
        parts = [
            _as_source(part, [_pattern(path, everything - own) for path in own])
            for part, own in zip(parts, files, strict=True)
        ]
    toml = "\n".join(parts)
    questions = dict.fromkeys(question for writer in writers for question in writer.questions)
    return Proposal(toml, tuple(questions), parse_mapping(toml, "proposed mapping"))


def _pattern(path: Path, others: Collection[Path]) -> str:
    """The end of a path, as long as it takes to cover none of the others."""
    for count in range(1, len(path.parts)):
        end = path.parts[-count:]
        if all(other.parts[-count:] != end for other in others):
            return "/".join(end)
    return path.as_posix()


def _as_source(toml: str, patterns: Sequence[str]) -> str:
    """One mapping as a [[source]] table of a file with several."""
    comment, _, rest = toml.partition("\n")
    files = json.dumps(sorted(set(patterns)), ensure_ascii=False)
    inner = re.sub(r"^(\[+)", r"\1source.", rest.lstrip("\n"), flags=re.MULTILINE)
    return f"{comment}\n\n[[source]]\nfiles = {files}\n{inner}"


def _described(sample: pl.DataFrame) -> tuple[dict[str, str], list[str]]:
    """Columns by role, and those that are called like a title and describe no item."""
    untitled: list[str] = []
    while True:
        roles = guesses.roles_of(sample.drop(untitled))
        title, item = roles.get("title"), roles.get("item_id")
        if not title or not item or guesses.describes(sample[item], sample[title]):
            return roles, untitled
        untitled.append(title)


class _Writer:
    """Writes the TOML, table by table, and gathers questions on the way."""

    def __init__(self, source: Source, layout: Layout) -> None:
        self._source, self._layout = source, layout
        nested = nested_columns(source)
        columns = [name for name in source.schema if name not in nested]
        self._sample = collect(
            source,
            source.rows.head(_SAMPLE_ROWS).select(
                text(source, name).alias(name) for name in columns
            ),
        )
        if self._sample.is_empty():
            raise DataError(f"{source.path} has a header row alone; export it again with its rows.")
        self._roles, self._untitled = _described(self._sample)
        roles = self._roles
        missing = [role for role in ("time", "item_id", "platform_user_id") if role not in roles]
        if missing:
            raise DataError(
                f"{source.path} has no column that looks like {', '.join(missing)};"
                f" {instead(source.path, columns, 'write the mapping by hand, see examples/')}"
            )
        price = roles.get("price")
        self._decimal = "." if price is None else guesses.decimal_mark(self._sample[price])
        self.questions: list[str] = []

    def write(self) -> str:
        self._ask_for_texts()
        prefix = self._return_prefix()
        signed = self._signed()
        tables = [
            f"# Proposed from the first {len(self._sample):,} rows of {_quoted(self._source.name)};"
            " check each line.\n",
            self._layout_keys(),
            "absolute_quantity = true            # quantities are negative where goods come back\n"
            if signed
            else "",
            self._platform(),
            self._column("platform_user_id"),
            self._time(),
            self._column("item_id"),
            *(self._column(name) for name in _OWN_NAMES if name in self._roles),
            self._currency(),
            self._kind(prefix, signed),
            self._drops(),
            self._unused(),
        ]
        return "\n".join(table for table in tables if table)

    def _ask_for_texts(self) -> None:
        for column in self._untitled:
            self.questions.append(
                f"{column} differs from row to row of one item, as reviews and people's names do,"
                " and was not taken for its title: map it if it is one."
            )
        if not {"title", "brand", "category"} & set(self._roles):
            self.questions.append(
                "No column was taken for a title, brand or category: a build needs one of them. Map"
                " it, or join the catalogue of items to the log."
            )

    def _layout_keys(self) -> str:
        usual = Layout()
        keys = {
            name: getattr(self._layout, name)
            for name in ("separator", "encoding")
            if getattr(self._layout, name) != getattr(usual, name)
        }
        if self._layout.columns:
            keys["columns"] = list(self._layout.columns)
        if self._decimal != ".":
            keys["decimal"] = self._decimal
        return "".join(f"{name} = {_quoted(value)}\n" for name, value in keys.items())

    def _unused(self) -> str:
        unused = [_quoted(name) for name in self._source.schema if name not in self._used()]
        return f"# Not used: {', '.join(unused)}\n" if unused else ""

    def _used(self) -> set[str]:
        """Columns that the mapping reads; an order number only serves to tell returns."""
        silent = set() if self._return_prefix() else {"invoice"}
        return {column for role, column in self._roles.items() if role not in silent}

    def _column(self, role: str, comment: str = "") -> str:
        note = f"          # {comment}" if comment else ""
        return f"[{role}]\ncolumn = {_quoted(self._roles[role])}{note}\n"

    def _platform(self) -> str:
        if "platform" in self._roles:
            return self._column("platform", "each value is a platform of its own")
        name = "".join(
            c if c.isascii() and c.isalnum() else "_" for c in self._source.path.stem.lower()
        ).strip("_")
        name = name.split("_")[0][:32] or "shop"
        self.questions.append(
            f'No column names the platform: every row is of "{name}"; give it its real name in'
            " [platform]."
        )
        return f"[platform]\nconstant = {_quoted(name)}\n"

    def _time(self) -> str:
        column = self._roles["time"]
        dtype = self._source.schema[column]
        if isinstance(dtype, pl.Datetime):
            guess = guesses.TimeGuess("iso", dtype.time_zone is None)
        else:
            found = guesses.time_guess(self._sample[column])
            guess = found or guesses.TimeGuess("iso", True)
        table = f"[time]\ncolumn = {_quoted(column)}\nformat = {_quoted(guess.format)}\n"
        others = [other for other in guesses.recent_times(self._sample) if other != column]
        if others and not guesses.is_named("time", column):
            self.questions.append(
                f"{column} was taken for when it happened: or is it {', '.join(others)}?"
            )
        if guess.ambiguous:
            self.questions.append(
                f"The times of {column} fit day/month and month/day alike; {guess.format} was"
                " taken."
            )
        if guess.needs_zone:
            self.questions.append(
                f"The times of {column} carry no offset: which clock showed them? UTC was taken;"
                ' set zone, such as "Europe/London", in [time].'
            )
            table += 'zone = "UTC"\n'
        return table

    def _currency(self) -> str:
        if "currency" in self._roles or "price" not in self._roles:
            return ""
        self.questions.append(
            "No column names the currency of the prices; add [currency] with constant, such as"
            ' "EUR", when you have several platforms.'
        )
        return ""

    def _kind(self, prefix: str | None, signed: bool) -> str:
        if "kind" in self._roles:
            return self._kind_words()
        table = '[kind]\ndefault = "buy"\n'
        if prefix is not None:
            invoice = self._roles["invoice"]
            if not signed:
                self.questions.append(
                    f"What begins with {prefix} in {invoice} was taken for a return: is it one?"
                )
            rule = f"column = {_quoted(invoice)}\nstarts_with = {_quoted(prefix)}\n"
            return f'{table}\n[[kind.rules]]\n{rule}kind = "return"\n'
        if signed:
            rule = f"column = {_quoted(self._roles['quantity'])}\nat_most = -1\n"
            return f'{table}\n[[kind.rules]]\n{rule}kind = "return"\n'
        self.questions.append(
            'Nothing says what an event is: every row is a purchase; set default = "view" in'
            " [kind] if the log is of views, and add a rule for returns if it has any."
        )
        return table

    def _kind_words(self) -> str:
        column = self._roles["kind"]
        known, unknown = guesses.synonyms_of(self._sample[column])
        table = self._column("kind")
        if unknown:
            shown = (
                ", ".join(_quoted(word) for word in unknown[:5])
                if len(unknown) <= _FEW_WORDS
                else f"{len(unknown)} words"
            )
            self.questions.append(
                f"{column} has words that are no known kind ({shown}); add them to"
                " [kind.synonyms], or leave out their rows with a [[drop]] rule."
            )
        lines = [
            f"{_quoted(word)} = {_quoted(kind)}" for word, kind in known.items() if word != kind
        ]
        return table + ("\n[kind.synonyms]\n" + "\n".join(lines) + "\n" if lines else "")

    def _drops(self) -> str:
        user, item = self._roles["platform_user_id"], self._roles["item_id"]
        rules = []
        if guesses.share_missing(self._sample[user]):
            rules.append(
                f'[[drop]]\ncolumn = {_quoted(user)}\nis_null = true\nreason = "no customer"\n'
            )
        every = collect(
            self._source, self._source.rows.select(text(self._source, item).unique().drop_nulls())
        )
        ids = ids_like_none(every[item])
        if ids:
            rules.append(
                f"[[drop]]\ncolumn = {_quoted(item)}\nmatches = {ids_pattern(ids)}\n"
                'reason = "not an item"\n'
            )
            self.questions.append(
                f"{len(ids)} item ids look like postage, fees or tests and are left out"
                f" ({', '.join(ids[:8])}): are any of them goods?"
            )
        price = self._roles.get("price")
        if price is not None and (self._numbers(price) <= 0).any():
            rules.append(f'[[drop]]\ncolumn = {_quoted(price)}\nat_most = 0\nreason = "no price"\n')
        return "\n".join(rules)

    def _signed(self) -> bool:
        column = self._roles.get("quantity")
        if column is None:
            return False
        return bool((self._numbers(column) < 0).any())

    def _return_prefix(self) -> str | None:
        invoice, quantity = self._roles.get("invoice"), self._roles.get("quantity")
        if invoice is None:
            return None
        return guesses.return_prefix(
            self._sample[invoice], None if quantity is None else self._numbers(quantity)
        )

    def _numbers(self, column: str) -> pl.Series:
        """Float64, read as the mapping will have it."""
        decimal = decimal_of(self._source, column, self._decimal)
        return self._sample.select(read_number(pl.col(column), decimal)).to_series()


def _quoted(value: str | list[str]) -> str:
    """A TOML basic string or an array of them, whose escapes are those of JSON."""
    return json.dumps(value, ensure_ascii=False)
