"""What differs between two versions, by their manifests."""

from dataclasses import dataclass
from typing import Any

from shopcast_domain.manifest import Manifest

_OF_EVERY_VERSION = {"created", "encoder_version", "behavior_version", "files", "goldens"}


@dataclass(frozen=True, slots=True)
class Difference:
    """A field by its dotted name, and its value in either version; None where it is missing."""

    field: str
    first: Any
    second: Any


def compare(first: Manifest, second: Manifest) -> list[Difference]:
    """The fields that differ, in the manifests' order; of the metrics those of the published model.
    Left out is what differs between any two versions: numbers, digests, goldens and the time of
    publication."""
    one, other = (dict(_flat(_content(manifest))) for manifest in (first, second))
    names = dict.fromkeys([*one, *other])
    return [
        Difference(name, one.get(name), other.get(name))
        for name in names
        if one.get(name) != other.get(name)
    ]


def _content(manifest: Manifest) -> dict[str, Any]:
    content = manifest.model_dump(mode="json", exclude=_OF_EVERY_VERSION)
    content["metrics"] = content["metrics"].get(manifest.training.published_as, {})
    return content


def _flat(value: Any, name: str = "") -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return [
            pair
            for key, part in value.items()
            for pair in _flat(part, f"{name}.{key}" if name else str(key))
        ]
    if isinstance(value, list) and value and all(isinstance(one, dict) for one in value):
        # Rows are told apart by what they are called, which comes first in each.
        return [
            pair
            for row in value
            for pair in _flat(dict(list(row.items())[1:]), f"{name}.{next(iter(row.values()))}")
        ]
    return [(name, value)]
