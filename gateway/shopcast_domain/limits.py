"""Sizes that training, serving and the contract agree on."""

MAX_CANDIDATES = 1_000
"""Items of one request."""
