"""Every setting of a build, with its default and its range.

Settings come from one TOML file whose tables are the sections below, then from flags. The effective
ones are recorded in the manifest.
"""

import json
import tomllib
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
)
from pydantic_core import PydanticCustomError

from shopcast_build.data.errors import DataError


def _moment(value: Any) -> datetime:
    """Texts alone: a number would be seconds since 1970."""
    try:
        return value if isinstance(value, datetime) else datetime.fromisoformat(value)
    except (TypeError, ValueError):
        raise PydanticCustomError(
            "moment", "Input should be a moment such as 2011-08-01T00:00:00Z"
        ) from None


Days = Annotated[float, Field(gt=0, le=3650)]
Share = Annotated[float, Field(gt=0, lt=0.5)]
Chance = Annotated[float, Field(ge=0, lt=1)]
Moment = Annotated[AwareDatetime, BeforeValidator(_moment)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ExposureSettings(_Section):
    """What an exposure is, and which part of the split it belongs to."""

    purchase_horizon_days: Days = Field(
        1.0, description="a buy this long after a view still belongs to it"
    )
    return_window_days: Days = Field(
        14.0, description="a return this long after a buy still belongs to it"
    )
    test_share: Share = Field(0.15, description="share of the usable time span kept for the test")
    validation_share: Share = Field(
        0.10, description="share of it kept for validation, right before the test"
    )
    test_start: Moment | None = Field(None, description="in place of test_share")
    validation_start: Moment | None = Field(None, description="in place of validation_share")
    max_training: int = Field(400_000, ge=1_000, description="newest training exposures kept")
    max_judged: int = Field(
        1_000_000,
        ge=1_000,
        description="of validation and of the test, about: those of people drawn at random",
    )
    refit: bool = Field(
        True,
        description="once everything is chosen on validation, train again with its exposures too",
    )

    @property
    def purchase_horizon(self) -> timedelta:
        """How long after a view a buy still belongs to it."""
        return timedelta(days=self.purchase_horizon_days)

    @property
    def return_window(self) -> timedelta:
        """How long after a buy a return still belongs to it."""
        return timedelta(days=self.return_window_days)


class HistorySettings(_Section):
    """How much of a person's past the model sees."""

    events: int = Field(64, ge=1, le=256, description="events the model attends to")
    feature_events: int = Field(256, ge=1, le=1024, description="events the features are over")


class EncoderSettings(_Section):
    """The text encoder: what lies on top of the pretrained model, and how it is fine-tuned.

    adaptation: what turns token states into a vector. tuning: which weights learn beside it: none
    ("frozen"), the top `layers` ("top"), all ("full"), or a small addition (the others).
    docs/encoders.md compares them.
    """

    max_tokens: int = Field(48, ge=8, le=512, description="tokens of an item text")
    vector_dim: int = Field(64, ge=8, le=512, description="numbers of an item vector")
    adaptation: Literal["linear", "mlp", "convolution"] = Field(
        "linear", description="what turns token states into a vector"
    )
    tuning: Literal["frozen", "top", "full", "lora", "adalora", "prefix", "adapter"] = Field(
        "top", description="what learns: nothing, the top layers, all, or a small addition"
    )
    layers: int = Field(2, ge=1, description="layers that learn with tuning 'top'")
    rank: int = Field(8, ge=1, le=256, description="of LoRA and AdaLoRA; width of an adapter")
    alpha: float = Field(16, gt=0, description="scale of LoRA and AdaLoRA")
    prefix_tokens: int = Field(8, ge=1, le=128, description="that tuning 'prefix' learns")
    dropout: Chance = Field(0.1, description="within the encoder, while it learns")
    steps: int = Field(160, ge=0, le=1_000_000, description="of fine-tuning; 0: none")
    learning_rate: float = Field(3e-4, gt=0, description="at its peak, for the topmost layer")
    layer_decay: float = Field(
        1.0, gt=0, le=1, description="factor on the learning rate per layer from the top down"
    )


class HeadSettings(_Section):
    """The behaviour head."""

    epochs: int = Field(6, ge=1, le=100, description="passes over the training exposures")
    learning_rate: float = Field(
        2e-3, gt=0, description="at its peak; half of it while the encoder learns, too"
    )
    dropout: Chance = Field(0.1, description="within the head, while it learns")
    targets: Literal["outcomes", "trees"] = Field(
        "outcomes",
        description="what it learns: what came of exposures, or how likely trees call that which"
        " never saw the person; then loss.* counts only while the encoder learns",
    )


class OptimiserSettings(_Section):
    """How weights are moved."""

    name: Literal["adamw", "sgd", "adafactor"] = Field("adamw", description="which optimiser")
    batch_size: int = Field(256, ge=8, description="exposures of one step and process")
    accumulation: int = Field(1, ge=1, le=1024, description="batches gathered into one step")
    weight_decay: float = Field(0.01, ge=0, description="of matrices; never of biases and norms")
    momentum: float = Field(0.9, ge=0, lt=1, description="of SGD")
    schedule: Literal["cosine", "linear", "constant", "polynomial", "inverse_sqrt"] = Field(
        "cosine", description="how learning rates fall after the warm-up; polynomial: squared"
    )
    warmup_share: Chance = Field(0.05, description="of a stage's steps, while rates rise")
    max_grad_norm: float = Field(1.0, gt=0, description="longer gradients are cut to it")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="auto: bf16 on a GPU that has it, else fp32; fp16 needs a GPU"
    )


