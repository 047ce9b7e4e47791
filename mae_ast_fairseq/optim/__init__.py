"""Optimisers registered with fairseq."""
