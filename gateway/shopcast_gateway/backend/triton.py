"""The model server reached through KServe v2 gRPC: a Triton of our own, or one elsewhere."""

import asyncio
import logging
import time
import uuid
from collections.abc import Coroutine
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
from google.protobuf import json_format, text_format
from numpy.typing import NDArray
from tritonclient.grpc import aio, model_config_pb2
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from shopcast_domain.manifest import CONFIG, FALLBACK
from shopcast_gateway.backend.protocol import Tensors
from shopcast_gateway.core.stages import SPENT
from shopcast_gateway.errors import (
    ContractMismatch,
    DeadlineExpired,
    GatewayError,
    Overloaded,
    StartupError,
    Unavailable,
)

MAX_MESSAGE_BYTES = 64 * 2**20
_CONTROL_LIMIT_S = 5.0
_LOAD_LIMIT_S = 120.0
_RECONNECT_MS = 2000
_HANGING_S = 120.0  # after which a call is given up at the risk of the server's life
_LOGGED_CHARS = 1000

_LOADING: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
"""By address. What is loaded depends on what is found loaded: a version that serves and one on
trial on the same server take turns."""

_log = logging.getLogger(__name__)


class TritonBackend:
    """A Triton server. Implements `backend.protocol.Backend`."""

    def __init__(self, client: Any, repository: Path, url: str = "") -> None:
        self._client, self._url = client, url
        self._repository = repository
        self._loading = _LOADING.setdefault(url, asyncio.Lock())
        self._brought: list[tuple[str, int]] = []
        self._running: set[asyncio.Task[Any]] = set()
        self._closed = False
        self._given_up: dict[str, asyncio.Future[None]] = {}
        self._answered_at: dict[str, float] = {}

    @classmethod
    async def connect(cls, url: str, *, repository: Path) -> "TritonBackend":
        """Open a channel to a server that is live.

        url: host:port of its gRPC service. repository: the model repository as we see it; only
        each version's config.pbtxt is read from it, so a copy will do.
        Raises StartupError when no server answers.
        """
        backend = cls.open(url, repository=repository)
        try:
            await backend.check_live()
        except StartupError:
            await backend.close()
            raise
        return backend

    @classmethod
    def open(cls, url: str, *, repository: Path) -> "TritonBackend":
        """As `connect`, to a server that may be away."""
        limits = (
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            # Else a server that was away for long is not looked for again for two minutes.
            ("grpc.max_reconnect_backoff_ms", _RECONNECT_MS),
            # The proxy of who fetches keys and sends traces, which may be far away.
            ("grpc.enable_http_proxy", 0),
        )
        return cls(aio.InferenceServerClient(url, channel_args=limits), repository, url)

    async def check_live(self) -> None:
        """Raises StartupError when no server answers."""
        try:
            await self._client.is_server_live(client_timeout=_CONTROL_LIMIT_S)
        except InferenceServerException as problem:
            raise StartupError(
                f"No Triton server answers at {self._url}: start it or correct the address"
            ) from problem

    async def load(self, model: str, version: int) -> None:
        """Load a version of a model beside those that are loaded, which go on serving.

        Loading a version again brings back one whose Python process has died. What this server
        cannot run as it was published, it runs as the version's fallback says, if it has one.
        Raises StartupError when the server refuses it, Unavailable when the server is away.
        """
        async with self._loading:
            ready = await self._ready_versions(model)
            if version not in ready:
                self._brought.append((model, version))
            try:
                await self._load(model, version, ready | {version}, afresh=version in ready)
            except StartupError:
                fallback = self._repository / model / str(version) / FALLBACK
                # One configuration is for all versions: those that serve are not moved to the CPU.
                if not fallback.is_file() or ready - {version}:
                    raise
                _log.error(
                    "%s version %d cannot run here as it was published: its ONNX graph runs on the"
                    " CPU in its place, slower; `platform doctor` says what is missing",
                    model,
                    version,
                )
                await self._load(model, version, {version}, afresh=True, config_name=FALLBACK)
        if not await self.ready(model, version):
            raise StartupError(
                f"Triton loaded {model} but not its version {version}: publish the version again"
            )

    async def unload(self, model: str, version: int) -> None:
        """Let go of one version of a model; the others go on serving.

        Raises StartupError when the server refuses, Unavailable when it is away.
        """
        async with self._loading:
            remaining = await self._ready_versions(model) - {version}
            if remaining:
                await self._load(model, max(remaining), remaining, afresh=False)
                return
            try:
                await self._client.unload_model(model, client_timeout=_LOAD_LIMIT_S)
            except InferenceServerException as problem:
                raise _cause(problem, f"unloading {model}") from problem

    async def put_back(self) -> None:
        """Unload what was loaded through here and had not been before, as far as that succeeds: for
        a version that is not to serve, on a server that others use too."""
        while self._brought:
            with suppress(GatewayError):
                await self.unload(*self._brought.pop())

    async def ready(self, model: str, version: int) -> bool:
        """Whether the server says that the version can answer. Only an inference makes sure."""
        try:
            return await self._client.is_model_ready(
                model, str(version), client_timeout=_CONTROL_LIMIT_S
            )
        except InferenceServerException:
            return False

    async def infer(
        self,
        model: str,
        version: int,
        inputs: Tensors,
        output: str,
        *,
        timeout_s: float,
        wanted_s: float | None = None,
    ) -> NDArray[np.float32]:
        """Run one batch and return the named output, float32.

        timeout_s: how long the answer is waited for. The call goes on after it, since Triton 2.51
        may die of a cancelled one (triton-inference-server/server#7368). wanted_s: makes no
        difference where there is one server.
        Raises Unavailable, DeadlineExpired, Overloaded, ContractMismatch.
        """
        if timeout_s <= 0:
            raise DeadlineExpired(f"no time is left to ask {model}")
        if self._closed:  # grpc would raise a UsageError
            raise Unavailable(f"{model} version {version}: the model server was let go of")
        if sum(tensor.nbytes for tensor in inputs.values()) > MAX_MESSAGE_BYTES - 2**16:
            raise ContractMismatch(f"a batch for {model} is too large to send")
        tensors = [_to_input(name, tensor) for name, tensor in inputs.items()]
        wanted = [aio.InferRequestedOutput(output)]
        spent = SPENT.get()
        trace = {"traceparent": spent.traceparent} if spent and spent.traceparent else None
        call = self._begun(
            model,
            self._client.infer(
                model,
                tensors,
                str(version),
                outputs=wanted,
                client_timeout=_HANGING_S,
                headers=trace,
            ),
        )
        given_up = self._given_up.get(model)
        if given_up is None:
            given_up = self._given_up[model] = asyncio.get_running_loop().create_future()
        await asyncio.wait({call, given_up}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if not call.done():
            if given_up.done():
                raise Unavailable(f"{model} version {version}: the call was given up")
            raise DeadlineExpired(
                f"{model} version {version}: the model server did not answer in time"
            )
        try:
            result = call.result()
        except InferenceServerException as problem:
            raise _cause(problem, f"{model} version {version}") from problem
        try:
            answer = result.as_numpy(output)
        except ValueError as problem:  # the bytes do not fill the shape
            raise ContractMismatch(f"{model} version {version} answered half a tensor") from problem
        if answer is None or answer.dtype != np.float32:
            raise ContractMismatch(f"{model} version {version} did not answer {output} as float32")
        return answer

    def answered_at(self, model: str) -> float:
        """When a call to the model was answered last, of time.monotonic; 0 before the first."""
        return self._answered_at.get(model, 0.0)

    def give_up(self, model: str) -> None:
        """Fail the calls to a model that are waited for, as Unavailable: what they hang in was
        replaced. As ever, they themselves go on."""
        given_up = self._given_up.pop(model, None)
        if given_up is not None:
            given_up.set_result(None)

    async def close(self) -> None:
        """Close the channel, once the calls that have begun have ended; those that hang end now.
        What is asked from now on is Unavailable."""
        self._closed = True
        if self._running:
            await asyncio.wait(self._running, timeout=_CONTROL_LIMIT_S)
        await self._client.close()

    def _begun(self, model: str, call: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        task = asyncio.create_task(call)
        self._running.add(task)
        task.add_done_callback(partial(self._ended, model))
        return task

    def _ended(self, model: str, task: "asyncio.Task[Any]") -> None:
        self._running.discard(task)
        # Whoever waited may have gone.
        if not task.cancelled() and task.exception() is None:
            self._answered_at[model] = time.monotonic()

    async def _ready_versions(self, model: str) -> set[int]:
        try:
            index = await self._client.get_model_repository_index(client_timeout=_CONTROL_LIMIT_S)
        except InferenceServerException as problem:
            raise _cause(problem, "listing models") from problem
        return {
            int(entry.version)
            for entry in index.models
            if entry.name == model and entry.state == "READY"
        }

    async def _load(
        self,
        model: str,
        version: int,
        versions: set[int],
        *,
        afresh: bool,
        config_name: str = CONFIG,
    ) -> None:
        """Make exactly these versions of a model the loaded ones, configured as `version` says.

        afresh: even those that are loaded; else the server leaves them as they are.
        """
        config = await asyncio.to_thread(
            _read_config, self._repository / model / str(version) / config_name
        )
        # What is sent replaces the server's whole config.pbtxt, not only the fields it names.
        config.version_policy.specific.versions[:] = sorted(versions)
        if afresh:
            config.parameters["load"].string_value = uuid.uuid4().hex  # a difference to act on
        text = json_format.MessageToJson(config, preserving_proto_field_name=True, indent=None)
        try:
            await self._client.load_model(model, config=text, client_timeout=_LOAD_LIMIT_S)
        except InferenceServerException as problem:
            cause = _cause(problem, f"loading {model}")
            if isinstance(cause, Unavailable) and problem.status() == "StatusCode.UNAVAILABLE":
                raise cause from problem
            raise StartupError(
                f"Triton refused to load {model} in versions {_listed(versions)}: "
                "see its log for the cause and publish the newest version again"
            ) from problem


def _read_config(path: Path) -> Any:
    try:
        return text_format.Parse(path.read_text("utf-8"), model_config_pb2.ModelConfig())
    except (OSError, UnicodeDecodeError, text_format.ParseError) as problem:
        raise StartupError(
            f"{path} is missing or no model configuration: publish the model again"
        ) from problem


def _to_input(name: str, tensor: NDArray[Any]) -> Any:
    wire = aio.InferInput(name, list(tensor.shape), np_to_triton_dtype(tensor.dtype))
    wire.set_data_from_numpy(tensor)
    return wire


def _listed(versions: set[int]) -> str:
    return ", ".join(str(version) for version in sorted(versions))


def _cause(problem: InferenceServerException, doing: str) -> GatewayError:
    """What a failure means to us. The server's own words go to the log, once."""
    status, words = problem.status() or "", str(problem.message())
    _log.warning("triton: %s: %s %s", doing, status, words[:_LOGGED_CHARS])
    match status.removeprefix("StatusCode."):
        case "DEADLINE_EXCEEDED":
            return DeadlineExpired(f"{doing}: the model server did not answer in time")
        case "RESOURCE_EXHAUSTED":
            return Overloaded(f"{doing}: the model server is full")
        case "UNAVAILABLE" if "maximum queue size" in words:
            return Overloaded(f"{doing}: the model server is full")
        case "INVALID_ARGUMENT" | "UNIMPLEMENTED" | "OUT_OF_RANGE":
            return ContractMismatch(f"{doing}: the model refused the tensors")
        case "NOT_FOUND":  # being drained, or unloaded by another
            return Unavailable(f"{doing}: the model server does not hold it")
        case _:  # INTERNAL is what a dead Python process of Triton gives
            return Unavailable(f"{doing}: the model server is away or broken")
