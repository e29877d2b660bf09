"""Exceptions as logs may have them: the text of one may hold what a caller sent."""

import traceback


def frames_of(error: BaseException | None) -> str:
    """Types and frames only, of an exception and what led to it."""
    chain: list[str] = []
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        frames = "".join(traceback.format_tb(error.__traceback__))
        chain.append(f"{type(error).__qualname__} at\n{frames}")
        error = error.__cause__ or error.__context__
    return "from ".join(chain)
