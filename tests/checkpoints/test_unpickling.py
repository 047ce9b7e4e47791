"""Files of torch and safetensors: whatever their bytes, they are read or refused with one message."""

import json
import os
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save

from mae_ast_fairseq.checkpoints.export import export
from mae_ast_fairseq.checkpoints.read import read_checkpoint
from mae_ast_fairseq.checkpoints.unpickling import METADATA, as_safetensors, read_content
from mae_ast_fairseq.errors import CheckpointError
from tests.checkpoints.test_read import save_tiny_checkpoint

NUM_SPOILT = 150


@pytest.fixture(scope="module", params=["pt", "safetensors"])
def good(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A good file's bytes, of a model so small that its header and config are a fair share of them."""
    folder = tmp_path_factory.mktemp("good")
    narrow = {"encoder_embed_dim": 4, "encoder_ffn_embed_dim": 4, "decoder_embed_dim": 4, "max_token_length": 8}
    path = save_tiny_checkpoint(folder / "a.pt", encoder_layers=1, decoder_layers=1, **narrow)
    if request.param == "safetensors":
        export(read_checkpoint(path), "safetensors", folder / "a.safetensors")
        path = folder / "a.safetensors"
    return path.read_bytes()


@pytest.fixture
def refusal(tmp_path: Path) -> Callable[[bytes], str]:
    """A function that reads bytes as a checkpoint and returns the message with which they are refused, or ''."""

    def outcome(content: bytes) -> str:
        path = tmp_path / "file"
        path.write_bytes(content)
        try:
            checkpoint = read_checkpoint(path)
        except CheckpointError as error:
            text = str(error)
        else:
            assert all(torch.isfinite(value).all() for value in checkpoint.state.values())
            return ""
        assert text.startswith(f"{path}: ")
        assert "\n" not in text
        return text.removeprefix(f"{path}: ")

    return outcome


# --- files of torch


class Malicious:
    """Unpickled by the usual loader, it makes a folder."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("new_format", [True, False])
def test_code_in_a_pickle_is_named_and_not_executed(tmp_path: Path, new_format: bool) -> None:
    path, folder = tmp_path / "evil.pt", tmp_path / "executed"
    torch.save({"cfg": {}, "args": Malicious(folder)}, path, _use_new_zipfile_serialization=new_format)
    with pytest.raises(CheckpointError, match=r"evil\.pt: its pickle holds code or objects \(posix\.mkdir\)"):
        read_checkpoint(path)
    assert not folder.exists()
    torch.load(path, weights_only=False)
    assert folder.exists()  # or else there was nothing to be refused


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    for path, found in (
        (tmp_path / "no.pt", "there is no such file"),
        (tmp_path, r"it cannot be read \(Is a directory"),
    ):
        with pytest.raises(CheckpointError, match=rf"^{path}: {found}"):
            read_checkpoint(path)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.999])
@pytest.mark.parametrize("new_format", [True, False])
def test_a_truncated_file_is_called_so(tmp_path: Path, refusal, share: float, new_format: bool) -> None:
    torch.save({"model": torch.randn(1_000)}, tmp_path / "whole.pt", _use_new_zipfile_serialization=new_format)
    whole = (tmp_path / "whole.pt").read_bytes()
    num_bytes = int(share * len(whole))
    assert re.match(rf"the file is truncated( or damaged)?, at {num_bytes} bytes", refusal(whole[:num_bytes]))


@pytest.mark.parametrize("text", [b"hello world" * 100, b"/data\na.wav\t16000\n", b"\x93NUMPY\x01\x00"])
def test_another_file_is_not_a_checkpoint(refusal, text: bytes) -> None:
    assert refusal(text).startswith("this is not a checkpoint")


# --- spoilt at random


def test_a_zip_that_says_it_is_one_of_several_disks_is_refused(refusal) -> None:
    locator = struct.pack("<4sLQL", b"PK\6\7", 1, 0, 2)  # zipfile.is_zipfile raises BadZipFile here
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, 46, 0, 0)
    assert "multiple disks" in refusal(b"PK\3\4" + bytes(60) + locator + end)


def test_every_truncated_file_is_refused(good: bytes, refusal) -> None:
    draws = np.random.default_rng(0)
    lengths = [0, 1, 7, 8, 9, 10, len(good) - 1, *draws.integers(len(good), size=NUM_SPOILT)]
    assert all(refusal(good[:length]) for length in lengths)


def test_flipped_bits_are_read_or_refused(good: bytes, refusal) -> None:
    draws = np.random.default_rng(0)
    outcomes = []
    for _ in range(NUM_SPOILT):
        spoilt = bytearray(good)
        for place in draws.integers(len(good), size=draws.integers(1, 4)):
            spoilt[place] ^= 1 << draws.integers(8)
        outcomes.append(refusal(bytes(spoilt)))
    assert 5 < sum(map(bool, outcomes)) < NUM_SPOILT


def test_random_bytes_are_refused(good: bytes, refusal) -> None:
    draws = np.random.default_rng(0)
    for kept in (0, 2, 8, 9, 20):  # of the good file's start
        assert refusal(good[:kept] + draws.bytes(500))


# --- safetensors


CONTENT: dict[str, Any] = {"cfg": {"model": {}}, "number": 0.1}


def test_tensors_and_content_come_back(tmp_path: Path) -> None:
    shared = torch.randn(3, 4)
    tensors = {
        "a": shared,
        "transposed": shared.T,
        "again": shared,
        "rounded": torch.randn(3).bfloat16(),
        "count": torch.tensor(3),
        "parameter": torch.nn.Parameter(torch.randn(2)),
    }
    (tmp_path / "a").write_bytes(as_safetensors({**CONTENT, "model": tensors}))
    content = read_content(tmp_path / "a")
    assert {name: value for name, value in content.items() if name != "model"} == CONTENT
    assert content["model"].keys() == tensors.keys()
    for key, value in tensors.items():
        assert content["model"][key].dtype == value.dtype
        assert content["model"][key].equal(value)


def test_a_file_is_known_by_its_content_and_not_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(as_safetensors({**CONTENT, "model": {}}))
    torch.save(CONTENT, tmp_path / "a.safetensors")
    assert read_content(tmp_path / "a.pt") == {**CONTENT, "model": {}}
    assert read_content(tmp_path / "a.safetensors") == CONTENT


def test_safetensors_of_another_program_are_named(refusal) -> None:
    for metadata in (None, {"format": "pt"}):
        assert refusal(save({"a": torch.ones(1)}, metadata)).startswith(f"metadata.{METADATA} is missing")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("{", "cannot be read (Expecting"),
        ("[" * 100_000, "cannot be read (maximum recursion"),
        ("[1]", "is list; expected a mapping of names"),
    ],
)
def test_metadata_that_is_not_ours_is_named(refusal, text: str, found: str) -> None:
    assert refusal(save({"a": torch.ones(1)}, {METADATA: text})).startswith(f"metadata.{METADATA} {found}")


@pytest.mark.parametrize("length", [2**63, 2**40, 2**24, 1])
def test_a_header_of_a_wrong_length_is_refused(refusal, length: int) -> None:
    whole = as_safetensors({**CONTENT, "model": {"a": torch.ones(3)}})
    text = refusal(length.to_bytes(8, "little") + whole[8:])
    assert text.startswith("its safetensors header is broken (")


@pytest.mark.parametrize("change", [{"dtype": "F99"}, {"shape": [4]}, {"data_offsets": [0, 99]}])
def test_a_header_that_contradicts_itself_is_refused(refusal, change: dict[str, Any]) -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 12], **change}}).encode()
    text = refusal(len(header).to_bytes(8, "little") + header + bytes(12))
    assert text.startswith("its safetensors header is broken (")


def test_the_config_of_safetensors_is_checked_as_any_other(tmp_path: Path, refusal) -> None:
    path = save_tiny_checkpoint(tmp_path / "a.pt")
    whole = torch.load(path, weights_only=True)
    for name, value in (("encoder_layers", "3"), ("activation_fn", "${oc.env:HOME}")):
        model = {**whole["cfg"]["model"], name: value}
        spoilt = as_safetensors({"cfg": {**whole["cfg"], "model": model}, "model": whole["model"]})
        assert refusal(spoilt).startswith(f"cfg.model.{name} is ")
