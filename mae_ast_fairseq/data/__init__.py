"""What a batch is made of: audio, manifests, labels, masks, augmentation; nothing here knows fairseq."""
