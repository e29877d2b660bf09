"""A gateway in a process of its own: the real servers and directory; the predictor is a fake, and
the model repository holds nothing.

As a program: `hostile_server.py FOLDER OPTIONS`, where OPTIONS is a JSON object of channel
arguments; prints its port and that of its admin server once they serve.
"""

import asyncio
import json
import logging
import subprocess
import sys
import time
import uuid
from pathlib import Path

import grpc
import psutil

from shopcast.v1 import prediction_service_pb2, prediction_service_pb2_grpc, types_pb2
from shopcast_domain.events import Outcome
from shopcast_gateway.core.adoption_status import AdoptionStatus
from shopcast_gateway.core.protocol import Evidence, ItemPrediction, Prediction, PredictQuery
from shopcast_gateway.directory.pseudonym import Pseudonyms
from shopcast_gateway.directory.sqlite import SqliteDirectory
from shopcast_gateway.transport import server
from shopcast_gateway.transport.admin_server import build_admin_server
from shopcast_gateway.transport.model_admin_service import Administered

PATIENCE_S = 30.0
"""For what takes milliseconds on a quiet machine."""
MIB = 1024 * 1024


class FakePredictor:
    """Says the same of every item."""

    async def predict(self, query: PredictQuery, *, timeout_s: float) -> Prediction:
        return Prediction(
            tuple(ItemPrediction(i.item_id, (0.5, 0.3, 0.2), True, False) for i in query.items),
            Evidence("a" * 32, "7", "3", tuple(Outcome), True, (), 0, None, 0),
        )


class HostileServer:
    """The process, seen from outside. options: channel arguments that replace the server's."""

    def __init__(self, folder: Path, **options: int) -> None:
        self._log = folder / "server.log"
        command = [sys.executable, __file__, str(folder), json.dumps(options)]
        with self._log.open("w") as errors:
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors)
        assert self._process.stdout is not None
        said = self._process.stdout.readline()
        assert said, self.log
        self.port, admin_port = map(int, said.split())
        self.target, self.admin_target = f"127.0.0.1:{self.port}", f"127.0.0.1:{admin_port}"
        self._seen = psutil.Process(self._process.pid)

    @property
    def log(self) -> str:
        """Everything it has logged."""
        return self._log.read_text(errors="backslashreplace")

    def allow_files(self, most: int) -> None:
        """How many files, sockets included, it may have open."""
        self._seen.rlimit(psutil.RLIMIT_NOFILE, (most, most))

    def files(self) -> int:
        """How many it has open."""
        return self._seen.num_fds()

    def rss_mib(self) -> float:
        """What it holds in memory now."""
        return self._seen.memory_info().rss / MIB

    def connections(self) -> int:
        """TCP connections that it has accepted and not closed."""
        return sum(one.status == "ESTABLISHED" for one in self._seen.net_connections("tcp"))

    def check_health(self) -> None:
        """It lives, and a client that has just come gets the right answer. Returns once that is
        in the log."""
        assert self._process.poll() is None, self.log[-4000:]
        items = [types_pb2.Item(item_id=f"sku-{n}") for n in range(3)]
        request = prediction_service_pb2.PredictRequest(
            account=types_pb2.Account(platform="web", platform_user_id="anna"), items=items
        )
        # A pool of its own: else grpc would reuse a connection there is.
        with grpc.insecure_channel(self.target, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            mark = uuid.uuid4().hex
            answer = stub.Predict(request, PATIENCE_S, metadata=(("x-request-id", mark),))
        assert [one.item_id for one in answer.predictions] == ["sku-0", "sku-1", "sku-2"]
        assert answer.predictions[0].buy_probability == 0.3
        end = time.monotonic() + PATIENCE_S
        while mark not in self.log:
            assert time.monotonic() < end, "the call is not in the log"
            time.sleep(0.01)

    def stop(self) -> None:
        """End it, and see that it had not ended before."""
        alive = self._process.poll() is None
        self._process.kill()
        self._process.communicate()
        assert alive, self.log[-4000:]


async def _serve(folder: Path, options: dict[str, int]) -> None:
    assert options.keys() <= dict(server.OPTIONS).keys(), "not an option of the server"
    server.OPTIONS = tuple((dict(server.OPTIONS) | options).items())
    directory = await SqliteDirectory.open(folder / "shop.db", Pseudonyms(bytes(32)))
    (models := folder / "models").mkdir(exist_ok=True)
    administered = Administered(models, AdoptionStatus(), lambda: None)
    made = server.build_server(FakePredictor(), directory, port=0)
    admin = build_admin_server(administered)
    await made.start()
    await admin.start()
    made.set_serving(True)
    print(made.port, admin.port, flush=True)
    await made.wait()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    asyncio.run(_serve(Path(sys.argv[1]), json.loads(sys.argv[2])))
