"""Runs Triton as long as its own standard input stays open, and cleans up after it.

A process of its own, so that Triton ends and nothing is left behind even when the gateway is
killed: the kernel then closes the pipe. Run as a script, with the standard library only:

    launcher.py LINKS_FOLDER SHM_PREFIX COMMAND...

Input: "stop" asks Triton to end and allows it some time; the end of input kills it at once.
Exit status: Triton's.
"""

import contextlib
import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

STOP = b"stop"
STOP_GRACE_S = 10.0
_LOOK_S = 0.5
_BURIAL_S = 1.0
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def run(links: Path, shm_prefix: str, command: list[str]) -> int:
    """Run the command until it ends or the input says so; returns its exit status."""
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # A handler, unlike SIG_IGN, is not handed down to Triton.
        signal.signal(ignored, lambda *_: None)
    libc = ctypes.CDLL(None)
    # What Triton leaves behind comes to us and not to process 1, which may be a gateway that is the
    # first process of a container and waits for nobody else's children.
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)
    # This process has one thread, so running Python between fork and exec is safe here.
    triton = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        process_group=0,
        preexec_fn=lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL),  # noqa: PLW1509
    )
    pidfd, orders = os.pidfd_open(triton.pid), sys.stdin.fileno()
    try:
        while not (ready := _readable([orders, pidfd], _LOOK_S)):
            _close_to_others(shm_prefix)
        if orders in ready and os.read(orders, 16) == STOP:
            signal.pidfd_send_signal(pidfd, signal.SIGTERM)
            _readable([pidfd], STOP_GRACE_S)
    finally:
        # The Python-backend processes are in its group and may outlive it.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(triton.pid, signal.SIGKILL)
        status = triton.wait()
        _bury_orphans()
        os.close(pidfd)
        clean_up(links, shm_prefix)
    return status


def _bury_orphans() -> None:
    """Wait for the processes that Triton has left, which are ending; not for long, as one may be
    stuck."""
    until_s = time.monotonic() + _BURIAL_S
    with contextlib.suppress(ChildProcessError):  # there is none any more
        while time.monotonic() < until_s:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                time.sleep(0.01)


def clean_up(links: Path, shm_prefix: str) -> None:
    """Remove what a Triton that has ended leaves behind."""
    shutil.rmtree(links, ignore_errors=True)
    for region in _regions(shm_prefix):
        region.unlink(missing_ok=True)


def _close_to_others(shm_prefix: str) -> None:
    """What people are asked about lies in shared memory, which Triton lets everybody read, whatever
    the umask."""
    for region in _regions(shm_prefix):
        with contextlib.suppress(OSError):  # it has gone
            region.chmod(0o600)


def _regions(shm_prefix: str) -> Iterator[Path]:
    return Path("/dev/shm").glob(f"{shm_prefix}*")  # noqa: S108


def _readable(descriptors: list[int], timeout_s: float | None = None) -> list[int]:
    return select.select(descriptors, [], [], timeout_s)[0]


if __name__ == "__main__":
    sys.exit(abs(run(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])))
