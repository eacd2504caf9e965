"""Analyses: pure functions on arrays, and the thin layer that feeds them from a store."""
