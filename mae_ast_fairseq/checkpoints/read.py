"""Checkpoints of ours and in the released layout, read without fairseq and without trusting the file.

Files of fairseq and of `mae-ast export`, told apart by their content. Only tensors and plain values are unpickled
(`weights_only=True`), every field must be known and of its declared type, and nothing in the file is evaluated or
interpolated.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Optional, get_type_hints

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mae_ast_fairseq.checkpoints.fields import (
    OF_TRAINING,
    check_fields,
    first_fields,
    refuse,
    section,
    select_fields,
    shown,
)
from mae_ast_fairseq.checkpoints.names import checkpoint_path
from mae_ast_fairseq.checkpoints.released import MODEL_TYPES as RELEASED_MODEL_TYPES
from mae_ast_fairseq.checkpoints.released import TASK_TYPES as RELEASED_TASK_TYPES
from mae_ast_fairseq.checkpoints.released import Released, set_aside, tensor_shapes
from mae_ast_fairseq.checkpoints.unpickling import FETCH_AGAIN, read_content
from mae_ast_fairseq.checkpoints.version import read_state
from mae_ast_fairseq.config.classification import ClassificationTaskFields, FinetuningFields
from mae_ast_fairseq.config.pretraining import EncoderFields, MaeAstFields, PretrainingTaskFields
from mae_ast_fairseq.errors import CheckpointError, ConfigError, get_logger
from mae_ast_fairseq.nn.build import MODELS
from mae_ast_fairseq.nn.encoder import SpectrogramEncoder

logger = get_logger(__name__)

HARMLESS_MODEL_FIELDS = (
    *("mask_channel_length", "mask_channel_prob", "mask_channel_selection", "mask_channel_other"),
    *("no_mask_channel_overlap", "mask_channel_min_space", "logit_temp", "skip_masked", "skip_nomask"),
    *("quant_noise_pq", "quant_noise_pq_block_size", "quant_noise_scalar", "final_dropout", "layerdrop"),
    *("fp16", "offload_activations", "min_params_to_wrap", "required_seq_len_multiple"),
)
"""Fields of fairseq's other audio models, which forks copy, that change nothing but training or memory."""

FORMER_TASK_FIELDS = (
    *("train_subset", "restore_file", "finetune_from_model", "save_dir", "planned_warmup", "planned_updates"),
)
"""Fields that checkpoints of earlier versions have, and nothing reads."""

TASK_TYPES = {
    "_name": Any,
    **dict.fromkeys(FORMER_TASK_FIELDS, Any),
    **get_type_hints(ClassificationTaskFields),
    **get_type_hints(PretrainingTaskFields),
    **RELEASED_TASK_TYPES,
    **dict.fromkeys(("data", "data_weights"), Any),
}
LEFT_OUT_TYPES = {
    "mae_ast": RELEASED_MODEL_TYPES,
    "mae_ast_classifier": get_type_hints(FinetuningFields),
}
"""Fields that files of a kind may have besides those of the model: of the released layout, and of training."""


class _NoInitialWeights(TorchFunctionMode):
    """Leaves weights unset that would be drawn, which takes seconds for a large model."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_):
            return kwargs["tensor"]
        return func(*args, **(kwargs or {}))


class Checkpoint(NamedTuple):
    """What a checkpoint holds of a model, checked: `state` fits the model that the fields before it describe."""

    path: Path
    kind: str
    """the model, a key of `nn.build.MODELS`"""
    model: EncoderFields
    """the model's fields, of the dataclass of its kind; those that the file does not have are the defaults"""
    feature_dim: int
    """number of log-Mel bands (F)"""
    mask_type: str
    """the strategy it was trained with, as the file spells it; the default where the file has none"""
    num_updates: Optional[int]
    """updates it was trained for; None where the file does not say"""
    state: dict[str, Tensor]
    """weights and buffers on the CPU, finite, of the file's precision and in its order"""
    released: Released = Released()
    """what a file in the released layout has besides"""


