"""What a gateway consists of, and what it and its Triton count."""

import re
import urllib.request
from contextlib import suppress
from typing import TYPE_CHECKING

import psutil
import tritonclient.grpc

if TYPE_CHECKING:
    from tests.conftest import Gateway


def triton_of(gateway: "Gateway") -> psutil.Process:
    """Its Triton's server."""
    (found,) = _named(gateway, "tritonserver")
    return found


def tritons_of(gateway: "Gateway") -> int:
    """How many Tritons it runs: two while a version is taken up."""
    return len(_named(gateway, "tritonserver"))


def stubs_of(gateway: "Gateway", model: str) -> list[psutil.Process]:
    """The Python processes of a model."""
    found = []
    for process in _named(gateway, "stub"):
        with suppress(psutil.NoSuchProcess):
            if f"/{model}/" in " ".join(process.cmdline()):
                found.append(process)
    assert found
    return found


def _named(gateway: "Gateway", part: str) -> list[psutil.Process]:
    found = []
    for process in gateway.family():
        with suppress(psutil.NoSuchProcess):  # it may end while we look
            if part in process.name():
                found.append(process)
    return found


def metric(gateway: "Gateway", name: str) -> float:
    """A metric of the gateway's, 0 where it is not there yet."""
    port = re.search(r"metrics on port (\d+)", gateway.said)
    assert port
    with urllib.request.urlopen(f"http://127.0.0.1:{port[1]}/metrics", timeout=20.0) as answer:
        for line in answer.read().decode().splitlines():
            if line.startswith(f"{name} "):
                return float(line.split()[-1])
    return 0.0


def executed(gateway: "Gateway", model: str) -> int:
    """Requests that its Triton has executed of a model, by Triton's own count."""
    with tritonclient.grpc.InferenceServerClient(gateway.triton) as client:
        told = client.get_inference_statistics(model, client_timeout=20.0)
    return sum(int(one.inference_stats.success.count) for one in told.model_stats)


def memory_mib(gateway: "Gateway") -> float:
    """What the gateway's own process keeps in memory."""
    return float(psutil.Process(gateway.process.pid).memory_info().rss) / 2**20
