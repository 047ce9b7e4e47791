"""The registered fairseq criterions."""
