"""`platform models ...`: what is published, what serves, and whether it is whole."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shopcast_cli.commands.requests import call
from shopcast_cli.console import (
    fail,
    failures,
    out,
    print_json,
    printable,
    styled,
    table,
)
from shopcast_cli.target import LARGEST, Target, administers

if TYPE_CHECKING:
    from rich.text import Text

    from shopcast_client import ModelVersion, ServingState
    from shopcast_domain.manifest import Manifest

app = typer.Typer(
    help="Look at published versions, and say which one serves.", no_args_is_help=True
)

Repository = Annotated[Path, typer.Option(help="Triton model repository.")]
Number = Annotated[int, typer.Argument(help="A published version.", min=1, max=LARGEST)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Wait = Annotated[
    float,
    typer.Option(
        help="With --target: seconds until the gateway there has adopted or refused it; exit code 1"
        " where it has not.",
        min=0,
        max=300,
    ),
]
_DEFAULT = Path("model_repository")
_CALL_S = 60.0  # promoting reads every byte of a version


@app.command("list")
@administers
def list_versions(
    repository: Repository = _DEFAULT, target: Target | None = None, as_json: AsJson = False
) -> None:
    """Every published version: which one serves, how good it is, how it runs.

    Example: platform models list --repository model_repository
    """
    if target is not None:
        _list_there(target, as_json=as_json)
        return
    from shopcast_domain.manifest import ManifestError
    from shopcast_repository.errors import RepositoryError
    from shopcast_repository.serving import read_serving, serving_version
    from shopcast_repository.versions import all_versions, find_manifest

    with failures(RepositoryError, ManifestError):
        versions = all_versions(repository)
        serving, said = serving_version(repository), read_serving(repository)
        found: list[tuple[int, Manifest | str]] = []
        for version in versions:
            try:
                found.append((version, find_manifest(repository, version)))
            except ManifestError as error:  # one broken manifest must not hide the others
                found.append((version, str(error)))
    if as_json:
        print_json(
            [
                {
                    "version": version,
                    "serving": version == serving,
                    "trial": said.trial.model_dump(exclude={"version"})
                    if said and said.trial and said.trial.version == version
                    else None,
                }
                | _facts(one)
                for version, one in found
            ]
        )
        return
    shown = table(str(repository), *_COLUMNS)
    for version, one in found:
        before = said is not None and version == said.before
        mark = " serving" if version == serving else " before" if before else ""
        if said is not None and said.trial is not None and version == said.trial.version:
            mark = (
                f" on trial: {said.trial.share:.0%} of the people, shadow {said.trial.shadow:.0%}"
            )
        name = styled(f"{version}{mark}", "green" if version == serving else "")
        shown.add_row(*_row(name, _facts(one)))
    out.print(shown)


_COLUMNS = ("version", "published", "as", "runs in", "log loss", "gate", "prices in")


def _row(name: "Text", facts: dict[str, Any]) -> "tuple[str | Text, ...]":
    if "broken" in facts:
        return (name, "", styled("unreadable", "red"), "", "", "", "")
    loss, source = facts["log_loss"], facts["derived_from"]
    return (
        name,
        facts["published"][:16].replace("T", " "),
        facts["as"],
        f"{facts['target']}, {facts['precision']}",
        f"as version {source}" if source else "" if loss is None else f"{loss:.4f}",
        "forced" if facts["forced"] else "passed",
        facts["currency"] or "their own",
    )


def _list_there(target: Target, *, as_json: bool) -> None:
    """What a gateway says of its repository, and of what it makes of it."""
    found = call(target, _CALL_S, lambda client: client.models())
    if as_json:
        print_json(
            [
                {
                    "version": one.version,
                    "serving": one.serving,
                    "wanted": one.wanted,
                    "on_trial": one.on_trial,
                    "refusal": one.refusal,
                }
                | _facts_there(one)
                for one in found
            ]
        )
        return
    shown = table(target.place, *_COLUMNS)
    for one in found:
        marks = {
            "serving": one.serving,
            "to serve": one.wanted and not one.serving,
            "on trial": one.on_trial,
            "refused": one.refusal is not None,
        }
        told = ", ".join(mark for mark, holds in marks.items() if holds)
        style = "red" if one.refusal is not None else "green" if one.serving else ""
        shown.add_row(*_row(styled(f"{one.version} {told}".rstrip(), style), _facts_there(one)))
    out.print(shown)
    for one in found:
        if one.refusal is not None:
            out.print(f"version {one.version} is refused: {one.refusal}", soft_wrap=True)


def _facts_there(one: "ModelVersion") -> dict[str, Any]:
    if one.problem is not None or one.created is None:
        return {"broken": one.problem}
    return {
        "published": one.created.isoformat(timespec="seconds"),
        "as": one.published_as,
        "target": one.target,
        "device": one.device,
        "precision": one.precision,
        "layers": one.layers,
        "derived_from": one.derived_from,
        "log_loss": one.log_loss,
        "forced": one.forced,
        "currency": one.currency,
    }


def _facts(one: "Manifest | str") -> dict[str, Any]:
    if isinstance(one, str):
        return {"broken": one}
    training, artefact = one.training, one.artefact
    return {
        "published": one.created.isoformat(timespec="seconds"),
        "as": training.published_as,
        "target": artefact.target,
        "device": artefact.device,
        "precision": artefact.precision,
        "layers": artefact.layers,
        "derived_from": artefact.derived_from,
        # Of a build: what was exported from it was compared with it, not judged again.
        "log_loss": one.metrics.get(training.published_as, {}).get("log_loss"),
        "forced": one.gate.forced,
        "currency": training.currency,
    }


@app.command()
def show(version: Number, repository: Repository = _DEFAULT, as_json: AsJson = False) -> None:
    """What a version is: its card, or with --json its manifest.

    Example: platform models show 3
    """
    from rich.markdown import Markdown

    from shopcast_domain.manifest import BEHAVIOR, ManifestError
    from shopcast_repository.errors import RepositoryError
    from shopcast_repository.versions import find_manifest

    with failures(RepositoryError, ManifestError):
        manifest = find_manifest(repository, version)
    if as_json:
        print_json(manifest.model_dump(mode="json"))
        return
    card = repository / BEHAVIOR / str(version) / "model_card.md"
    try:
        text = card.read_text(encoding="utf-8")
    except OSError as error:
        fail(f"{card} cannot be read ({error.strerror}): run `platform models verify {version}`")
    except UnicodeDecodeError:
        fail(f"{card} is no UTF-8 text: run `platform models verify {version}`")
    out.print(Markdown(printable(text)))


@app.command()
def diff(
    first: Number, second: Number, repository: Repository = _DEFAULT, as_json: AsJson = False
) -> None:
    """What differs between two versions: data, settings, quality, how they run.

    Example: platform models diff 2 3
    """
    from shopcast_domain.manifest import ManifestError
    from shopcast_repository.comparison import compare
    from shopcast_repository.errors import RepositoryError
    from shopcast_repository.versions import find_manifest

    with failures(RepositoryError, ManifestError):
        found = compare(find_manifest(repository, first), find_manifest(repository, second))
    if as_json:
        print_json([{"field": d.field, "first": d.first, "second": d.second} for d in found])
        return
    if not found:
        out.print(f"versions {first} and {second} say the same of themselves")
        return
    shown = table("", "field", f"version {first}", f"version {second}")
    for one in found:
        shown.add_row(one.field, _short(one.first), _short(one.second))
    out.print(shown)


def _short(value: Any) -> str:
    if value is None:
        return "-"
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= _WIDEST else text[: _WIDEST - 1] + "…"


_WIDEST = 60


@app.command()
def verify(
    versions: Annotated[
        list[int] | None, typer.Argument(help="Published versions; all of them if none is named.")
    ] = None,
    repository: Repository = _DEFAULT,
    as_json: AsJson = False,
) -> None:
    """Check that versions are, byte for byte, what was published. Exit code 1 when one is not.

    Example: platform models verify
    """
    from shopcast_domain.manifest import ManifestError
    from shopcast_repository.errors import RepositoryError
    from shopcast_repository.verification import verify as problems_of
    from shopcast_repository.versions import all_versions

    with failures(RepositoryError):
        known = all_versions(repository)
        if unknown := sorted(set(versions or ()) - set(known)):
            raise RepositoryError(
                f"there is no version {unknown[0]} in {repository}: it has"
                f" {', '.join(map(str, known))}"
            )
        found: dict[int, list[str]] = {}
        for version in versions or known:
            try:
                found[version] = problems_of(repository, version)
            except ManifestError as error:
                found[version] = [str(error)]
    if as_json:
        print_json(
            [
                {"version": version, "whole": not problems, "problems": problems}
                for version, problems in found.items()
            ]
        )
    else:
        for version, problems in found.items():
            if not problems:
                out.print(styled("✓", "green"), f"version {version} is whole")
            for problem in problems:
                out.print(styled("✗", "red"), f"version {version}: {problem}", soft_wrap=True)
    if any(found.values()):
        raise typer.Exit(1)


@app.command()
@administers
def promote(
    version: Number,
    repository: Repository = _DEFAULT,
    target: Target | None = None,
    wait: Wait = 0.0,
    force: Annotated[
        bool, typer.Option("--force", help="Even one that failed its gate before it was published.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Let a version serve. Running gateways take it up within seconds, if its goldens reproduce.

    Example: platform models promote 3
    """
    if target is not None:
        state = call(
            target,
            _CALL_S + wait,
            lambda client: client.promote_model(version, force=force, wait_s=wait),
        )
        _tell_there(state, as_json=as_json)
        return
    _never_waits(wait)
    from shopcast_domain.manifest import ManifestError
    from shopcast_repository.errors import RepositoryError
    from shopcast_repository.serving import promote as let_serve

    with failures(RepositoryError, ManifestError):
        serving = let_serve(repository, version, force=force)
    _tell(serving.model_dump(mode="json"), serving.version, serving.before, as_json=as_json)


