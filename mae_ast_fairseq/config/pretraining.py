"""Plain dataclasses of the fields of model, task and criterion, with help and units.

The registered fairseq configs derive from these. Names are those of the released checkpoints where they have them; a
field that a file does not have takes the default given here, so the defaults are the released behaviour, and our
recipes under `examples/` say where they differ.
"""

import dataclasses
import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Optional

from mae_ast_fairseq.errors import ConfigError


class Range(NamedTuple):
    """The numbers that a field takes."""

    expected: str
    """in words"""
    holds: Callable[[float], bool]
    """whether a number is one of them; NaN never is"""


POSITIVE = Range("more than 0", lambda value: 0 < value < math.inf)
NOT_NEGATIVE = Range("0 or more", lambda value: 0 <= value < math.inf)
PICTURES = Range("0 to 64", lambda value: 0 <= value <= 64)
NUM_SAMPLES = Range("1 to 10^12", lambda value: 1 <= value <= 10**12)
BELOW_ONE = Range("at least 0 and less than 1", lambda value: 0 <= value < 1)
SIZE = Range("1 to 1,000,000", lambda value: 1 <= value <= 1_000_000)
SIZE_OR_ZERO = Range("0 to 1,000,000", lambda value: 0 <= value <= 1_000_000)
BANDS = Range("1 to 10,000", lambda value: 1 <= value <= 10_000)  # a frame of 25 ms has 257 frequencies
LAYERS = Range("1 to 1,000", lambda value: 1 <= value <= 1_000)
"""Beyond these, building a model takes hours or all memory; 1,000,000 frame tokens are 5.5 hours of audio."""
PROBABILITY = Range("0 to 1", lambda value: 0 <= value <= 1)


_NUM_SHOWN = 40  # digits of a number in a message


def option(default: Any, text: str, numbers: Optional[Range] = None) -> Any:
    """Return a dataclass field with a default, its help, and the numbers it takes; None is always taken."""
    return field(default=default, metadata={"help": text, "numbers": numbers})


def check_ranges(section: str, kind: type, fields: Any) -> None:
    """Raise ConfigError where a number in `fields` is not one that its field of the dataclass `kind` takes."""
    for each in dataclasses.fields(kind):
        numbers: Optional[Range] = each.metadata.get("numbers")
        if numbers is None:
            continue
        value = getattr(fields, each.name)
        if value is not None and not numbers.holds(value):
            shown = f"{value}"[:_NUM_SHOWN]
            raise ConfigError(f"{section}.{each.name}: {shown} was given; expected {numbers.expected}")


def _normalization(default: str) -> Any:
    return option(default, "input statistics: dataset (fixed, computed once), batch (BatchNorm), utterance")


@dataclass
class EncoderFields:
    """Fields that every model has: the tokens, and the encoder that reads them."""

    ast_kernel_size_chan: int = option(128, "height of a token in Mel bands: 16 for patches, 128 for frames", SIZE)
    ast_kernel_size_time: int = option(2, "width of a token in frames of 10 ms: 16 for patches, 2 for frames", SIZE)
    ast_kernel_stride_chan: int = option(128, "distance between tokens in Mel bands; MAE-AST: the kernel's", SIZE)
    ast_kernel_stride_time: int = option(2, "distance between tokens in frames of 10 ms; MAE-AST: the kernel's", SIZE)

    encoder_layers: int = option(12, "layers of the encoder (6 in the paper's ablations)", LAYERS)
    encoder_embed_dim: int = option(768, "width of the encoder", SIZE)
    encoder_ffn_embed_dim: int = option(3072, "width of the encoder's feed-forward layers", SIZE)
    encoder_attention_heads: int = option(12, "attention heads of the encoder", SIZE)
    activation_fn: str = option("gelu", "activation of the feed-forward layers: gelu (erf) or relu")
    layer_norm_first: bool = option(False, "LayerNorm before attention and feed-forward instead of after them")

    dropout: float = option(0.1, "dropout at each layer's output and at a stack's input", BELOW_ONE)
    attention_dropout: float = option(
        0.1, "dropout of attention weights; on CPU 0, or attention is not fused", BELOW_ONE
    )
    activation_dropout: float = option(0.0, "dropout after the activation of the feed-forward layers", BELOW_ONE)
    dropout_input: float = option(0.1, "dropout of the projected tokens, only when masking", BELOW_ONE)
    encoder_layerdrop: float = option(0.05, "probability of leaving out an encoder layer in an update", BELOW_ONE)

    max_token_length: int = option(2048, "positions: those computed in advance, or the number that is learned", SIZE)
    normalization: str = _normalization("batch")
    checkpoint_activations: bool = option(
        False, "recompute each layer in the backward pass: less memory, one forward pass more"
    )


