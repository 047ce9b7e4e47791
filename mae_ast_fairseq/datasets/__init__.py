"""The fairseq datasets: clips of manifests, cropped, in batches, masked or labelled."""

import fairseq  # noqa: F401 (first, since its import registers the package, whose tasks import this room)
