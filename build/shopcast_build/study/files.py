"""A study on disk: report.html for people, report.json for machines."""

from dataclasses import dataclass
from pathlib import Path

from shopcast_build.data.errors import DataError
from shopcast_build.study.html import render
from shopcast_build.study.schema import StudyReport

HTML, JSON = "report.html", "report.json"


@dataclass(frozen=True, slots=True)
class ReportFiles:
    """Where a report lies."""

    html: Path
    json: Path


def write_report(report: StudyReport, folder: Path) -> ReportFiles:
    """Write both files, each in one step, replacing earlier ones. Raises DataError."""
    written = ReportFiles(folder / HTML, folder / JSON)
    contents = {written.html: render(report), written.json: report.model_dump_json(indent=1) + "\n"}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, text in contents.items():
            partial = path.with_name(f".{path.name}.partial")
            partial.write_text(text, encoding="utf-8")
            partial.replace(path)
    except OSError as error:
        raise DataError(
            f"The report could not be written into {folder} ({error.strerror}); check --output."
        ) from None
    return written
