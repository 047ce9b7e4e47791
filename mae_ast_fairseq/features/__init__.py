"""Features of many clips: planned into chunks and batches, computed, kept in memory or written to disk."""

from mae_ast_fairseq.features.encode import clip_features

__all__ = ["clip_features"]
