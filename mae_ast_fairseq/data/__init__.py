"""Reading audio and manifests; the fairseq datasets are built on these modules."""
