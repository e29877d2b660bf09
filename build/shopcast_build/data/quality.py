"""What a log is like, as JSON for machines and as one HTML page for people."""

import json
from pathlib import Path

from shopcast_build.data.charts import draw_fates, draw_hours, draw_months, draw_reasons
from shopcast_build.data.report import CleaningReport, PlatformReport
from shopcast_build.reporting.page import (
    Paragraph,
    Plot,
    Section,
    Sentence,
    Table,
    render_page,
)

JSON_NAME, PAGE_NAME = "data-quality.json", "data-quality.html"


def write_quality(report: CleaningReport, folder: Path) -> Path:
    """Write both forms into a folder, made if missing. Returns the path of the page."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(report.to_json(), indent=2, ensure_ascii=False)
    (folder / JSON_NAME).write_text(text + "\n", encoding="utf-8")
    page = folder / PAGE_NAME
    page.write_text(render_quality(report), encoding="utf-8")
    return page


def render_quality(report: CleaningReport) -> str:
    """The page."""
    sections = [
        _suspicious(report),
        _platforms(report),
        _reasons(report, "Dropped rows", "dropped"),
        _reasons(report, "Repaired rows", "repaired"),
        _times(report),
        _files(report),
    ]
    return render_page("Quality of the event log", _lead(report), sections)


def _lead(report: CleaningReport) -> list[Sentence]:
    dropped, repaired = sum(report.dropped.values()), sum(report.repaired.values())
    names = len(report.platforms)
    lead = [
        Sentence(
            f"{report.kept:,} of {report.read:,} rows ({_share(report.kept, report.read)}) are"
            f" events to learn from: {_number(report.accounts, 'account')} and"
            f" {_number(report.items, 'item')} on {_number(names, 'platform')}, from"
            f" {report.first_time:%Y-%m-%d} to {report.last_time:%Y-%m-%d}.",
            "good",
        ),
        Sentence(
            f"{dropped:,} rows were dropped, {sum(report.bad.values()):,} of them because they"
            f" cannot be used; {_number(report.duplicates, 'duplicate')} left out;"
            f" {repaired:,} values repaired.",
            "bad" if report.bad else "plain",
        ),
    ]
    if report.suspicious:
        return [*lead, *(Sentence(one.sentence, "bad") for one in report.suspicious)]
    return [*lead, Sentence("Nothing looks suspicious.", "good")]


def _suspicious(report: CleaningReport) -> Section:
    if not report.suspicious:
        return Section("Suspicious", [Paragraph("Nothing was found.")])
    rows = [
        (
            one.name,
            one.platform or "all",
            f"{one.rows:,} of {one.of:,}",
            one.sentence,
            one.advice,
            " | ".join(one.examples) or "none",
        )
        for one in report.suspicious
    ]
    columns = ("what", "platform", "how many", "found", "what to do", "examples")
    counts: dict[str, dict[str, int]] = {}
    for one in report.suspicious:
        counts.setdefault(one.platform or "all", {})[one.name] = one.rows
    names = list(dict.fromkeys(one.name for one in report.suspicious))
    plot = Plot(
        draw_reasons(counts, names),
        "How many events, accounts or items each finding concerns.",
        "; ".join(one.sentence for one in report.suspicious),
    )
    return Section(
        "Suspicious",
        [
            Paragraph("These events are kept as they are; decide whether they are right."),
            Table("What looks wrong", columns, rows, left=6),
            plot,
        ],
    )


def _platforms(report: CleaningReport) -> Section:
    kinds = list(report.kinds)
    rows = Table(
        "Rows by platform",
        ("platform", "read", "kept", "duplicate", "dropped", "repaired"),
        [
            (
                one.platform,
                *(f"{n:,}" for n in (one.read, one.kept, one.duplicates)),
                *(f"{sum(counts.values()):,}" for counts in (one.dropped, one.repaired)),
            )
            for one in report.by_platform
        ],
    )
    events = Table(
        "Events by platform",
        ("platform", *kinds, "accounts", "items", "first", "last", "currencies"),
        [
            (
                one.platform,
                *(f"{one.kinds.get(kind, 0):,}" for kind in kinds),
                *(f"{n:,}" for n in (one.accounts, one.items)),
                *(f"{at:%Y-%m-%d}" if at else "none" for at in (one.first_time, one.last_time)),
                ", ".join(one.currencies) or "none",
            )
            for one in report.by_platform
        ],
    )
    asked = Table(
        "What is asked",
        ("platform", "learned", "purchases", "without a view"),
        [
            (one.platform, one.asked, f"{one.kinds.get('buy', 0):,}", f"{one.unled:,}")
            for one in report.by_platform
            if one.kept
        ],
        left=2,
    )
    fates = Plot(
        draw_fates(report.by_platform),
        "Rows of each platform by what became of them.",
        "; ".join(_fate(one) for one in report.by_platform),
    )
    return Section("Platforms", [fates, rows, events, asked])


def _reasons(report: CleaningReport, title: str, field: str) -> Section:
    counts = {one.platform: getattr(one, field) for one in report.by_platform}
    reasons = list(dict(getattr(report, field)))
    if not reasons:
        return Section(title, [Paragraph("None.")])
    concerned = [name for name, own in counts.items() if own]
    rows = [
        (
            reason,
            " | ".join(report.examples.get(reason, ())) or "none",
            f"{getattr(report, field)[reason]:,}",
            *(f"{counts[name].get(reason, 0):,}" for name in concerned),
        )
        for reason in reasons
    ]
    plot = Plot(
        draw_reasons({name: counts[name] for name in concerned}, reasons),
        f"{title} by reason.",
        "; ".join(f"{reason}: {getattr(report, field)[reason]:,} rows" for reason in reasons),
    )
    table = Table(
        f"{title} by reason and platform",
        ("reason", "examples", "all", *concerned),
        rows,
        left=2,
    )
    return Section(title, [plot, table])


def _times(report: CleaningReport) -> Section:
    kept = [one for one in report.by_platform if one.kept]
    months = sorted({month for one in kept for month in one.months})
    peaks = (f"{one.platform} at {max(range(24), key=one.hours.__getitem__)} h" for one in kept)
    return Section(
        "Over time",
        [
            Plot(
                draw_months(kept, months),
                "Events by month.",
                f"Events of each platform by month from {months[0]} to {months[-1]}; the table"
                " below has the numbers.",
            ),
            Plot(
                draw_hours(kept),
                "Share of each platform's events by hour of the day, in UTC. Platforms of one"
                " country should rise and fall together; where they do not, check time zones.",
                f"The busiest hour in UTC: {', '.join(peaks)}.",
            ),
            Table(
                "Events by month",
                ("month", *(one.platform for one in kept)),
                [(month, *(f"{one.months.get(month, 0):,}" for one in kept)) for month in months],
            ),
        ],
    )


def _files(report: CleaningReport) -> Section:
    return Section("Files", [Paragraph(", ".join(report.files))])


def _fate(one: PlatformReport) -> str:
    dropped = sum(one.dropped.values())
    return f"{one.platform}: {one.kept:,} kept, {one.duplicates:,} duplicates, {dropped:,} dropped"


def _share(n: int, of: int) -> str:
    return f"{n / of:.1%}" if of else "0%"


def _number(n: int, what: str) -> str:
    return f"{n:,} {what}" if n == 1 else f"{n:,} {what}s"
