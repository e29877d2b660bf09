"""How a version is to be served, as its manifest says."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from shopcast_domain.limits import MAX_CANDIDATES
from shopcast_domain.manifest import BEHAVIOR, CONFIG, ENCODER, FALLBACK, Manifest, Target
from shopcast_repository import triton_config
from shopcast_repository.triton_config import ServedModel


def sizes_up_to(limit: int, smallest: int) -> tuple[int, ...]:
    """Sizes to pad an axis up to: doubling from the smallest, and the limit itself.

    >>> sizes_up_to(48, 8)
    (8, 16, 32, 48)
    """
    sizes = []
    while smallest < limit:
        sizes.append(smallest)
        smallest *= 2
    return (*sizes, limit)


def padding_for(
    target: Target, *, max_tokens: int, history_events: int
) -> dict[str, tuple[int, ...]]:
    """The sizes that requests are padded to, by axis. Triton batches only what has one shape, and a
    TensorRT engine is made for certain shapes; the model in the Python backend pads by itself."""
    if target == "python":
        return {}
    return {
        "tokens": sizes_up_to(max_tokens, 8),
        "events": sizes_up_to(history_events, 16),
        "candidates": sizes_up_to(MAX_CANDIDATES, 8),
    }


def served_models(manifest: Manifest) -> dict[str, ServedModel]:
    """What `config.pbtxt` of each model says, by name."""
    artefact = manifest.artefact
    plain = {
        ENCODER: triton_config.encoder(
            width=manifest.vector_dim, max_tokens=manifest.tokeniser.max_tokens
        ),
        BEHAVIOR: triton_config.behavior(
            width=manifest.vector_dim,
            features=len(manifest.features),
            max_events=manifest.history_events,
            max_candidates=MAX_CANDIDATES,
        ),
    }
    versions = {ENCODER: manifest.encoder_version, BEHAVIOR: manifest.behavior_version}
    return {
        name: replace(
            model,
            target=artefact.backends.get(name, artefact.target),
            device=artefact.device,
            precision=artefact.precision if name == ENCODER else "fp32",
            padding={
                axis: artefact.padding[axis] for axis in model.limits if axis in artefact.padding
            },
            version=versions[name],
        )
        for name, model in plain.items()
    }


def fallback_of(model: ServedModel) -> ServedModel | None:
    """The same model where its target cannot run: its ONNX graph in the Python backend on the CPU.
    None where that is what runs anyway."""
    if model.target == "python" and model.device == "cpu":
        return None
    return replace(model, target="python", device="cpu", padding={})


def write_configs(manifest: Manifest, folders: Mapping[str, Path]) -> None:
    """Write the configurations into the folders of the two models' versions."""
    for name, model in served_models(manifest).items():
        triton_config.write(model, folders[name] / CONFIG)
        if (fallback := fallback_of(model)) is not None:
            triton_config.write(fallback, folders[name] / FALLBACK)
