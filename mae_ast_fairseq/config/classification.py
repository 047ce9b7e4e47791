"""Plain dataclasses of the fields of fine-tuning: of its task, its model and its criterion, with help and units.

As in `pretraining.py`, the registered fairseq configs derive from these. The recipes are `examples/finetune_*.yaml`.
"""

from dataclasses import dataclass
from typing import Optional

from mae_ast_fairseq.config.pretraining import (
    BELOW_ONE,
    NOT_NEGATIVE,
    NUM_SAMPLES,
    POSITIVE,
    PROBABILITY,
    SIZE_OR_ZERO,
    AudioTaskFields,
    ClassifierFields,
    Range,
    check_audio_task,
    option,
)
from mae_ast_fairseq.errors import ConfigError


@dataclass
class ClassificationTaskFields(AudioTaskFields):
    """Fields of the `mae_ast_classification` task."""

    multi_label: bool = option(False, "a clip may have any number of labels; false: exactly one")
    fixed_size: Optional[int] = option(
        None,
        "every clip is cropped or padded to this many samples; none: batches are as long as their longest clip",
        NUM_SAMPLES,
    )
    frequency_mask: int = option(
        0, "SpecAugment: at most so many neighbouring Mel bands are masked; 0: none", SIZE_OR_ZERO
    )
    time_mask: int = option(
        0, "SpecAugment: at most so many neighbouring frames of 10 ms are masked; 0: none", SIZE_OR_ZERO
    )
    mixup: float = option(
        0.0, "probability that a training clip is mixed with another, and their labels with it", PROBABILITY
    )
    roll_seconds: float = option(
        0.0, "training clips are rolled in time by at most so many seconds, either way", NOT_NEGATIVE
    )
    label_smoothing: float = option(0.0, "fraction of a training label that is spread over all classes", BELOW_ONE)
    balanced: bool = option(False, "draw training clips with weights so that rare classes come as often as common ones")


@dataclass
class FinetuningFields(ClassifierFields):
    """Fields of the `mae_ast_classifier` model as it is trained: those of the classifier, and how it learns."""

    pretrained: Optional[str] = option(
        None,
        "whose encoder to start from: a checkpoint (mae_ast, ssast, released, a classifier), a folder for the hub, "
        "USER/NAME on it, or tiny; none: from scratch",
    )
    freeze_finetune_updates: int = option(
        0,
        "the encoder is left as it is for so many updates; a number that is never reached makes a linear probe",
        NOT_NEGATIVE,
    )
    layer_decay: float = option(
        1.0,
        "learning rate of each encoder layer, as a fraction of that of the layer above; 1: the same for all",
        Range("more than 0 and at most 1", lambda value: 0 < value <= 1),
    )
    head_lr_scale: float = option(1.0, "learning rate of the head, as a multiple of optimization.lr", POSITIVE)


@dataclass
class ClassificationCriterionFields:
    """Fields of the `mae_ast_classification` criterion."""

    loss: str = option("cross_entropy", "cross_entropy (one label a clip) or binary_cross_entropy (any number of them)")


def check_classification_task(fields: ClassificationTaskFields) -> None:
    """Raise ConfigError where a field of the classification task cannot be used."""
    check_audio_task(ClassificationTaskFields, fields)
    if fields.fixed_size is not None and fields.max_sample_size is not None:
        raise ConfigError(
            f"task.fixed_size: {fields.fixed_size} was given with task.max_sample_size={fields.max_sample_size}; "
            "expected one of them: set task.max_sample_size=null"
        )
