"""`mae-ast extract` stopped and started again: it keeps what is whole, leaves no half file, notices other settings."""

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mae_ast_fairseq.cli import extract as command
from mae_ast_fairseq.cli import main, model
from mae_ast_fairseq.inference import extract as extraction
from mae_ast_fairseq.inference import features, loading
from tests.checkpoints.test_read import save_tiny_checkpoint
from tests.cli.extract.test_extract import spoil
from tests.test_layers import HIDE_FAIRSEQ

ARGUMENTS = [
    (),
    ("--layer", "3,1"),
    ("--readout", "mean+std"),
    ("--format", "npy"),
    ("--format", "npy", "--layer", "all", "--readout", "mean+max"),
]


class Kill(BaseException):
    """What no part of the command expects."""


def contents(out: Path) -> dict[Path, bytes]:
    """Return all files but the record of settings."""
    return {path: path.read_bytes() for path in out.rglob("*") if path.is_file() and path.suffix != ".json"}


def assert_same(found: dict[Path, bytes], expected: dict[Path, bytes]) -> None:
    """Compare files; features only nearly, for what clips are batched with shows in their last bits."""
    assert found.keys() == expected.keys()
    for path, content in found.items():
        if path.suffix == ".npy":
            both = [np.load(io.BytesIO(bytes_)) for bytes_ in (content, expected[path])]
            np.testing.assert_allclose(*both, rtol=0, atol=1e-5 * np.abs(both[1]).max())
        else:
            assert content == expected[path]


@pytest.mark.parametrize("argv", ARGUMENTS, ids=" ".join)
@pytest.mark.parametrize("num_calls", [1, 60])
def test_a_restart_gives_what_one_run_gives(corpus, checkpoint, out: Path, run, monkeypatch, argv, num_calls) -> None:
    argv = (checkpoint, "--manifest", corpus / "train.tsv", "--chunk-seconds", 0.5, "--max-seconds-per-batch", 2, *argv)
    whole = run(*argv)
    expected = contents(out)
    _fail_after(num_calls, monkeypatch)
    with pytest.raises(Kill):
        main(["extract", *map(str, argv), "--out", str(out), "--workers", "0", "--overwrite"])
    monkeypatch.undo()
    begun = contents(out)
    assert all(expected[path] == begun[path] for path in begun)
    assert (0 < len(begun) < 40) == ("npy" in argv and num_calls == 60)
    summary = run(*argv)
    assert_same(contents(out), expected)
    assert (summary["num_chunks_resumed"] > 0) == bool(begun)
    assert (summary["num_clips"], summary["num_tokens"]) == (whole["num_clips"], whole["num_tokens"])


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


def test_a_killed_process_leaves_what_is_whole(corpus, checkpoint, out: Path, run) -> None:
    argv = (checkpoint, "--manifest", corpus / "train.tsv", "--max-seconds-per-batch", 2, "--format", "npy")
    run(*argv)
    expected = contents(out)
    shutil.rmtree(out)
    code = f"""
import os
from mae_ast_fairseq.cli import extract, main
from mae_ast_fairseq.inference import features
original, count = features.encode_waveforms, iter(range(99))
def encode_waveforms(*args, **kwargs):
    if next(count) == 9: os._exit(7)
    return original(*args, **kwargs)
features.encode_waveforms = encode_waveforms
main({["extract", *map(str, argv), "--out", str(out)]!r})
"""
    result = subprocess.run([sys.executable, "-c", f"{HIDE_FAIRSEQ}\n{code}"], timeout=120, check=False)
    assert result.returncode == 7
    whole = [path for path in contents(out) if path.suffix == ".npy"]
    assert whole
    assert all(path.read_bytes() == expected[path] for path in whole)
    run(*argv)
    assert_same(contents(out), expected)


