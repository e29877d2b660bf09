"""What linking did, in counts."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class LinkingReport:
    """Counts; none speaks of a single person.

    accounts: by platform. attributes: that were compared. rows_incomplete: rows without
    platform or user id. rows_repeated: further rows of an account. identifiers_ignored: e-mails
    and phones of more accounts than one person has. birthdays_ignored: dates of birth of far more
    accounts than chance gives one. values_unreadable: rows by attribute whose date, e-mail or phone
    is in no form that is known. keys_ignored: keys that too many accounts share
    to compare them all. pairs: that were scored and not out of the question. households, rivals,
    clashes, crowds, crowd_links: what the guard refused (guard.Guarded). links: written.
    linked_accounts: accounts with at least one link.
    """

    accounts: Mapping[str, int]
    attributes: tuple[str, ...]
    rows_incomplete: int
    rows_repeated: int
    identifiers_ignored: int
    birthdays_ignored: int
    values_unreadable: Mapping[str, int]
    keys_ignored: int
    pairs: int
    households: int
    rivals: int
    clashes: int
    crowds: int
    crowd_links: int
    links: int
    linked_accounts: int

    def to_json(self) -> dict[str, Any]:
        """The report as a dict of JSON types."""
        return asdict(self) | {"attributes": list(self.attributes)}
