"""Versions of one repository side by side: size, speed, parity, AUC.

Run:  .venv/bin/python benchmarks/variants.py --repository model_repository --versions 1 2 3

Every version scores the sample of exposures that lies beside the first one, in ONNX Runtime on one
thread of this machine's CPU. Versions take turns, so that a busy machine slows all of them; compare
the ratios. Parity is what the gate measured when the version was published: against the torch model
it came from, which for a distilled one is its own.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from shopcast_build.learning.graphs import Graphs
from shopcast_build.release.parity import headline_auc
from shopcast_build.release.sample import FILE, ExposureSample
from shopcast_domain.manifest import BEHAVIOR, ENCODER, Manifest
from shopcast_repository.versions import find_manifest

TURNS = 7
TEXTS = 128
EXPOSURES = 512


def open_version(repository: Path, manifest: Manifest) -> Graphs:
    number = str(manifest.behavior_version)
    folders = repository / ENCODER / number, repository / BEHAVIOR / number
    padding = manifest.artefact.padding
    return Graphs(*folders, manifest.tokeniser, threads=1, padding=padding)


def measure(repository: Path, versions: list[int]) -> list[dict[str, Any]]:
    manifests = [find_manifest(repository, version) for version in versions]
    graphs = [open_version(repository, manifest) for manifest in manifests]
    sample = ExposureSample.load(repository / BEHAVIOR / str(versions[0]) / FILE)
    texts = sample.texts.tolist()
    some = texts[1 : TEXTS + 1]
    vectors = [one.encode(texts) for one in graphs]
    exposures = next(sample.batches(EXPOSURES))
    seconds: dict[tuple[int, str], list[float]] = {}
    for _ in range(TURNS):
        for number, one in enumerate(graphs):
            began = time.perf_counter()
            one.encode(some)
            middle = time.perf_counter()
            one.score(exposures, vectors[number])
            ended = time.perf_counter()
            seconds.setdefault((number, "encode"), []).append(middle - began)
            seconds.setdefault((number, "score"), []).append(ended - middle)
    median = {key: float(np.median(taken)) for key, taken in seconds.items()}
    rows = []
    for number, (manifest, one) in enumerate(zip(manifests, graphs, strict=True)):
        logits = [one.score(batch, vectors[number]) for batch in sample.batches(EXPOSURES)]
        probabilities = manifest.calibration.apply(np.concatenate(logits))
        graph = repository / ENCODER / str(manifest.encoder_version) / "model.onnx"
        artefact, parity = manifest.artefact, manifest.parity
        rows.append(
            {
                "version": manifest.behavior_version,
                "variant": f"{artefact.target}, {artefact.precision}, {artefact.layers} layers",
                "encoder_mb": round(graph.stat().st_size / 1e6, 1),
                "encode_speed": round(median[0, "encode"] / median[number, "encode"], 2),
                "score_speed": round(median[0, "score"] / median[number, "score"], 2),
                "moved": parity.moved,
                "same_label": min(row.same_label for row in parity.rows),
                "auc": round(headline_auc(probabilities, sample.outcome) or float("nan"), 4),
                "gate": "passed" if not manifest.gate.failures else "failed",
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--repository", type=Path, required=True)
    parser.add_argument("--versions", type=int, nargs="+", required=True)
    parser.add_argument("--json", action="store_true", help="print JSON in place of a table")
    given = parser.parse_args()
    rows = measure(given.repository, given.versions)
    if given.json:
        print(json.dumps(rows, indent=1))
        return
    print("| " + " | ".join(rows[0]) + " |")
    print("|" + "---|" * len(rows[0]))
    for row in rows:
        print("| " + " | ".join(str(value) for value in row.values()) + " |")


if __name__ == "__main__":
    main()
