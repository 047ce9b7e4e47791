"""Mutated checkpoints of torch.save, zipped and old, and of safetensors: their bytes, their pickles, their content."""

import copy
import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mae_ast_fairseq.checkpoints.read import build_model, read_checkpoint
from mae_ast_fairseq.checkpoints.unpickling import as_safetensors, damage
from mae_ast_fairseq.checkpoints.version import own_state
from mae_ast_fairseq.config.pretraining import ClassifierFields, MaeAstFields, SsastFields
from mae_ast_fairseq.errors import UserError
from mae_ast_fairseq.nn.build import MODELS
from mae_ast_fairseq.tasks.resume import read_stored
from tests.fuzz.harness import Subject, is_one_line, require
from tests.fuzz.mutations import mutate
from tests.fuzz.texts import ODD_TEXTS, draw

_SIZES = {
    **{f"ast_kernel_{what}_{axis}": 16 for what in ("size", "stride") for axis in ("chan", "time")},
    **{"encoder_layers": 1, "encoder_embed_dim": 16, "encoder_ffn_embed_dim": 16, "encoder_attention_heads": 2},
    **{"max_token_length": 64, "normalization": "dataset"},
}
_FIELDS = {
    "mae_ast": MaeAstFields(**_SIZES, decoder_layers=1, decoder_embed_dim=16),
    "ssast": SsastFields(**_SIZES),
    "mae_ast_classifier": ClassifierFields(**_SIZES, labels=["dog", "rain"]),
}
_ODD_VALUES: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 3, 2**31 - 1, 2**31, 2**63 - 1, 2**63, -(2**63), 10**400, 1e308, 0.5, 1e-300),
    *(float("nan"), float("inf"), [], {}, [1], {"a": 1}, {1: 2}, "7", "???", "${oc.env:HOME}", "mae_ast", b"x", (1, 2)),
    *(torch.zeros(2), [[[[]]]], ["dog", "dog"], ["\x1b[31m", "a\nb"], *ODD_TEXTS[:-1]),
)
_ODD_TENSORS = (
    lambda tensor: tensor * float("nan"),
    lambda tensor: tensor.double(),
    lambda tensor: tensor.bfloat16(),
    lambda tensor: tensor.int(),
    lambda tensor: tensor.bool(),
    lambda tensor: tensor.to(torch.complex64),
    lambda tensor: tensor.to(torch.float8_e4m3fn),
    lambda tensor: tensor.to_sparse(),
    lambda tensor: tensor.to("meta"),
    lambda tensor: tensor.flatten(),
    lambda tensor: tensor[None],
    lambda tensor: tensor.reshape(-1)[:0],
    lambda tensor: tensor.reshape(-1)[:1].expand(2**40),
    lambda tensor: tensor.t() if tensor.dim() == 2 else tensor,
    lambda tensor: torch.quantize_per_tensor(tensor.float(), 0.1, 0, torch.quint8),
    lambda tensor: torch.nn.Parameter(tensor) if tensor.is_floating_point() else tensor,
    lambda tensor: "a text",
)


def _prepare(folder: Path) -> list[dict[str, Any]]:
    contents = []
    for kind, fields in _FIELDS.items():
        torch.manual_seed(0)
        model = MODELS[kind].build(fields, 128)
        model.batch_norm.set_statistics(-6.0, 3.0)
        contents.append(
            {
                "cfg": {
                    "model": {"_name": kind, **vars(fields)},
                    "task": {"_name": "a", "feature_dim": 128, "seed": 1},
                },
                "model": dict(model.state_dict()),
                "optimizer_history": [{"num_updates": 7}],
                "task_state": own_state(clips={"train": {"num_clips": 1, "fingerprint": "a"}}),
                "extra_state": {"train_iterator": {"epoch": 1}},
                "last_optimizer_state": None,
            }
        )
    return contents


