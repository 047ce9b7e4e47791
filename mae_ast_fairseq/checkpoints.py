"""Checkpoints of ours and in the released layout, read without fairseq and without trusting the file.

Only tensors and plain values are unpickled (`weights_only=True`), only fields that the model has are taken, each
of its declared type, and nothing in the file is evaluated or interpolated.
"""

import re
import struct
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, Optional, get_type_hints

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mae_ast_fairseq.config import MaeAstFields, PretrainingTaskFields
from mae_ast_fairseq.errors import CheckpointError, ConfigError
from mae_ast_fairseq.nn.autoencoder import MaskedAutoencoder
from mae_ast_fairseq.nn.build import autoencoder_arguments, unused_released_keys

MODEL_NAME = "mae_ast"
MAX_SHOWN = 3  # keys named in a message
MAX_VALUE_CHARACTERS = 60  # of a value shown in a message

_UNSAFE_GLOBAL = re.compile(r"\bGLOBAL (\S+)")
_OF_TRAINING = "take a file that fairseq's training wrote"
_FETCH_AGAIN = "copy or download it again, or take another checkpoint of the run"


class _NoInitialWeights(TorchFunctionMode):
    """Leaves weights unset that would be drawn, which takes seconds for a large model."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_):
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


class Checkpoint(NamedTuple):
    """What a checkpoint holds of a model, checked: `state` fits the model that `model` and `feature_dim` describe."""

    path: Path
    model: MaeAstFields
    """the model's fields; those that the file does not have are the defaults"""
    feature_dim: int
    """number of log-Mel bands (F)"""
    mask_type: str
    """the strategy it was trained with, as the file spells it"""
    num_updates: Optional[int]
    """updates it was trained for; None where the file does not say"""
    state: dict[str, Tensor]
    """weights and buffers on the CPU, finite, without the released tensors that have no use"""


def load_autoencoder(path: str | Path, device: str | torch.device = "cpu") -> MaskedAutoencoder:
    """Return the model of a checkpoint in evaluation mode; raises CheckpointError as `read_checkpoint` does."""
    return build_autoencoder(read_checkpoint(path)).to(device)


def build_autoencoder(checkpoint: Checkpoint) -> MaskedAutoencoder:
    """Return the model of a checkpoint that was read, on the CPU, in evaluation mode."""
    model = _empty_autoencoder(checkpoint)
    model.load_state_dict(checkpoint.state)
    return model.eval()


def build_untrained(checkpoint: Checkpoint, seed: int) -> MaskedAutoencoder:
    """Return the same network with initial weights drawn by `seed`, but with the checkpoint's input statistics."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MaskedAutoencoder(**autoencoder_arguments(checkpoint.model, checkpoint.feature_dim))
    prefix = "batch_norm."
    buffers = {key.removeprefix(prefix): value for key, value in checkpoint.state.items() if key.startswith(prefix)}
    model.batch_norm.load_state_dict(buffers)
    return model.eval()


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint of `mae_ast` and check all that is in it.

    Raises CheckpointError, which names the file and the key: no such file, not a checkpoint, truncated, with code
    in it, of another kind of model, fields missing or of a wrong type, keys missing, unexpected or misshapen,
    weights that are not finite.
    """
    path = Path(path)
    content = _mapping(path, _unpickle(path), "")
    cfg = _mapping(path, _entry(path, content, "cfg"), "cfg")
    model_cfg = _mapping(path, _entry(path, cfg, "cfg.model"), "cfg.model")
    task_cfg = _mapping(path, _entry(path, cfg, "cfg.task"), "cfg.task")
    _check_kind(path, model_cfg)
    fields = MaeAstFields(**_typed_values(path, "cfg.model", model_cfg, get_type_hints(MaeAstFields)))
    task = PretrainingTaskFields(**_typed_values(path, "cfg.task", task_cfg, {"feature_dim": int, "mask_type": str}))
    state = _mapping(path, _entry(path, content, "model"), "model")
    checkpoint = Checkpoint(
        path=path,
        model=fields,
        feature_dim=task.feature_dim,
        mask_type=task.mask_type,
        num_updates=_num_updates(content),
        state={key: state[key] for key in state.keys() - set(unused_released_keys(state))},
    )
    _check_state(checkpoint)
    return checkpoint


def _refuse(path: Path, found: str, expected: str, remedy: str) -> NoReturn:
    raise CheckpointError(f"{path}: {found}; expected {expected}; {remedy}")


# --- the file


def _unpickle(path: Path) -> Any:
    """Load a file's tensors and plain values, whatever is wrong with it as a CheckpointError."""
    if not path.exists():
        _refuse(path, "there is no such file", "a checkpoint", "correct the path")
    if path.is_dir():
        _refuse(path, "this is a folder", "a checkpoint", "name a file in it, such as checkpoint_best.pt")
    try:
        path.open("rb").close()
    except OSError as error:
        _refuse(path, f"it cannot be read ({error.strerror or error})", "a checkpoint", "correct its permissions")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a strange file the error below says enough
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken pickle may raise anything at all
        _refuse_unpickled(path, error)


def _refuse_unpickled(path: Path, error: Exception) -> NoReturn:
    """Say in one line why torch could not load a file."""
    if unsafe := _UNSAFE_GLOBAL.search(str(error)):
        _refuse(
            path,
            f"its pickle holds code or objects ({unsafe[1]}), and nothing of it was executed",
            "tensors and plain values only",
            _OF_TRAINING,
        )
    with path.open("rb") as file:
        is_zip = file.read(2) == b"PK"
    is_cut = isinstance(error, (EOFError, struct.error)) or "unexpected EOF" in str(error)
    if is_cut or (is_zip and not zipfile.is_zipfile(path)):
        _refuse(path, f"the file is truncated, at {path.stat().st_size} bytes", "a whole checkpoint", _FETCH_AGAIN)
    _refuse(path, "this is not a checkpoint", "a file that torch.save wrote", "correct the path")


