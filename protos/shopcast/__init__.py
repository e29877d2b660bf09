"""Contracts of the Shopcast platform."""
