"""Which weights of the encoder learn, and how its graph becomes a plain one again.

LoRA, AdaLoRA and prefixes are peft's (https://huggingface.co/docs/peft). peft has no bottleneck
adapter; that is bottleneck.py.
"""

import warnings
from typing import Any, Protocol

import torch
from peft import (
    AdaLoraConfig,
    AdaLoraModel,
    LoraConfig,
    LoraModel,
    PeftModel,
    PrefixTuningConfig,
    get_peft_model,
)
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from shopcast_build.data.errors import DataError
from shopcast_build.learning.base_model import positions
from shopcast_build.learning.bottleneck import bottlenecks, insert_bottlenecks
from shopcast_build.learning.encoder import ItemEncoder, layer_stack
from shopcast_build.learning.settings import EncoderSettings

# What architectures call the maps to queries and values, some of them in one with the keys.
_QUERY_VALUE = frozenset(
    [
        *("query", "value", "q_proj", "v_proj", "q_lin", "v_lin", "q", "v"),
        *("query_proj", "value_proj", "c_attn", "Wqkv", "qkv_proj", "query_key_value", "qkv"),
    ]
)
_AVERAGES = ("ipt", "exp_avg_ipt", "exp_avg_unc")  # of peft's RankAllocator
_PREFIX_START = 0.02
_ORTHOGONAL_WEIGHT = 0.5  # peft's default


class Tuning(Protocol):
    """What a stretch of fine-tuning needs to know of the way the encoder learns."""

    def penalty(self) -> Tensor | float:
        """What the way of tuning adds to the loss."""
        ...

    def after_step(self, step: int) -> None:
        """To be called after each step of the optimiser, counted from 1, before gradients are
        zeroed."""
        ...

    def finish(self) -> None:
        """Leave an encoder of plain layers that says the same."""
        ...

    def state(self) -> dict[str, Any]:
        """What a checkpoint has to keep beside the weights: tensors, numbers, lists and dicts."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        ...


class _Plain:
    def penalty(self) -> Tensor | float:
        return 0.0

    def after_step(self, step: int) -> None:
        pass

    def finish(self) -> None:
        pass

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        pass


class _Lora(_Plain):
    """Hu et al., 2021, arXiv:2106.09685."""

    def __init__(self, encoder: ItemEncoder, settings: EncoderSettings) -> None:
        names, transposed = _targets(encoder.bert)
        config = LoraConfig(
            r=settings.rank,
            lora_alpha=settings.alpha,  # type: ignore[arg-type]
            lora_dropout=settings.dropout,
            target_modules=names,
            fan_in_fan_out=transposed,
        )
        self._peft: LoraModel = LoraModel(encoder.bert, config, "default")

    def finish(self) -> None:
        """Add the product of the two small matrices to the weight they stand beside."""
        self._peft.merge_and_unload()


class _AdaLora(_Lora):
    """Zhang et al., 2023, arXiv:2303.10512: half more ranks at first, the least used taken away."""

    def __init__(self, encoder: ItemEncoder, settings: EncoderSettings, steps: int) -> None:
        names, transposed = _targets(encoder.bert)
        self._last_cut = steps - steps // 4
        self._config = config = AdaLoraConfig(
            init_r=settings.rank + (settings.rank + 1) // 2,
            target_r=settings.rank,
            tinit=steps // 10,
            tfinal=steps - self._last_cut,
            deltaT=max(1, steps // 50),
            total_step=steps,
            orth_reg_weight=_ORTHOGONAL_WEIGHT,
            lora_alpha=settings.alpha,  # type: ignore[arg-type]
            lora_dropout=settings.dropout,
            target_modules=names,
            fan_in_fan_out=transposed,
        )
        self._peft: AdaLoraModel = AdaLoraModel(encoder.bert, config, "default")

    def penalty(self) -> Tensor:
        """How far the outer matrices are from orthogonal; peft adds it to models with a loss."""
        found = []
        for name, p in self._peft.model.named_parameters():
            if "lora_A" in name or "lora_B" in name:
                product = p @ p.T if "lora_A" in name else p.T @ p
                found.append(torch.linalg.norm(product - torch.eye(len(product)).to(p)))
        return _ORTHOGONAL_WEIGHT * torch.stack(found).mean()

    def after_step(self, step: int) -> None:
        """Weigh the ranks by this step's gradients and take away what is over budget."""
        if step > self._last_cut and self._config.rank_pattern is None:
            allocator = self._peft.rankallocator
            allocator.update_ipt(self._peft.model)
            found = allocator.mask_to_budget(self._peft.model, allocator.target_bgt)
            self._config.rank_pattern = found
        self._peft.update_and_allocate(step)

    def state(self) -> dict[str, Any]:
        """The averages by which ranks are weighed, and which were taken away for good."""
        allocator = self._peft.rankallocator
        kept = {name: dict(getattr(allocator, name)) for name in _AVERAGES}
        return kept | {"rank_pattern": self._config.rank_pattern}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on with them."""
        weights = dict(self._peft.model.named_parameters())
        for name in _AVERAGES:
            found = {key: value.to(weights[key].device) for key, value in state[name].items()}
            setattr(self._peft.rankallocator, name, found)
        self._config.rank_pattern = state["rank_pattern"]


def start_tuning(encoder: ItemEncoder, settings: EncoderSettings, steps: int) -> Tuning:
    """Let learn what `settings.tuning` says, and the adaptation layer with every one of them.

    steps: of the fine-tuning, which AdaLoRA plans with. Raises DataError where the architecture
    does not take the tuning.
    """
    encoder.requires_grad_(True)
    encoder.bert.requires_grad_(False)
    tuning = _start(encoder, settings, steps)
    encoder.train(encoder.training)  # what was added is in training, whatever the encoder is in
    return tuning


def _start(encoder: ItemEncoder, settings: EncoderSettings, steps: int) -> Tuning:
    match settings.tuning:
        case "top":
            _train_top(encoder.bert, settings.layers)
        case "full":
            encoder.bert.requires_grad_(True)
        case "lora":
            return _Lora(encoder, settings)
        case "adalora":
            return _AdaLora(encoder, settings, steps)
        case "prefix":
            _add_prefix(encoder, settings)
        case "adapter":
            layers = layer_stack(encoder.bert)
            insert_bottlenecks(layers, encoder.bert.config.hidden_size, settings.rank)
            for narrow in bottlenecks(encoder.bert):
                narrow.requires_grad_(True)
    return _Plain()


def _train_top(bert: nn.Module, layers: int) -> None:
    stack = layer_stack(bert)
    for layer in stack[max(len(stack) - layers, 0) :]:
        layer.requires_grad_(True)


def _targets(bert: nn.Module) -> tuple[list[str], bool]:
    """The names of the maps to queries and values, or of all linear maps in the layers where none
    has a name we know; and whether they are GPT-2's, which keep their weights transposed."""
    inside = {id(module) for module in layer_stack(bert).modules()}
    linear = {
        name: module
        for name, module in bert.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and id(module) in inside
    }
    known = [name for name in linear if name.rpartition(".")[2] in _QUERY_VALUE]
    names = known or list(linear)
    if not names:
        raise DataError(
            "the base model has no linear layers that LoRA could stand beside: choose another"
            " encoder.tuning"
        )
    return names, isinstance(linear[names[0]], Conv1D)


