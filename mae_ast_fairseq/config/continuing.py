"""What a run that goes on from a checkpoint may change: one list of every field of models, tasks and criterions.

A field stands in exactly one of NETWORK, DATA, OPTIMIZER, BATCHES and FREE, which a test checks. Only names are listed,
for a name means the same in every section.
"""

from typing import Any, NamedTuple

from mae_ast_fairseq.config.pretraining import EncoderFields, MaeAstFields, SsastFields

NETWORK = (
    *("ast_kernel_size_chan", "ast_kernel_size_time", "ast_kernel_stride_chan", "ast_kernel_stride_time"),
    *("encoder_layers", "encoder_embed_dim", "encoder_ffn_embed_dim", "encoder_attention_heads"),
    *("activation_fn", "layer_norm_first", "normalization", "max_token_length"),
    *("decoder_type", "decoder_layers", "decoder_embed_dim", "decoder_ffn_embed_dim", "decoder_attention_heads"),
    *("use_post_enc_proj", "enc_sine_pos", "dec_sine_pos"),
    *("positions", "labels", "readout", "readout_layers"),
)
"""What the network computes: the same weights mean another function, or do not fit."""

DATA = ("sample_rate", "feature_dim", "multi_label", "normalize")
"""What the numbers that go in and the targets mean."""

OPTIMIZER = ("layer_decay", "head_lr_scale")
"""What the optimiser's state holds, and would bring back: new values need a new optimiser."""

BATCHES = (
    *("seed", "data_weights", "max_sample_size", "min_sample_size", "max_keep_size", "fixed_size", "balanced"),
    *("pad_audio", "rebuild_batches"),
)
"""Which clips a batch holds: the place in an epoch has a meaning only where they agree."""

FREE = (
    *("dropout", "attention_dropout", "activation_dropout", "dropout_input", "head_dropout"),
    *("encoder_layerdrop", "decoder_layerdrop", "checkpoint_activations"),
    *("mask_type", "random_mask_prob", "mask_length", "head_init_scale"),
    *("pretrained", "freeze_finetune_updates"),
    *("frequency_mask", "time_mask", "mixup", "roll_seconds", "label_smoothing", "random_crop"),
    *("reconstruction_weight", "classification_weight", "loss"),
    *("data", "max_bad_fraction", "max_skipped_updates", "persistent_workers", "on_changed_data"),
    *("read_timeout_seconds", "log_reconstructions"),
)
"""What each run may choose anew; of `data`, it is what the manifests hold that is compared."""

BATCHES_OF_FAIRSEQ = (
    *("common.seed", "dataset.max_tokens", "dataset.batch_size", "dataset.required_batch_size_multiple"),
    *("dataset.grouped_shuffling", "dataset.update_ordered_indices_seed", "dataset.update_epoch_batch_itr"),
    *("dataset.curriculum", "optimization.skip_remainder_batch", "distributed_training.distributed_world_size"),
)
"""As BATCHES, of fairseq's sections."""

OPTIMIZER_OF_FAIRSEQ = (
    *("optimizer._name", "common.fp16", "common.bf16", "common.amp"),
    *("common.memory_efficient_fp16", "common.memory_efficient_bf16"),
)
"""As OPTIMIZER, of fairseq's sections."""

SCORE = (
    *("checkpoint.best_checkpoint_metric", "criterion.reconstruction_weight", "criterion.classification_weight"),
    *("criterion.loss", "model.random_mask_prob", "model.mask_length", "task.mask_type"),
    *("task.max_sample_size", "task.min_sample_size", "task.max_keep_size", "task.fixed_size"),
)
"""What the figure that chooses the best checkpoint is measured by, beside the clips of the validation."""


class Difference(NamedTuple):
    """A field that has another value than in a checkpoint."""

    field: str
    """its full name, such as `model.encoder_layers`"""
    given: Any
    stored: Any


def network(fields: EncoderFields) -> dict[str, Any]:
    """Return what of a model's fields the network depends on, so that two networks are the same where these are."""
    values = {name: value for name, value in vars(fields).items() if name in {*NETWORK, *DATA}}
    if not isinstance(fields, SsastFields) and values.get("positions") != "learned":
        del values["max_token_length"]  # sin/cos positions are computed
    if isinstance(fields, MaeAstFields):
        for name in ("ffn_embed_dim", "attention_heads"):  # 0: as the encoder
            values[f"decoder_{name}"] = values[f"decoder_{name}"] or values[f"encoder_{name}"]
    return values
