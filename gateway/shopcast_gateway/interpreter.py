"""How Python runs a process that answers calls."""

import gc
import sys

SWITCH_S = 5e-4
"""After which a thread that reads or computes lets the event loop go on, which waits for that in
every turn: Python's 5 ms would be all that it does."""


def make_ready() -> None:
    """Keep the event loop from waiting: for other threads, and for a collector of garbage that
    looks through all that was imported, again and again. To be called once that is done."""
    sys.setswitchinterval(SWITCH_S)
    gc.collect()
    gc.freeze()
