"""Corpora: utterances and labelled segments, and one reader per published layout."""
