"""The real Triton, with tiny graphs whose answers can be worked out by hand."""

import asyncio
import ctypes
import importlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import psutil
import pytest
import pytest_asyncio
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from shopcast_gateway.backend.triton import TritonBackend
from shopcast_gateway.errors import ContractMismatch, DeadlineExpired, StartupError, Unavailable
from shopcast_gateway.triton.environment import TritonEnvironment, install, locate
from shopcast_gateway.triton.process import Ports, TritonProcess
from shopcast_repository import triton_config

pytestmark = pytest.mark.asyncio(loop_scope="module")

MODEL_PY = Path(triton_config.__file__).with_name("triton_model.py")
WIDTH, FEATURES, VOCABULARY = 4, 5, 32
TABLE = np.arange(VOCABULARY * WIDTH, dtype=np.float32).reshape(VOCABULARY, WIDTH)


def _save(graph: onnx.GraphProto, folder: Path) -> None:
    folder.mkdir(parents=True)
    shutil.copy(MODEL_PY, folder / "model.py")
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), folder / "model.onnx")


def _constant(name: str, *values: float, dtype: type = np.int64) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(values, dtype), name)


def publish_encoder(repository: Path, version: int, *, scale: float) -> None:
    """vectors = scale times the sum of the table's rows of the unmasked tokens."""
    int64, float32 = TensorProto.INT64, TensorProto.FLOAT
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["table", "input_ids"], ["rows"]),
            helper.make_node("Cast", ["attention_mask"], ["mask"], to=float32),
            helper.make_node("Unsqueeze", ["mask", "two"], ["column"]),
            helper.make_node("Mul", ["rows", "column"], ["kept"]),
            helper.make_node("ReduceSum", ["kept", "one"], ["vectors"], keepdims=0),
        ],
        "encoder",
        [
            helper.make_tensor_value_info("input_ids", int64, ["B", "T"]),
            helper.make_tensor_value_info("attention_mask", int64, ["B", "T"]),
        ],
        [helper.make_tensor_value_info("vectors", float32, ["B", WIDTH])],
        [numpy_helper.from_array(TABLE * scale, "table"), _constant("one", 1), _constant("two", 2)],
    )
    _save(graph, repository / "encoder" / str(version))
    triton_config.write(
        triton_config.encoder(width=WIDTH, max_tokens=16),
        repository / "encoder" / str(version) / "config.pbtxt",
    )


def publish_behavior(repository: Path) -> None:
    """logits = (sum of unmasked history vectors + sum of the candidate's features) x (1, 2, 3)."""
    model = triton_config.behavior(width=WIDTH, features=FEATURES, max_events=8, max_candidates=100)
    types = {"INT64": TensorProto.INT64, "FP32": TensorProto.FLOAT}
    graph = helper.make_graph(
        [
            helper.make_node("Unsqueeze", ["history_mask", "last"], ["column"]),
            helper.make_node("Mul", ["history_vectors", "column"], ["kept"]),
            helper.make_node("ReduceSum", ["kept", "both"], ["shopper"], keepdims=1),
            helper.make_node("ReduceSum", ["candidate_features", "last"], ["item"], keepdims=1),
            helper.make_node("Add", ["shopper", "item"], ["score"]),
            helper.make_node("Mul", ["score", "weights"], ["logits"]),
        ],
        "behavior",
        [
            helper.make_tensor_value_info(tensor.name, types[tensor.dtype], ["B", *tensor.axes])
            for tensor in model.inputs
        ],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["B", "N", 3])],
        [
            _constant("last", -1),
            _constant("both", 1, 2),
            _constant("weights", 1, 2, 3, dtype=np.float32),
        ],
    )
    _save(graph, repository / "behavior" / "1")
    triton_config.write(model, repository / "behavior" / "1" / "config.pbtxt")


def text(*ids: int, mask: tuple[int, ...] | None = None) -> dict[str, NDArray[np.int64]]:
    return {
        "input_ids": np.array([ids], np.int64),
        "attention_mask": np.array([mask or (1,) * len(ids)], np.int64),
    }


