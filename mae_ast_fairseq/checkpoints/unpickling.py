"""Files of torch.save and of safetensors, read without trusting them: tensors and plain values, nothing executed."""

import json
import re
import struct
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save

from mae_ast_fairseq.checkpoints.fields import refuse, section
from mae_ast_fairseq.files import open_regular

METADATA = "mae_ast_fairseq"
"""Key of a safetensors file's metadata that holds, as JSON, what a checkpoint of fairseq has besides its weights."""

FETCH_AGAIN = "copy or download it again, or take another checkpoint of the run"

_OLD_PICKLE = b"\x80\2"
_LENGTH_BYTES = 8  # a safetensors file begins with its header's length, then the header: JSON


def read_content(path: Path, mapped: bool = False) -> Mapping[str, Any]:
    """Return what a file holds, in the layout of a fairseq checkpoint: `cfg` and `model`, and others.

    mapped: values of tensors are read from the file only when they are looked at, where its format allows that.

    Raises CheckpointError: no such file, cannot be read, not a checkpoint, truncated, with code in it.
    """
    try:
        with open_regular(path) as file:
            start = file.read(_LENGTH_BYTES + 1)
    except OSError as error:
        found = f"it cannot be read ({error.strerror or error})" if path.exists() else "there is no such file"
        refuse(path, found, "a checkpoint", "name a file that is there and may be read, such as checkpoint_best.pt")
    if _begins_safetensors(start):
        return _read_safetensors(path)
    is_zip = start.startswith(b"PK")
    content = _unpickle(path, is_zip, mapped)
    if is_zip and not mapped and (fault := damage(path)):
        refuse(path, fault, "a whole checkpoint", FETCH_AGAIN)
    return section(path, {"content": content}, "content")


def is_safetensors(path: Path) -> bool:
    """Tell whether a file, which must be there, is one of safetensors, whatever its name."""
    with open_regular(path) as file:
        return _begins_safetensors(file.read(_LENGTH_BYTES + 1))


def _begins_safetensors(start: bytes) -> bool:
    return start[_LENGTH_BYTES:] == b"{"


def damage(path: Path) -> str | None:
    """Say what is wrong with the bytes of a file of torch.save, each record of which has a checksum; None: nothing.

    Pickles of old versions of torch and files of safetensors have no checksums.
    """
    try:
        with open_regular(path) as file:
            start = file.read(_LENGTH_BYTES + 1)
        if start.startswith(_OLD_PICKLE) or _begins_safetensors(start):
            return None
        with zipfile.ZipFile(path) as archive:
            record = archive.testzip()
    except (zipfile.BadZipFile, EOFError, ValueError, RuntimeError) as error:  # NotImplementedError is one of these
        return f"the file is truncated or damaged, at {path.stat().st_size} bytes ({error})"
    except (OSError, zlib.error) as error:
        return f"it cannot be read ({error})"
    return record and f"its record {record} is damaged: the checksum is another"


def as_safetensors(content: Mapping[str, Any]) -> bytes:
    """Return a safetensors file from which `read_content` reads `content`: all but `model` are plain values."""
    others = dict(content)
    state = others.pop("model").items()
    # Cloned: tensors of a file may share memory, which safetensors refuses.
    apart = {key: tensor.detach().clone(memory_format=torch.contiguous_format) for key, tensor in state}
    return save(apart, {METADATA: json.dumps(others, allow_nan=False)})


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
    except Exception as error:  # SafetensorError has no base of its own, and dtypes of torch may be missing
        reason = str(error).splitlines()[0].rpartition("header: ")[2]
        refuse(path, f"its safetensors header is broken ({reason})", "a whole file", FETCH_AGAIN)
    key = f"metadata.{METADATA}"
    if METADATA not in metadata:
        written = "weights with their config, as `mae-ast export --to safetensors` writes"
        refuse(path, f"{key} is missing: a safetensors file of another program", written, "export the checkpoint")
    try:
        content = json.loads(metadata[METADATA])
    except (ValueError, RecursionError) as error:
        refuse(path, f"{key} cannot be read ({str(error).splitlines()[0]})", "JSON", FETCH_AGAIN)
    return {**section(path, {METADATA: content}, key), "model": state}


def _unpickle(path: Path, is_zip: bool, mapped: bool) -> Any:
    """Load the tensors and plain values of a file of torch.save."""
    try:
        # Opened here, for torch looks at the end of a name; and of a strange file the error below says enough.
        with open_regular(path) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if mapped and is_zip:
                return torch.load(str(path), map_location="cpu", weights_only=True, mmap=True)
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken pickle may raise anything at all
        if unsafe := re.search(r"\bGLOBAL (\S+)", str(error)):
            found = f"its pickle holds code or objects ({unsafe[1]}), and nothing of it was executed"
            refuse(path, found, "tensors and plain values only")
        is_cut = isinstance(error, (EOFError, struct.error)) or "unexpected EOF" in str(error)
        cut = f"the file is truncated, at {path.stat().st_size} bytes"
        if fault := cut if is_cut else is_zip and damage(path):
            refuse(path, fault, "a whole checkpoint", FETCH_AGAIN)
        refuse(path, "this is not a checkpoint", "a file that torch.save or `mae-ast export` wrote", "correct the path")