def read_checkpoint(path: str | Path, ignore_unknown: Collection[str] = ()) -> Checkpoint:
    """Read a checkpoint of one of our models, a released one, or what `mae-ast export` wrote, and check all in it.

    Args:
        path: a file, or what else `checkpoint_path` takes for a checkpoint's name.
        ignore_unknown: fields of `cfg.model` to leave out where they are unknown here; others that are unknown may
            change what the model computes and are refused. Unknown fields of `cfg.task` are only warned of.

    Raises CheckpointError, which names the file and the key: no such file, not a checkpoint, truncated, with code
    in it, of another kind of model, fields unknown, interpolated or of a wrong type, keys missing, unexpected or
    misshapen, weights that are not finite.
    """
    path = checkpoint_path(path)
    content = read_content(path)
    read_state(path, content.get("task_state"))
    cfg = section(path, content, "cfg")
    parts = {name: section(path, cfg, f"cfg.{name}") for name in ("model", "task")}
    kind = parts["model"].get("_name")
    if not isinstance(kind, str) or kind not in MODELS:
        refuse(path, f"cfg.model._name is {shown(kind)}", ", ".join(MODELS))
    model_types, task_types = get_type_hints(MODELS[kind].fields), get_type_hints(PretrainingTaskFields)
    known = {"_name": str, **dict.fromkeys(HARMLESS_MODEL_FIELDS, Any), **LEFT_OUT_TYPES.get(kind, {}), **model_types}
    ignored = set(ignore_unknown) - known.keys()
    parts["model"] = {name: value for name, value in parts["model"].items() if name not in ignored}
    if unknown := parts["model"].keys() - known.keys():
        found = f"cfg.model has fields that are unknown here ({first_fields(unknown)}) and may change what it computes"
        remedy = "where you know that they do not, add --ignore-unknown NAME, or ignore_unknown=[NAME] in Python"
        refuse(path, found, "the fields of this version", remedy)
    check_fields(path, "cfg.model", parts["model"], known)
    check_fields(path, "cfg.task", parts["task"], TASK_TYPES)
    if unknown := parts["task"].keys() - TASK_TYPES.keys():
        logger.warning("%s: cfg.task has fields that are unknown here and not read: %s", path, first_fields(unknown))
    task = PretrainingTaskFields(**select_fields(parts["task"], task_types))
    checkpoint = Checkpoint(
        path=path,
        kind=kind,
        model=MODELS[kind].fields(**select_fields(parts["model"], model_types)),
        feature_dim=task.feature_dim,
        mask_type=task.mask_type,
        num_updates=_num_updates(content),
        state=dict(section(path, content, "model")),
    )
    _check_state(checkpoint)
    if not isinstance(checkpoint.model, MaeAstFields):
        return checkpoint
    state, released = set_aside(checkpoint.model, task.feature_dim, {**cfg, **parts}, checkpoint.state)
    return checkpoint._replace(state=state, released=released)


def build_model(checkpoint: Checkpoint) -> SpectrogramEncoder:
    """Return the model of a checkpoint that was read, on the CPU, in evaluation mode."""
    with torch.random.fork_rng(devices=[]), _NoInitialWeights():  # memory that is not touched yet
        model = MODELS[checkpoint.kind].build(checkpoint.model, checkpoint.feature_dim)
    model.load_state_dict(checkpoint.state)
    return model.eval()


def build_untrained(checkpoint: Checkpoint, seed: int) -> SpectrogramEncoder:
    """Return the same network with initial weights drawn by `seed`, but with the checkpoint's input statistics."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MODELS[checkpoint.kind].build(checkpoint.model, checkpoint.feature_dim)
    statistics = {key: value for key, value in checkpoint.state.items() if key.startswith("batch_norm.")}
    model.load_state_dict(statistics, strict=False)
    return model.eval()


def _num_updates(content: Mapping[str, Any]) -> Optional[int]:
    """Return the number of updates that the file's last optimiser made; None where it does not say."""
    try:
        num_updates = content["optimizer_history"][-1]["num_updates"]
    except (LookupError, TypeError):
        return None
    return num_updates if type(num_updates) is int else None


def _check_state(checkpoint: Checkpoint) -> None:
    """Raise CheckpointError where the fields contradict each other or the weights do not fit them."""
    path, state = checkpoint.path, checkpoint.state
    expected = _expected(checkpoint)
    if isinstance(checkpoint.model, MaeAstFields):
        shapes = tensor_shapes(checkpoint.model, checkpoint.feature_dim)
        expected |= {key: str(shape) for key, shape in shapes.items() if key in state}
    _refuse_keys(path, "missing", expected.keys() - state.keys())
    _refuse_keys(path, "unexpected", state.keys() - expected.keys())
    found = {key: _described(value) for key, value in state.items()}
    misshapen = [f"{key} ({found[key]} instead of {shape})" for key, shape in expected.items() if found[key] != shape]
    _refuse_keys(path, "misshapen", misshapen)
    not_finite = [key for key, value in state.items() if value.is_meta or not torch.isfinite(value).all()]
    _refuse_keys(path, "NaN, infinite or without values", not_finite, FETCH_AGAIN)


def _expected(checkpoint: Checkpoint) -> dict[str, str]:
    """Describe the state of the model that a checkpoint's fields ask for, built without memory for its values."""
    try:
        with torch.device("meta"):
            state = MODELS[checkpoint.kind].build(checkpoint.model, checkpoint.feature_dim).state_dict()
    except ConfigError as error:
        raise CheckpointError(f"{checkpoint.path}: {error}") from None
    except (RuntimeError, TypeError, OverflowError) as error:  # more values than torch can count
        reason = str(error).splitlines()[0]
        refuse(checkpoint.path, f"cfg.model describes a model that cannot be built ({reason})", "one that fits")
    return {key: _described(value) for key, value in state.items()}


def _described(value: Any) -> str:
    """Return a tensor's shape, with its kind of number where that is not floating point of 16 bits or more."""
    if not isinstance(value, Tensor):
        return type(value).__name__
    is_float = value.is_floating_point() and value.element_size() >= 2
    number = "" if is_float else f" {value.dtype}"
    layout = "" if value.layout is torch.strided else f" {value.layout}"
    return f"{list(value.shape)}{number}{layout}".replace("torch.", "")


def _refuse_keys(path: Path, fault: str, keys: Collection[str], remedy: str = OF_TRAINING) -> None:
    if keys:
        found = f"{len(keys)} tensors" if len(keys) > 1 else "a tensor"
        names = first_fields([f"model.{key}" for key in keys])
        refuse(path, f"{found} {fault}: {names}", "the weights of the model that its cfg describes", remedy)
