"""A simulated multi-platform market with known truth, written as event logs."""
