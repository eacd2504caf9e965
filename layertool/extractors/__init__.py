"""Extractors: one file per model family, and the run that batches, pools and writes."""
