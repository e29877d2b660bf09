"""What the columns of an unknown file may be: guessed from their names and a sample of their
values."""

import re
from dataclasses import dataclass

import polars as pl

ROLES: dict[str, tuple[str, ...]] = {
    "time": (
        "time", "timestamp", "eventtime", "transactiontimestamp", "invoicedate", "orderdate",
        "orderpurchasetimestamp", "purchasedate", "transactiondate", "eventdate", "datetime",
        "createdat", "occurredat", "date", "ts", "when",
    ),
    "platform_user_id": (
        "platformuserid", "userid", "customeruniqueid", "customerid", "accountid", "memberid",
        "shopperid", "visitorid", "householdid", "clientid", "reviewerid", "customer", "user",
        "account", "who",
    ),
    "item_id": (
        "itemid", "productid", "sku", "stockcode", "articleid", "asin", "ean", "gtin",
        "productcode", "itemcode", "item", "product", "article",
    ),
    "event_id": ("eventid", "lineid", "orderlineid", "transactionlineid", "uuid", "rowid"),
    "kind": (
        "kind", "eventtype", "event", "action", "type", "eventname", "activity", "behavior",
        "behaviour", "behaviortype", "behaviourtype", "actiontype", "interaction",
    ),
    "title": (
        "title", "itemtitle", "producttitle", "description", "productname", "itemname", "name",
    ),
    "brand": ("brand", "manufacturer", "maker", "vendor"),
    "category": (
        "category", "productcategory", "department", "productgroup", "categoryname",
        "productcategoryname", "categorycode",
    ),
    "price": ("price", "unitprice", "itemprice", "saleprice", "priceeach"),
    "currency": ("currency", "currencycode"),
    "quantity": ("quantity", "qty", "pieces", "units", "amount", "count"),
    "platform": (
        "platform", "shop", "store", "storeid", "site", "channel", "marketplace", "source",
    ),
    "invoice": ("invoice", "invoiceno", "orderid", "orderno", "basketid", "transactionid"),
}  # fmt: skip
"""Names by role, compared in small letters and digits alone; the earlier, the likelier."""

SYNONYMS: dict[str, str] = {
    **dict.fromkeys(("view", "viewed", "pageview", "page_view", "pv", "impression", "detail",
                     "click", "product_view", "view_item", "browse"), "view"),
    **dict.fromkeys(("cart", "addtocart", "add_to_cart", "add-to-cart", "basket", "add",
                     "cart_add"), "cart"),
    **dict.fromkeys(("buy", "bought", "purchase", "purchased", "order", "ordered", "sale", "sold",
                     "transaction", "checkout"), "buy"),
    **dict.fromkeys(("return", "returned", "refund", "refunded", "cancel", "cancelled",
                     "cancellation", "sent_back", "chargeback"), "return"),
}  # fmt: skip

_DATES = (
    "%d/%m/%Y", "%m/%d/%Y", "%d.%m.%Y", "%d-%m-%Y", "%m-%d-%Y", "%Y/%m/%d",
    "%d/%m/%y", "%m/%d/%y", "%d.%m.%y", "%d-%m-%y", "%m-%d-%y",
)  # fmt: skip
_CLOCKS = (" %H:%M:%S", " %H:%M", " %I:%M:%S %p", " %I:%M %p", "")
_FORMATS = tuple(date + clock for date in _DATES for clock in _CLOCKS)
_DATE = r"^\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}\b"
_FOUR_DIGITS = 1000  # %Y reads the year 09 as the year 9
_ISO = r"^\d{4}-\d\d-\d\d([T ]\d\d(:\d\d(:\d\d(\.\d+)?)?)?)?\s*(Z|z|UTC|[+-]\d\d(:?\d\d)?)?$"
_ISO_OFFSET = r"\d\s*(Z|z|UTC|[+-]\d\d(:?\d\d)?)$"
_FIRST_YEAR = 2000  # what happened before is dropped
_FITS = 0.95
_CODE_PREFIX = r"^[A-Za-z]"
# What begins with a letter by chance, as hashes do, is none.
_MARKED_NUMBER = r"^[A-Za-z][-_ ]?\d+$"
_TITLED_ROWS = 20
_OWN_TITLE = 0.5


@dataclass(frozen=True, slots=True)
class TimeGuess:
    """format: as in a mapping. needs_zone: the times carry no offset. ambiguous: day and month may
    be the other way round."""

    format: str
    needs_zone: bool
    ambiguous: bool = False


def roles_of(sample: pl.DataFrame) -> dict[str, str]:
    """The likeliest column of each role that has one; each column plays one role.

    sample: text columns. Times and kinds are recognised by their values too.
    """
    plain = {column: _plain(column) for column in sample.columns}
    claims = sorted(
        (rank, list(ROLES).index(role), role, column)
        for role, names in ROLES.items()
        for rank, name in enumerate(names)
        for column, bare in plain.items()
        if bare == name
    )
    roles: dict[str, str] = {}
    for _, _, role, column in claims:
        if role in roles or column in roles.values():
            continue
        if role == "time" and time_guess(sample[column]) is None:
            continue
        roles[role] = column
    if "time" not in roles:
        free = sample.drop(list(roles.values()))
        dated = recent_times(free) or [name for name in free.columns if time_guess(free[name])]
        if dated:
            roles["time"] = dated[0]
    if "kind" not in roles:
        free = sample.drop(list(roles.values()))
        told = [name for name in free.columns if _tells_kinds(free[name])]
        if told:
            roles["kind"] = told[0]
    return roles