class LossSettings(_Section):
    """What is minimised.

    Weights and left-out views change what training sees, not what the model says: their effect on
    the odds is taken out within the loss.
    """

    kind: Literal["cross_entropy", "focal"] = Field(
        "cross_entropy", description="focal cares less for what is easy already"
    )
    focal_gamma: float = Field(2.0, ge=0, le=10, description="how much less; 0: not at all")
    class_weights: Literal["none", "balanced", "sqrt_balanced"] = Field(
        "none", description="balanced: every outcome weighs the same in all; sqrt: halfway there"
    )
    view_share_kept: float = Field(
        1.0, gt=0, le=1, description="share of the training views that is used"
    )


class StoppingSettings(_Section):
    """When training ends early, and which weights are kept."""

    metric: Literal["loss", "macro_f1", "auc", "pr_auc"] = Field(
        "loss", description="on validation; auc and pr_auc are the mean over outcomes"
    )
    patience: int = Field(3, ge=1, le=1000, description="evaluations without an improvement")
    evaluations: int = Field(
        12, ge=1, le=1000, description="while the head learns, 20 steps apart at least"
    )
    encoder_evaluations: int = Field(
        4,
        ge=1,
        le=1000,
        description="while the encoder learns; each encodes the whole catalogue anew",
    )


class AugmentationSettings(_Section):
    """What training examples lose at random, so that the model does not lean on it."""

    event_dropout: Chance = Field(0.0, description="of each event of a history")
    word_dropout: Chance = Field(0.0, description="of each word of a candidate's text")
    synonym_chance: Chance = Field(0.0, description="of each word that has synonyms")
    synonyms: dict[str, tuple[str, ...]] = Field({}, description="by word")


class AdversarialSettings(_Section):
    """Training on token embeddings moved in the direction that hurts most.

    fgm: one step of length epsilon (Miyato et al., 2017, arXiv:1605.07725). pgd: several steps of
    step_size within a ball of radius epsilon (Madry et al., 2018, arXiv:1706.06083).
    """

    method: Literal["none", "fgm", "pgd"] = Field("none", description="how harder inputs are found")
    epsilon: float = Field(0.5, gt=0, description="how far embeddings are moved at most")
    step_size: float = Field(0.2, gt=0, description="of one step of pgd")
    steps: int = Field(3, ge=1, le=20, description="of pgd")


