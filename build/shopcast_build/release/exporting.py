"""`platform export`: a published version for another target, or in another precision."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version as version_of
from pathlib import Path

import onnxruntime

from shopcast_build.learning.export import open_session
from shopcast_build.learning.graphs import Graphs, Session
from shopcast_build.learning.reporter import Reporter
from shopcast_build.release import tensorrt_plan
from shopcast_build.release.card import PLOTS, write_card
from shopcast_build.release.contents import TRITON_MODEL, software
from shopcast_build.release.errors import TargetError
from shopcast_build.release.goldens import choose_goldens
from shopcast_build.release.parity import BOUND, Decisions, measure_parity, refuse
from shopcast_build.release.precision import convert
from shopcast_build.release.sample import FILE, ExposureSample
from shopcast_domain.manifest import (
    BEHAVIOR,
    ENCODER,
    Artefact,
    Check,
    Device,
    Gate,
    Manifest,
    Parity,
    Plan,
    Precision,
    Target,
)
from shopcast_domain.tokeniser import TOKENISER
from shopcast_repository.errors import RepositoryError
from shopcast_repository.publishing import publish
from shopcast_repository.served import padding_for, served_models, write_configs
from shopcast_repository.triton_config import GRAPH, PLAN, ServedModel
from shopcast_repository.verification import verify
from shopcast_repository.versions import find_manifest

_PROVIDERS = {
    ("python", "cuda"): "CUDAExecutionProvider",
    ("onnxruntime", "cuda"): "CUDAExecutionProvider",
    ("onnxruntime-tensorrt", "cuda"): "TensorrtExecutionProvider",
}


@dataclass(frozen=True, slots=True)
class Variant:
    """What to export. bound: how far a probability may move. force: publish even what moves one
    further."""

    target: Target = "python"
    device: Device = "cpu"
    precision: Precision = "fp32"
    bound: float = BOUND
    force: bool = False


def export(repository: Path, version: int, variant: Variant, reporter: Reporter) -> Manifest:
    """Publish a variant of a published version, once it has passed the parity gate against the fp32
    torch model that the version was built from.

    Raises TargetError where this machine lacks what the target needs, ParityError where a
    probability moves by more than the bound, RepositoryError and ManifestError.
    """
    opened = check(variant)
    source = find_manifest(repository, version)
    if source.artefact.precision != "fp32":
        raise RepositoryError(
            f"version {version} is {source.artefact.precision}: export from the fp32 version it"
            f" came from, {source.artefact.derived_from}"
        )
    if problems := verify(repository, version):
        raise RepositoryError(f"version {version} is not whole: {problems[0]}")
    with reporter.stage("export, compare with torch and publish") as progress:

        def write(encoder: Path, behavior: Path, number: int) -> Manifest:
            return _write(repository, source, variant, opened, encoder, behavior, number)

        manifest = publish(repository, write)
        progress(1, 1)
    return manifest


def check(variant: Variant) -> Callable[[Path], Session]:
    """What runs a folder's graph on this machine as the target will. Raises TargetError where there
    is no such variant, or this machine lacks what it needs."""
    needs_gpu = variant.target in ("onnxruntime-tensorrt", "tensorrt")
    if needs_gpu and variant.device == "cpu":
        raise TargetError(f"the target {variant.target} runs on a GPU: add --device cuda")
    if variant.target == "tensorrt" and variant.precision == "int8":
        raise TargetError(
            "a TensorRT plan is built in fp32 or fp16 here: int8 would need calibration data, which"
            " this command does not give to TensorRT"
        )
    if variant.device == "cuda" and variant.precision == "int8":
        raise TargetError("int8 is dynamic quantisation for CPUs: on a GPU choose --precision fp16")
    return _opener(variant)


def _opener(variant: Variant) -> Callable[[Path], Session]:
    if variant.target == "tensorrt":
        tensorrt_plan.check_available()
        return _open_plan
    if variant.device == "cpu":
        return lambda folder: open_session(folder / GRAPH)
    provider = _PROVIDERS[variant.target, variant.device]
    if provider not in onnxruntime.get_available_providers():
        raise TargetError(
            f"the target {variant.target} on a GPU needs ONNX Runtime's {provider}, which is"
            " missing here: run this command where the GPU is, with `pip install onnxruntime-gpu`,"
            " on a copy of the repository"
        )
    providers = [provider, "CUDAExecutionProvider", "CPUExecutionProvider"]

    def opened(folder: Path) -> Session:
        try:
            return open_session(folder / GRAPH, providers=list(dict.fromkeys(providers)))
        except RuntimeError as error:
            raise TargetError(
                f"{error}: check its driver and libraries, and run this again"
            ) from None

    return opened


def _open_plan(folder: Path) -> Session:
    """The plan of a folder, or where there is none, its graph."""
    plan = folder / PLAN
    return tensorrt_plan.PlanSession(plan) if plan.is_file() else open_session(folder / GRAPH)


def _write(
    repository: Path,
    source: Manifest,
    variant: Variant,
    opened: Callable[[Path], Session],
    encoder: Path,
    behavior: Path,
    number: int,
) -> Manifest:
    """Fill the folders of the variant's two models and return its manifest."""
    old_encoder = repository / ENCODER / str(source.encoder_version)
    old_behavior = repository / BEHAVIOR / str(source.behavior_version)
    convert(old_encoder / GRAPH, variant.precision, encoder / GRAPH)
    shutil.copyfile(old_behavior / GRAPH, behavior / GRAPH)
    shutil.copyfile(old_encoder / TOKENISER, encoder / TOKENISER)
    shutil.copyfile(old_behavior / FILE, behavior / FILE)
    shutil.copytree(old_behavior / PLOTS, behavior / PLOTS)
    for folder in (encoder, behavior):
        shutil.copyfile(TRITON_MODEL, folder / "model.py")
    manifest = source.model_copy(
        update={
            "created": datetime.now(UTC),
            "shopcast_version": version_of("shopcast"),
            "software": software(),
            "encoder_version": number,
            "behavior_version": number,
            "artefact": _artefact(source, variant),
            "files": {},
        }
    )
    plan = _plans(repository, manifest, variant, encoder, behavior)
    sample = ExposureSample.load(behavior / FILE)
    graphs = Graphs(
        encoder, behavior, source.tokeniser, padding=manifest.artefact.padding, opened=opened
    )
    vectors = graphs.encode(sample.texts.tolist())
    parity = measure_parity(
        graphs,
        sample,
        vectors,
        Decisions(source.calibration, source.decision_weights),
        max_tokens=source.tokeniser.max_tokens,
        max_events=source.history_events,
        bound=variant.bound,
    )
    if not variant.force:
        refuse(parity)
    manifest = manifest.model_copy(
        update={
            "artefact": manifest.artefact.model_copy(update={"plan": plan}),
            "parity": parity,
            "gate": _gate(source.gate, parity),
            "goldens": choose_goldens(graphs, sample, vectors, source.calibration),
        }
    )
    write_configs(manifest, {ENCODER: encoder, BEHAVIOR: behavior})
    write_card(manifest, behavior)
    return manifest