@dataclass
class MaskingFields:
    """Fields of how a model that is pretrained masks its tokens and starts to predict them."""

    random_mask_prob: float = option(0.75, "fraction of tokens that are masked, inside (0, 1)", POSITIVE)
    mask_length: int = option(10, "length in tokens of a masked span: frame tokens with chunk_mask", SIZE)
    head_init_scale: float = option(
        1.0,
        "initial weights and biases of the two heads, as a multiple of torch's; 0.01: predictions start near zero",
        POSITIVE,
    )


@dataclass
class MaeAstFields(MaskingFields, EncoderFields):
    """Fields of the `mae_ast` model."""

    decoder_type: str = option("transformer", "what predicts the masked tokens: transformer")
    decoder_layers: int = option(2, "layers of the decoder", LAYERS)
    decoder_embed_dim: int = option(768, "width of the decoder; other than the encoder's: use_post_enc_proj", SIZE)
    decoder_ffn_embed_dim: int = option(
        0, "width of the decoder's feed-forward layers; 0: as the encoder", SIZE_OR_ZERO
    )
    decoder_attention_heads: int = option(0, "attention heads of the decoder; 0: as the encoder", SIZE_OR_ZERO)
    use_post_enc_proj: bool = option(False, "linear layer between encoder and decoder")
    decoder_layerdrop: float = option(0.0, "probability of leaving out a decoder layer in an update", BELOW_ONE)
    enc_sine_pos: bool = option(True, "sin/cos positions at the encoder's input")
    dec_sine_pos: bool = option(True, "sin/cos positions at the decoder's input")


@dataclass
class SsastFields(MaskingFields, EncoderFields):
    """Fields of the `ssast` model: `max_token_length` positions are learned."""

    normalization: str = _normalization("dataset")


@dataclass
class ClassifierFields(EncoderFields):
    """Fields of the `mae_ast_classifier` model: an encoder, what is read out of it, and one linear layer."""

    normalization: str = _normalization("dataset")
    positions: str = option("sinusoidal", "sinusoidal (MAE-AST), learned (SSAST, AST) or none")
    labels: list[str] = field(
        default_factory=list, metadata={"help": "names of the classes in the order of the head; the task fills them in"}
    )
    multi_label: bool = option(False, "a clip may have many labels: probabilities by sigmoid; as task.multi_label")
    readout: str = option("mean", "a clip's vector: mean, mean+max, mean+std; of patches also bands, bands+max")
    readout_layers: str = option("last", "the layers that are read out: last, all, or numbers from 1, in quotes: '2,4'")
    head_dropout: float = option(0.0, "dropout of what is read out, before the linear layer", BELOW_ONE)


@dataclass
class AudioTaskFields:
    """Fields that every task has; sizes count samples at `sample_rate`."""

    data: Any = option(  # noqa: RUF009
        "???",
        "folder of {split}.tsv; several, separated by `:`, are trained on together; or a list [/a,/b], whose folders "
        "may have a `:` in their names",
    )
    seed: int = option("${common.seed}", "of every random draw; common.seed")
    sample_rate: int = option(16_000, "rate in Hz of the model's input; files of other rates are resampled")
    feature_dim: int = option(128, "number of log-Mel bands; with a pretrained model, that model's", BANDS)
    max_sample_size: Optional[int] = option(None, "longer clips are cropped to this many samples", NUM_SAMPLES)
    min_sample_size: Optional[int] = option(None, "shorter clips are left out, in samples", NUM_SAMPLES)
    max_keep_size: Optional[int] = option(None, "longer clips are left out, in samples", NUM_SAMPLES)
    random_crop: bool = option(True, "crop at a random place; false, and validation of classes: keep the start")
    max_bad_fraction: float = option(
        0.01,
        "fraction of a manifest's files that may prove broken (and are replaced) before the run stops",
        PROBABILITY,
    )
    max_skipped_updates: int = option(
        10, "updates whose gradient is NaN or infinite, and which are skipped, before the run stops", NOT_NEGATIVE
    )
    read_timeout_seconds: int = option(
        600, "seconds without a batch from the loader processes, before the run stops; 0: no limit", NOT_NEGATIVE
    )
    rebuild_batches: bool = option(
        True, "new batches each epoch; needed for a resumed run to see the batches of an uninterrupted one"
    )
    on_changed_data: str = option(
        "restart", "resuming within an epoch on other clips or batches: restart (that epoch) or refuse"
    )
    persistent_workers: bool = option(True, "loader workers live on between epochs")