class ScorerSettings(_Section):
    """What scores inside `behavior`.

    auto: what validation finds best of the behaviour head, gradient-boosted trees over numbers and
    vectors, and the blend of both. members: heads and forests of different
    seeds, whose logits are averaged.
    """

    kind: Literal["auto", "head", "trees", "blend"] = Field(
        "auto", description="what scores; auto: what validation finds best"
    )
    members: int = Field(
        1, ge=1, le=16, description="heads, and as many forests, of different seeds, averaged"
    )
    text_components: int = Field(16, ge=1, le=64, description="of an item vector, for the trees")


class DistillationSettings(_Section):
    """A smaller encoder that learns the vectors of the one that was trained (docs/models.md)."""

    layers: int = Field(0, ge=0, description="of the smaller encoder; 0: none is made")
    steps: int = Field(400, ge=1, le=1_000_000, description="of its training")
    batch_size: int = Field(32, ge=8, description="texts of one step")
    learning_rate: float = Field(5e-4, gt=0, description="at its peak")
    word_dropout: Chance = Field(0.2, description="of a text's words, in every other batch")


class TrackingSettings(_Section):
    """Where curves go. Weights & Biases and MLflow are used offline unless their own environment
    variables say otherwise."""

    to: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = Field(
        ("tensorboard",), description="trackers; none with an empty list"
    )
    project: str = Field("shopcast", min_length=1, description="what they file the build under")


class BuildSettings(_Section):
    """What shapes a model."""

    seed: int = Field(7, ge=0, le=2**31 - 1, description="of everything random")
    threads: int = Field(0, ge=0, le=256, description="CPU threads; 0: all")
    exposures: ExposureSettings = ExposureSettings()
    history: HistorySettings = HistorySettings()
    encoder: EncoderSettings = EncoderSettings()
    head: HeadSettings = HeadSettings()
    optimiser: OptimiserSettings = OptimiserSettings()
    loss: LossSettings = LossSettings()
    stopping: StoppingSettings = StoppingSettings()
    augmentation: AugmentationSettings = AugmentationSettings()
    adversarial: AdversarialSettings = AdversarialSettings()
    scorer: ScorerSettings = ScorerSettings()
    distillation: DistillationSettings = DistillationSettings()
    tracking: TrackingSettings = TrackingSettings()


def load_settings(path: Path | None, overrides: Mapping[str, Any]) -> BuildSettings:
    """Defaults, then a TOML file, then overrides by dotted name ("encoder.steps").

    Raises DataError naming the setting that is wrong.
    """
    table: dict[str, Any] = {}
    if path is not None:
        try:
            table = tomllib.loads(path.read_text(encoding="utf-8-sig"))
        except OSError as error:
            raise DataError(
                f"The settings {path} cannot be read ({error.strerror}); check the path."
            ) from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise DataError(f"The settings {path} are not valid TOML: {error}.") from None
    return _checked(table, overrides)


def changed_settings(settings: BuildSettings, overrides: Mapping[str, Any]) -> BuildSettings:
    """Other values by dotted name. Raises DataError naming the setting that is wrong."""
    return _checked(settings.model_dump(mode="json"), overrides)


def _checked(table: dict[str, Any], overrides: Mapping[str, Any]) -> BuildSettings:
    for name, value in overrides.items():
        _put(table, name.split("."), value)
    try:
        # In JSON's strict reading lists are tuples and texts are moments, but true is no 1.
        return BuildSettings.model_validate_json(json.dumps(table, default=str), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise DataError(f"There is no setting {name}; see docs/settings.md.") from None
        raise DataError(
            f"The setting {name} is wrong: {first['msg'][0].lower()}{first['msg'][1:]}."
        ) from None


def _put(table: dict[str, Any], keys: list[str], value: Any) -> None:
    for key in keys[:-1]:
        inner = table.setdefault(key, {})
        if not isinstance(inner, dict):
            table[key] = inner = {}
        table = inner
    table[keys[-1]] = value