def person(seed: int, *, events: int, candidates: int) -> dict[str, NDArray[np.generic]]:
    random = np.random.default_rng(seed)

    def numbers(*shape: int) -> NDArray[np.float32]:
        return random.integers(-8, 8, shape).astype(np.float32)  # sums of these are exact

    return {
        "history_vectors": numbers(1, events, WIDTH),
        "history_kind": random.integers(0, 4, (1, events)),
        "history_numbers": numbers(1, events, 3),
        "history_mask": np.ones((1, events), np.float32),
        "candidate_vectors": numbers(1, candidates, WIDTH),
        "candidate_features": numbers(1, candidates, FEATURES),
    }


def leftovers(pid: int) -> set[Path]:
    """What servers started by a process have in shared memory and in the temporary folder."""
    regions = Path("/dev/shm").glob(f"shopcast_{pid}_*")
    folders = Path(tempfile.gettempdir()).glob(f"shopcast-triton-{pid}-*")
    return {*regions, *folders}


def descendants(address: str = "") -> list[psutil.Process]:
    """Live processes below this one; of one server and its launcher where its address is given."""
    live = [
        process
        for process in psutil.Process().children(recursive=True)
        if process.status() != psutil.STATUS_ZOMBIE  # Triton does not bury what is killed
    ]
    listening = f"--grpc-address={address.rpartition(':')[0]}"
    return [p for p in live if not address or listening in p.cmdline()]


