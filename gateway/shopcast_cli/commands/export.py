"""`platform export`."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shopcast_cli.console import (
    ProgressReporter,
    failures,
    out,
    print_json,
    styled,
    table,
)

if TYPE_CHECKING:
    from shopcast_domain.manifest import Manifest


class Target(StrEnum):
    """As shopcast_domain.manifest.Target."""

    PYTHON = "python"
    ONNXRUNTIME = "onnxruntime"
    ONNXRUNTIME_TENSORRT = "onnxruntime-tensorrt"
    TENSORRT = "tensorrt"


class Device(StrEnum):
    """As shopcast_domain.manifest.Device."""

    CPU = "cpu"
    CUDA = "cuda"


class Precision(StrEnum):
    """As shopcast_domain.manifest.Precision."""

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"


def export(
    repository: Annotated[Path, typer.Option(help="Triton model repository.")] = Path(
        "model_repository"
    ),
    version: Annotated[
        int | None,
        typer.Option(help="The version to export; the one that serves if not given.", min=1),
    ] = None,
    target: Annotated[
        Target,
        typer.Option(
            help="What runs the graphs: ONNX Runtime in Triton's Python backend, Triton's own ONNX"
            " Runtime backend, the same with TensorRT inside, or a TensorRT plan."
        ),
    ] = Target.PYTHON,
    device: Annotated[Device, typer.Option(help="Where they run.")] = Device.CPU,
    precision: Annotated[
        Precision, typer.Option(help="Of the encoder; the behaviour model stays fp32.")
    ] = Precision.FP32,
    max_shift: Annotated[
        float,
        typer.Option(
            help="How far a probability may move from that of fp32 torch.", min=0.0, max=1.0
        ),
    ] = 0.01,
    force: Annotated[
        bool,
        typer.Option("--force", help="Publish even what moves one further; the manifest says so."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Publish a published version for another target, or in another precision, as a new version.

    It must first pass the parity gate: real exposures of the test period, kept beside the version,
    are scored alone, in batches and with more padding, and compared with fp32 torch. Names, shapes,
    calibration and decisions stay those of the version it came from. It does not serve before
    `platform models promote`.

    Example: platform export --version 1 --precision fp16
    """
    from shopcast_build.learning.export import ParityError
    from shopcast_build.release.errors import TargetError
    from shopcast_build.release.exporting import Variant
    from shopcast_build.release.exporting import export as publish_variant
    from shopcast_domain.manifest import ManifestError
    from shopcast_repository.errors import RepositoryError
    from shopcast_repository.serving import serving_version
    from shopcast_repository.versions import all_versions

    with failures(TargetError, ParityError, RepositoryError, ManifestError):
        all_versions(repository)
        number = version or serving_version(repository)
        assert number is not None  # noqa: S101 - there is a version, so one of them serves
        variant = Variant(
            target=target.value,
            device=device.value,
            precision=precision.value,
            bound=max_shift,
            force=force,
        )
        manifest = publish_variant(repository, number, variant, ProgressReporter())
    if as_json:
        print_json(as_dict(manifest))
    else:
        show(manifest, repository)


def as_dict(manifest: "Manifest") -> dict[str, object]:
    """A variant for machines."""
    return {
        "version": manifest.behavior_version,
        "artefact": manifest.artefact.model_dump(mode="json"),
        "parity": manifest.parity.model_dump(mode="json"),
        "gate": manifest.gate.model_dump(mode="json"),
    }


def show(manifest: "Manifest", repository: Path) -> None:
    """The parity table, and what to do next."""
    parity = manifest.parity
    shown = table(
        f"Against fp32 torch, {parity.exposures:,} exposures",
        "scored",
        "worst shift",
        "99.9 % within",
        "same decision",
        "AUC change",
    )
    for row in parity.rows:
        change = "" if row.auc_change is None else f"{row.auc_change:+.5f}"
        shown.add_row(
            row.how, f"{row.worst:.1e}", f"{row.p999:.1e}", f"{row.same_label:.2%}", change
        )
    out.print(shown)
    number = manifest.behavior_version
    out.print(
        f"the same exposure moves by at most {parity.between:.1e} between the three ways\n",
        styled(f"published version {number}", "bold green"),
        f"{' by force' if manifest.gate.forced else ''}; next: `platform models promote {number}"
        f" --repository {repository}`",
        sep="",
        soft_wrap=True,
    )