def _artefact(source: Manifest, variant: Variant) -> Artefact:
    return Artefact(
        target=variant.target,
        device=variant.device,
        precision=variant.precision,
        backends={
            ENCODER: variant.target,
            # TensorRT has no trees; ONNX Runtime leaves them to the CPU.
            BEHAVIOR: "onnxruntime"
            if variant.target == "tensorrt" and source.training.scorer != "head"
            else variant.target,
        },
        padding=padding_for(
            variant.target,
            max_tokens=source.tokeniser.max_tokens,
            history_events=source.history_events,
        ),
        derived_from=source.behavior_version,
        layers=source.artefact.layers,
        parameters=source.artefact.parameters,
        teacher=source.artefact.teacher,
    )


def _plans(
    repository: Path, manifest: Manifest, variant: Variant, encoder: Path, behavior: Path
) -> Plan | None:
    """Build a plan of each model that has one."""
    if variant.target != "tensorrt":
        return None
    folders = {ENCODER: encoder, BEHAVIOR: behavior}
    build = partial(tensorrt_plan.build_plan, cache=repository / f".{tensorrt_plan.CACHE}")
    served: dict[str, ServedModel] = served_models(manifest)
    plans = [
        build(folders[name] / GRAPH, model, model.precision, folders[name] / PLAN)
        for name, model in served.items()
        if model.target == "tensorrt"
    ]
    return plans[0]


def _gate(source: Gate, parity: Parity) -> Gate:
    finding = (
        f"a probability moves by {parity.moved:.4g} against fp32 torch, {parity.bound:g} is allowed"
    )
    checks = (*source.checks, Check(name="parity", passed=parity.passed, finding=finding))
    return Gate(checks=checks, forced=source.forced or not parity.passed)
