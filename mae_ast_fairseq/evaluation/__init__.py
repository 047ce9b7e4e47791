"""Metrics, splits, probes and plots; nothing here knows fairseq."""