def stubs_of(model: str) -> list[psutil.Process]:
    """Triton's Python processes that run a model."""
    stubs = [
        process
        for process in descendants()
        if "stub" in process.name() + process.exe() and f"/{model}/" in " ".join(process.cmdline())
    ]
    assert stubs
    return stubs


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # A name that a shell would trip over.
    folder = tmp_path_factory.mktemp("models") / 'it\'s "our" $HOME; répo'
    publish_encoder(folder, 1, scale=1.0)
    publish_encoder(folder, 2, scale=2.0)
    broken = folder / "encoder" / "3"
    shutil.copytree(folder / "encoder" / "2", broken)
    (broken / "model.onnx").write_bytes(b"torn")
    publish_behavior(folder)
    return folder


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def triton(
    triton_environment: TritonEnvironment,
    repository: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[TritonProcess]:
    log = tmp_path_factory.mktemp("log") / "triton.log"
    triton = await TritonProcess.start(triton_environment, repository, log=log)
    yield triton
    await triton.stop()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def backend(triton: TritonProcess, repository: Path) -> AsyncIterator[TritonBackend]:
    backend = await TritonBackend.connect(triton.grpc_address, repository=repository)
    await backend.load("encoder", 1)
    await backend.load("behavior", 1)
    yield backend
    await backend.close()


async def encode(
    backend: TritonBackend, inputs: dict[str, NDArray[np.int64]], version: int = 1
) -> NDArray[np.float32]:
    return await backend.infer("encoder", version, inputs, "vectors", timeout_s=10.0)


async def test_the_answer_is_the_graphs(backend: TritonBackend) -> None:
    inputs = text(3, 5, 7, mask=(1, 0, 1))
    np.testing.assert_array_equal(await encode(backend, inputs), (TABLE[3] + TABLE[7])[None])


async def test_requests_of_mixed_lengths_get_the_answers_they_get_alone(
    backend: TritonBackend,
) -> None:
    sizes = [(1, 1), (8, 3), (2, 100), (5, 7), (1, 40), (8, 100), (3, 2)] * 4
    people = [person(i, events=e, candidates=n) for i, (e, n) in enumerate(sizes)]
    together = await asyncio.gather(
        *(backend.infer("behavior", 1, one, "logits", timeout_s=20.0) for one in people)
    )
    for one, (_, candidates), logits in zip(people, sizes, together, strict=True):
        assert logits.shape == (1, candidates, 3)
        score = one["history_vectors"].sum() + one["candidate_features"].sum(axis=-1)
        np.testing.assert_array_equal(logits, score[..., None] * np.float32([1, 2, 3]))
        alone = await backend.infer("behavior", 1, one, "logits", timeout_s=20.0)
        np.testing.assert_array_equal(logits, alone)


async def test_a_bad_request_fails_alone(backend: TritonBackend) -> None:
    good = [text(*range(1, 2 + i)) for i in range(12)]
    bad = [
        text(1, 2, 3) | {"attention_mask": np.ones((1, 4), np.int64)},  # axes disagree
        text(*range(17)),  # longer than the limit
        text(1, VOCABULARY + 5),  # an id the table does not have
    ]
    answers = await asyncio.gather(
        *(encode(backend, one) for one in (*good[:6], *bad, *good[6:])), return_exceptions=True
    )
    assert all(isinstance(answer, ContractMismatch) for answer in answers[6:9])
    for one, answer in zip(good, (*answers[:6], *answers[9:]), strict=True):
        np.testing.assert_array_equal(answer, TABLE[one["input_ids"][0]].sum(axis=0)[None])


async def test_wrong_names_types_and_batch_sizes_are_our_mistake(backend: TritonBackend) -> None:
    ids = np.ones((1, 3), np.int64)
    for wrong in (
        {"input_ids": ids},
        {"ids": ids, "attention_mask": ids},
        {"input_ids": ids.astype(np.float32), "attention_mask": ids},
        {"input_ids": np.ones((65, 3), np.int64), "attention_mask": np.ones((65, 3), np.int64)},
    ):
        with pytest.raises(ContractMismatch):
            await encode(backend, wrong)


async def test_a_deadline_is_kept(backend: TritonBackend) -> None:
    stubs = stubs_of("encoder")
    for stub in stubs:
        stub.suspend()
    try:
        with pytest.raises(DeadlineExpired):
            await backend.infer("encoder", 1, text(1), "vectors", timeout_s=0.2)
    finally:
        for stub in stubs:
            stub.resume()
    with pytest.raises(DeadlineExpired):
        await backend.infer("encoder", 1, text(1), "vectors", timeout_s=-1.0)


async def test_a_storm_of_deadlines_and_of_callers_who_hang_up_calls_nothing_off(
    backend: TritonBackend, triton: TritonProcess
) -> None:
    """Triton 2.51 dies of calls that are cancelled."""
    random_ = random.Random(1)

    async def answered() -> int:
        """By Triton's count, which comes a moment after the answers."""
        before, now = -1, 0
        while before != now:
            await asyncio.sleep(0.3)
            found = await backend._client.get_inference_statistics("encoder", "1")
            before, now = now, int(found.model_stats[0].inference_stats.success.count)
        return now

    before, begun = await answered(), 0

    async def call() -> None:
        nonlocal begun
        begun += 1
        with suppress(DeadlineExpired):
            timeout_s = random_.uniform(0.0005, 0.02)
            await backend.infer("encoder", 1, text(1, 2, 3), "vectors", timeout_s=timeout_s)

    calls = [asyncio.create_task(call()) for _ in range(600)]
    for task in random_.sample(calls, 200):
        await asyncio.sleep(0.0005)
        task.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    while backend._running:  # those go on that nobody waits for
        await asyncio.wait(backend._running)
    assert await answered() == before + begun
    assert (await encode(backend, text(1, 2, 3))).shape == (1, WIDTH)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(triton.wait(), 0.5)


async def test_versions_come_and_go_while_the_others_serve(backend: TritonBackend) -> None:
    done = asyncio.Event()

    async def keep_asking() -> int:
        asked = 0
        while not done.is_set():
            np.testing.assert_array_equal(await encode(backend, text(3), 1), TABLE[3][None])
            asked += 1
            await asyncio.sleep(0.005)
        return asked

    traffic = asyncio.create_task(keep_asking())
    try:
        await backend.load("encoder", 2)
        np.testing.assert_array_equal(await encode(backend, text(3), 2), 2 * TABLE[3][None])
        with pytest.raises(StartupError, match="Triton refused to load encoder"):
            await backend.load("encoder", 3)
        assert not await backend.ready("encoder", 3)
        np.testing.assert_array_equal(await encode(backend, text(3), 2), 2 * TABLE[3][None])
        await backend.unload("encoder", 2)
        with pytest.raises(Unavailable):
            await encode(backend, text(3), 2)
    finally:
        done.set()
    assert await traffic > 10


async def test_what_is_not_to_serve_is_put_back(
    backend: TritonBackend, triton: TritonProcess, repository: Path
) -> None:
    """On a server that others use: only what one loaded itself, and had not been there before."""
    other = await TritonBackend.connect(triton.grpc_address, repository=repository)
    try:
        await other.load("encoder", 1)
        await other.load("encoder", 2)
        assert await backend.ready("encoder", 2)
        await other.put_back()
    finally:
        await other.close()
    assert not await backend.ready("encoder", 2)
    np.testing.assert_array_equal(await encode(backend, text(3)), TABLE[3][None])


async def test_a_fallback_is_not_for_a_model_that_serves_in_another_version(
    backend: TritonBackend, repository: Path
) -> None:
    """One configuration is for all versions of a model."""
    folder = repository / "encoder" / "4"
    shutil.copytree(repository / "encoder" / "2", folder)
    wanted = replace(
        triton_config.encoder(width=WIDTH, max_tokens=16),
        target="onnxruntime",  # which the bundled Triton does not have
        padding={"tokens": (16,)},
    )
    (folder / "config.pbtxt").rename(folder / "fallback.pbtxt")
    triton_config.write(wanted, folder / "config.pbtxt")
    with pytest.raises(StartupError, match="Triton refused"):
        await backend.load("encoder", 4)
    np.testing.assert_array_equal(await encode(backend, text(3)), TABLE[3][None])
    await backend.unload("encoder", 1)
    try:
        await backend.load("encoder", 4)
        np.testing.assert_array_equal(await encode(backend, text(3), 4), 2 * TABLE[3][None])
    finally:
        await backend.unload("encoder", 4)
        await backend.load("encoder", 1)


async def test_a_model_that_was_never_published_is_refused(backend: TritonBackend) -> None:
    with pytest.raises(StartupError, match="publish the model"):
        await backend.load("nothing", 1)
    with pytest.raises(StartupError, match=r"encoder/9/config\.pbtxt is missing"):
        await backend.load("encoder", 9)
    np.testing.assert_array_equal(await encode(backend, text(3)), TABLE[3][None])


async def test_loading_again_repairs_a_model_whose_process_died(backend: TritonBackend) -> None:
    stubs = stubs_of("encoder")
    for stub in stubs:
        stub.kill()
    with pytest.raises(Unavailable):
        await encode(backend, text(3))
    await backend.load("encoder", 1)
    np.testing.assert_array_equal(await encode(backend, text(3)), TABLE[3][None])


async def test_stopping_leaves_nothing_behind(
    triton_environment: TritonEnvironment, repository: Path, tmp_path: Path
) -> None:
    before = leftovers(os.getpid())
    log = tmp_path / "triton.log"
    triton = await TritonProcess.start(triton_environment, repository, log=log)
    backend = await TritonBackend.connect(triton.grpc_address, repository=repository)
    await backend.load("encoder", 1)
    mine = descendants(triton.grpc_address)
    family = {relative for one in mine for relative in (one, *one.children(recursive=True))}
    assert len(family) >= 4, "launcher, server and two Python processes"
    assert leftovers(os.getpid()) - before
    await triton.stop()
    psutil.wait_procs(family, timeout=3.0)
    assert not [process for process in family if process.is_running()]
    assert not leftovers(os.getpid()) - before
    with pytest.raises(Unavailable):
        await encode(backend, text(3))
    await backend.close()
    await triton.stop()  # twice is fine


async def test_a_server_that_dies_is_noticed(
    triton_environment: TritonEnvironment, repository: Path, tmp_path: Path
) -> None:
    triton = await TritonProcess.start(triton_environment, repository, log=tmp_path / "log")
    for process in descendants(triton.grpc_address):
        if process.name() == "tritonserver":
            process.kill()
    assert await asyncio.wait_for(triton.wait(), 10.0) != 0


async def test_a_server_that_dies_leaves_no_child_to_whoever_is_process_1(
    triton_environment: TritonEnvironment, repository: Path, tmp_path: Path
) -> None:
    libc, subreaper = ctypes.CDLL(None), 36
    libc.prctl(subreaper, 1)  # as process 1 is
    try:
        triton = await TritonProcess.start(triton_environment, repository, log=tmp_path / "log")
        backend = await TritonBackend.connect(triton.grpc_address, repository=repository)
        await backend.load("encoder", 1)
        mine = descendants(triton.grpc_address)
        family = {below.pid for one in mine for below in (one, *one.children(recursive=True))}
        for process in mine:
            if process.name() == "tritonserver":
                process.kill()
        await asyncio.wait_for(triton.wait(), 10.0)
        await backend.close()
        assert not family & {one.pid for one in psutil.Process().children(recursive=True)}
    finally:
        libc.prctl(subreaper, 0)


PARENT = """
import asyncio, sys
from pathlib import Path
from shopcast_gateway.backend.triton import TritonBackend
from shopcast_gateway.triton.environment import locate
from shopcast_gateway.triton.process import TritonProcess

async def main(environment, repository, log):
    triton = await TritonProcess.start(locate(environment), repository, log=log)
    backend = await TritonBackend.connect(triton.grpc_address, repository=repository)
    await backend.load("encoder", 1)
    print("up", flush=True)
    await asyncio.sleep(60)

asyncio.run(main(*map(Path, sys.argv[1:])))
"""


def start_and_kill(*arguments: Path) -> tuple[int, list[psutil.Process]]:
    """Run a parent of a Triton and kill it; returns its process id and what it had started."""
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, *arguments], stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"up\n"
        family = psutil.Process(parent.pid).children(recursive=True)
        assert leftovers(parent.pid)
        os.kill(parent.pid, signal.SIGKILL)
    return parent.pid, family


