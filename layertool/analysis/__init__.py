"""Analyses: pure functions on arrays."""