def _add_prefix(encoder: ItemEncoder, settings: EncoderSettings) -> None:
    """Keys and values that every layer attends to beside the text's (Li and Liang, 2021,
    arXiv:2101.00190). They stay in the graph: there is nothing to merge them into."""
    bert = encoder.bert
    if not isinstance(bert, PeftModel):
        room = positions(bert)
        if room is not None and settings.prefix_tokens + settings.max_tokens > room:
            raise DataError(
                f"a prefix of {settings.prefix_tokens} before {settings.max_tokens} tokens is more"
                f" than the {room} positions of the base model: lower encoder.prefix_tokens or"
                " encoder.max_tokens"
            )
        shape = PrefixTuningConfig(
            task_type="FEATURE_EXTRACTION",
            num_virtual_tokens=settings.prefix_tokens,
            token_dim=bert.config.hidden_size,
            num_layers=bert.config.num_hidden_layers,
            num_attention_heads=bert.config.num_attention_heads,
        )
        with warnings.catch_warnings():
            # peft asks transformers for a property by its former name.
            warnings.simplefilter("ignore", FutureWarning)
            prefixed = get_peft_model(bert, shape)
        with torch.no_grad():
            for parameter in prefixed.get_submodule("prompt_encoder").parameters():
                parameter.mul_(_PREFIX_START)  # peft's start would drown what was pretrained
        if not _takes_prefix(prefixed):
            raise DataError(
                f"prefix tuning does not work with the architecture {bert.config.model_type}, whose"
                ' attention takes no keys from outside: set encoder.tuning to "lora" or "adapter"'
            )
        encoder.bert = prefixed  # type: ignore[assignment]
    for parameter in encoder.bert.get_submodule("prompt_encoder").parameters():
        parameter.requires_grad_(True)


def _takes_prefix(prefixed: nn.Module) -> bool:
    """Whether it runs, the prefix matters, and padding does not. Tried: no setting tells."""
    ids = torch.tensor([[3, 4, 5]], device=next(prefixed.parameters()).device)
    padded, mask = nn.functional.pad(ids, (0, 2)), torch.tensor([[1, 1, 1, 0, 0]]).to(ids)
    training = prefixed.training
    prefixed.eval()
    try:
        alone = prefixed(input_ids=ids, attention_mask=mask[:, :3]).last_hidden_state
        among = prefixed(input_ids=padded, attention_mask=mask).last_hidden_state
        prefix = list(prefixed.get_submodule("prompt_encoder").parameters())
        (slope,) = torch.autograd.grad(alone[..., 0].sum(), prefix, allow_unused=True)
    except Exception:  # each architecture fails in its own way
        return False
    finally:
        prefixed.train(training)
    if slope is None or not slope.any():
        return False
    return torch.allclose(alone[0], among[0, :3], atol=1e-4)
