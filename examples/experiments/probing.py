"""What frozen features are worth on labelled sets in groups, one group after another left out and tested."""

from collections.abc import Callable, Mapping

import numpy as np
from sets import ProbeSet

from mae_ast_fairseq.evaluation import probes, splits
from mae_ast_fairseq.inference.features import clip_features
from mae_ast_fairseq.nn.encoder import SpectrogramEncoder
from mae_ast_fairseq.nn.readout import possible_readouts

NUM_INNER = 2  # parts of the training groups, each in turn, by which a probe chooses

Readouts = Mapping[str, np.ndarray]
"""features [N, layers, D] by readout"""


def reader(model: SpectrogramEncoder) -> Callable[[ProbeSet], Readouts]:
    """Return what reads every possible readout of every layer out of a set's clips."""

    def read(probe_set: ProbeSet) -> Readouts:
        return clip_features(model, probe_set.manifest, possible_readouts(model.grid.rows))

    return read


def accuracies(readouts: Readouts, data: splits.ProbeData, seed: int) -> dict[str, float]:
    """Return the accuracy over all left-out groups of each readout at its best layers, and of the best of all.

    What is best is chosen for each left-out group on other groups' clips, by ridge regression like all that follows.
    """
    num_layers = next(iter(readouts.values())).shape[1]
    layers = [*map(str, range(1, num_layers + 1)), *(["all"] if num_layers > 1 else [])]
    candidates = probes.candidates_of(readouts, layers)
    hits: dict[str, int] = {}
    for split in splits.split_by_groups(data, seed):
        split = split._replace(inner=split.inner[:NUM_INNER])
        choices = probes.compare(candidates, data, split, "ridge")
        for readout in (*readouts, "best"):
            choice = probes.best(choices, readout=None if readout == "best" else readout)
            scores = probes.test_scores(candidates[choice.candidate], data, split, "ridge", choice)
            hits[readout] = hits.get(readout, 0) + int((scores.argmax(1) == data.targets[split.test]).sum())
    return {readout: count / len(data.targets) for readout, count in hits.items()}
