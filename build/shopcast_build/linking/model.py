"""How probable it is that two accounts are one person's: a Fellegi-Sunter model, by Splink.

u, how often unrelated accounts agree, comes from random pairs; m, how often those of one person do,
from expectation maximisation. Everything is seeded, and sums that their order could change are made
on one thread, so the same accounts give the same probabilities.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import Any, Literal

import duckdb
import polars as pl
from splink import DuckDBAPI, Linker, SettingsCreator, block_on
from splink.internals.exceptions import SplinkException

from shopcast_build.data.errors import DataError
from shopcast_build.linking.blocking import block_keys, lessons, sure_rules
from shopcast_build.linking.bounded import BoundedSettings
from shopcast_build.linking.comparisons import household, make_comparisons

_SEED = 17
_RANDOM_PAIRS = 5e6
_LESSON_PAIRS = 2e6
_MIN_LESSON_PAIRS = 50
_MIN_LESSONS = 2

# The share of one person's accounts that the sure rules find: an assumption. Twice or half as much
# moves every pair by one bit of evidence; two names and a date of birth carry about thirty.
_SURE_RECALL = 0.7

# No level is rarer than this among one person's accounts: what a clean sample does not show can
# still happen.
_MIN_M = 1e-3

# Bits of evidence below which a pair plays no part, not even as a rival.
_MIN_WEIGHT = -5.0


@contextmanager
def open_database() -> Iterator[duckdb.DuckDBPyConnection]:
    """A database in memory; what does not fit goes to a temporary folder that is removed."""
    with TemporaryDirectory(prefix="shopcast-linking-") as folder:
        config: dict[str, str | bool | int | float | list[str]] = {
            "temp_directory": folder,
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
        }
        with duckdb.connect(":memory:", config=config) as database:
            yield database


class LinkageModel:
    """A model of the attributes of accounts, learned from them, in an open database.

    values: as read_attributes gives them. platforms: (accounts,), of the same rows. within: whether
    accounts of one platform may be one person's, too.
    crowded_keys: see block_keys.
    """

    def __init__(
        self,
        database: duckdb.DuckDBPyConnection,
        values: pl.DataFrame,
        platforms: pl.Series,
        *,
        within: bool,
    ) -> None:
        self._database = database
        self._comparisons = make_comparisons(values.columns)
        keys, self.crowded_keys = block_keys(values)
        self._known, self._blocks = values.columns, keys.columns
        self._accounts = values.hstack([*keys, platforms.alias("platform")]).with_row_index("id")
        api = DuckDBAPI(database)
        self._tables = [
            api.register(part.to_arrow(), dataset_display_name=f"accounts_{n}")
            for n, part in enumerate(self._accounts.partition_by("platform", maintain_order=True))
        ]
        self._within = within
        self._settings: dict[str, Any] = {}

    def train(self) -> None:
        """Learn u, the share of matching pairs, and m, in this order.

        Raises DataError where too few accounts agree to learn from.
        """
        rules = sure_rules(self._known)
        if not any(self._pairs(names) for names in rules):
            raise DataError(
                "No two accounts agree on enough attributes to be one person's for sure, so there"
                f" is nothing to learn from; known are {', '.join(self._known)}: check that the"
                " files write them alike, or name more columns."
            )
        with _in_our_words():
            linker = self._open(self._untrained())
            linker.training.estimate_u_using_random_sampling(max_pairs=_RANDOM_PAIRS, seed=_SEED)
            try:
                linker.training.estimate_probability_two_random_records_match(
                    [block_on(*names) for names in rules], _SURE_RECALL
                )
            except ValueError:
                raise DataError(
                    "Nearly all accounts have the same attributes, so people cannot be told apart;"
                    " check the columns."
                ) from None
            for names in self._lessons():
                # One thread: sums of probabilities depend on their order in the last digit.
                self._database.execute("SET threads = 1")
                linker.training.estimate_parameters_using_expectation_maximisation(
                    block_on(*names),
                    estimate_without_term_frequencies=True,
                    max_pairs=_LESSON_PAIRS,
                )
                self._database.execute("RESET threads")
            learned = linker.misc.save_model_to_json()
        self._settings = _smoothed(learned, 1 / min(_RANDOM_PAIRS, len(self._accounts) ** 2 / 4))

    def score(self) -> pl.DataFrame:
        """All pairs that share a key and are not out of the question, in order of left and right.

        Columns left, right: rows of accounts, left < right; odds: that they are one person's;
        household: nothing that is one person's own agrees.
        """
        with _in_our_words():
            found = self._open(self._settings).inference.predict(
                threshold_match_weight=_MIN_WEIGHT, warning_mode="never"
            )
        pairs = self._database.table(found.physical_name).project(
            "least(id_l, id_r)::BIGINT AS left, greatest(id_l, id_r)::BIGINT AS right,"
            f" pow(2, match_weight) AS odds, {household(self._comparisons)} AS household"
        )
        return pairs.order("ALL").pl()

    def _untrained(self) -> SettingsCreator:
        kind: Literal["link_only", "link_and_dedupe", "dedupe_only"] = "link_only"
        if self._within:
            kind = "dedupe_only" if len(self._tables) == 1 else "link_and_dedupe"
        return BoundedSettings(
            link_type=kind,
            unique_id_column_name="id",
            source_dataset_column_name="platform",
            comparisons=[*self._comparisons.values()],
            blocking_rules_to_generate_predictions=[block_on(name) for name in self._blocks],
            retain_matching_columns=True,  # and the levels that `household` asks for
            max_iterations=100,
            linker_uid="shopcast",
        )

    def _open(self, settings: SettingsCreator | dict[str, Any]) -> Linker:
        tables = self._tables[0] if len(self._tables) == 1 else self._tables
        return Linker(tables, settings, log_level=None)

    def _lessons(self) -> list[tuple[str, ...]]:
        """As many lessons as it takes for each comparison to be learned in one of them."""
        unlearned = set(self._comparisons)
        chosen: list[tuple[str, ...]] = []
        for names in lessons(self._known):
            taught = set(self._comparisons) - _involved(names)
            useful = taught & unlearned or (taught and len(chosen) < _MIN_LESSONS)
            if useful and self._pairs(names) >= _MIN_LESSON_PAIRS:
                unlearned -= taught
                chosen.append(names)
        if unlearned:
            raise DataError(
                f"Too few accounts agree for learning what else agrees then: of"
                f" {', '.join(sorted(unlearned))} nothing can be learned; give more accounts or"
                " more attributes of them."
            )
        return chosen

    def _pairs(self, names: tuple[str, ...]) -> int:
        """Pairs that agree on columns, and may be linked."""
        n = pl.col("len").cast(pl.Int64)
        sizes = self._accounts.drop_nulls(names).group_by(*names, "platform").len()
        blocks = sizes.group_by(names).agg(n.sum())
        every, own = (one.select((n * (n - 1) // 2).sum()).item() for one in (blocks, sizes))
        return int(every if self._within else every - own)


def _involved(names: tuple[str, ...]) -> set[str]:
    """Comparisons that say nothing any more once columns agree."""
    found = {"place" if name in ("city", "postcode") else name for name in names}
    # Each name's comparison looks at the other one for a swap.
    return found | {"given_name", "surname"} if found & {"given_name", "surname"} else found


def _smoothed(settings: dict[str, Any], min_u: float) -> dict[str, Any]:
    """Settings without probabilities of zero, or none, for what the sample did not show."""
    for comparison in settings["comparisons"]:
        for level in comparison["comparison_levels"]:
            if not level.get("is_null_level"):
                level["m_probability"] = max(level.get("m_probability", 0.0), _MIN_M)
                level["u_probability"] = max(level.get("u_probability", 0.0), min_u)
    return settings


@contextmanager
def _in_our_words() -> Iterator[None]:
    """Without the library's own log, which speaks of its workings, not of the data. Its errors
    become a DataError, and those of the database are the database's."""
    logger = logging.getLogger("splink")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    except (ValueError, SplinkException) as error:
        if isinstance(error.__cause__, duckdb.Error):
            raise error.__cause__ from None
        raise DataError(
            "How the attributes of these accounts agree cannot be learned; check that each column"
            " holds what its name says, give more accounts, or name more columns."
        ) from error
    finally:
        logger.setLevel(level)