@app.command("try")
@administers
def try_version(
    version: Number,
    repository: Repository = _DEFAULT,
    target: Target | None = None,
    share: Annotated[
        float,
        typer.Option(help="Of the people, whom this version answers: a canary.", min=0, max=1),
    ] = 0.0,
    shadow: Annotated[
        float,
        typer.Option(help="Of the other predictions, which it makes to compare.", min=0, max=1),
    ] = 0.0,
    force: Annotated[
        bool, typer.Option("--force", help="Even one that failed its gate before it was published.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Put a version on trial beside the one that serves, or change the shares of its trial.

    Running gateways take it up within seconds, if its goldens reproduce. A person always meets the
    same version. What shadows find is in the metrics shopcast_shadow_* and once a minute in the
    log.
    `platform models promote` or `rollback` ends the trial.

    Example: platform models try 3 --share 0.05 --shadow 0.2
    """
    from shopcast_domain.manifest import ManifestError
    from shopcast_repository.errors import RepositoryError
    from shopcast_repository.serving import Trial, try_out

    if not share and not shadow:
        raise typer.BadParameter("name a share or a shadow above 0", param_hint="--share, --shadow")
    if target is not None:
        state = call(
            target,
            _CALL_S,
            lambda client: client.set_trial(version, share=share, shadow=shadow, force=force),
        )
        _tell_there(state, as_json=as_json)
        return
    with failures(RepositoryError, ManifestError):
        serving = try_out(
            repository, Trial(version=version, share=share, shadow=shadow), force=force
        )
    _tell(serving.model_dump(mode="json"), serving.version, serving.before, as_json=as_json)
    if not as_json:
        out.print(
            f"version {version} is on trial: it answers {share:.0%} of the people, and {shadow:.0%}"
            " of the other predictions in the shadow",
            soft_wrap=True,
        )


@app.command()
@administers
def rollback(
    repository: Repository = _DEFAULT,
    target: Target | None = None,
    wait: Wait = 0.0,
    as_json: AsJson = False,
) -> None:
    """End the trial of a version; where there is none, let the version serve that did so before.

    Example: platform models rollback
    """
    if target is not None:
        state = call(target, _CALL_S + wait, lambda client: client.roll_back_model(wait_s=wait))
        _tell_there(state, as_json=as_json)
        return
    _never_waits(wait)
    from shopcast_domain.manifest import ManifestError
    from shopcast_repository.errors import RepositoryError
    from shopcast_repository.serving import rollback as go_back

    with failures(RepositoryError, ManifestError):
        serving = go_back(repository)
    _tell(serving.model_dump(mode="json"), serving.version, serving.before, as_json=as_json)


def _never_waits(wait: float) -> None:
    if wait:
        raise typer.BadParameter("needs --target, whose gateway adopts it", param_hint="--wait")


def _tell_there(state: "ServingState", *, as_json: bool) -> None:
    if as_json:
        print_json(asdict(state))
        return
    back = f"; rolling back leads to version {state.before}" if state.before else ""
    now = "none" if state.serving is None else f"version {state.serving}"
    serves = "serves" if state.serving == state.wanted else f"is to serve, {now} does"
    out.print(f"version {state.wanted} {serves}{back}", soft_wrap=True)
    if state.trial is not None:
        out.print(
            f"version {state.trial.version} is on trial: it answers {state.trial.share:.0%} of the"
            f" people, and {state.trial.shadow:.0%} of the other predictions in the shadow",
            soft_wrap=True,
        )


def _tell(content: dict[str, Any], version: int, before: int | None, *, as_json: bool) -> None:
    if as_json:
        print_json(content)
        return
    back = f"; `platform models rollback` leads to version {before}" if before else ""
    out.print(f"version {version} serves{back}", soft_wrap=True)


@app.command()
def prune(
    repository: Repository = _DEFAULT,
    keep: Annotated[int, typer.Option(help="Newest versions to keep.", min=1)] = 3,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be removed, and remove nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Remove old versions, but never the one that serves nor those that rolling back leads to.

    Example: platform models prune --keep 3 --dry-run
    """
    from shopcast_repository.errors import RepositoryError
    from shopcast_repository.pruning import prune as remove
    from shopcast_repository.pruning import superfluous

    with failures(RepositoryError):
        removed = superfluous(repository, keep) if dry_run else remove(repository, keep)
    if as_json:
        print_json({"removed": removed, "dry_run": dry_run})
    elif removed:
        verb = "would remove" if dry_run else "removed"
        out.print(f"{verb} versions {', '.join(map(str, removed))}")
    else:
        out.print("nothing to remove")
