"""Counter-based random draws: the same for any number of workers, processes and restarts.

A draw depends on what it is for (its stream), the epoch and the index of the clip in its manifest, and on nothing
else: not on the order in which workers come by, nor on what was drawn before.
"""

from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """What a draw is for; draws of different streams are independent."""

    CROP = 0
    MASK = 1
    AUGMENTATION = 2
    REPLACEMENT = 3
    ORDER = 4
    STATISTICS = 5
    ENCODER_LAYER_DROP = 6
    DECODER_LAYER_DROP = 7
    SAMPLING = 8
    MIXUP = 9


def generator(seed: int, stream: Stream, epoch: int = 0, index: int = 0, occurrence: int = 0) -> np.random.Generator:
    """Return the generator of one clip's draws of one kind in one epoch.

    `occurrence` tells apart the times that an epoch has the same clip, where it is drawn with replacement. It stands
    in the counter above the word that drawing counts up, which 2^64 draws would have to overflow.
    """
    key = np.array([seed % 2**64, stream], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=[0, occurrence, epoch, index]))
