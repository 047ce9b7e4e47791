"""A trained model at work: features, predictions, reconstructions; nothing here knows fairseq."""