def _odd_content(content: dict[str, Any], rng: np.random.Generator) -> Any:
    """Change some fields, names, tensors or whole parts of a checkpoint."""
    content = copy.deepcopy(content)
    for _ in range(rng.integers(0, 3)):
        part = draw([content, content["cfg"], *[content["cfg"].get("model"), content["cfg"].get("task")] * 3], rng)
        if isinstance(part, dict) and part is not content:
            part[draw([*part, *ODD_TEXTS[:-1]], rng)] = draw(_ODD_VALUES, rng)
        elif rng.random() < 0.3:
            content[draw([name for name in content if name not in ("cfg", "model")], rng)] = draw(_ODD_VALUES, rng)
        if not isinstance(content.get("cfg"), dict):
            return content
    state = content["model"]
    for _ in range(rng.integers(0, 2)):
        name = draw(list(state), rng)
        state[name] = draw(_ODD_TENSORS, rng)(state[name])
        if rng.random() < 0.2:
            state[draw(ODD_TEXTS[:-1], rng)] = state.pop(name)
    for name in ("cfg", "model"):
        if rng.random() < 0.02:
            content[name] = draw(_ODD_VALUES, rng)
    return draw(_ODD_VALUES, rng) if rng.random() < 0.02 else content


def _make(contents: list[dict[str, Any]], rng: np.random.Generator) -> bytes:
    content = draw(contents, rng)
    is_zip = rng.random() < 0.7
    if rng.random() < 0.6:
        return _saved(_odd_content(content, rng), is_zip)
    data = _saved(content, is_zip)
    return _with_other_records(data, rng) if is_zip and rng.random() < 0.7 else mutate(data, rng)


def _saved(content: Any, is_zip: bool) -> bytes:
    stream = io.BytesIO()
    try:
        torch.save(content, stream, _use_new_zipfile_serialization=is_zip)
    except (RuntimeError, NotImplementedError):  # of what the old form cannot hold
        torch.save(None, stream)
    return stream.getvalue()


def _with_other_records(data: bytes, rng: np.random.Generator) -> bytes:
    """Mutate a record of a zipped checkpoint, and write checksums that fit."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(stream, "w") as target:
        records = {name: source.read(name) for name in source.namelist()}
        pickles = [name for name in records if name.endswith("data.pkl")]
        chosen = draw(pickles if rng.random() < 0.8 else list(records), rng)
        for name, record in records.items():
            if name != chosen or rng.random() < 0.95:
                target.writestr(name, mutate(record, rng) if name == chosen else record)
    return stream.getvalue()


def _make_safetensors(contents: list[dict[str, Any]], rng: np.random.Generator) -> bytes:
    content = _odd_content(draw(contents, rng), rng) if rng.random() < 0.6 else draw(contents, rng)
    try:
        data = as_safetensors(content)
    except Exception:  # what safetensors or JSON cannot hold
        data = as_safetensors(contents[0])
    if rng.random() < 0.5:
        return data
    length = int.from_bytes(data[:8], "little")
    header, values = data[8 : 8 + length], data[8 + length :]
    header = mutate(header, rng)
    length = len(header) if rng.random() < 0.8 else int(draw((0, 1, 2**31, 2**63, 2**64 - 1, 100_000_001), rng))
    return length.to_bytes(8, "little") + header + (values if rng.random() < 0.8 else mutate(values, rng))


def _attempt(data: bytes, folder: Path) -> None:
    path = folder / "checkpoint.pt"
    path.write_bytes(data)
    fault = damage(path)
    require(fault is None or is_one_line(fault), f"the fault {str(fault)[:3_000]!r}")
    refused = None
    try:
        stored = read_stored(path, "checkpoint.restore_file")
        require(isinstance(stored.cfg["model"], Mapping) and isinstance(stored.kind, str), str(stored)[:500])
    except UserError as error:
        refused = error
        require(is_one_line(error), f"the message {str(error)[:3_000]!r}")
    checkpoint = read_checkpoint(path)
    if refused:
        raise refused
    model = build_model(checkpoint)
    for name, value in model.state_dict().items():
        require(bool(torch.isfinite(value).all()), f"{name} is not finite")
    frames = torch.zeros(1, 64, checkpoint.feature_dim)
    features, _ = model.extract_features(frames)
    require(isinstance(features, Tensor) and features.dim() == 3, "no features")


CHECKPOINTS = Subject(3_000, _prepare, _make, _attempt)
SAFETENSORS = Subject(1_500, _prepare, _make_safetensors, _attempt)
