"""A simulated multi-platform market with known truth."""
