"""From event logs as they are to clean, canonical events."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import polars as pl

from shopcast_build.data.coding import Ranked
from shopcast_build.data.counting import counted
from shopcast_build.data.disk import temporary_folder
from shopcast_build.data.errors import DataError
from shopcast_build.data.event_ids import made_event_ids
from shopcast_build.data.fields import PLATFORM, REPAIRS, canonical_rows
from shopcast_build.data.items import item_table
from shopcast_build.data.leads import PURCHASE_HORIZON, count_leads
from shopcast_build.data.log import CleanLog
from shopcast_build.data.mapping import Mapping
from shopcast_build.data.notes import (
    DEFECT,
    DROPPED,
    NO_PLATFORM,
    NOTE_COLUMNS,
    REPAIRED,
    RULE,
    Notes,
)
from shopcast_build.data.profile import platform_reports
from shopcast_build.data.reading import ROW, Progress, Source, batches, scan, unread_of
from shopcast_build.data.report import CleaningReport
from shopcast_build.data.returns import judge_returns
from shopcast_build.data.spilling import spilled_frame
from shopcast_build.data.staging import EVENTS, Settled, Staging
from shopcast_build.data.suspicions import Evidence, find_suspicions
from shopcast_build.data.thresholds import check_bad_rows

_CURRENCIES = {"platform": pl.String, "currency": pl.String, "rows": pl.Int64}


def clean(
    paths: Sequence[Path],
    mapping: Mapping,
    *,
    max_bad_share: float | None = None,
    keep_ids: bool = False,
    purchase_horizon: timedelta = PURCHASE_HORIZON,
    progress: Progress = lambda done, total: None,
) -> CleanLog:
    """Read, map, check and repair event logs, in memory that the number of rows hardly moves.

    max_bad_share: rows with defects (a time, kind, platform or id that cannot be used) are dropped
    up to this share of the rows that the mapping's own drop rules leave; by default the mapping's
    limit. keep_ids: keep or make event ids, which takes memory for each event.
    purchase_horizon: how long after a view a buy still belongs to it. progress: takes how many of
    how many files, or sheets, were read.
    Raises DataError when there are more, when a file cannot be read, when nothing is left, or when
    TMPDIR takes no more.
    """
    sources = scan(paths, lambda path: mapping.of(path).layout)
    notes = Notes()
    with temporary_folder("shopcast-log-") as folder:
        staging = Staging(folder, keep_ids=keep_ids)
        read, currencies = _take(sources, mapping, staging, notes, progress)
        settled = staging.settle([source.name for source in sources])
        notes.add(settled.conflicts)
        ruled = sum(notes.rows(RULE).values())
        allowed = mapping.limits.max_bad_share if max_bad_share is None else max_bad_share
        check_bad_rows(notes.rows(DEFECT), notes.examples, read - ruled, allowed)
        if not settled.rows:
            raise DataError(_nothing_left(read, notes))
        ranked = staging.ranked
        # What is large is let go as soon as it has served.
        accounts, account_place = _used(
            ranked.pop("account").scoped("user"), staging.used("account")
        )
        items, item_place = _used(ranked.pop("item").scoped("item_id"), staging.used("item"))
        platforms = tuple(accounts["platform"].unique().sort())
        platform_of = accounts["platform"].replace_strict(
            platforms, range(len(platforms)), return_dtype=pl.Int16
        )

        def coded(rows: pl.DataFrame) -> pl.DataFrame:
            account = account_place.gather(rows["account"])
            return rows.with_columns(
                account.alias("account"),
                item_place.gather(rows["item"]).alias("item"),
                platform_of.gather(account).alias("platform"),
            ).select(*EVENTS, *(["event_id"] if keep_ids else []))

        words = staging.words().moved(item_place)
        told = staging.told()
        told = told.with_columns(item_place.gather(told["item"]).alias("item"))
        events = spilled_frame(coded(rows) for rows in staging.events())
    given_ids = events["event_id"] if keep_ids else None
    events = events.select(*EVENTS)
    texts = {name: ranked[name].texts for name in ("title", "brand", "category")}
    leads = count_leads(events, platforms, purchase_horizon)
    browsed = tuple(code for code, one in enumerate(leads) if one.browsed)
    table = item_table(items, events, words, texts, told, {platforms[code] for code in browsed})
    titles = words.title.drop_nulls("text").group_by("item", "text").agg(pl.col("first").min())
    report = _report(
        sources,
        read,
        notes,
        settled,
        Evidence(
            events=events,
            platforms=platforms,
            accounts=len(accounts),
            items=table,
            titles=titles.with_columns(texts["title"].gather(titles["text"]).alias("text")),
            currencies=currencies if mapping.currencies is None else currencies.clear(),
            item_column=mapping.item_id.column or "item_id",
            returns=judge_returns(events, platforms),
            leads=leads,
            told=told,
            purchase_horizon=purchase_horizon,
            repaired={name: notes.rows(REPAIRED, platform=name) for name in platforms},
            examples=notes.examples,
            files=len({source.path for source in sources}),
            unread=tuple(path.name for path in unread_of(paths)),
        ),
        currencies,
    )
    log = CleanLog(events, platforms, accounts, table, report, browsed)
    if given_ids is None:
        return log
    return replace(log, event_ids=_event_ids(log, ranked["event_id"], given_ids))


def _take(
    sources: Sequence[Source],
    mapping: Mapping,
    staging: Staging,
    notes: Notes,
    progress: Progress,
) -> tuple[int, pl.DataFrame]:
    """Read everything. Returns the number of rows, and rows by platform and currency."""
    read = 0
    currencies = [pl.DataFrame(schema=_CURRENCIES)]
    for number, source in enumerate(sources):
        rows = canonical_rows(source, mapping.of(source.path), mapping.currencies)
        for batch in batches(source, rows):
            read += len(batch)
            good = batch.filter(pl.col("reason").is_null())
            staging.take(number, good)
            notes.add(_batch_notes(source, batch, good))
            priced = good.filter(pl.col("price").is_not_null())
            currencies.append(
                priced.group_by("platform", "currency").len("rows").cast({"rows": pl.Int64})
            )
        progress(number + 1, len(sources))
    counts = pl.concat(currencies).group_by("platform", "currency").agg(pl.col("rows").sum())
    return read, counts.sort(pl.all())


def _batch_notes(source: Source, batch: pl.DataFrame, good: pl.DataFrame) -> pl.DataFrame:
    """What happened to rows: NOTE_COLUMNS."""
    file = pl.lit(source.name).alias("file")
    named = (pl.col("platform").str.contains(PLATFORM)).fill_null(False)
    platform = pl.when(named).then(pl.col("platform")).otherwise(pl.lit(NO_PLATFORM))
    dropped = batch.filter(pl.col("reason").is_not_null()).with_columns(
        file, platform.alias("platform")
    )
    repairs = [
        good.filter(pl.col(reason).is_not_null()).select(
            file,
            ROW,
            "platform",
            pl.lit(REPAIRED).alias("cause"),
            pl.lit(reason).alias("reason"),
            pl.col(reason).alias("value"),
        )
        for reason in REPAIRS
    ]
    return pl.concat([dropped.select(NOTE_COLUMNS), *repairs])


def _used(table: pl.DataFrame, used: pl.Series) -> tuple[pl.DataFrame, pl.Series]:
    """The rows of a table that are used, and where each row went: Int32, null if nowhere."""
    place = pl.DataFrame({"code": used}).with_row_index("place")
    every = pl.DataFrame({"code": pl.arange(len(table), dtype=pl.Int32, eager=True)})
    found = every.join(place, on="code", how="left", maintain_order="left")["place"]
    return table[used], found.cast(pl.Int32)


def _event_ids(log: CleanLog, ranked: Ranked, codes: pl.Series) -> pl.Series:
    """The id that each event came with, or one made for it."""
    given = ranked.texts.gather(codes)
    missing = given.is_null()
    if not missing.any():
        return given.alias("event_id")
    made = made_event_ids(log.named().filter(missing))
    return given.scatter(missing.arg_true(), made).alias("event_id")


def _report(
    sources: Sequence[Source],
    read: int,
    notes: Notes,
    settled: Settled,
    evidence: Evidence,
    currencies: pl.DataFrame,
) -> CleaningReport:
    events, platforms = evidence.events, evidence.platforms
    conflicts = dict(settled.conflicts.group_by("platform").len().iter_rows())
    duplicates = {name: n - conflicts.get(name, 0) for name, n in settled.duplicates.items()}
    by_platform = platform_reports(events, platforms, notes, duplicates, currencies, evidence.leads)
    return CleaningReport(
        files=tuple(source.name for source in sources),
        read=read,
        kept=len(events),
        dropped=notes.rows(*DROPPED),
        repaired=notes.rows(REPAIRED),
        bad=notes.rows(DEFECT),
        ruled=sum(notes.rows(RULE).values()),
        duplicates=sum(duplicates.values()),
        platforms={one.platform: one.kept for one in by_platform if one.kept},
        kinds=dict(counted(events, pl.col("kind").cast(pl.String)).sort("kind").iter_rows()),
        items=len(evidence.items),
        accounts=evidence.accounts,
        first_time=events.item(0, "time"),
        last_time=events.item(-1, "time"),
        examples=notes.examples,
        largest_account=int(counted(events, "account")["len"].max() or 0),  # type: ignore[arg-type]
        early_returns=evidence.returns.early,
        judged_returns=sum(evidence.returns.single.values()),
        by_platform=by_platform,
        suspicious=find_suspicions(evidence),
    )


def _nothing_left(read: int, notes: Notes) -> str:
    if not read:
        return "The event log has no rows; check that the export is complete."
    why = ", ".join(f"{count} for {reason}" for reason, count in notes.rows(*DROPPED).items())
    return f"None of the {read} rows of the event log is left ({why}); check the log and --mapping."
