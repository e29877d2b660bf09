"""How weights are moved: the optimiser, its groups of weights, and the learning rate over steps."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from shopcast_build.data.errors import DataError
from shopcast_build.learning.encoder import ItemEncoder, layer_stack
from shopcast_build.learning.settings import OptimiserSettings
from shopcast_build.learning.shopper_model import ShopperModel
from shopcast_build.learning.stages import Stage

_POLYNOMIAL_POWER = 2


def make_optimiser(
    model: ShopperModel, stage: Stage, settings: OptimiserSettings, layer_decay: float
) -> Optimizer:
    """An optimiser of the weights that require gradients, in groups of one rate and decay each."""
    groups = parameter_groups(model, stage, settings.weight_decay, layer_decay)
    # Each group has a rate of its own; torch.optim wants one for none in particular, too.
    rate = stage.head_learning_rate
    match settings.name:
        case "adamw":
            return torch.optim.AdamW(groups, lr=rate)
        case "sgd":
            return torch.optim.SGD(groups, lr=rate, momentum=settings.momentum)
        case "adafactor":
            return torch.optim.Adafactor(groups, lr=rate)


def parameter_groups(
    model: ShopperModel, stage: Stage, weight_decay: float, layer_decay: float
) -> list[dict[str, Any]]:
    """What torch.optim takes. Each group has a name: "head", or "encoder" and how many layers lie
    between it and the top; with weight decay on matrices only, never on biases and norms."""
    found: dict[tuple[str, bool], dict[str, Any]] = {}
    learning = [("head", stage.head_learning_rate, p) for p in model.behavior.parameters()]
    learning += [
        (f"encoder-{depth}", stage.encoder_learning_rate * layer_decay**depth, p)
        for depth, p in _by_depth(model.encoder)
    ]
    for name, rate, parameter in learning:
        if parameter.requires_grad:
            decays = parameter.ndim > 1
            fresh = {"params": [], "lr": rate, "weight_decay": weight_decay if decays else 0.0}
            found.setdefault((name, decays), {**fresh, "name": name})["params"].append(parameter)
    return list(found.values())


def _by_depth(encoder: ItemEncoder) -> Iterator[tuple[int, nn.Parameter]]:
    """Every weight with its layers from the top: 0 for what lies above the layers and for the top
    layer itself, one more for each layer below it and for the embeddings."""
    stack = layer_stack(encoder.bert)
    layer_of = {id(p): n for n, layer in enumerate(stack) for p in layer.parameters()}
    embeddings = {
        id(p)
        for name, module in encoder.bert.named_children()
        if any(isinstance(inner, nn.Embedding) for inner in module.modules())
        and not any(inner is stack for inner in module.modules())
        for p in module.parameters()
    }
    for parameter in encoder.parameters():
        if id(parameter) in layer_of:
            yield len(stack) - 1 - layer_of[id(parameter)], parameter
        else:
            yield len(stack) if id(parameter) in embeddings else 0, parameter


def make_schedule(optimiser: Optimizer, steps: int, settings: OptimiserSettings) -> LambdaLR:
    """The learning rates over the steps of a stage."""
    warmup = round(steps * settings.warmup_share)
    return LambdaLR(optimiser, lambda step: rate_factor(settings.schedule, step, steps, warmup))


def rate_factor(schedule: str, step: int, steps: int, warmup: int) -> float:
    """What the peak learning rate is multiplied with at a step, counted from 0.

    Rises linearly over the warm-up, is 1 at its end, and then follows the schedule.
    """
    if step < warmup:
        return (step + 1) / (warmup + 1)
    done = min(1.0, (step - warmup) / max(1, steps - warmup))
    match schedule:
        case "cosine":
            return (1 + math.cos(math.pi * done)) / 2
        case "linear":
            return 1 - done
        case "polynomial":
            return float((1 - done) ** _POLYNOMIAL_POWER)
        case "inverse_sqrt":
            return math.sqrt((warmup + 1) / (step + 1))
        case _:
            return 1.0


def choose_precision(asked: str) -> str:
    """fp32, bf16 or fp16. Raises DataError where the machine cannot do what was asked."""
    gpu = torch.cuda.is_available()
    if asked == "auto":
        return "bf16" if gpu and torch.cuda.is_bf16_supported() else "fp32"
    if asked == "fp16" and not gpu:
        raise DataError(
            "optimiser.precision fp16 needs a CUDA GPU, and there is none here: use auto or fp32."
        )
    if asked == "bf16" and gpu and not torch.cuda.is_bf16_supported():
        raise DataError(
            "optimiser.precision bf16 needs a GPU of Ampere or newer: use auto, fp16 or fp32."
        )
    return asked


def set_dropout(module: nn.Module, chance: float) -> None:
    """Give every dropout within a module the same chance; models keep some as plain numbers."""
    for inner in module.modules():
        if isinstance(inner, nn.Dropout):
            inner.p = chance
        for name in ("dropout", "attention_dropout", "activation_dropout"):
            if isinstance(inner.__dict__.get(name), float):
                setattr(inner, name, chance)
