"""Event logs: mapped, cleaned, and resolved to people."""