# --- its config


def _mapping(path: Path, value: Any, key: str) -> Mapping[str, Any]:
    """Return `value` where it is a mapping with text for keys; `key` is '' for the file's whole content."""
    if isinstance(value, Mapping) and all(isinstance(name, str) for name in value):
        return value
    what = f"{key} is" if key else "it holds"
    _refuse(path, f"{what} {type(value).__name__}", "a mapping of names", _OF_TRAINING)


def _entry(path: Path, mapping: Mapping[str, Any], key: str) -> Any:
    """Return the entry of `mapping` that a full key such as `cfg.model` ends with."""
    name = key.rpartition(".")[2]
    if name in mapping:
        return mapping[name]
    expected = "the layout of fairseq: cfg (model, task) and model (weights)"
    _refuse(path, f"{key} is missing", expected, _OF_TRAINING)


def _check_kind(path: Path, model_cfg: Mapping[str, Any]) -> None:
    name = _entry(path, model_cfg, "cfg.model._name")
    if name != MODEL_NAME:
        found = f"cfg.model._name is {_shown(name)}: a checkpoint of another kind of model"
        _refuse(path, found, MODEL_NAME, "give a checkpoint of MAE-AST pretraining")


def _typed_values(path: Path, key: str, values: Mapping[str, Any], types: Mapping[str, type]) -> dict[str, Any]:
    """Return those of `values` that `types` knows, each checked; what else released files have is of no use."""
    return {name: _typed(path, f"{key}.{name}", values[name], types[name]) for name in types if name in values}


def _typed(path: Path, key: str, value: Any, kind: type) -> Any:
    if isinstance(value, str) and "${" in value:
        _refuse(path, f"{key} is {_shown(value)}", "a value", "interpolations are not resolved: write the value itself")
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:  # not isinstance: True is an int too
        _refuse(path, f"{key} is {_shown(value)}", f"{kind.__name__}", _OF_TRAINING)
    return value


def _shown(value: Any) -> str:
    """Return a value for a message, in one short line."""
    text = repr(value) if isinstance(value, (str, int, float, type(None))) else type(value).__name__
    return text if len(text) <= MAX_VALUE_CHARACTERS else text[:MAX_VALUE_CHARACTERS] + "..."


def _num_updates(content: Mapping[str, Any]) -> Optional[int]:
    """Return the number of updates that the file's last optimiser made; None where it does not say."""
    history = content.get("optimizer_history")
    last = history[-1] if isinstance(history, list) and history else None
    num_updates = last.get("num_updates") if isinstance(last, Mapping) else None
    return num_updates if type(num_updates) is int else None


# --- its weights


def _empty_autoencoder(checkpoint: Checkpoint) -> MaskedAutoencoder:
    """Return the model that a checkpoint's fields describe, its weights not set: memory that is not touched yet."""
    with torch.random.fork_rng(devices=[]), _NoInitialWeights():
        return MaskedAutoencoder(**autoencoder_arguments(checkpoint.model, checkpoint.feature_dim))


def _check_state(checkpoint: Checkpoint) -> None:
    """Raise CheckpointError where the fields contradict each other or the weights do not fit them."""
    path, state = checkpoint.path, checkpoint.state
    try:
        expected = _empty_autoencoder(checkpoint).state_dict()
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except RuntimeError as error:  # torch cannot allocate what the fields ask for
        reason = str(error).splitlines()[0]
        _refuse(path, f"cfg.model describes a model that cannot be built ({reason})", "one that fits", _OF_TRAINING)
    others = {key: type(value).__name__ for key, value in state.items() if not _is_plain_tensor(value)}
    _refuse_keys(path, "not plain tensors", [f"{key} ({kind})" for key, kind in others.items()])
    _refuse_keys(path, "missing", expected.keys() - state.keys())
    _refuse_keys(path, "unexpected", state.keys() - expected.keys())
    misshapen = [
        f"{key} ({_kind(state[key])} instead of {_kind(value)})"
        for key, value in expected.items()
        if _kind(state[key]) != _kind(value)
    ]
    _refuse_keys(path, "misshapen", misshapen)
    not_finite = [key for key in expected if not torch.isfinite(state[key]).all()]
    _refuse_keys(path, "NaN or infinite", not_finite, _FETCH_AGAIN)


def _is_plain_tensor(value: Any) -> bool:
    return isinstance(value, Tensor) and value.layout is torch.strided and not value.is_quantized


def _kind(tensor: Tensor) -> str:
    """Name a tensor's shape, and its kind of number where that is not floating point of any width."""
    number = "" if tensor.is_floating_point() else f" {tensor.dtype}".replace("torch.", "")
    return f"{list(tensor.shape)}{number}"


def _refuse_keys(path: Path, fault: str, keys: Any, remedy: str = _OF_TRAINING) -> None:
    names = sorted(keys)
    if names:
        more = f" and {len(names) - MAX_SHOWN} more" if len(names) > MAX_SHOWN else ""
        found = f"{len(names)} tensors" if len(names) > 1 else "a tensor"
        shown = ", ".join(f"model.{name}" for name in names[:MAX_SHOWN])
        _refuse(path, f"{found} {fault}: {shown}{more}", "the weights of the model that its cfg describes", remedy)
