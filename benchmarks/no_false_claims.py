"""How often a study says that fusing platforms helps: where it does not, and where it does.

Markets of which the truth is known: at effect 0 an account tells nothing of the same person's other
accounts, so every claim is false; at 0.8 it tells much. One small market and one training of each
arm a seed, on frozen vectors of the bundled MiniLM, judged as `platform evaluate` does.

Run:  .venv/bin/python benchmarks/no_false_claims.py --effect 0 --people 1000 --seeds 20
"""

import argparse
import json
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from shopcast_build.data.mapping import Mapping
from shopcast_build.learning.base_model import BUNDLED, load_base_model
from shopcast_build.learning.examples import Progress
from shopcast_build.learning.settings import BuildSettings, EncoderSettings, HeadSettings
from shopcast_build.simulation.settings import MarketSettings
from shopcast_build.simulation.writer import simulate
from shopcast_build.study.assessment import Assessment
from shopcast_build.study.fusion import train_arms
from shopcast_build.study.heads import Heads
from shopcast_build.study.identities import FUSED, PLACEBO, SINGLE
from shopcast_build.study.material import read_material
from shopcast_build.study.verdicts import SEVERAL, fusion_claim


class Quiet:
    @contextmanager
    def stage(self, title: str) -> Iterator[Progress]:
        yield lambda done, total: None


def study(effect: float, people: int, seed: int, epochs: int, trainings: int) -> dict[str, object]:
    """The claim and the differences behind it, of one market."""
    began = time.process_time()
    market = MarketSettings(
        people=people,
        platforms=3,
        items_per_platform=150,
        days=150,
        cross_platform_effect=effect,
        seed=seed,
    )
    settings = BuildSettings(
        seed=seed,
        threads=1,
        encoder=EncoderSettings(vector_dim=16, max_tokens=32),
        head=HeadSettings(epochs=epochs),
    )
    with tempfile.TemporaryDirectory() as folder:
        logs = simulate(market, Path(folder) / "market")
        material = read_material(
            [logs.events],
            links=logs.links,
            mapping=Mapping(),
            settings=settings,
            max_bad_share=0.01,
            reporter=Quiet(),
        )
    base, texts = load_base_model(BUNDLED), material.timeline.catalogue.texts
    heads = Heads(base, texts, settings, lambda done, total: None)
    arms, _ = train_arms(material, heads, trainings, Quiet())
    assessment = Assessment(arms, material.test(), 1000)
    pairs = ((FUSED, SINGLE), (FUSED, PLACEBO), (PLACEBO, SINGLE))
    differences = [assessment.difference(of, against, SEVERAL) for of, against in pairs]
    found: dict[str, object] = {"seed": seed, "claim": fusion_claim(differences)}
    for one in differences:
        if one.gain is None:
            continue
        found[f"{one.of} - {one.against}"] = (one.gain.value, one.gain.low, one.gain.high)
    return found | {
        "exposures": differences[0].exposures,
        "cpu_s": round(time.process_time() - began, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--effect", type=float, default=0.0)
    parser.add_argument("--people", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--trainings", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    claims: Counter[object] = Counter()
    for seed in range(1, asked.seeds + 1):
        found = study(asked.effect, asked.people, seed, asked.epochs, asked.trainings)
        claims[found["claim"]] += 1
        print(json.dumps(found), flush=True)
    print(f"effect {asked.effect:g}, {asked.people} people: {dict(claims)}")


if __name__ == "__main__":
    main()