@dataclass
class PretrainingTaskFields(AudioTaskFields):
    """Fields of the `mae_ast_pretraining` task."""

    data_weights: Any = option(  # noqa: RUF009
        None,
        "fraction in (0, 1] of each folder's clips that an epoch draws, at random, as in 1:0.25 or [1,0.25]; what is "
        "less than a clip is carried over to later epochs; none: all",
    )
    normalize: bool = option(False, "waveforms to mean 0 and std 1, which scripts for HuBERT ask: always false")
    mask_type: str = option("random_mask", "random_mask, random_mask_batched (one for the batch) or chunk_mask")
    pad_audio: bool = option(False, "pad a batch to its longest clip; false: crop it to its shortest")
    log_reconstructions: int = option(
        0,
        "clips of the first validation set whose reconstruction each validation draws: in pictures/ of the run's "
        "folder, and in TensorBoard; a second for each, for which other processes wait; 0: none",
        PICTURES,
    )


@dataclass
class PretrainingCriterionFields:
    """Fields of the `mae_ast` criterion."""

    reconstruction_weight: float = option(10.0, "weight of the reconstruction error; 0: leave it out", NOT_NEGATIVE)
    classification_weight: float = option(1.0, "weight of InfoNCE; 0: leave it out", NOT_NEGATIVE)


def require_choice(name: str, value: str, choices: Collection[str]) -> None:
    """Raise ConfigError unless `value` is one of `choices`; `name` is the field, as in `task.mask_type`."""
    if value not in choices:
        raise ConfigError(f"{name}: {value!r} is unknown; expected one of {', '.join(sorted(choices))}")


def require_multiple(name: str, value: int, of_name: str, of: int) -> None:
    """Raise ConfigError unless `value` can be divided by `of` without rest."""
    if of <= 0 or value % of:
        raise ConfigError(f"{name}: {value} cannot be divided by {of_name}={of}; choose a multiple of it")


def require_even(name: str, width: int) -> None:
    """Raise ConfigError unless a width can hold pairs of sin and cos."""
    if width % 2:
        raise ConfigError(f"{name}: {width} was given; expected an even number for sin/cos positions")


def check_encoder(kind: type[EncoderFields], fields: EncoderFields) -> None:
    """Raise ConfigError where a field of a model, one of `kind`, cannot be used; the token grid checks itself."""
    check_ranges("model", kind, fields)
    heads = fields.encoder_attention_heads
    require_multiple("model.encoder_embed_dim", fields.encoder_embed_dim, "model.encoder_attention_heads", heads)


def check_mae_ast(fields: MaeAstFields) -> None:
    """Raise ConfigError where the fields of MAE-AST contradict each other."""
    check_encoder(MaeAstFields, fields)
    require_multiple(
        "model.decoder_embed_dim",
        fields.decoder_embed_dim,
        "model.decoder_attention_heads",
        fields.decoder_attention_heads or fields.encoder_attention_heads,
    )
    if fields.enc_sine_pos:
        require_even("model.encoder_embed_dim", fields.encoder_embed_dim)
    if fields.dec_sine_pos:
        require_even("model.decoder_embed_dim", fields.decoder_embed_dim)
    if fields.decoder_embed_dim != fields.encoder_embed_dim and not fields.use_post_enc_proj:
        raise ConfigError(
            f"model.decoder_embed_dim: {fields.decoder_embed_dim} differs from "
            f"model.encoder_embed_dim={fields.encoder_embed_dim}; set model.use_post_enc_proj=true"
        )


def check_audio_task(kind: type[AudioTaskFields], fields: AudioTaskFields) -> None:
    """Raise ConfigError where a field of a task, one of `kind`, cannot be used."""
    check_ranges("task", kind, fields)
    if fields.sample_rate != 16_000:
        raise ConfigError(
            f"task.sample_rate: {fields.sample_rate} was given; expected 16000, the rate of the model's filterbank "
            "(files of any rate are resampled to it)"
        )
    shortest, longest = fields.min_sample_size, fields.max_keep_size
    if shortest is not None and longest is not None and longest < shortest:
        raise ConfigError(
            f"task.max_keep_size: {longest} was given with task.min_sample_size={shortest}, which leaves no clip; "
            "raise it or lower the other"
        )


def check_pretraining_task(fields: PretrainingTaskFields) -> None:
    """Raise ConfigError where a field of the pretraining task cannot be used."""
    check_audio_task(PretrainingTaskFields, fields)
    if fields.normalize:
        raise ConfigError(
            "task.normalize: true was given; expected false: the filterbank takes waveforms as they are, and "
            "model.normalization normalises what it gives"
        )
    if fields.data_weights is not None and not fields.rebuild_batches:
        raise ConfigError(
            "task.rebuild_batches: false was given with task.data_weights, which would draw the same clips in every "
            "epoch; set task.rebuild_batches=true"
        )


def check_pretraining_criterion(fields: PretrainingCriterionFields) -> None:
    """Raise ConfigError where a weight is negative or both are zero."""
    check_ranges("criterion", PretrainingCriterionFields, fields)
    if fields.reconstruction_weight == 0 and fields.classification_weight == 0:
        raise ConfigError(
            "criterion.reconstruction_weight, criterion.classification_weight: both are 0, which leaves nothing to "
            "learn; set at least one above 0"
        )
