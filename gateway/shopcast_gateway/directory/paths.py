"""What links between accounts amount to."""

from collections import defaultdict
from collections.abc import Hashable, Iterable
from heapq import heappop, heappush
from typing import TypeVar

_Account = TypeVar("_Account", bound=Hashable)


def connected(start: _Account, links: Iterable[tuple[_Account, _Account]]) -> set[_Account]:
    """The accounts that links lead to from one, itself among them.

    >>> sorted(connected(1, [(1, 2), (3, 2), (4, 5)]))
    [1, 2, 3]
    """
    (found,) = parts((start,), links)
    return found


def parts(
    starts: Iterable[_Account], links: Iterable[tuple[_Account, _Account]]
) -> list[set[_Account]]:
    """What links connect, as far as any of the accounts is in it; each part once.

    >>> [sorted(part) for part in parts([1, 2, 4, 6], [(1, 2), (3, 2), (4, 5)])]
    [[1, 2, 3], [4, 5], [6]]
    """
    neighbours: dict[_Account, list[_Account]] = defaultdict(list)
    for one, other in links:
        neighbours[one].append(other)
        neighbours[other].append(one)
    found: list[set[_Account]] = []
    seen: set[_Account] = set()
    for start in starts:
        if start in seen:
            continue
        part, waiting = {start}, [start]
        while waiting:
            new = [n for n in neighbours[waiting.pop()] if n not in part]
            part.update(new)
            waiting += new
        seen |= part
        found.append(part)
    return found


def confidences(start: int, links: Iterable[tuple[int, int, float]]) -> dict[int, float]:
    """How sure it is of each account that it belongs to the person of one: the product of the
    confidences along the surest path.

    >>> confidences(1, [(1, 2, 0.5), (2, 3, 0.8), (1, 3, 0.3)])
    {1: 1.0, 2: 0.5, 3: 0.4}
    """
    neighbours: dict[int, list[tuple[int, float]]] = defaultdict(list)
    for one, other, confidence in links:
        neighbours[one].append((other, confidence))
        neighbours[other].append((one, confidence))
    found: dict[int, float] = {}
    waiting = [(-1.0, start)]
    while waiting:
        negative, account = heappop(waiting)
        if account in found:
            continue
        found[account] = -negative
        for other, confidence in neighbours[account]:
            if other not in found:
                heappush(waiting, (negative * confidence, other))
    return found
