"""Purposes as stores keep them: a bit for each one that an account refuses."""

from collections.abc import Iterable

from shopcast_gateway.directory.types import Consents, Purpose

_BITS = {purpose: 1 << bit for bit, purpose in enumerate(Purpose)}


def bits(purposes: Iterable[Purpose]) -> int:
    """The mask of some purposes, each given once.

    >>> bits([Purpose.PREDICTION, Purpose.MARKETING])
    5
    """
    return sum(_BITS[purpose] for purpose in purposes)


def bit_of(purpose: Purpose | None) -> int:
    """The mask of one purpose; 0 for none."""
    return 0 if purpose is None else _BITS[purpose]


def purposes_of(mask: int) -> list[Purpose]:
    """The purposes of a mask, in their order."""
    return [purpose for purpose, bit in _BITS.items() if mask & bit]


def allowed_by_platform(refusals: Iterable[tuple[str, int]]) -> Consents:
    """What holds for a person. refusals: platform and mask of each account."""
    masks: dict[str, int] = {}
    for platform, mask in refusals:
        masks[platform] = masks.get(platform, 0) | mask
    return {
        platform: {purpose: not mask & bit for purpose, bit in _BITS.items()}
        for platform, mask in sorted(masks.items())
    }