def test_what_a_killed_process_was_writing_is_removed_and_what_another_shard_writes_is_not(
    corpus, checkpoint, out, run
):
    manifest = corpus / "valid.tsv"
    argv = (checkpoint, "--manifest", manifest, "--format", "npy", "--num-shards", "2", "--shard", "1")
    out.mkdir()
    first, *_, last = [f".{line.split()[0]}.npy.7.tmp" for line in manifest.read_text().splitlines()[1:]]
    for name in (first, last):
        (out / name).write_bytes(b"half")
    run(*argv)
    assert [path.name for path in out.glob(".*.tmp")] == [first]


def test_the_last_steps_can_be_interrupted(corpus, checkpoint, out: Path, run, monkeypatch, tmp_path: Path) -> None:
    argv = (checkpoint, "--manifest", spoil(corpus, tmp_path), "--layer", "all", "--readout", "mean")
    bad = run(*argv, code=1)["broken"]
    expected = contents(out)
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
    assert run(*argv, code=1)["broken"] == bad
    assert_same(contents(out), expected)


@pytest.mark.parametrize("format_", ["hubert", "npy"])
def test_a_run_that_is_done_is_not_done_again(corpus, checkpoint, run, monkeypatch, format_: str) -> None:
    argv = (checkpoint, "--manifest", corpus / "valid.tsv", "--format", format_)
    first = run(*argv)
    monkeypatch.setattr(extraction, "encode_clips", None)
    again = run(*argv)
    assert again["num_tokens"] == first["num_tokens"]
    assert again["num_chunks_resumed"] == first["num_chunks"]


def test_bad_clips_of_a_whole_shard_are_still_known(corpus, checkpoint, run, tmp_path: Path) -> None:
    argv = (checkpoint, "--manifest", spoil(corpus, tmp_path))
    first, again = run(*argv, code=1), run(*argv, code=1)
    assert len(first["broken"]) == 3
    for name in ("broken", "num_clips", "num_tokens"):
        assert again[name] == first[name]


def test_a_file_that_was_bad_is_tried_again(corpus, checkpoint, run, out: Path, tmp_path: Path) -> None:
    argv = (checkpoint, corpus / "00.wav", tmp_path / "late.wav")
    assert len(run(*argv, code=1)["broken"]) == len(run(*argv, code=1)["broken"]) == 1
    shutil.copy(corpus / "01.wav", tmp_path / "late.wav")
    summary = run(*argv)
    assert (summary["num_clips"], summary["num_chunks"], summary["num_chunks_resumed"]) == (2, 2, 1)
    assert len(list(out.rglob("*.wav.npy"))) == 2


def test_other_files_of_the_same_names_are_noticed(corpus, checkpoint, run, message, tmp_path: Path) -> None:
    for folder, name in (("one", "00.wav"), ("other", "01.wav")):
        (tmp_path / folder).mkdir()
        shutil.copy(corpus / name, tmp_path / folder / "a.wav")
    run(checkpoint, tmp_path / "one" / "a.wav")
    assert "begun with clips " in message(checkpoint, tmp_path / "other" / "a.wav")


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
    before = contents(out)
    text = message(checkpoint, "--manifest", corpus / "valid.tsv", *option)
    assert text.startswith(f"{out / 'valid_0_1.json'}: ")
    assert shown in text and "--overwrite" in text
    assert contents(out) == before


def test_another_checkpoint_or_manifest_is_noticed(corpus, checkpoint, run, message, tmp_path: Path) -> None:
    manifest = tmp_path / "valid.tsv"
    manifest.write_text((corpus / "valid.tsv").read_text())
    run(checkpoint, "--manifest", manifest)
    other = save_tiny_checkpoint(tmp_path / "other.pt", encoder_layers=2)
    assert "begun with checkpoint " in message(other, "--manifest", manifest)
    manifest.write_text("\n".join(manifest.read_text().splitlines()[:-1]))
    assert "begun with clips " in message(checkpoint, "--manifest", manifest)


