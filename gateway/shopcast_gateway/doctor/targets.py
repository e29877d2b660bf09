"""What the version that serves needs to run as it was published: a GPU, a backend of Triton."""

import shutil
import subprocess
from dataclasses import dataclass

from shopcast_domain.manifest import CONFIG, FALLBACK, Artefact, Manifest
from shopcast_gateway.doctor.finding import Answer, Installation, Skip, failed, ok, warning
from shopcast_gateway.doctor.releases import served_manifest
from shopcast_gateway.errors import StartupError
from shopcast_gateway.triton.environment import locate
from shopcast_repository import triton_config
from shopcast_repository.served import fallback_of, served_models

_ASK_LIMIT_S = 20.0  # a driver that has to wake the GPU takes its time


@dataclass(frozen=True, slots=True)
class Gpu:
    """As the driver names it. capability: such as 9.0."""

    name: str
    capability: str
    driver: str


class NoGpu(Exception):
    """There is none to be seen. The message says why, in the middle of a sentence."""


def gpu(installation: Installation) -> list[Answer]:
    """Whether this machine has the GPU that the version was exported for."""
    manifest = served_manifest(installation.repository)
    artefact, version = manifest.artefact, manifest.behavior_version
    if not _needs_gpu(artefact):
        return [ok(f"version {version} runs on the CPU and needs none")]
    if installation.triton_urls:
        raise Skip(f"version {version} needs a GPU where Triton runs, which is not seen from here")
    try:
        found = find_gpus()
    except NoGpu as why:
        lacks = f"version {version} needs a GPU, and {why}"
        return [_fallback(installation, manifest, lacks, until=_again(artefact))]
    plan = artefact.plan
    for one in found:
        if plan and (one.name, one.capability) != (plan.gpu, plan.compute_capability):
            wrong = (
                f"version {version} has a plan for {plan.gpu} (compute capability"
                f" {plan.compute_capability}), and here is {one.name} ({one.capability})"
            )
            return [_fallback(installation, manifest, wrong, until=_again(artefact))]
    named = ", ".join(f"{one.name} ({one.capability}, driver {one.driver})" for one in found)
    return [ok(f"{named}, as version {version} needs")]


def backends(installation: Installation) -> list[Answer]:
    """Whether the bundled Triton has the backends that the version's configurations name."""
    manifest = served_manifest(installation.repository)
    if installation.triton_urls:
        raise Skip("the backends of a Triton elsewhere are not seen from here")
    try:
        environment = locate(installation.triton_home)
    except StartupError:
        raise Skip("Triton's environment is missing, see triton") from None
    needed = set()
    for name, model in served_models(manifest).items():
        path = installation.repository / name / str(model.version) / CONFIG
        try:
            needed.add(triton_config.read_proto(path).backend)
        except (OSError, ValueError):
            raise Skip("a configuration cannot be read, see warm-up") from None
    missing = sorted(one for one in needed if not (environment.backends / one).is_dir())
    if missing:
        lacks = (
            f"version {manifest.behavior_version} needs Triton's backend {missing[0]}, which is"
            " missing here"
        )
        until = "a Triton that has it is named with --triton-url"
        return [_fallback(installation, manifest, lacks, until=until)]
    return [ok(f"Triton has what the version needs: {', '.join(sorted(needed))}")]


def find_gpus() -> list[Gpu]:
    """The GPUs that nvidia-smi tells of, at least one. Raises NoGpu."""
    program = shutil.which("nvidia-smi")
    if program is None:
        raise NoGpu("nvidia-smi is not installed here")
    query = ["--query-gpu=name,compute_cap,driver_version", "--format=csv,noheader"]
    try:
        tried = subprocess.run(
            [program, *query], capture_output=True, text=True, timeout=_ASK_LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise NoGpu(f"nvidia-smi did not answer within {_ASK_LIMIT_S:.0f} seconds") from None
    except OSError as error:
        raise NoGpu(f"nvidia-smi cannot be run ({error.strerror})") from None
    rows = [line.rsplit(", ", 2) for line in tried.stdout.splitlines() if line.strip()]
    if tried.returncode != 0 or not rows or any(len(row) != 3 for row in rows):
        said = (tried.stdout or tried.stderr).strip().splitlines()
        raise NoGpu(f"nvidia-smi names none ({said[0][:200] if said else 'it says nothing'})")
    return [Gpu(*(part.strip() for part in row)) for row in rows]


def _needs_gpu(artefact: Artefact) -> bool:
    targets = {artefact.target, *artefact.backends.values()}
    return artefact.device == "cuda" or "tensorrt" in targets


def _again(artefact: Artefact) -> str:
    command = f"platform export --target {artefact.target} --device {artefact.device}"
    return f"`{command}` is run on this machine and what it publishes is promoted"


def _fallback(installation: Installation, manifest: Manifest, found: str, *, until: str) -> Answer:
    """The version cannot run as it was published; with a fallback beside it, it serves slower."""
    for name, model in served_models(manifest).items():
        path = installation.repository / name / str(model.version) / FALLBACK
        if fallback_of(model) is not None and not path.is_file():
            return failed(
                f"{found}, and {name} has no {FALLBACK}",
                f"let another version serve with `platform models promote` until {until}",
            )
    return warning(found, f"it serves as its ONNX fallback on the CPU, slower, until {until}")
