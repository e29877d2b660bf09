"""A published version: what lies in it, and its variants."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import polars as pl
import pytest
from onnx import numpy_helper
from typer.testing import CliRunner

from shopcast_build.data.errors import DataError
from shopcast_build.data.mapping import Currencies, Mapping
from shopcast_build.learning.checkpoints import Run, open_run
from shopcast_build.learning.examples import Examples, Progress
from shopcast_build.learning.export import ParityError
from shopcast_build.learning.exposures import Split
from shopcast_build.learning.graphs import Graphs
from shopcast_build.learning.settings import (
    BuildSettings,
    DistillationSettings,
    EncoderSettings,
    ExposureSettings,
    HeadSettings,
    HistorySettings,
    TrackingSettings,
)
from shopcast_build.learning.timeline import Timeline
from shopcast_build.learning.tracking import TensorBoardFile
from shopcast_build.release import exporting, pipeline
from shopcast_build.release.errors import TargetError
from shopcast_build.release.exporting import Variant, export
from shopcast_build.release.gate import GateError, refuse
from shopcast_build.release.parity import Decisions, measure_parity
from shopcast_build.release.parity import refuse as refuse_moves
from shopcast_build.release.pipeline import build_model
from shopcast_build.release.sample import FILE, ExposureSample
from shopcast_build.release.tensorrt_plan import profiles
from shopcast_build.simulation.settings import MarketSettings
from shopcast_build.simulation.writer import simulate
from shopcast_build.study.contest import StudyOptions
from shopcast_build.study.published import PublishedModel, settings_of, why_not_judged
from shopcast_build.study.study import study_logs
from shopcast_cli.app import app
from shopcast_domain.features import Floats
from shopcast_domain.manifest import (
    BEHAVIOR,
    ENCODER,
    Gate,
    Manifest,
    Parity,
    ParityRow,
    Precision,
    published_versions,
)
from shopcast_gateway.core.adoption_status import AdoptionStatus
from shopcast_gateway.transport.convert_models import list_response
from shopcast_repository import triton_config
from shopcast_repository.errors import RepositoryError
from shopcast_repository.locking import sole_writer
from shopcast_repository.served import padding_for, served_models, sizes_up_to
from shopcast_repository.serving import promote
from shopcast_repository.verification import verify
from shopcast_repository.versions import find_manifest

SETTINGS = BuildSettings(
    threads=1,
    encoder=EncoderSettings(vector_dim=8, max_tokens=16, steps=2),
    head=HeadSettings(epochs=1),
)


class Quiet:
    @contextmanager
    def stage(self, title: str) -> Iterator[Progress]:
        yield lambda done, total: None


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Path:
    """A repository with version 1, from a build of a small market. Tests add versions to it."""
    folder = tmp_path_factory.mktemp("release")
    market = simulate(
        MarketSettings(people=160, platforms=2, items_per_platform=50, days=110), folder / "market"
    )
    made = build_model(
        [market.events], links=market.links, mapping=Mapping(currencies=Currencies(base="eur")),
        base_model=str(tiny_base), repository=folder / "repository", settings=SETTINGS,
        max_bad_share=0.01, force=True, reporter=Quiet(),
    )  # fmt: skip
    assert made is not None
    return folder / "repository"


class Killed(Exception):
    """In place of a kill."""


def test_a_build_killed_after_it_published_ends_on_that_version(
    built: Path, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository, market = tmp_path / "repository", built.parent / "market"
    shutil.copytree(built, repository)
    before = published_versions(repository)

    def build(*, resume: bool) -> Manifest:
        with open_run(tmp_path / "run", resume=resume) as run:
            made = build_model(
                [market / "events"], links=market / "links.csv", mapping=Mapping(),
                base_model=str(tiny_base), repository=repository,
                settings=SETTINGS.model_copy(update={"tracking": TrackingSettings(to=())}),
                max_bad_share=0.01, force=True, reporter=Quiet(), run=run,
            )  # fmt: skip
        assert made is not None
        return made.manifest

    def kill(_: Run) -> None:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Run, "finish", kill)
        build(resume=False)
    (version,) = set(published_versions(repository)) - set(before)
    assert build(resume=True) == find_manifest(repository, version)
    assert published_versions(repository) == [*before, version]
    with pytest.raises(DataError, match="was finished and published"):
        build(resume=True)


def test_a_build_that_finds_another_at_publishing_says_how_to_go_on(
    built: Path, tiny_base: Path, tmp_path: Path
) -> None:
    repository, market = tmp_path / "repository", built.parent / "market"
    repository.mkdir()
    build = (
        "build-model", "--events", str(market / "events"), "--links", str(market / "links.csv"),
        "--base-model", str(tiny_base), "--encoder-steps", "0", "--head-epochs", "1", "--force",
        "--set", "encoder.max_tokens=16", "--set", "encoder.vector_dim=8", "--set", "threads=1",
        "--track", "none", "--repository", str(repository), "--run-folder", str(tmp_path / "run"),
    )  # fmt: skip
    with sole_writer(repository):
        refused = CliRunner().invoke(app, [*build])
    assert refused.exit_code == 1
    assert "another process is writing" in refused.stderr
    assert "with --resume the networks are not trained again" in refused.stderr
    assert published_versions(repository) == []
    assert CliRunner().invoke(app, [*build, "--resume"]).exit_code == 0
    assert published_versions(repository) == [1]


def test_a_version_of_a_base_model_that_is_not_here_says_so_before_the_log_is_read(
    built: Path, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.csv").touch()
    asked = ("evaluate", "--events", "empty.csv", "--repository", str(built))
    refused = CliRunner().invoke(app, asked)
    assert refused.exit_code == 1
    assert f"a base model called {tiny_base.name}, which is neither here nor" in refused.stderr
    assert "with --base-model" in refused.stderr
    for more in (("--base-model", str(tiny_base)), ("--contenders", "trees")):  # then it goes on
        read = CliRunner().invoke(app, [*asked, *more])
        assert "empty.csv is empty" in read.stderr


def test_a_repository_without_room_is_refused_before_the_log_is_read(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (log := tmp_path / "empty.csv").touch()
    build = (
        "build-model", "--events", str(log), "--base-model", str(tiny_base), "--track", "none",
        "--run-folder", str(tmp_path / "run"), "--set", "encoder.max_tokens=16",
    )  # fmt: skip

    def refusal(repository: Path) -> str:
        done = CliRunner().invoke(app, [*build, "--repository", str(repository)])
        assert done.exit_code == 1
        return done.stderr

    assert "empty.csv is empty" in refusal(tmp_path / "repository")
    with monkeypatch.context() as patch:
        may = os.access
        patch.setattr(os, "access", lambda path, mode: may(path, mode) and not mode & os.W_OK)
        assert f"as {tmp_path} cannot be written: let" in refusal(tmp_path / "repository")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    assert "has room for 0.0 MB, and a version has" in refusal(tmp_path / "repository")
    assert not (tmp_path / "repository").exists()


def test_a_version_knows_the_base_rates_of_its_training(built: Path) -> None:
    manifest = find_manifest(built, 1)
    rates = manifest.base_rates
    assert rates is not None
    assert rates.exposures == manifest.training.exposures["train"]
    assert set(rates.platforms) == set(manifest.training.platforms)
    assert any(platform.categories for platform in rates.platforms.values())


def test_a_version_says_what_prices_are_to_be_in(built: Path) -> None:
    assert find_manifest(built, 1).training.currency == "EUR"
    listed = CliRunner().invoke(app, ["models", "list", "--repository", str(built), "--json"])
    assert json.loads(listed.stdout)[0]["currency"] == "EUR"
    shown = CliRunner().invoke(app, ["models", "list", "--repository", str(built)])
    assert "EUR" in shown.stdout
    card = (built / BEHAVIOR / "1" / "model_card.md").read_text("utf-8")
    assert "| prices in | EUR |" in card
    (told, *_) = list_response(built, AdoptionStatus()).models
    assert told.currency == "EUR"


@pytest.fixture(scope="module")
def first(built: Path) -> Manifest:
    return find_manifest(built, 1)


def of(repository: Path, manifest: Manifest) -> Graphs:
    number = str(manifest.behavior_version)
    folders = repository / ENCODER / number, repository / BEHAVIOR / number
    return Graphs(*folders, manifest.tokeniser, threads=1, padding=manifest.artefact.padding)


def test_a_smaller_encoder_is_published_beside_its_teacher(
    tmp_path_factory: pytest.TempPathFactory, tiny_base: Path
) -> None:
    folder = tmp_path_factory.mktemp("distilled")
    market = simulate(
        MarketSettings(people=160, platforms=2, items_per_platform=50, days=110), folder / "market"
    )
    smaller = DistillationSettings(layers=2, steps=20, learning_rate=2e-3)
    made = build_model(
        [market.events], links=market.links, mapping=Mapping(), base_model=str(tiny_base),
        repository=folder / "repository",
        settings=SETTINGS.model_copy(update={"distillation": smaller}), max_bad_share=0.01,
        force=True, reporter=Quiet(),
    )  # fmt: skip
    assert made is not None
    artefact = made.manifest.artefact
    assert made.manifest.training.encoder == "distilled"
    assert artefact.teacher is not None
    assert (artefact.layers, artefact.teacher.layers) == (2, 4)
    assert artefact.parameters < artefact.teacher.parameters
    assert {artefact.teacher.published_as, made.published_as} <= set(made.metrics)
    assert made.published_as.startswith("distilled")
    assert made.manifest.parity.passed
    card = (folder / "repository" / BEHAVIOR / "1" / "model_card.md").read_text("utf-8")
    assert "distilled from | 4 layers" in card


class Judged(Exception):
    """The gate was asked, which is all that a test wants to know."""


def gate_of(built: Path, tiny_base: Path, settings: BuildSettings) -> Gate:
    """What the gate says of another build from the same market, which ends there."""
    market, told = built.parent / "market", []

    def stop(gate: Gate) -> None:
        told.append(gate)
        raise Judged

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Judged):
        patch.setattr(pipeline, "refuse", stop)
        build_model(
            [market / "events"], links=market / "links.csv", mapping=Mapping(),
            base_model=str(tiny_base), repository=built, settings=settings, max_bad_share=0.01,
            reporter=Quiet(),
        )  # fmt: skip
    (gate,) = told
    return gate


def test_a_build_publishes_a_variant_too(built: Path, tiny_base: Path, tmp_path: Path) -> None:
    market = built.parent / "market"
    build = (
        "build-model", "--events", str(market / "events"), "--links", str(market / "links.csv"),
        "--base-model", str(tiny_base), "--encoder-steps", "0", "--head-epochs", "1", "--force",
        "--set", "encoder.max_tokens=16", "--set", "encoder.vector_dim=8", "--set", "threads=1",
        "--track", "none", "--run-folder", str(tmp_path / "run"),
    )  # fmt: skip
    place = ("--repository", str(tmp_path / "published"))
    refused = CliRunner().invoke(app, [*build, *place, "--target", "tensorrt"])
    assert refused.exit_code == 1
    assert "add --device cuda" in refused.stderr
    assert not (tmp_path / "published").exists()
    made = CliRunner().invoke(app, [*build, *place, "--target", "onnxruntime", "--json"])
    assert made.exit_code == 0, made.stderr
    said = json.loads(made.stdout)
    assert (said["version"], said["variant"]["version"]) == (1, 2)
    assert find_manifest(tmp_path / "published", 2).artefact.derived_from == 1


def test_a_variant_that_fails_says_that_its_version_is_published(
    first: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> Manifest:
        raise ParityError("a probability moves")

    monkeypatch.setattr(pipeline, "build_model", lambda *_, **__: SimpleNamespace(manifest=first))
    monkeypatch.setattr(exporting, "export", fails)
    (log := tmp_path / "log.csv").touch()
    build = ("build-model", "--events", str(log), "--precision", "fp16", "--json")
    failed = CliRunner().invoke(app, [*build, "--run-folder", str(tmp_path / "run")])
    assert (failed.exit_code, failed.stdout) == (1, "")
    assert failed.stderr.splitlines()[-1] == (
        "error: version 1 is published, its variant is not: a probability moves"
    )


def test_a_tracker_that_goes_away_costs_no_build_and_no_second_version(
    built: Path,
    tiny_base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def away(*_: object) -> None:
        raise ConnectionError("the server is away")

    monkeypatch.setattr(TensorBoardFile, "log", away)
    market, run = built.parent / "market", tmp_path / "run"
    build = (
        "build-model", "--events", str(market / "events"), "--links", str(market / "links.csv"),
        "--base-model", str(tiny_base), "--encoder-steps", "0", "--head-epochs", "1", "--force",
        "--set", "encoder.max_tokens=16", "--set", "encoder.vector_dim=8", "--set", "threads=1",
        "--repository", str(tmp_path / "published"), "--run-folder", str(run),
    )  # fmt: skip
    made = CliRunner().invoke(app, [*build])
    assert made.exit_code == 0, made.stderr
    assert [r.getMessage() for r in caplog.records if "tracking" in r.name] == [
        "tracking to tensorboard failed (the server is away): the build goes on without it"
    ]
    again = CliRunner().invoke(app, [*build, "--resume"])
    assert again.exit_code == 1
    assert "was finished and published" in again.stderr
    assert published_versions(tmp_path / "published") == [1]


def test_what_serves_is_compared_through_its_own_windows(
    built: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    real = PublishedModel.probabilities

    def spy(model: PublishedModel, timeline: Timeline, *parts: Examples) -> list[Floats]:
        seen.extend(parts)
        return real(model, timeline, *parts)

    monkeypatch.setattr(PublishedModel, "probabilities", spy)
    short = SETTINGS.model_copy(update={"history": HistorySettings(events=1, feature_events=1)})
    gate = gate_of(built, tiny_base, short)
    assert any(check.name == "not worse than what serves" for check in gate.checks)
    (examples,) = seen
    assert (examples.position - examples.first).max() > 1


def test_what_serves_is_not_compared_on_what_it_learned_from(built: Path, tiny_base: Path) -> None:
    early = SETTINGS.model_copy(update={"exposures": ExposureSettings(test_share=0.4)})
    checks = gate_of(built, tiny_base, early).checks
    (found,) = (check for check in checks if "version 1" in check.finding)
    assert (found.name, found.passed) == ("not worse than what serves", True)
    assert "learned from outcomes known by" in found.finding
    assert found.finding.endswith("it was not compared")


def test_a_version_is_judged_by_the_outcomes_it_learned_and_not_on_them(first: Manifest) -> None:
    told, exposures = first.training, settings_of(first).exposures
    split = Split(told.train, told.validation, told.test, timedelta(days=told.gap_days))
    assert why_not_judged(first, split, exposures) is None
    earlier = replace(split, test=(told.test[0] - timedelta(seconds=1), told.test[1]))
    assert "learned from outcomes" in str(why_not_judged(first, earlier, exposures))
    for window in ("purchase_horizon_days", "return_window_days"):
        other = exposures.model_copy(update={window: 3.0})
        assert "within other windows" in str(why_not_judged(first, split, other))
    own = first.model_copy(update={"training": told.model_copy(update={"currency": None})})
    for version, currency in ((first, "EUR"), (first, None), (own, "JPY")):
        assert why_not_judged(version, split, exposures, currency) is None
    assert "prices in EUR, and these are in JPY" in str(
        why_not_judged(first, split, exposures, "JPY")
    )


def test_a_version_is_not_asked_with_prices_of_another_currency(built: Path) -> None:
    market = built.parent / "market"
    yen = Mapping.model_validate({"currencies": {"base": "JPY", "rates": {"EUR": 160}}})
    with pytest.raises(DataError, match=r"prices in EUR, and these are in JPY: .*base = .EUR"):
        study_logs(
            [market / "events"], links=market / "links.csv", mapping=yen, base_model="nowhere",
            settings=SETTINGS, repository=built, number=1, max_bad_share=0.01,
            options=StudyOptions(("majority",), seeds=1), reporter=Quiet(),
        )  # fmt: skip


def test_a_version_is_not_evaluated_on_what_it_learned_from(
    built: Path, first: Manifest, tmp_path: Path
) -> None:
    market = built.parent / "market"
    log_end = first.training.log_end
    for file in (market / "events").iterdir():
        events = pl.read_csv(file, infer_schema=False)
        shorter = pl.col("time").str.to_datetime(time_zone="UTC") < log_end - timedelta(days=20)
        events.filter(shorter).write_csv(tmp_path / file.name)
    with pytest.raises(
        DataError, match=r"Version 1 learned from.*--set exposures\.test_start=TIME"
    ):
        study_logs(
            [tmp_path], links=market / "links.csv", mapping=Mapping(), base_model="nowhere",
            settings=settings_of(first), repository=built, number=1, max_bad_share=0.01,
            options=StudyOptions(("majority",), seeds=1), reporter=Quiet(),
        )  # fmt: skip


def test_a_version_with_fixed_dates_is_evaluated_on_newer_months_alone(
    built: Path, first: Manifest, tmp_path: Path
) -> None:
    market, told = built.parent / "market", first.training
    copy = shutil.copytree(built, tmp_path / "repository")
    manifest = copy / BEHAVIOR / "1" / "manifest.json"
    fixed = json.loads(manifest.read_text())
    fixed["training"]["settings"]["exposures"] |= {
        "validation_start": told.validation[0].isoformat(),
        "test_start": told.test[0].isoformat(),
    }
    manifest.write_text(json.dumps(fixed))
    (tmp_path / "newer").mkdir()
    time = pl.col("time").str.to_datetime(time_zone="UTC")
    for file in (market / "events").iterdir():
        events = pl.read_csv(file, infer_schema=False)
        newer = time >= told.validation[0] - timedelta(days=told.gap_days + 1)
        events.filter(newer).write_csv(tmp_path / "newer" / file.name)
    evaluate = (
        "evaluate", "--events", str(tmp_path / "newer"), "--repository", str(copy),
        "--contenders", "majority", "--seeds", "1", "--output", str(tmp_path / "report"),
    )  # fmt: skip
    assert CliRunner().invoke(app, evaluate).exit_code == 1
    validation = told.validation[0] + timedelta(days=8)
    test = told.test[0] + timedelta(days=4)
    dates = (
        "--set", f"exposures.validation_start={validation.isoformat()}",
        "--set", f"exposures.test_start={test.isoformat()}",
    )  # fmt: skip
    done = CliRunner().invoke(app, [*evaluate, *dates])
    assert done.exit_code == 0, done.output
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert report["data"]["test"][0][:19] == f"{test:%Y-%m-%dT%H:%M:%S}"


def test_a_serving_version_that_is_not_whole_does_not_open_the_gate(
    built: Path, tiny_base: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(built, tmp_path / "copy" / "repository")
    (tmp_path / "copy" / "market").symlink_to(built.parent / "market")
    with (copy / BEHAVIOR / "1" / "model.onnx").open("ab") as graph:
        graph.write(b"x")
    with pytest.raises(GateError, match="version 1 is not whole"):
        refuse(gate_of(copy, tiny_base, SETTINGS))


def test_a_version_says_what_it_is(built: Path, first: Manifest) -> None:
    assert verify(built, 1) == []
    assert first.artefact.target == "python"
    assert first.artefact.layers == 4
    assert first.training.base_model_licence == "unknown"
    assert len(first.training.data_sha256) == 64
    assert {"torch", "onnxruntime", "python"} <= set(first.software)
    names = {name.split("/", 2)[2] for name in first.files}
    assert {
        "model.onnx", "model.py", "config.pbtxt", "tokenizer.json", "exposures.npz",
        "model_card.md", "card/quality.svg", "card/platforms.svg",
    } <= names  # fmt: skip
    card = (built / BEHAVIOR / "1" / "model_card.md").read_text("utf-8")
    assert first.training.data_sha256[:16] in card
    training = first.training
    assert training.exposures["refit"] > training.exposures["train"]
    learned = f"{training.train[0]:%Y-%m-%d} to {training.validation[1]:%Y-%m-%d}"
    assert f"| trained on | {learned}, {training.exposures['refit']:,} exposures |" in card
    for check in first.gate.checks:
        assert check.finding in card
    assert "](card/quality.svg)" in card


def test_the_sample_holds_nobody(built: Path, first: Manifest) -> None:
    with np.load(built / BEHAVIOR / "1" / FILE) as stored:
        arrays = {name: stored[name] for name in stored.files}
    people = arrays["person"]
    assert set(people.tolist()) == set(range(len(set(people.tolist()))))  # codes of its own
    texts = [a for a in arrays.values() if a.dtype.kind == "U"]
    assert len(texts) == 1  # those of items
    assert not any("@" in text or text.startswith(("u-", "p_")) for text in texts[0])


def test_torch_and_the_graphs_agree_however_they_are_asked(built: Path, first: Manifest) -> None:
    assert [row.how for row in first.parity.rows] == ["alone", "batch", "padded"]
    assert first.parity.passed
    assert first.parity.moved < 1e-5
    assert all(row.same_label == 1.0 for row in first.parity.rows)


def test_a_version_is_served_as_its_manifest_says(built: Path, first: Manifest) -> None:
    for name, model in served_models(first).items():
        assert triton_config.read(built / name / "1" / "config.pbtxt") == model
        assert not (built / name / "1" / "fallback.pbtxt").exists()


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_fewer_bits_are_published_only_within_the_bound(
    built: Path, first: Manifest, precision: Precision
) -> None:
    before = published_versions(built)
    with pytest.raises(ParityError, match="nothing was published"):
        export(built, 1, Variant(precision=precision, bound=1e-7), Quiet())
    assert published_versions(built) == before
    made = export(built, 1, Variant(precision=precision, bound=1e-7, force=True), Quiet())
    number = made.behavior_version
    assert made.gate.forced
    assert made.gate.failures[-1].name == "parity"
    with pytest.raises(RepositoryError, match="--force"):
        promote(built, number)
    assert made.artefact.precision == precision
    assert made.artefact.derived_from == 1
    assert made.parity.moved > 1e-7
    assert verify(built, number) == []
    same = ("features", "calibration", "decision_weights", "tokeniser", "training")
    assert all(getattr(made, name) == getattr(first, name) for name in same)
    size = {n: (built / ENCODER / str(n) / "model.onnx").stat().st_size for n in (1, number)}
    assert size[number] < 0.75 * size[1]
    with pytest.raises(RepositoryError, match="export from the fp32 version it came from, 1"):
        export(built, number, Variant(), Quiet())


def test_another_backend_gets_padded_shapes_and_a_fallback(built: Path, first: Manifest) -> None:
    made = export(built, 1, Variant(target="onnxruntime"), Quiet())
    number = str(made.behavior_version)
    assert made.parity.moved < 1e-5
    assert made.artefact.padding == padding_for("onnxruntime", max_tokens=16, history_events=64)
    for name, model in served_models(made).items():
        folder = built / name / number
        assert triton_config.read(folder / "config.pbtxt") == model
        fallback = triton_config.read(folder / "fallback.pbtxt")
        assert (fallback.target, fallback.device) == ("python", "cpu")
        proto = triton_config.read_proto(folder / "config.pbtxt")
        assert proto.backend == "onnxruntime"
        assert not any(one.allow_ragged_batch for one in proto.input)
        warm = triton_config.warm_up_of(proto)
        assert len(warm) == len({json.dumps(one) for one in warm})
        sizes = [model.padding[axis] for axis in model.limits]
        assert len(warm) == np.prod([len(one) for one in sizes])


def test_padding_changes_nothing(built: Path, first: Manifest) -> None:
    sample = ExposureSample.load(built / BEHAVIOR / "1" / FILE)
    padded = first.artefact.model_copy(
        update={"padding": padding_for("tensorrt", max_tokens=16, history_events=64)}
    )
    ways = [of(built, first), of(built, first.model_copy(update={"artefact": padded}))]
    texts = sample.texts.tolist()
    one, other = (graphs.encode(texts) for graphs in ways)
    np.testing.assert_allclose(one, other, atol=1e-6)
    batch = next(sample.batches(32))
    one, other = (graphs.score(batch, one) for graphs in ways)
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_a_graph_that_says_something_else_is_not_published(
    built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoiled(graph: Path, precision: Precision, output: Path) -> None:
        model = onnx.load(graph)
        for weight in model.graph.initializer:
            array = numpy_helper.to_array(weight)
            if array.ndim == 2 and array.dtype == np.float32:
                weight.CopyFrom(numpy_helper.from_array(array * 1.05, weight.name))
        output.write_bytes(model.SerializeToString())

    monkeypatch.setattr(exporting, "convert", spoiled)
    before = published_versions(built)
    with pytest.raises(ParityError, match="move a probability by"):
        export(built, 1, Variant(), Quiet())
    assert published_versions(built) == before


def test_a_move_just_beyond_the_bound_is_not_told_as_the_bound() -> None:
    row = ParityRow(how="alone", worst=0.01004, p999=0.0, same_label=1.0, auc_change=None)
    moved = Parity(exposures=9, rows=(row,), between=0.0, bound=0.01)
    with pytest.raises(ParityError, match=r"by 0\.01004, more than the 0\.01 allowed"):
        refuse_moves(moved)


def test_what_is_seen_of_int8_depends_on_the_batch(built: Path, first: Manifest) -> None:
    made = export(built, 1, Variant(precision="int8", bound=1.0), Quiet())
    assert made.parity.between > 10 * first.parity.between
    assert made.gate.forced == first.gate.forced, "by itself it needs no force"


def test_the_same_export_gives_the_same_files(built: Path) -> None:
    digests = []
    for _ in range(2):
        made = export(built, 1, Variant(precision="fp16", bound=1.0), Quiet())
        number = made.behavior_version
        digests.append(
            {
                name.replace(f"/{number}/", "/N/"): digest
                for name, digest in made.files.items()
                if not name.endswith((".pbtxt", ".md"))  # they hold the version's number
            }
        )
    assert digests[0] == digests[1]


NO_GPU: list[tuple[Variant, str]] = [
    (Variant(target="tensorrt"), "add --device cuda"),
    (Variant(target="tensorrt", device="cuda"), "this machine shows none: run this command where"),
    (Variant(target="onnxruntime-tensorrt", device="cuda"), "TensorrtExecutionProvider"),
    (Variant(device="cuda"), "onnxruntime-gpu"),
    (Variant(device="cuda", precision="int8"), "choose --precision fp16"),
]


@pytest.mark.parametrize(("variant", "words"), NO_GPU)
def test_without_a_gpu_one_sentence_says_what_is_missing(
    built: Path, variant: Variant, words: str
) -> None:
    before = published_versions(built)
    with pytest.raises(TargetError, match=words) as refused:
        export(built, 1, variant, Quiet())
    assert "\n" not in str(refused.value)
    assert published_versions(built) == before


def test_an_engine_takes_every_shape_that_is_padded_to(first: Manifest) -> None:
    artefact = first.artefact.model_copy(
        update={
            "target": "tensorrt", "device": "cuda",
            "backends": {ENCODER: "tensorrt", BEHAVIOR: "tensorrt"},
            "padding": padding_for("tensorrt", max_tokens=16, history_events=64),
        }
    )  # fmt: skip
    served = served_models(first.model_copy(update={"artefact": artefact}))
    for model in served.values():
        ranges = profiles(model)
        assert set(ranges) == {tensor.name for tensor in model.inputs}
        warmed = list(model.warm_ups())
        assert {rows for rows, _ in warmed} == {1, model.max_batch}
        for rows, sizes in warmed:
            for tensor in model.inputs:
                shape = (rows, *triton_config.shape_of(tensor, sizes))
                found = ranges[tensor.name]
                assert all(
                    low <= size <= high
                    for low, size, high in zip(found.smallest, shape, found.largest, strict=True)
                )
    assert sizes_up_to(48, 8) == (8, 16, 32, 48)


def test_a_sample_is_read_back(built: Path, tmp_path: Path) -> None:
    sample = ExposureSample.load(built / BEHAVIOR / "1" / FILE)
    sample.save(tmp_path / "again.npz")
    assert (tmp_path / "again.npz").read_bytes() == (built / BEHAVIOR / "1" / FILE).read_bytes()
    assert len(sample) == len(sample.outcome) > 100
    assert np.all(sample.vectors[0] == 0)


@pytest.mark.parametrize("change", [lambda p: p[:, ::-1], lambda p: p * 0 + 1 / 3])
def test_parity_sees_other_probabilities(
    built: Path, first: Manifest, change: Callable[[np.ndarray], np.ndarray]
) -> None:
    sample = ExposureSample.load(built / BEHAVIOR / "1" / FILE)
    spoiled = replace(sample, probabilities=change(sample.probabilities))
    decisions = Decisions(first.calibration, first.decision_weights)
    graphs = of(built, first)
    vectors = graphs.encode(spoiled.texts.tolist())
    found = measure_parity(graphs, spoiled, vectors, decisions, max_tokens=16, max_events=64)
    assert not found.passed
    assert found.between < 1e-5  # the graphs have not changed


def test_export_tells_people_and_machines(built: Path) -> None:
    place = ("export", "--repository", str(built), "--version", "1")
    shown = CliRunner().invoke(app, [*place, "--max-shift", "0.5", "--precision", "fp16"])
    assert shown.exit_code == 0, shown.stderr
    assert "worst shift" in shown.stdout
    assert "platform models promote" in shown.stdout
    told = CliRunner().invoke(app, [*place, "--json"])
    assert json.loads(told.stdout)["artefact"]["derived_from"] == 1
    failed = CliRunner().invoke(app, [*place, "--precision", "int8", "--max-shift", "0"])
    assert failed.exit_code == 1
    assert failed.stderr.splitlines()[-1].startswith(
        "error: the exported graphs move a probability"
    )
    nowhere = CliRunner().invoke(app, ["export", "--repository", str(built / "nowhere")])
    assert nowhere.exit_code == 1
    assert "is not there, no model repository" in nowhere.stderr
