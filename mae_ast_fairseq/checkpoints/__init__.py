"""Reading, converting, averaging and exporting checkpoints; nothing here knows fairseq."""
