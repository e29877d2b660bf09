"""Stops a build whose log is worse than the mapping's limits allow."""

from collections.abc import Mapping

from shopcast_build.data import fields
from shopcast_build.data.errors import DataError
from shopcast_build.data.limits import Limits
from shopcast_build.data.report import CleaningReport
from shopcast_build.data.staging import CONFLICTING_ID

_TIME_ADVICE = "say how times are written with --mapping ([time] format)"
_ADVICE = {
    fields.UNREADABLE_TIME: _TIME_ADVICE,
    fields.EARLY_TIME: _TIME_ADVICE,
    fields.FUTURE_TIME: _TIME_ADVICE,
    fields.UNKNOWN_KIND: "map the kind with --mapping ([kind.synonyms] or [[kind.rules]])",
    fields.BAD_PLATFORM: "name the platform with --mapping ([platform]) in a-z, 0-9, '_', '-', '.'",
    fields.ID_TOO_LONG: "name the right columns with --mapping",
    fields.ROUNDED_TIME: "export it again without opening it in a spreadsheet, or as ISO 8601",
    fields.ROUNDED_ID: "export it again without opening it in a spreadsheet, or with ids as text",
    CONFLICTING_ID: "give --mapping an event_id column that tells all events apart",
}
_ENOUGH_RETURNS = 10


def check_bad_rows(
    bad: Mapping[str, int],
    examples: Mapping[str, tuple[str, ...]],
    examined: int,
    max_bad_share: float,
) -> None:
    """Raise DataError when too many of the examined rows cannot be used. bad: rows by reason."""
    rows = sum(bad.values())
    if rows <= max_bad_share * examined:
        return
    reason, count = next(iter(bad.items()))
    raise DataError(
        f"{rows} of {examined} rows ({_percent(rows / examined)}) cannot be used, more "
        f"than the {_percent(max_bad_share)} allowed, {count} of them for {reason} (first at "
        f"{examples[reason][0]}); fix the log, or {_ADVICE[reason]}."
    )


def check_limits(report: CleaningReport, limits: Limits) -> None:
    """Raise DataError for the first limit that a clean log breaks."""
    sentence = next((one for one in _broken(report, limits) if one), None)
    if sentence is not None:
        raise DataError(sentence)


def _broken(report: CleaningReport, limits: Limits) -> tuple[str | None, ...]:
    dropped = sum(report.dropped.values())
    platform, most = max(report.platforms.items(), key=lambda pair: pair[1])
    early, judged = report.early_returns, report.judged_returns
    enough_returns = early >= _ENOUGH_RETURNS
    shift = next(
        (s.sentence for s in report.suspicious if s.name == "returns before their purchases"), ""
    )
    return (
        _few("account", report.accounts, limits.min_accounts, "min_accounts", "platform_user_id"),
        _few("buy event", report.kinds.get("buy", 0), limits.min_buys, "min_buys", "kind"),
        _few(
            "return event", report.kinds.get("return", 0), limits.min_returns, "min_returns", "kind"
        ),
        _share(
            "rows were dropped",
            dropped,
            report.read,
            limits.max_dropped_share,
            "max_dropped_share",
            "see what was dropped with `platform data check`",
        ),
        _share(
            "returns precede their only purchase by hours",
            early if enough_returns else 0,
            judged,
            limits.max_early_return_share,
            "max_early_return_share",
            f"correct the time zones in the mapping; {shift[:1].lower()}{shift[1:-1]}",
        ),
        _share(
            f"events are of the platform {platform}",
            most,
            report.kept,
            limits.max_platform_share,
            "max_platform_share",
            "bring the logs of the other platforms",
        ),
        _share(
            "events are of one account",
            report.largest_account,
            report.kept,
            limits.max_account_share,
            "max_account_share",
            "leave it out with a [[drop]] rule of the mapping",
        ),
    )


def _few(what: str, n: int, least: int, limit: str, field: str) -> str | None:
    if n >= least:
        return None
    have = f"only {n:,} {what}{'' if n == 1 else 's'}" if n else f"no {what}s"
    return (
        f"The log has {have}, fewer than the {least:,} needed (limits.{limit}); check what the"
        f" mapping reads as {field}, or bring more of the log."
    )


def _share(what: str, n: int, of: int, most: float, limit: str, advice: str) -> str | None:
    if n <= most * of:
        return None
    return (
        f"{n:,} of {of:,} {what} ({_percent(n / of)}), more than the {_percent(most)} allowed"
        f" (limits.{limit}); {advice}."
    )


def _percent(share: float) -> str:
    """With as many digits as tell a small share from none and from its limit.

    >>> _percent(0.00012), _percent(0.05), _percent(1.0)
    ('0.012%', '5%', '100%')
    """
    return f"{100 * share:.3g}%"
