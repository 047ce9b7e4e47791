"""Files of torch.save and of safetensors, read without trusting them: tensors and plain values, nothing executed."""

import json
import os
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
from torch import Tensor

from mae_ast_fairseq.checkpoints.fields import refuse, section
from mae_ast_fairseq.checkpoints.names import CONFIG, WEIGHTS
from mae_ast_fairseq.files import open_regular

METADATA = "mae_ast_fairseq"
"""Key of a safetensors file's metadata that holds, as JSON, what a checkpoint of fairseq has besides its weights.

It is one of `config.json` where that, as on the Hugging Face hub, lies beside a file without it.
"""

MAX_CONFIG_BYTES = 2**24  # of tens of thousands of labels
EXPORT = "export the checkpoint with `mae-ast export --to safetensors` or `--to huggingface`"
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
        is_there = os.path.lexists(path)  # never raises, whatever a name holds
        found = f"it cannot be read ({error.strerror or error})" if is_there else "there is no such file"
        refuse(path, found, "a checkpoint", "name a file that is there and may be read, such as checkpoint_best.pt")
    if _begins_safetensors(start):
        return _read_safetensors(path)
    if path.name == WEIGHTS:  # as a stranger's from the hub
        refuse(path, "it is no file of safetensors", "one", "get it from its author again")
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
    others = {name: value for name, value in content.items() if name != "model"}
    return _weights(content["model"], {METADATA: json.dumps(others, allow_nan=False)})


def as_folder(content: Mapping[str, Any]) -> dict[str, bytes]:
    """Return the files of a model on the Hugging Face hub, by their names, from which `read_content` reads `content`.

    The config is for people and other programs to read, and what stands in it counts.
    """
    others = {name: value for name, value in content.items() if name != "model"}
    config = {"model_type": content["cfg"]["model"]["_name"], METADATA: others}
    text = json.dumps(config, indent=2, allow_nan=False, ensure_ascii=False)
    return {WEIGHTS: _weights(content["model"], {"format": "pt"}), CONFIG: f"{text}\n".encode()}


def _weights(state: Mapping[str, Tensor], metadata: dict[str, str]) -> bytes:
    """Return a safetensors file of some tensors and metadata."""
    # Cloned: tensors of a file may share memory, which safetensors refuses.
    apart = {key: tensor.detach().clone(memory_format=torch.contiguous_format) for key, tensor in state.items()}
    return save(apart, metadata)


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
    except Exception as error:  # SafetensorError has no base of its own, and dtypes of torch may be missing
        reason = str(error).splitlines()[0].rpartition("header: ")[2]
        refuse(path, f"its safetensors header is broken ({reason})", "a whole file", FETCH_AGAIN)
    key, config = f"metadata.{METADATA}", path.with_name(CONFIG)
    if METADATA in metadata:
        return {**section(path, {METADATA: _parse(path, key, metadata[METADATA])}, key), "model": state}
    if not config.is_file():
        found = f"{key} is missing, and {CONFIG} beside it too: a safetensors file of another program"
        refuse(path, found, "weights with their config", EXPORT)
    return {**_read_config(config), "model": state}


def _read_config(path: Path) -> Mapping[str, Any]:
    """Return what the config beside a file of weights holds, in the layout of a fairseq checkpoint."""
    try:
        with open_regular(path) as file:
            text = file.read(MAX_CONFIG_BYTES)
    except OSError as error:
        refuse(path, f"it cannot be read ({error.strerror or error})", "the config of a model", FETCH_AGAIN)
    config = section(path, {"config": _parse(path, "it", text)}, "config")
    if METADATA not in config:
        refuse(path, f"{METADATA} is missing: the config of another program's model", "one of ours", EXPORT)
    return section(path, config, METADATA)


def _parse(path: Path, key: str, text: str | bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        refuse(path, f"{key} cannot be read ({str(error).splitlines()[0]})", "JSON", FETCH_AGAIN)


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
