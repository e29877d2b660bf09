"""Every setting of a build, with its default and its range."""

from datetime import timedelta
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Days = Annotated[float, Field(gt=0, le=3650)]
Share = Annotated[float, Field(gt=0, lt=0.5)]


class BuildSettings(BaseModel):
    """What shapes a model. The effective settings are recorded in the manifest."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: int = Field(7, ge=0, le=2**31 - 1)
    purchase_horizon_days: Days = 1.0
    return_window_days: Days = 14.0
    test_share: Share = Field(0.15, description="share of the usable time span kept for the test")
    validation_share: Share = 0.10
    max_exposures: int = Field(400_000, ge=1_000, description="newest training exposures kept")
    history_events: int = Field(64, ge=1, le=256, description="events the model attends to")
    feature_events: int = Field(
        256, ge=1, le=1024, description="events the features are taken over"
    )
    max_tokens: int = Field(48, ge=8, le=512, description="tokens of an item text")
    vector_dim: int = Field(64, ge=8, le=512)
    trained_layers: int = Field(
        2, ge=0, description="top layers of the encoder that are fine-tuned"
    )
    batch_size: int = Field(256, ge=8)
    head_epochs: int = Field(6, ge=1, le=100)
    encoder_steps: int = Field(160, ge=0, le=1_000_000)
    head_learning_rate: float = Field(2e-3, gt=0)
    encoder_learning_rate: float = Field(3e-4, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    threads: int = Field(0, ge=0, le=256, description="CPU threads; 0: all")

    @property
    def purchase_horizon(self) -> timedelta:
        """How long after a view a buy still belongs to it."""
        return timedelta(days=self.purchase_horizon_days)

    @property
    def return_window(self) -> timedelta:
        """How long after a buy a return still belongs to it."""
        return timedelta(days=self.return_window_days)
