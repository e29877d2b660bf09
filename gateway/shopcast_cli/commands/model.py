"""`platform build-model`."""

import os
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shopcast_cli.commands import data, export
from shopcast_cli.console import (
    ProgressReporter,
    err,
    fail,
    failures,
    out,
    print_json,
    styled,
    table,
)

if TYPE_CHECKING:
    from shopcast_build.release.pipeline import BuildResult

_UNKNOWN_TOKENS_WORTH_A_WORD = 0.02


def build_model(
    events: Annotated[
        list[Path],
        typer.Option(
            help="Event log: CSV, Parquet, JSONL or XLSX; a file, folder or glob; repeatable."
        ),
    ],
    links: Annotated[
        Path | None,
        typer.Option(
            help="Identity links between accounts: hashed identifiers, or pairs of `link-people`."
        ),
    ] = None,
    mapping: Annotated[
        Path | None,
        typer.Option(help="TOML file that maps the log's columns; see examples/."),
    ] = None,
    base_model: Annotated[
        str, typer.Option(help="Pretrained encoder: a Hugging Face hub id or a folder.")
    ] = "all-MiniLM-L6-v2",
    repository: Annotated[
        Path, typer.Option(help="Triton model repository to publish into.")
    ] = Path("model_repository"),
    settings: Annotated[
        Path | None, typer.Option(help="TOML file of build settings; see docs/settings.md.")
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="One setting, such as encoder.tuning=lora; goes before the file; repeatable.",
        ),
    ] = None,
    run_folder: Annotated[
        Path | None,
        typer.Option(
            help="Folder for checkpoints and curves; a new one in runs/ where none is named."
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on with the killed build in --run-folder, or the last in runs/.",
        ),
    ] = False,
    track: Annotated[
        list[str] | None,
        typer.Option(
            help="Where curves go: tensorboard (default), wandb, mlflow, or none; repeatable."
        ),
    ] = None,
    purchase_horizon_days: Annotated[
        float | None, typer.Option(help="A buy this long after a view still belongs to it.")
    ] = None,
    return_window_days: Annotated[
        float | None, typer.Option(help="A return this long after a buy still counts.")
    ] = None,
    encoder_steps: Annotated[
        int | None, typer.Option(help="Steps that fine-tune BERT; 0 leaves it frozen.")
    ] = None,
    head_epochs: Annotated[int | None, typer.Option(help="Passes of the behaviour head.")] = None,
    layers: Annotated[
        int | None,
        typer.Option(
            help="Publish a smaller encoder of so many layers, distilled from the trained one."
        ),
    ] = None,
    target: Annotated[
        export.Target | None,
        typer.Option(help="Publish a variant for this target too, as `platform export` does."),
    ] = None,
    device: Annotated[
        export.Device, typer.Option(help="Where the variant runs.")
    ] = export.Device.CPU,
    precision: Annotated[
        export.Precision | None, typer.Option(help="Of the variant's encoder; fp32 if not given.")
    ] = None,
    max_bad_share: Annotated[
        float | None,
        typer.Option(
            help="Share of unusable rows that is dropped without failing; default 0.01, or what"
            " the mapping's [limits] say.",
            min=0.0,
            max=1.0,
        ),
    ] = None,
    data_report: Annotated[
        Path | None,
        typer.Option(help="Folder for a report on the quality of the log: JSON and HTML."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.")] = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Publish although the quality gate says no; the manifest says so, and promoting it"
            " takes --force too.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Turn event logs into a fine-tuned, verified model in a Triton model repository.

    Cleans the logs, joins the accounts of one person, cuts exposures (view, buy or return), splits
    them by time, fine-tunes BERT with the behaviour model, judges it against rivals on the test
    period, asks whether it is fit to publish (better than the baselines, calibrated, not worse than
    the version that serves), exports ONNX, checks it against torch, and publishes a new version in
    one step. When anything fails before that step, nothing is published. What serves changes only
    with `platform models promote`, but for the first version of a repository.

    With --target, --device or --precision a variant for another way of serving is published as the
    version after it; what that needs is asked for before the training.

    A build that is killed goes on with --resume, to the same model. Several processes share the
    training when torchrun starts them: torchrun --nproc-per-node 2 -m shopcast_cli build-model ...

    Example: platform build-model --events logs/ --links links.csv --repository model_repository
    """
    # Waiting threads sleep: spinning ones make a build several times slower beside other work.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from shopcast_build.data.errors import DataError
    from shopcast_build.data.mapping import Mapping, load_mapping
    from shopcast_build.data.reading import files_of
    from shopcast_build.learning.settings import load_settings

    flags = {
        "seed": seed,
        "exposures.purchase_horizon_days": purchase_horizon_days,
        "exposures.return_window_days": return_window_days,
        "encoder.steps": encoder_steps,
        "head.epochs": head_epochs,
        "distillation.layers": layers,
        "tracking.to": None if track is None else [name for name in track if name != "none"],
    }
    named = {name: value for name, value in flags.items() if value is not None}
    with failures(DataError):  # at once: the imports below take many seconds
        chosen = load_settings(settings, parse_changes(changes or ()) | named)
        mapped = load_mapping(mapping) if mapping else Mapping()
        files_of([*events, *([links] if links else [])])

    from shopcast_build.learning.checkpoints import open_run
    from shopcast_build.learning.export import ParityError
    from shopcast_build.release.errors import TargetError
    from shopcast_build.release.exporting import Variant, check
    from shopcast_build.release.exporting import export as publish_variant
    from shopcast_build.release.gate import GateError
    from shopcast_build.release.pipeline import build_model as build
    from shopcast_domain.manifest import ManifestError
    from shopcast_repository.errors import RepositoryError

    variant = None
    if target or precision or device is not export.Device.CPU:
        variant = Variant(
            target=(target or export.Target.PYTHON).value,
            device=device.value,
            precision=(precision or export.Precision.FP32).value,
        )
    expected = (DataError, GateError, ManifestError, ParityError, RepositoryError, TargetError)
    with failures(*expected, FloatingPointError), open_run(run_folder, resume=resume) as opened:
        if variant is not None:
            check(variant)
        result = build(
            events,
            links=links,
            mapping=mapped,
            base_model=base_model,
            repository=repository,
            settings=chosen,
            max_bad_share=max_bad_share,
            data_report=data_report,
            force=force,
            reporter=ProgressReporter(),
            run=opened,
        )
    if result is None:
        return  # the first process speaks for all
    if not as_json:
        show(result, repository)
    elif variant is None:
        print_json(as_dict(result, repository))
    if variant is not None:
        number = result.manifest.behavior_version
        try:
            made = publish_variant(repository, number, variant, ProgressReporter())
        except expected as error:
            fail(f"version {number} is published, its variant is not: {error}")
        if as_json:
            print_json(as_dict(result, repository) | {"variant": export.as_dict(made)})
        else:
            export.show(made, repository)


def parse_changes(changes: Sequence[str]) -> dict[str, object]:
    """Values by setting from NAME=VALUE texts; a value is TOML, or text where it is none."""
    parsed: dict[str, object] = {}
    for change in changes:
        name, separator, text = change.partition("=")
        if not (separator and name.strip()):
            raise typer.BadParameter("write NAME=VALUE", param_hint="--set")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text.strip()
        parsed[name.strip()] = value
    return parsed


def as_dict(result: "BuildResult", repository: Path) -> dict[str, object]:
    """The result for machines."""
    manifest = result.manifest
    return {
        "repository": str(repository),
        "version": manifest.behavior_version,
        "published": result.published_as,
        "encoder": manifest.training.encoder,
        "scorer": manifest.training.scorer,
        "trained_outcomes": list(manifest.trained_outcomes),
        "exposures": manifest.training.exposures,
        "people": result.people,
        "metrics": result.metrics,
        "parity": manifest.parity.model_dump(mode="json"),
        "gate": manifest.gate.model_dump(mode="json"),
        "cleaning": result.cleaning.to_json(),
        "unknown_token_share": result.unknown_token_share,
        "seconds": round(result.seconds, 1),
    }


def show(result: "BuildResult", repository: Path) -> None:
    """The result for people: what was read, how good it is, and what to do next."""
    from shopcast_build.learning.learner import TUNED
    from shopcast_repository.serving import serving_version

    manifest, cleaning = result.manifest, result.cleaning
    counts = manifest.training.exposures
    out.print(
        f"\n{cleaning.kept:,} of {cleaning.read:,} rows, {cleaning.accounts:,} accounts,"
        f" {result.people:,} people, {cleaning.items:,} items;"
        f" {counts['train']:,} / {counts['validation']:,} / {counts['test']:,} exposures"
        " to train / validate / test"
    )
    for line in data.asked(cleaning):
        out.print(f"  {line}")
    for reason, rows in {**cleaning.dropped, "duplicate": cleaning.duplicates}.items():
        if rows:
            out.print(f"  dropped {rows:,} rows: {reason}")
    for reason, rows in cleaning.repaired.items():
        out.print(f"  repaired {rows:,} rows: {reason}")
    for _, sentence in data.suspicions(cleaning):
        err.print(styled("suspicious:", "yellow"), sentence)
    warn_of_unknown_tokens(result.unknown_token_share)
    outcomes = manifest.trained_outcomes
    if len(outcomes) < len(manifest.outcomes):
        missing = ", ".join(sorted(set(manifest.outcomes) - set(outcomes)))
        out.print(
            f"  the log has no outcome '{missing}': it gets probability 0, and answers say so"
        )
    overall = table("On the test period", "model", "macro-F1", "accuracy", "log loss", "ECE")
    for name, metrics in result.metrics.items():
        published = name == result.published_as
        marked = styled(f"{name} (published)", "bold") if published else name
        values = (metrics[m] for m in ("macro_f1", "accuracy", "log_loss", "ece"))
        overall.add_row(marked, *(f"{value:.3f}" for value in values))
    out.print(overall)
    for outcome in outcomes:
        share = result.metrics[result.published_as][f"{outcome}_share"]
        title = f"Outcome '{outcome}' ({share:.1%} of the test exposures)"
        per_class = table(title, "model", "precision", "recall", "F1", "AUC", "PR-AUC")
        for name, metrics in result.metrics.items():
            values = (
                metrics[f"{outcome}_{m}"] for m in ("precision", "recall", "f1", "auc", "pr_auc")
            )
            per_class.add_row(name, *(f"{value:.3f}" for value in values))
        out.print(per_class)
    if manifest.training.encoder == "pretrained" and TUNED in result.metrics:
        out.print(
            "fine-tuning BERT made the head worse on validation, beyond one standard error: what is"
            " published reads the vectors of the pretrained encoder"
        )
    if taught := manifest.artefact.teacher:
        artefact = manifest.artefact
        out.print(
            f"distilled from {taught.layers} to {artefact.layers} layers"
            f" ({taught.parameters:,} to {artefact.parameters:,} parameters): vectors alike to a"
            f" cosine of {taught.cosine:.3f}, {taught.faster:.1f} x as fast;"
            f" '{taught.published_as}' above is what the larger one would have been",
            soft_wrap=True,
        )
    for check in manifest.gate.checks:
        mark = styled("✓", "green") if check.passed else styled("✗", "red")
        out.print(mark, check.finding, soft_wrap=True)
    number = manifest.behavior_version
    serving = serving_version(repository)
    after = (
        f"it serves; next: `platform serve --repository {repository}`"
        if serving == number
        else f"version {serving} goes on serving; next: `platform models promote {number}"
        f" --repository {repository}`"
    )
    out.print(
        f"ONNX against torch: a probability moves by {manifest.parity.moved:.1g} at most\n",
        styled(f"published version {number}", "bold green"),
        f" in {repository} after {result.seconds:.0f} s; {after}",
        sep="",
        soft_wrap=True,
    )


def warn_of_unknown_tokens(share: float) -> None:
    """Say so when more than a few of the texts' tokens are unknown."""
    if share > _UNKNOWN_TOKENS_WORTH_A_WORD:
        err.print(
            styled("warning:", "yellow"),
            f"{share:.0%} of the item text is unknown to the base model's vocabulary: choose one"
            " for its language with --base-model",
        )
