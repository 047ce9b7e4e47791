"""`mae-ast extract` stopped and started again: it goes on, never leaves a half file, and notices other settings."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mae_ast_fairseq.cli import main
from mae_ast_fairseq.inference import extract as extraction
from mae_ast_fairseq.inference import loading
from tests.checkpoints.test_read import save_tiny_checkpoint
from tests.cli.extract.test_extract import alone, assert_all_close, paths_of, read_hubert, spoil
from tests.test_layers import HIDE_FAIRSEQ

ARGUMENTS = [
    (),
    ("--layer", "all"),
    ("--layer", "3,1"),
    ("--readout", "mean"),
    ("--readout", "mean+std"),
    ("--format", "npy"),
    ("--format", "npy", "--readout", "mean+max"),
]


class Kill(BaseException):
    """What no part of the command expects."""


@pytest.mark.parametrize("argv", ARGUMENTS, ids=" ".join)
@pytest.mark.parametrize("num_calls", [1, 20, 60])
def test_a_restart_goes_on_where_it_stopped(corpus, checkpoint, out: Path, run, monkeypatch, argv, num_calls) -> None:
    argv = (checkpoint, "--manifest", corpus / "train.tsv", "--chunk-seconds", 0.5, "--max-seconds-per-batch", 2, *argv)
    run(*argv)
    expected = {path: path.read_bytes() for path in out.rglob("*") if path.suffix in (".npy", ".len")}
    loaded = _fail_after(num_calls, monkeypatch)
    with pytest.raises(Kill):
        main(["extract", *map(str, argv), "--out", str(out), "--workers", "0", "--overwrite"])
    if "npy" not in argv:
        assert list(out.rglob("*.npy")) == []
    monkeypatch.undo()
    summary = run(*argv)
    assert num_calls - 10 < summary["num_chunks_resumed"] < num_calls <= len(loaded)
    found = {path: path.read_bytes() for path in out.rglob("*") if path.suffix in (".npy", ".len")}
    assert found.keys() == expected.keys()
    assert all(found[path] == expected[path] for path in expected)
    assert list(out.rglob("*.partial")) == []


def _fail_after(num_calls: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    loaded: list[int] = []

    def load(*args):
        loaded.append(len(loaded))
        if len(loaded) >= num_calls:
            raise Kill
        return original(*args)

    original = loading.load_part
    monkeypatch.setattr("mae_ast_fairseq.inference.features.load_part", load)
    return loaded


def test_a_killed_process_leaves_a_state_to_go_on_from(corpus, checkpoint, out: Path, run) -> None:
    argv = (checkpoint, "--manifest", corpus / "train.tsv", "--max-seconds-per-batch", 2)
    code = f"""
from mae_ast_fairseq.cli import extract, main
from mae_ast_fairseq.inference import features as encode
import mae_ast_fairseq.inference.extract as extraction, os
extraction.SAVE_SECONDS = 0
original, count = encode.encode_waveforms, iter(range(99))
def encode_waveforms(*args):
    if next(count) == 9: os._exit(7)
    return original(*args)