def _tells_kinds(values: pl.Series) -> bool:
    """Whether a column is of known words for two kinds or more, in most rows."""
    words = values.drop_nulls().str.strip_chars().str.to_lowercase()
    known = words.filter(words.is_in(list(SYNONYMS)))
    kinds = {SYNONYMS[word] for word in known.unique()}
    return len(kinds) > 1 and len(known) >= _FITS * len(words)


def is_named(role: str, column: str) -> bool:
    """Whether a column has one of the names of a role."""
    return _plain(column) in ROLES[role]


def _plain(column: str) -> str:
    return re.sub(r"[^a-z0-9]", "", column.lower())


def recent_times(sample: pl.DataFrame) -> list[str]:
    """The columns whose times may be those of events; most dates of birth are too long ago."""
    return [name for name in sample.columns if time_guess(sample[name]) and _recent(sample[name])]


def describes(items: pl.Series, texts: pl.Series) -> bool:
    """Whether texts are of items: most rows of an item have the same one. What people write of
    items, or are called, differs from row to row. Of few rows it is taken to be so."""
    rows = pl.DataFrame({"item": items, "text": texts}).drop_nulls()
    alike = rows.group_by("item", "text").len()
    by_item = alike.group_by("item").agg(all=pl.col("len").sum(), same=pl.col("len").max())
    several = by_item.filter(pl.col("all") > 1)
    seen, same = int(several["all"].sum()), int(several["same"].sum())
    return seen < _TITLED_ROWS or same >= _OWN_TITLE * seen


def _recent(times: pl.Series) -> bool:
    years = times.str.extract(r"\b(\d{4})\b").cast(pl.Int32)
    return 2 * int((years < _FIRST_YEAR).sum()) <= len(years.drop_nulls())


def time_guess(values: pl.Series) -> TimeGuess | None:
    """How a column writes times, or None when it does not."""
    texts = values.drop_nulls().str.strip_chars()
    if texts.is_empty():
        return None
    iso = texts.str.contains(_ISO)
    if iso.mean() >= _FITS:  # type: ignore[operator]
        return TimeGuess(
            "iso", not bool(texts.filter(iso).str.contains(r":\d.*" + _ISO_OFFSET).all())
        )
    numbers = texts.cast(pl.Float64, strict=False)
    for name, low, high in (("epoch_s", 9.4e8, 4.1e9), ("epoch_ms", 9.4e11, 4.1e12)):
        if numbers.is_between(low, high).fill_null(False).mean() >= _FITS:  # type: ignore[operator]
            return TimeGuess(name, False)
    if texts.str.contains(_DATE).mean() < _FITS:  # type: ignore[operator]
        return None
    shares = {one: _share_read(texts, one) for one in _FORMATS}
    found = max(shares, key=lambda one: shares[one])  # of equal ones the first
    if shares[found] < _FITS:
        return None
    swapped = found.replace("%d", "%?").replace("%m", "%d").replace("%?", "%m")
    ambiguous = swapped != found and shares.get(swapped) == shares[found]
    return TimeGuess(found, True, ambiguous)


def _share_read(texts: pl.Series, pattern: str) -> float:
    years = texts.str.to_datetime(pattern, strict=False).dt.year()
    return float((years >= _FOUR_DIGITS).fill_null(False).mean())  # type: ignore[arg-type]


def synonyms_of(values: pl.Series) -> tuple[dict[str, str], list[str]]:
    """Known words for kinds in a column, and the words that are unknown."""
    words = values.drop_nulls().str.strip_chars().str.to_lowercase().unique().sort().to_list()
    known = {word: SYNONYMS[word] for word in words if word in SYNONYMS}
    return known, [word for word in words if word not in SYNONYMS]


def return_prefix(invoices: pl.Series, quantities: pl.Series | None) -> str | None:
    """The letter that begins the numbers of cancelling invoices, or None.

    It begins few of the numbers, the others begin with digits, and where there are quantities, the
    marked ones are mostly negative; elsewhere digits alone follow it. quantities: Float64.
    """
    rows = pl.DataFrame({"invoice": invoices}).with_columns(
        pl.lit(None, pl.Float64).alias("quantity")
        if quantities is None
        else quantities.alias("quantity")
    )
    rows = rows.drop_nulls("invoice")
    first = pl.col("invoice").str.slice(0, 1)
    marked = rows.filter(pl.col("invoice").str.contains(_CODE_PREFIX))
    if marked.is_empty() or 2 * len(marked) > len(rows):
        return None
    counts = marked.group_by(first.alias("letter")).agg(
        pl.len(),
        (pl.col("quantity") < 0).mean().alias("negative"),
        pl.col("invoice").str.contains(_MARKED_NUMBER).mean().alias("numbered"),
    )
    ordered = counts.sort("len", "letter", descending=[True, False])
    for letter, _, negative, numbered in ordered.iter_rows():
        if negative is None and numbered > _FITS and letter.upper() in "CR":
            return str(letter)
        if negative is not None and negative > _FITS:
            return str(letter)
    return None


def decimal_mark(numbers: pl.Series) -> str:
    """The mark before fractions of one or two digits, as most texts with some have it."""
    comma, dot = (numbers.str.contains(rf"\d\{mark}\d\d?$").sum() or 0 for mark in ",.")
    return "," if comma > dot else "."


def share_missing(values: pl.Series) -> float:
    """Share of rows without a value."""
    return values.null_count() / max(1, len(values))
