"""From files of attributes to links, step by step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import duckdb
import polars as pl

from shopcast_build.data.errors import DataError
from shopcast_build.learning.reporter import Reporter
from shopcast_build.linking.attributes import read_attributes
from shopcast_build.linking.guard import guard
from shopcast_build.linking.model import LinkageModel, open_database
from shopcast_build.linking.report import LinkingReport
from shopcast_build.linking.writing import named_links


@dataclass(frozen=True, slots=True)
class Linkage:
    """links: as named_links gives them."""

    links: pl.DataFrame = field(repr=False)
    report: LinkingReport


def link_people(
    paths: Sequence[Path],
    columns: Mapping[str, Sequence[str]],
    *,
    min_confidence: float = 0.95,
    max_accounts: int = 10,
    within: bool = False,
    reporter: Reporter,
) -> Linkage:
    """Find the accounts that are probably one person's, from what each platform knows of them.

    columns: see read_attributes. min_confidence: at least 0.5. max_accounts: a person or an
    identifier with more is left alone. within: a person may have several accounts on one platform.
    Raises DataError for files that cannot be used, and where there is too little to learn from.
    """
    with reporter.stage("read the attributes"):
        known = read_attributes(paths, columns, max_accounts=max_accounts)
        platforms = known.accounts["platform"]
        if platforms.n_unique() < 2 and not within:
            raise DataError(
                "All accounts are of one platform; give the files of another one too, or"
                " --within-platforms to look for several accounts of one person there."
            )
    try:
        with open_database() as database:
            with reporter.stage("learn how attributes agree"):
                model = LinkageModel(database, known.values, platforms, within=within)
                model.train()
            with reporter.stage("compare accounts"):
                pairs = model.score()
    except duckdb.OutOfMemoryException:
        raise DataError(
            "Comparing so many accounts takes more memory or temporary space than there is; name a"
            " larger folder with TMPDIR, or link fewer files at a time."
        ) from None
    with reporter.stage("decide which links hold"):
        guarded = guard(
            pairs,
            platforms.rank("dense").to_numpy().astype("int64"),
            min_confidence=min_confidence,
            max_accounts=max_accounts,
            within=within,
        )
        links = named_links(guarded.links, known.accounts, f"splink {version('splink')}")
    report = LinkingReport(
        accounts=dict(platforms.value_counts().sort("platform").iter_rows()),
        attributes=tuple(known.values.columns),
        rows_incomplete=known.incomplete,
        rows_repeated=known.repeated,
        identifiers_ignored=known.shared,
        birthdays_ignored=known.placeholders,
        values_unreadable=known.unreadable,
        keys_ignored=model.crowded_keys,
        pairs=len(pairs),
        households=guarded.households,
        rivals=guarded.rivals,
        clashes=guarded.clashes,
        crowds=guarded.crowds,
        crowd_links=guarded.crowd_links,
        links=len(links),
        linked_accounts=pl.concat([guarded.links["left"], guarded.links["right"]]).n_unique(),
    )
    return Linkage(links, report)
