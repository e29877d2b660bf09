"""People of a public benchmark are found again: SHOPCAST_FEBRL names its folder.

dataset4a.csv and dataset4b.csv of FEBRL hold 5,000 people each, generated with typing errors;
`rec-N-org` of one is `rec-N-dup-0` of the other.
"""

import os
from pathlib import Path

import polars as pl
import pytest

from shopcast_build.learning.reporter import Silent
from shopcast_build.linking.attributes import parse_columns
from shopcast_build.linking.linkage import link_people

FOLDER = os.environ.get("SHOPCAST_FEBRL")
pytestmark = pytest.mark.skipif(
    FOLDER is None, reason="SHOPCAST_FEBRL does not name the folder of FEBRL's dataset4a and 4b"
)
PEOPLE = 5_000


def test_links_are_right_and_nearly_complete(tmp_path: Path) -> None:
    for name in ("dataset4a", "dataset4b"):
        rows = pl.read_csv(Path(str(FOLDER)) / f"{name}.csv", infer_schema=False).rename(str.strip)
        rows = rows.drop("soc_sec_id").with_columns(platform=pl.lit(name))
        rows.write_csv(tmp_path / f"{name}.csv")
    columns = parse_columns(["platform_user_id=rec_id", "street=address_1", "city=suburb"])
    links = link_people([tmp_path], columns, reporter=Silent()).links
    number = [
        links[end].str.extract(r"^rec-(\d+)-")
        for end in ("platform_user_id", "other_platform_user_id")
    ]
    right = (number[0] == number[1]).sum()
    assert right >= 0.99 * len(links)
    assert right >= 0.95 * PEOPLE