encode.encode_waveforms = encode_waveforms
main({["extract", *map(str, argv), "--out", str(out)]!r})
"""
    result = subprocess.run([sys.executable, "-c", f"{HIDE_FAIRSEQ}\n{code}"], timeout=120, check=False)
    assert result.returncode == 7
    assert not (out / "train_0_1.npy").exists()
    assert run(*argv)["num_chunks_resumed"] > 0
    assert_all_close(read_hubert(out, "train_0_1"), alone(checkpoint, paths_of(corpus / "train.tsv")))


def test_the_last_steps_can_be_interrupted(corpus, checkpoint, out: Path, run, monkeypatch, tmp_path: Path) -> None:
    argv = (checkpoint, "--manifest", spoil(corpus, tmp_path), "--layer", "all", "--readout", "mean")
    expected = run(*argv, code=1)
    replaced: list[Path] = []

    def replace(self: Path, target: Path) -> Path:
        if target.suffix == ".npy":
            replaced.append(target)
            if len(replaced) == 2:
                raise Kill
        return original(self, target)

    original = Path.replace
    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(Kill):
        main(["extract", *map(str, argv), "--out", str(out), "--overwrite"])
    monkeypatch.undo()
    summary = run(*argv, code=1)
    assert summary["num_chunks_resumed"] == expected["num_chunks"]
    assert summary["bad"] == expected["bad"]
    for layer in (1, 2, 3):
        assert np.load(out / f"layer_{layer}" / "mixed_0_1.npy").shape == (4, 48)
    assert [path for path in out.rglob("*") if path.suffix in (".partial", ".whole")] == []


def test_a_run_that_is_done_is_not_done_again(corpus, checkpoint, out: Path, run, monkeypatch) -> None:
    first = run(checkpoint, "--manifest", corpus / "valid.tsv")
    monkeypatch.setattr(extraction, "encode_batches", None)
    again = run(checkpoint, "--manifest", corpus / "valid.tsv")
    assert again["num_tokens"] == first["num_tokens"]
    assert again["num_chunks_resumed"] == first["num_chunks"]


@pytest.mark.parametrize(
    ("option", "shown"),
    [
        (("--layer", "2"), "begun with layer last; now it is 2"),
        (("--layer", "1,2"), "begun with layer last; now it is 1,2"),
        (("--readout", "mean"), "begun with readout None; now it is mean"),
        (("--format", "npy"), "begun with format hubert; now it is npy"),
        (("--chunk-seconds", "1"), "begun with chunk_seconds 60.0; now it is 1.0"),
        (("--precision", "bfloat16"), "begun with precision float32; now it is bfloat16"),
    ],
)
def test_other_settings_are_noticed(corpus, checkpoint, out: Path, run, message, option, shown: str) -> None:
    run(checkpoint, "--manifest", corpus / "valid.tsv")
    before = (out / "valid_0_1.npy").read_bytes()
    text = message(checkpoint, "--manifest", corpus / "valid.tsv", *option)
    assert text.startswith(f"{out / 'valid_0_1.json'}: ")
    assert shown in text and "--overwrite" in text
    assert (out / "valid_0_1.npy").read_bytes() == before


def test_another_checkpoint_or_manifest_is_noticed(corpus, checkpoint, run, message, tmp_path: Path) -> None:
    manifest = tmp_path / "valid.tsv"
    manifest.write_text((corpus / "valid.tsv").read_text())
    run(checkpoint, "--manifest", manifest)
    other = save_tiny_checkpoint(tmp_path / "other.pt", encoder_layers=2)
    assert "begun with checkpoint " in message(other, "--manifest", manifest)
    manifest.write_text("\n".join(manifest.read_text().splitlines()[:-1]))
    assert "begun with clips " in message(checkpoint, "--manifest", manifest)


def test_another_batch_size_may_go_on(corpus, checkpoint, out: Path, run, monkeypatch) -> None:
    argv = (checkpoint, "--manifest", corpus / "train.tsv")
    _fail_after(20, monkeypatch)
    with pytest.raises(Kill):
        main(["extract", *map(str, argv), "--out", str(out), "--workers", "0", "--max-seconds-per-batch", "2"])
    monkeypatch.undo()
    assert run(*argv, "--max-seconds-per-batch", 5, "--workers", 1)["num_chunks_resumed"] > 0
    assert_all_close(read_hubert(out, "train_0_1"), alone(checkpoint, paths_of(corpus / "train.tsv")))


def test_features_of_others_are_not_written_over(corpus, checkpoint, out: Path, message) -> None:
    out.mkdir()
    (out / "valid_0_1.npy").write_bytes(b"precious")
    assert message(checkpoint, "--manifest", corpus / "valid.tsv").startswith(f"{out / 'valid_0_1.npy'}: it is there")
    assert (out / "valid_0_1.npy").read_bytes() == b"precious"


@pytest.mark.parametrize("content", ["", "{}", '{"settings": 3}', "[1]", "\xff"])
def test_a_broken_journal_is_named(corpus, checkpoint, out: Path, message, content: str) -> None:
    out.mkdir()
    (out / "valid_0_1.json").write_text(content, encoding="latin-1")
    text = message(checkpoint, "--manifest", corpus / "valid.tsv")
    assert text.startswith(f"{out / 'valid_0_1.json'}: ") and "--overwrite" in text


def test_a_full_disk_is_named(corpus, checkpoint, out: Path, message, monkeypatch) -> None:
    def no_room(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", no_room)
    text = message(checkpoint, "--manifest", corpus / "valid.tsv")
    assert text.startswith(f"{out / 'valid_0_1.npy.partial'}: ") and "(No space left on device)" in text
