"""`mae-ast extract` from clips to features on disk: its layouts, its restarts, and its errors."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch

from mae_ast_fairseq.cli import main
from mae_ast_fairseq.data.audio import load_audio
from mae_ast_fairseq.data.manifest import read_manifest
from mae_ast_fairseq.inference.encoder import load_pretrained
from tests.checkpoints.test_read import save_tiny_checkpoint
from tests.test_layers import HIDE_FAIRSEQ
from tests.tiny import FRAME, golden_values

TOLERANCE = 1e-5


@pytest.fixture(params=[{}, FRAME], ids=["patch", "frame"])
def each_grid(request, tmp_path: Path) -> Path:
    """A checkpoint of patch tokens, and then one of frame tokens."""
    return save_tiny_checkpoint(tmp_path / "tiny.pt", **request.param)


def alone(checkpoint: Path, paths: list[str], layer: int | None = None) -> list[np.ndarray]:
    """Encode each file by itself: what the command must give."""
    model = load_pretrained(checkpoint)
    encoded = [model.encode([load_audio(path, expect_rate=None)]) for path in paths]
    return [(e.features if layer is None else e.hidden_states[layer - 1])[0].numpy() for e in encoded]


def paths_of(manifest: Path) -> list[str]:
    read = read_manifest(manifest)
    return [read.path(row) for row in range(len(read))]


def read_hubert(folder: Path, stem: str) -> list[np.ndarray]:
    """Read HuBERT's layout as its tools do."""
    values = np.load(folder / f"{stem}.npy", mmap_mode="r")
    lengths = [int(line) for line in (folder / f"{stem}.len").read_text().splitlines()]
    assert sum(lengths) == len(values)
    ends = np.cumsum(lengths)
    return [np.array(values[end - length : end]) for end, length in zip(ends, lengths, strict=True)]


