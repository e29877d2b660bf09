"""How Python runs a process that answers calls."""

import gc
import sys

from shopcast_gateway.interpreter import SWITCH_S, make_ready


def test_the_event_loop_waits_for_neither_threads_nor_the_collector() -> None:
    before = sys.getswitchinterval()
    try:
        make_ready()
        assert sys.getswitchinterval() == SWITCH_S
        assert gc.get_freeze_count() > 10_000
        assert len(gc.get_objects()) < gc.get_freeze_count()
        assert gc.isenabled()
    finally:
        gc.unfreeze()
        sys.setswitchinterval(before)
