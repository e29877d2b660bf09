"""`platform evaluate`."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shopcast_cli.commands.model import parse_changes
from shopcast_cli.console import (
    ProgressReporter,
    failures,
    out,
    print_json,
    styled,
    table,
)

if TYPE_CHECKING:
    from shopcast_build.study.files import ReportFiles
    from shopcast_build.study.schema import StudyReport

_OF_THE_LOG = ("exposures.validation_start", "exposures.test_start")
"""Settings that say where the log is split, and nothing of a model."""
_MARKS = {"better": ("✓", "green"), "worse": ("!", "yellow")}


def evaluate(
    events: Annotated[
        list[Path],
        typer.Option(help="Event log, as `platform build-model` takes it; repeatable."),
    ],
    links: Annotated[
        Path | None, typer.Option(help="Identity links between accounts (hashed identifiers).")
    ] = None,
    mapping: Annotated[
        Path | None, typer.Option(help="TOML file that maps the log's columns.")
    ] = None,
    repository: Annotated[
        Path | None,
        typer.Option(
            help="Judge a version published here, with the settings it was built with, but for"
            " exposures.validation_start and exposures.test_start where --set gives them."
        ),
    ] = None,
    version: Annotated[
        int | None,
        typer.Option(help="Which version of --repository; the one that serves if not given."),
    ] = None,
    base_model: Annotated[
        str | None,
        typer.Option(
            help="Pretrained encoder of the rivals: a hub id or a folder. Default: the published"
            " version's, else all-MiniLM-L6-v2."
        ),
    ] = None,
    settings: Annotated[
        Path | None, typer.Option(help="TOML file of build settings, without --repository.")
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", help="One setting, such as encoder.steps=0; repeatable."),
    ] = None,
    output: Annotated[Path, typer.Option(help="Folder for report.html and report.json.")] = Path(
        "report"
    ),
    contenders: Annotated[
        str | None,
        typer.Option(
            help="Only these, with commas between: majority, words, trees, textbook (the slow one),"
            " untrained, before, after, no-history, no-text, fusion, learning."
        ),
    ] = None,
    seeds: Annotated[
        int, typer.Option(help="Trainings of each contender, of different seeds.", min=1, max=20)
    ] = 3,
    textbook_steps: Annotated[
        int, typer.Option(help="Steps of the textbook recipe, 16 exposures each.", min=1)
    ] = 60,
    max_bad_share: Annotated[
        float | None,
        typer.Option(
            help="Share of unusable rows that is dropped without failing.", min=0.0, max=1.0
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Report what a model is worth: against rivals, with intervals by person, in plain sentences.

    Splits the logs as a build does, trains the rivals on the same exposures, judges all on the same
    test period, and writes report.html and report.json. Where something does not help, the report
    says "no gain"; that is a result, and the exit code is 0.

    Example: platform evaluate --events logs/ --links links.csv --repository model_repository
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from shopcast_build.data.errors import DataError
    from shopcast_build.data.mapping import Mapping, load_mapping
    from shopcast_build.data.reading import files_of
    from shopcast_build.learning.settings import changed_settings, load_settings

    overrides = parse_changes(changes or ())
    if repository is not None and (settings is not None or set(overrides) - set(_OF_THE_LOG)):
        raise typer.BadParameter(
            "a published version is judged with its own settings; leave --settings and --set out,"
            f" but for {' and '.join(_OF_THE_LOG)}",
            param_hint="--repository",
        )
    if version is not None and repository is None:
        raise typer.BadParameter(
            "say where it is published with --repository", param_hint="--version"
        )
    with failures(DataError):  # at once: the imports below take many seconds
        chosen, base = load_settings(settings, overrides), base_model
        mapped = load_mapping(mapping) if mapping else Mapping()
        files_of([*events, *([links] if links else [])])

    from shopcast_build.study.contenders import CHOICES
    from shopcast_build.study.contest import StudyOptions
    from shopcast_build.study.files import write_report
    from shopcast_build.study.published import base_model_of, find_version, settings_of
    from shopcast_build.study.study import study_logs
    from shopcast_domain.manifest import ManifestError
    from shopcast_repository.errors import RepositoryError

    with failures(DataError, ManifestError, RepositoryError, FloatingPointError):
        names = CHOICES if contenders is None else tuple(map(str.strip, contenders.split(",")))
        options = StudyOptions(contenders=names, seeds=seeds, textbook_steps=textbook_steps)
        if repository is not None:
            manifest = find_version(repository, version)
            chosen = changed_settings(settings_of(manifest), overrides)
            if base is None and options.needs_base_model():
                base = base_model_of(manifest)
            base = base or manifest.training.base_model
        report = study_logs(
            events,
            links=links,
            mapping=mapped,
            base_model=base or "all-MiniLM-L6-v2",
            settings=chosen,
            repository=repository,
            number=version,
            max_bad_share=max_bad_share,
            options=options,
            reporter=ProgressReporter(),
        )
        written = write_report(report, output)
    if as_json:
        print_json(report.model_dump(mode="json"))
    else:
        show(report, written)


def show(report: "StudyReport", written: "ReportFiles") -> None:
    """The sentences, one table, and where the rest is."""
    out.print()
    for doubt in report.data.doubts:
        out.print(styled("suspicious:", "yellow"), doubt, soft_wrap=True)
    for verdict in report.verdicts:
        mark = styled(*_MARKS.get(verdict.claim, ("-", "")))
        out.print(mark, verdict.text, soft_wrap=True)
    metrics = (f"{report.headline}_auc", "log_loss", "macro_f1", "ece")
    shown = table("On the test period", "", *(name.replace("_", " ") for name in metrics))
    for one in report.contenders:
        found = (one.metrics.get(name) for name in metrics)
        name = styled(one.name, "bold") if one.key == report.subject else one.name
        shown.add_row(name, *("" if m is None else f"{m.value:.3f}" for m in found))
    out.print(shown)
    out.print(f"the whole report: {written.html} (and {written.json.name})", soft_wrap=True)