async def test_a_launcher_that_is_killed_leaves_nothing_either(
    triton_environment: TritonEnvironment, repository: Path, tmp_path: Path
) -> None:
    before = leftovers(os.getpid())
    triton = await TritonProcess.start(triton_environment, repository, log=tmp_path / "log")
    for process in descendants(triton.grpc_address):
        if process.name() != "tritonserver":
            process.kill()
    assert await asyncio.wait_for(triton.wait(), 10.0) != 0
    await triton.stop()
    assert not leftovers(os.getpid()) - before


async def test_killing_the_gateway_leaves_no_server(
    triton_environment: TritonEnvironment, repository: Path, tmp_path: Path
) -> None:
    home = triton_environment.python_bin.parent
    parent, family = start_and_kill(home, repository, tmp_path / "log")
    assert len(family) >= 4, "launcher, server and two Python processes"
    _, alive = psutil.wait_procs(family, timeout=10.0)
    assert not alive
    assert not leftovers(parent)


async def test_a_taken_port_is_named(
    triton_environment: TritonEnvironment, repository: Path, tmp_path: Path
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(StartupError, match=f"Port {port} "):
            await TritonProcess.start(
                triton_environment, repository, log=tmp_path / "log", ports=Ports(grpc=port)
            )


async def test_nobody_at_the_address_is_said_so(repository: Path) -> None:
    with pytest.raises(StartupError, match="No Triton server answers at"):
        await TritonBackend.connect("127.0.0.1:1", repository=repository)


async def test_bytecode_beside_a_version_is_neither_run_nor_written(
    triton_environment: TritonEnvironment, tmp_path: Path
) -> None:
    repository, ran = tmp_path / "models", tmp_path / "ran"
    publish_encoder(repository, 1, scale=1.0)
    folder = repository / "encoder" / "1" / "__pycache__"
    folder.mkdir()
    source = f"{MODEL_PY.read_text()}\nopen({str(ran)!r}, 'w').close()\n"
    planted = importlib._bootstrap_external._code_to_hash_pyc(  # type: ignore[attr-defined]
        compile(source, "model.py", "exec"), bytes(8), False
    )
    (folder / f"model.{sys.implementation.cache_tag}.pyc").write_bytes(planted)
    triton = await TritonProcess.start(triton_environment, repository, log=tmp_path / "log")
    backend = await TritonBackend.connect(triton.grpc_address, repository=repository)
    try:
        for _ in range(2):
            await backend.load("encoder", 1)
            assert (await encode(backend, text(1, 2))).shape == (1, WIDTH)
            assert not ran.exists()
            shutil.rmtree(folder, ignore_errors=True)
        assert not list(repository.rglob("*.pyc"))
    finally:
        await backend.close()
        await triton.stop()


async def test_what_a_model_imports_is_compiled_once(
    triton_environment: TritonEnvironment, tmp_path: Path
) -> None:
    link = tmp_path / "python"  # as a server has one, of another name each time
    link.symlink_to(triton_environment.python_bin.parent)
    told = "import numpy.typing as n, onnxruntime as o; print(n.__cached__); print(o.__cached__)"
    command = [link / "bin" / "python", "-c", told]
    said = await asyncio.to_thread(subprocess.check_output, command, text=True)
    found = [Path(line) for line in said.splitlines()]
    assert len(found) == 2
    assert all(one.is_file() for one in found)


async def test_the_server_sees_no_secrets_of_ours(
    triton_environment: TritonEnvironment,
    repository: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SHOPCAST_PSEUDONYM_KEY", "hush")
    triton = await TritonProcess.start(triton_environment, repository, log=tmp_path / "log")
    environments = [process.environ() for process in descendants(triton.grpc_address)]
    await triton.stop()
    assert environments
    assert not [environment for environment in environments if "hush" in environment.values()]


async def test_the_server_tells_nobody_of_itself(
    backend: TritonBackend, triton: TritonProcess
) -> None:
    """ONNX Runtime makes an id of the machine, to be sent along, where it may."""
    home = Path(triton.grpc_address.removeprefix("unix:")).parent
    assert not list(home.rglob("deviceid"))


async def test_an_install_that_fails_says_why_and_can_be_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    for _ in range(2):
        with pytest.raises(StartupError, match=r"pip could not install Triton: .*nvidia-pytriton"):
            install(tmp_path / "triton", progress=lambda _: None)
    with pytest.raises(StartupError, match="run `platform triton install`"):
        locate(tmp_path / "triton")


async def test_installing_again_does_nothing(triton_environment: TritonEnvironment) -> None:
    said: list[str] = []
    assert install(triton_environment.python_bin.parent, progress=said.append) == triton_environment
    assert said == []


async def test_only_its_own_user_reaches_it(
    backend: TritonBackend, triton: TritonProcess, repository: Path
) -> None:
    """Whoever does can have it run code."""
    await backend.load("encoder", 1)
    await backend.infer("encoder", 1, text(1), "vectors", timeout_s=30.0)
    server = [one for one in descendants(triton.grpc_address) if one.name() == "tritonserver"]
    family = [pid for one in server for pid in (one.pid, *(c.pid for c in one.children()))]
    assert len(family) > 1
    listening = [one for one in psutil.net_connections("inet") if one.pid in family]
    assert [one.laddr for one in listening if one.status == psutil.CONN_LISTEN] == []
    await asyncio.sleep(2.0)
    open_ = open_to_others(Path(triton.grpc_address.removeprefix("unix:")).parent, triton.log)
    assert open_ == []


def open_to_others(*paths: Path) -> list[Path]:
    """Those of them, and of the shared memory of Tritons of this process."""
    regions = [*Path("/dev/shm").glob(f"shopcast_{os.getpid()}_*")]
    assert regions
    modes = {}
    for path in (*paths, *regions):
        with suppress(FileNotFoundError):
            modes[path] = path.stat().st_mode
    return [path for path, mode in modes.items() if mode & 0o077]