def assert_all_close(found: list[np.ndarray], expected: list[np.ndarray]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == np.float32
        np.testing.assert_allclose(one, other, rtol=0, atol=TOLERANCE * max(1, np.abs(other).max()))


def spoil(corpus: Path, tmp_path: Path) -> Path:
    """Write a manifest of four good clips, one that is no audio, one that is gone and one too short for a token."""
    lines = (corpus / "train.tsv").read_text().splitlines()[1:5]
    (tmp_path / "noise.wav").write_bytes(b"RIFF and no more")
    sf.write(tmp_path / "short.wav", np.zeros(500), 16_000)
    bad = [f"{tmp_path}/noise.wav\t16000", f"{tmp_path}/gone.wav\t9000", f"{tmp_path}/short.wav\t500"]
    good = [f"{corpus}/{line}" for line in lines]
    manifest = tmp_path / "mixed.tsv"
    manifest.write_text("\n".join(["/", good[0], bad[0], good[1], bad[1], bad[2], good[2], good[3]]))
    return manifest


# --- layouts


def test_hubert_layout_in_the_manifests_order_equals_one_clip_at_a_time(corpus, each_grid, out: Path, run) -> None:
    summary = run(each_grid, "--manifest", corpus / "train.tsv", "--max-seconds-per-batch", 4)
    found = read_hubert(out, "train_0_1")
    assert_all_close(found, alone(each_grid, paths_of(corpus / "train.tsv")))
    assert (summary["num_clips"], summary["broken"], summary["width"]) == (40, [], 48)
    assert summary["num_tokens"] == sum(map(len, found))
    assert summary["files"] == [str(out / "train_0_1.npy")]
    assert sorted(path.name for path in out.iterdir()) == ["train_0_1.json", "train_0_1.len", "train_0_1.npy"]


@pytest.mark.parametrize("layer", [1, 3])
def test_one_layer(corpus, checkpoint, out: Path, run, layer: int) -> None:
    run(checkpoint, "--manifest", corpus / "valid.tsv", "--layer", layer)
    assert_all_close(read_hubert(out, "valid_0_1"), alone(checkpoint, paths_of(corpus / "valid.tsv"), layer))


def test_all_layers_have_a_folder_each(corpus, checkpoint, out: Path, run) -> None:
    assert len(run(checkpoint, "--manifest", corpus / "valid.tsv", "--layer", "all")["files"]) == 3
    for layer in (1, 2, 3):
        expected = alone(checkpoint, paths_of(corpus / "valid.tsv"), layer)
        assert_all_close(read_hubert(out / f"layer_{layer}", "valid_0_1"), expected)


@pytest.mark.parametrize("format_", ["hubert", "npy"])
def test_several_layers_are_in_the_order_asked_for(corpus, checkpoint, out: Path, run, format_: str) -> None:
    summary = run(checkpoint, "--manifest", corpus / "valid.tsv", "--layer", "3,1", "--format", format_)
    paths = paths_of(corpus / "valid.tsv")
    assert summary["layer"] == "3,1"
    if format_ == "hubert":
        assert summary["files"] == [str(out / f"layer_{layer}" / "valid_0_1.npy") for layer in (3, 1)]
        assert sorted(path.name for path in out.iterdir()) == ["layer_1", "layer_3", "valid_0_1.json"]
    for place, layer in enumerate((3, 1)):
        if format_ == "hubert":
            found = read_hubert(out / f"layer_{layer}", "valid_0_1")
        else:
            found = [np.load(out / f"{Path(path).name}.npy")[place] for path in paths]
        assert_all_close(found, alone(checkpoint, paths, layer))


def test_clips_that_are_read_out_are_one_row_each(corpus, each_grid, out: Path, run) -> None:
    run(each_grid, "--manifest", corpus / "valid.tsv", "--readout", "mean", "--chunk-seconds", 0.4)
    values = np.load(out / "valid_0_1.npy", mmap_mode="r")
    assert (out / "valid_0_1.len").read_text() == "1\n" * 8
    assert values.shape == (8, 48)
    run(each_grid, "--manifest", corpus / "valid.tsv", "--chunk-seconds", 0.4, "--overwrite")
    expected = [clip.mean(axis=0) for clip in read_hubert(out, "valid_0_1")]
    assert_all_close(list(values), expected)


def bands_and_maximum(tokens: np.ndarray) -> np.ndarray:
    """Read a clip's patches [L, 48] in 8 rows out: mean and maximum over its time columns."""
    columns = np.stack([tokens[place : place + 8].ravel() for place in range(0, len(tokens), 8)])
    return np.concatenate([columns.mean(axis=0), columns.max(axis=0)])


@pytest.mark.parametrize("format_", ["hubert", "npy"])
@pytest.mark.parametrize("layer", ["last", "2", "all", "3,1"])
@pytest.mark.parametrize("chunk_seconds", [60, 0.4])
def test_bands_are_those_of_the_tokens(corpus, out: Path, run, tmp_path, format_, layer: str, chunk_seconds) -> None:
    checkpoint = save_tiny_checkpoint(tmp_path / "tiny.pt")
    argv = (checkpoint, "--manifest", corpus / "valid.tsv", "--chunk-seconds", chunk_seconds, "--layer", layer)
    tokens = run(*argv)
    assert (tokens["num_chunks"] > 8) == (chunk_seconds < 1)
    expected = [
        [bands_and_maximum(clip) for clip in read_hubert(Path(file).parent, "valid_0_1")] for file in tokens["files"]
    ]  # of each layer, of each clip
    summary = run(*argv, "--readout", "bands+max", "--format", format_, "--overwrite")
    assert summary["width"] == 2 * 8 * 48
    assert summary["num_chunks"] == tokens["num_chunks"]
    if format_ == "hubert":
        found = [list(np.load(file)) for file in summary["files"]]
        assert all(Path(file).with_suffix(".len").read_text() == "1\n" * 8 for file in summary["files"])
    else:
        clips = [np.load(out / f"{Path(path).name}.npy") for path in paths_of(corpus / "valid.tsv")]
        found = list(map(list, zip(*(clip if layer in ("all", "3,1") else [clip] for clip in clips), strict=True)))
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert_all_close(one, other)


def test_long_files_in_chunks_have_the_tokens_and_frames_of_the_whole(corpus, each_grid, out: Path, run) -> None:
    # Each chunk's own audio, cut by hand from the whole file's samples, is what it must be encoded from.
    file = next(path for path in paths_of(corpus / "train.tsv") if sf.info(path).duration > 1.3)
    summary = run(each_grid, file, "--chunk-seconds", 0.5)
    model, waveform = load_pretrained(each_grid), load_audio(file, expect_rate=None)
    columns_of_chunk = model.encoder.grid.num_columns((8_000 - 400) // 160 + 1)
    step = columns_of_chunk * model.encoder.grid.stride[1] * 160
    parts = [model(torch.from_numpy(waveform[at : at + step + 240])) for at in range(0, len(waveform), step)[:-1]]
    parts = [part[: columns_of_chunk * model.encoder.grid.rows] for part in parts]
    whole = alone(each_grid, [file])[0]
    rest = len(whole) - sum(map(len, parts))
    parts += [model(torch.from_numpy(waveform[len(parts) * step :]))] if rest > 0 else []
    found = np.load(out / f"{Path(file).name}.npy")
    assert summary["num_chunks"] == len(parts) > 2
    assert_all_close([found], [torch.cat(parts).numpy()])
    assert found.shape == whole.shape


def test_files_are_mirrored_one_npy_each(corpus, checkpoint, out: Path, run, tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    files = [tmp_path / "a" / "x.wav", tmp_path / "a" / "b" / "y.flac"]
    for number, file in enumerate(files):
        samples, rate = sf.read(paths_of(corpus / "train.tsv")[number])
        sf.write(file, samples, rate)
    run(checkpoint, *files)
    found = [np.load(out / name) for name in ("x.wav.npy", "b/y.flac.npy")]
    assert_all_close(found, alone(checkpoint, list(map(str, files))))


@pytest.mark.parametrize("readout", [(), ("--readout", "mean+std")], ids=["tokens", "read out"])
def test_npy_of_all_layers_and_chunks_equals_the_other_layout(corpus, checkpoint, out: Path, run, readout) -> None:
    argv = (checkpoint, "--manifest", corpus / "valid.tsv", "--layer", "all", "--chunk-seconds", 0.4, *readout)
    run(*argv)
    run(*argv, "--format", "npy", "--overwrite")
    names = [f"{Path(path).name}.npy" for path in paths_of(corpus / "valid.tsv")]
    for layer in (1, 2, 3):
        expected = read_hubert(out / f"layer_{layer}", "valid_0_1")
        found = [np.load(out / name)[layer - 1] for name in names]
        assert_all_close(found, [value[0] for value in expected] if readout else expected)
    assert {path.suffix for path in out.iterdir() if path.is_file()} == {".npy", ".json"}


def test_shards_in_order_are_the_whole(corpus, checkpoint, out: Path, run) -> None:
    manifest = corpus / "train.tsv"
    run(checkpoint, "--manifest", manifest)
    for rank in range(3):
        run(checkpoint, "--manifest", manifest, "--shard", rank, "--num-shards", 3)
    shards = [clip for rank in range(3) for clip in read_hubert(out, f"train_{rank}_3")]
    assert_all_close(shards, read_hubert(out, "train_0_1"))


def test_a_shard_without_clips_is_empty_files(corpus, checkpoint, out: Path, run) -> None:
    assert run(checkpoint, "--manifest", corpus / "valid.tsv", "--shard", 0, "--num-shards", 20)["num_clips"] == 0
    assert read_hubert(out, "valid_0_20") == []
    assert np.load(out / "valid_0_20.npy").shape == (0, 48)


@pytest.mark.parametrize("workers", [0, 3])
def test_workers_change_nothing(corpus, checkpoint, out: Path, run, workers: int) -> None:
    run(checkpoint, "--manifest", corpus / "valid.tsv", "--workers", workers)
    assert_all_close(read_hubert(out, "valid_0_1"), alone(checkpoint, paths_of(corpus / "valid.tsv")))


@pytest.mark.parametrize("kind", ["patch", "frame"])
def test_released_features(golden, kind: str, out: Path, run, tmp_path: Path) -> None:
    values = golden_values(golden, kind)
    num_samples = (values["single_fbank"].shape[1] - 1) * 160 + 400
    sf.write(tmp_path / "a.wav", values["single_wav"].numpy().ravel()[:num_samples], 16_000, subtype="FLOAT")
    run(golden / f"released_{kind}_random.pt", tmp_path / "a.wav")
    np.testing.assert_allclose(np.load(out / "a.wav.npy"), values["single_x"][0].numpy(), rtol=0, atol=1e-5)


def test_bfloat16_is_near(corpus, checkpoint, out: Path, run) -> None:
    run(checkpoint, "--manifest", corpus / "valid.tsv", "--precision", "bfloat16")
    expected = alone(checkpoint, paths_of(corpus / "valid.tsv"))
    errors = [np.abs(a - b).max() for a, b in zip(read_hubert(out, "valid_0_1"), expected, strict=True)]
    assert 1e-4 < max(errors) < 0.3


# --- bad clips


def test_bad_clips_have_length_0_and_the_exit_code_says_so(corpus, checkpoint, out: Path, run, tmp_path: Path) -> None:
    manifest = spoil(corpus, tmp_path)
    summary = run(checkpoint, "--manifest", manifest, code=1)
    found = read_hubert(out, "mixed_0_1")
    assert [len(clip) > 0 for clip in found] == [True, False, True, False, False, True, True]
    good = [paths_of(manifest)[row] for row in (0, 2, 5, 6)]
    assert_all_close([clip for clip in found if len(clip)], alone(checkpoint, good))
    assert [bad["file"] for bad in summary["broken"]] == [paths_of(manifest)[row] for row in (1, 3, 4)]
    assert f"{manifest}:5: " in summary["broken"][1]["reason"] and "no such file" in summary["broken"][1]["reason"]
    assert sorted(path.name for path in out.iterdir()) == ["mixed_0_1.json", "mixed_0_1.len", "mixed_0_1.npy"]


def test_bad_clips_have_no_row_when_read_out_and_no_file_in_npy(corpus, checkpoint, out, run, tmp_path) -> None:
    manifest = spoil(corpus, tmp_path)
    run(checkpoint, "--manifest", manifest, "--readout", "mean", code=1)
    assert (out / "mixed_0_1.len").read_text().split() == ["1", "0", "1", "0", "0", "1", "1"]
    assert np.load(out / "mixed_0_1.npy").shape == (4, 48)
    run(checkpoint, "--manifest", manifest, "--format", "npy", "--overwrite", code=1)
    names = sorted(str(path.relative_to(out)) for path in out.rglob("*.wav.npy"))
    assert names == sorted(f"{paths_of(manifest)[row][1:]}.npy" for row in (0, 2, 5, 6))


def test_a_clip_that_breaks_in_a_later_chunk_is_left_out(corpus, checkpoint, out, run, tmp_path: Path) -> None:
    samples = np.random.default_rng(0).normal(0, 0.1, 24_000).astype(np.float32)
    samples[-1] = np.nan
    sf.write(tmp_path / "nan.wav", samples, 16_000, subtype="FLOAT")
    good = paths_of(corpus / "valid.tsv")[0]
    info = sf.info(good)
    (tmp_path / "a.tsv").write_text(f"/\n{tmp_path}/nan.wav\t24000\n{good}\t{info.frames}\t{info.samplerate}\n")
    for argv in ((), ("--format", "npy", "--overwrite")):
        summary = run(checkpoint, "--manifest", tmp_path / "a.tsv", "--chunk-seconds", 0.5, *argv, code=1)
        assert [Path(bad["file"]).name for bad in summary["broken"]] == ["nan.wav"]
    assert [path.name for path in out.rglob("*.wav.npy*")] == [f"{Path(good).name}.npy"]


def test_no_good_clip_at_all_is_an_error_that_leaves_nothing(checkpoint, out: Path, capsys, tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text(f"{tmp_path}\nno.wav\t16000\nnor.wav\t400\n")
    assert main(["extract", str(checkpoint), "--manifest", str(tmp_path / "a.tsv"), "--out", str(out)]) == 2
    err = capsys.readouterr().err.splitlines()[-1]
    assert err.startswith(f"mae-ast extract: {tmp_path / 'a.tsv'}:2: ")
    assert err.endswith("; none of the 2 files can be used, this is the first")
    assert list(out.iterdir()) == []


# --- arguments


def test_it_works_without_fairseq(corpus, checkpoint, out: Path) -> None:
    argv = ["extract", str(checkpoint), str(corpus / "00.wav"), "--out", str(out)]
    code = f"{HIDE_FAIRSEQ}\nfrom mae_ast_fairseq.cli import main\nsys.exit(main({argv!r}))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == f"one .npy a clip in {out}"
    assert (out / "00.wav.npy").exists()


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("--layer=0", "--layer: 0 was given; the model has layers 1 to 3"),
        ("--layer=4", "--layer: 4 was given; the model has layers 1 to 3"),
        ("--layer=2,9", "--layer: 2,9 was given; the model has layers 1 to 3"),
        ("--layer=first", "--layer: first was given; the model has layers 1 to 3: expected one of these, different"),
        ("--readout=max", "--readout: 'max' is unknown; expected one of mean, mean+max, mean+std"),
        ("--readout=bands", "--readout: 'bands' needs tokens of several bands, and the model's span all; expected one"),
        ("--format=csv", "--format: invalid choice: 'csv' (choose from "),
        ("--shard=1", "--shard 1 --num-shards 1: expected a shard from 0 to one below"),
        ("--num-shards=0", "--num-shards: 0 was given; expected a whole number of at least 1"),
        ("--chunk-seconds=0", "--chunk-seconds: 0 was given; expected seconds above 0"),
        ("--chunk-seconds=nan", "--chunk-seconds: nan was given; expected seconds above 0"),
        ("--chunk-seconds=0.03", "chunks of 0.03 s are too short for one token"),
        ("--max-seconds-per-batch=-1", "--max-seconds-per-batch: -1 was given; expected seconds above 0"),
        ("--workers=-1", "--workers: -1 was given; expected 0 to 256 threads"),
        ("--precision=int8", "--precision: invalid choice: 'int8'"),
        ("--device=abacus", "--device abacus: cannot be used ("),
    ],
)
def test_a_bad_option_is_named(corpus, checkpoint, message, out: Path, option: str, expected: str) -> None:
    assert message(checkpoint, "--manifest", corpus / "valid.tsv", option).startswith(expected)
    assert not out.exists()


def test_a_broken_file_among_those_given_is_listed_and_the_others_go_on(corpus, checkpoint, run, tmp_path, out) -> None:
    summary = run(checkpoint, corpus / "00.wav", tmp_path / "no.wav", code=1)
    assert [bad["file"] for bad in summary["broken"]] == [str(tmp_path / "no.wav")]
    assert "there is no such file" in summary["broken"][0]["reason"]
    assert [path.name for path in out.rglob("*.npy")] == ["00.wav.npy"]


def test_a_folder_is_its_files(corpus, checkpoint, run, out: Path) -> None:
    assert run(checkpoint, corpus)["num_clips"] == 48
    assert len(list(out.glob("*.wav.npy"))) == 48
