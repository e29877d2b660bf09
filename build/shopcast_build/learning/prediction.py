"""What a trained model says of exposures."""

import numpy as np
import torch
from numpy.typing import NDArray

from shopcast_build.learning.batches import ExposureBatches, in_order
from shopcast_build.learning.shopper_model import ShopperModel


@torch.inference_mode()
def predict_logits(model: ShopperModel, batches: ExposureBatches) -> NDArray[np.float32]:
    """Logits of every exposure, float32 (M, 3), in order."""
    model.eval()
    device = model.vectors.device
    parts = [
        model(**{name: tensor.to(device) for name, tensor in batch.items()})["logits"]
        for batch in in_order(batches)
    ]
    return torch.cat(parts).cpu().numpy()
