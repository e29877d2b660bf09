"""Exposures, the model, its training, judgement and export."""
