"""What a batch is made of: audio, manifests, labels, masks, and the datasets and collaters over them."""