def test_another_batch_size_may_go_on(corpus, checkpoint, run, monkeypatch, out: Path) -> None:
    argv = (checkpoint, "--manifest", corpus / "train.tsv", "--format", "npy")
    _fail_after(30, monkeypatch)
    with pytest.raises(Kill):
        main(["extract", *map(str, argv), "--out", str(out), "--workers", "0", "--max-seconds-per-batch", "1"])
    monkeypatch.undo()
    assert run(*argv, "--max-seconds-per-batch", 5, "--workers", 1)["num_chunks_resumed"] > 0


@pytest.mark.parametrize(("format_", "name"), [("hubert", "valid_0_1.npy"), ("npy", None)])
def test_features_of_others_are_not_written_over(corpus, checkpoint, out: Path, run, message, format_, name) -> None:
    argv = (checkpoint, "--manifest", corpus / "valid.tsv", "--format", format_)
    run(*argv)
    path = out / name if name else sorted(out.glob("*.wav.npy"))[0]
    path.write_bytes(b"precious")
    (out / "valid_0_1.json").unlink()
    assert "nothing says how it was made" in message(*argv)
    assert path.read_bytes() == b"precious"


@pytest.mark.parametrize("content", ["", "{}", '{"settings": 3}', "[1]", '{"settings": {}, "bad": [1]}', "\xff"])
def test_a_broken_record_is_named(corpus, checkpoint, out: Path, message, content: str) -> None:
    out.mkdir()
    (out / "valid_0_1.json").write_text(content, encoding="latin-1")
    text = message(checkpoint, "--manifest", corpus / "valid.tsv")
    assert text.startswith(f"{out / 'valid_0_1.json'}: ") and "--overwrite" in text


@pytest.mark.parametrize("format_", ["hubert", "npy"])
def test_a_disk_without_room_is_named_before_the_work(corpus, checkpoint, out, message, monkeypatch, format_) -> None:
    monkeypatch.setattr(command.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**6, 10**6, 9_000))
    text = message(checkpoint, "--manifest", corpus / "valid.tsv", "--format", format_)
    assert text.startswith(f"--out {out}: cannot be written (no room for ")
    assert contents(out) == {}


def test_a_disk_that_becomes_full_is_named(corpus, checkpoint, out: Path, message, monkeypatch) -> None:
    def no_room(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(extraction, "_write_tokens", no_room)
    text = message(checkpoint, "--manifest", corpus / "valid.tsv")
    assert text.startswith(f"--out {out}: cannot be written (No space left on device)")
    assert contents(out) == {}


def test_a_long_clip_is_written_while_it_is_encoded(corpus, checkpoint, out: Path, run, monkeypatch) -> None:
    # Of the chunks of one file only few are in memory, whatever its length.
    num_encoded, held = [], []

    def encode_waveforms(model, waveforms, **kwargs):
        num_encoded.append(len(waveforms))
        return encode(model, waveforms, **kwargs)

    def write_tokens(*args):
        held.append(sum(num_encoded) - len(held))
        write(*args)

    encode, write = features.encode_waveforms, extraction._write_tokens
    monkeypatch.setattr(features, "encode_waveforms", encode_waveforms)
    monkeypatch.setattr(extraction, "_write_tokens", write_tokens)
    file = max(corpus.glob("*.wav"), key=lambda path: path.stat().st_size)
    summary = run(checkpoint, file, "--chunk-seconds", 0.06, "--max-seconds-per-batch", 0.12)
    assert summary["num_chunks"] > 20
    assert max(held) < 12
    assert np.load(out / f"{file.name}.npy").shape[0] == summary["num_tokens"]


def test_auto_is_chosen_once_and_kept(run, checkpoint, corpus, out, monkeypatch, capsys):
    def extract(fastest, *options, code=0):
        monkeypatch.setattr(model, "fastest", lambda device: fastest)
        run(checkpoint, "--manifest", corpus / "valid.tsv", *options, code=code)
        return json.loads((out / "valid_0_1.json").read_text())["settings"]["precision"]

    assert extract("bfloat16", "--precision", "auto") == "bfloat16"
    assert extract("float32", "--precision", "auto") == "bfloat16"
    assert extract("float32", "--precision", "auto", "--overwrite") == "float32"
