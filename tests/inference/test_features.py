"""Clips are cut, batched, encoded and written so that nothing of them is lost, doubled or moved."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
from hypothesis import given
from hypothesis import strategies as st

from mae_ast_fairseq.data.audio import load_audio
from mae_ast_fairseq.data.concat import join
from mae_ast_fairseq.data.manifest import read_manifest
from mae_ast_fairseq.errors import AudioError, ConfigError
from mae_ast_fairseq.inference.chunks import min_seconds, plan_batches, plan_chunks, shard_rows, tokens_of
from mae_ast_fairseq.inference.features import clip_features
from mae_ast_fairseq.inference.journal import Journal
from mae_ast_fairseq.inference.loading import BATCHES_AHEAD, FileList, load_ahead
from mae_ast_fairseq.inference.stores import mirrored_path
from mae_ast_fairseq.nn import fbank
from mae_ast_fairseq.nn.readout import possible_readouts, read_out, readout_width
from mae_ast_fairseq.nn.tokens import TokenGrid
from tests.tiny import FRAME, PATCH, tiny_autoencoder

GRIDS = [
    TokenGrid(feature_dim=128, kernel=(16, 16), stride=(16, 16)),
    TokenGrid(feature_dim=128, kernel=(128, 2), stride=(128, 2)),
    TokenGrid(feature_dim=128, kernel=(16, 16), stride=(10, 10)),
]
CPU = {"device": torch.device("cpu"), "dtype": torch.float32, "progress": False}


# --- the plan


@given(
    grid=st.sampled_from(GRIDS),
    num_samples=st.lists(st.integers(0, 100_000), max_size=12),
    chunk_seconds=st.floats(0.2, 3),
)
def test_chunks_hold_every_token_of_every_clip_once_and_its_frames(grid, num_samples, chunk_seconds) -> None:
    chunks = plan_chunks(np.array(num_samples, dtype=np.int64), grid, chunk_seconds)
    assert (np.diff(chunks.num_tokens) <= 0).all()
    for clip, total in enumerate(num_samples):
        own = np.flatnonzero(chunks.clips == clip)  # in their order
        assert chunks.numbers[own].tolist() == list(range(len(own)))
        assert chunks.num_tokens[own].sum() == grid.num_tokens(fbank.num_frames(total))
        assert chunks.first_tokens[own].tolist() == [0, *chunks.num_tokens[own].cumsum()[:-1]][: len(own)]
        for chunk in own:
            # The chunk alone has so many tokens, and begins where the token does in the whole.
            begin, count = int(chunks.starts[chunk]), int(chunks.num_samples[chunk])
            assert grid.num_tokens(fbank.num_frames(count)) == chunks.num_tokens[chunk] > 0
            column = chunks.first_tokens[chunk] // grid.rows
            assert begin == column * grid.stride[1] * fbank.FRAME_SHIFT
            if chunk != own[-1]:
                assert begin + count <= total
                assert count <= chunk_seconds * 16_000
        assert not len(own) or begin + count == total


def test_frames_of_chunks_are_those_of_the_whole_to_their_last_window() -> None:
    waveform = torch.from_numpy(np.random.default_rng(0).normal(0, 0.1, 50_000).astype(np.float32))
    for grid in GRIDS:
        chunks = plan_chunks(np.array([50_000]), grid, 0.7)
        whole = grid.patchify(fbank.log_mel(waveform)[None])[0]
        for first, count, start, length in zip(
            chunks.first_tokens, chunks.num_tokens, chunks.starts, chunks.num_samples, strict=True
        ):
            part = grid.patchify(fbank.log_mel(waveform[start : start + length])[None])[0]
            torch.testing.assert_close(part, whole[first : first + count], atol=1e-4, rtol=0)


@given(
    lengths=st.lists(st.integers(1, 400), max_size=60).map(lambda values: sorted(values, reverse=True)),
    max_tokens=st.integers(1, 2_000),
    data=st.data(),
)
def test_batches_are_consecutive_within_the_limit_and_pad_little(lengths, max_tokens, data) -> None:
    first = data.draw(st.integers(0, len(lengths)))
    num_tokens = np.array(lengths, dtype=np.int64)
    batches = list(plan_batches(num_tokens, max_tokens, first))
    ends = [batch.stop for batch in batches]
    assert [batch.start for batch in batches] == [first, *ends][: len(batches)]
    assert (ends or [first])[-1] == len(lengths)
    for batch in batches:
        own = num_tokens[batch]
        padded = len(own) * own.max()
        assert padded <= max_tokens or len(own) == 1
        assert 1 - own.sum() / padded <= 0.1


def test_clips_of_one_length_fill_a_batch() -> None:
    assert list(plan_batches(np.full(10, 7), 21)) == [slice(0, 3), slice(3, 6), slice(6, 9), slice(9, 10)]


@given(st.integers(0, 1_000), st.integers(1, 40))
def test_shards_in_order_are_all_rows_once(num_rows: int, num_shards: int) -> None:
    shards = [shard_rows(num_rows, rank, num_shards) for rank in range(num_shards)]
    assert [row for shard in shards for row in shard] == list(range(num_rows))
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


@pytest.mark.parametrize("grid", GRIDS)
def test_the_shortest_clip_with_a_token(grid: TokenGrid) -> None:
    num_samples = round(min_seconds(grid) * 16_000)
    counts = [int(grid.num_tokens(fbank.num_frames(count))) for count in (num_samples - 1, num_samples)]
    assert counts == [0, grid.rows]
    with pytest.raises(ConfigError, match="too short for one token"):
        plan_chunks(np.array([16_000]), grid, (num_samples - 1) / 16_000)


def test_tokens_stand_in_for_seconds() -> None:
    assert [tokens_of(1.6, grid) for grid in GRIDS] == [80, 80, 16 * 12]


# --- what is computed


@pytest.mark.parametrize("grid", [PATCH, FRAME], ids=["patch", "frame"])
@pytest.mark.parametrize("layer_norm_first", [False, True])
def test_clip_features_are_those_of_one_clip_at_a_time(corpus, grid, layer_norm_first: bool) -> None:
    model = tiny_autoencoder(**grid, layer_norm_first=layer_norm_first)
    manifest, readouts = read_manifest(corpus / "valid.tsv"), possible_readouts(model.grid.rows)
    found = clip_features(model, manifest, readouts, **CPU)
    assert list(found) == readouts
    for row in range(8):
        waveform = torch.from_numpy(load_audio(manifest.path(row), expect_rate=None))[None]
        for number in range(1, 4):
            states = model.extract_features(waveform, output_layer=number).features
            for name, values in found.items():
                expected = read_out(name, states, None, model.grid.rows).detach().numpy()
                np.testing.assert_allclose(values[row, number - 1], expected[0], rtol=1e-5, atol=1e-5)
    for name, values in found.items():
        assert values.dtype == np.float32
        assert values.shape == (8, 3, readout_width(name, model.grid.rows, 48))


def test_a_readout_does_not_depend_on_what_else_is_read_out(corpus) -> None:
    model, manifest = tiny_autoencoder(), read_manifest(corpus / "valid.tsv")
    together = clip_features(model, manifest, ["bands+max", "mean", "mean+std"], **CPU)
    assert list(together) == ["bands+max", "mean", "mean+std"]
    for name, values in together.items():
        (found,) = clip_features(model, manifest, [name], **CPU).values()
        assert np.array_equal(found, values)


def test_clip_features_of_a_start_and_of_several_manifests(corpus) -> None:
    model, manifest = tiny_autoencoder(**FRAME), read_manifest(corpus / "valid.tsv")
    short = clip_features(model, manifest, ["mean"], max_seconds=0.25, **CPU)["mean"]
    waveform = torch.from_numpy(load_audio(manifest.path(3), num_samples=4_000, expect_rate=None))[None]
    expected = model.hidden_states(waveform).layers[-1].mean(dim=1)[0].detach()
    np.testing.assert_allclose(short[3, -1], expected, rtol=0, atol=1e-5)
    twice = clip_features(model, join([manifest, manifest]), ["mean"], max_seconds=0.25, **CPU)["mean"]
    np.testing.assert_allclose(twice, np.concatenate([short, short]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("grid", [PATCH, FRAME], ids=["patch", "frame"])
def test_clip_features_of_a_long_clip_are_merged_from_its_chunks(corpus, monkeypatch, grid) -> None:
    def cut(num_samples, grid, chunk_seconds=0.4):
        return plan_chunks(num_samples, grid, chunk_seconds)

    monkeypatch.setattr("mae_ast_fairseq.inference.features.plan_chunks", cut)
    model, manifest = tiny_autoencoder(**grid), read_manifest(corpus / "valid.tsv")
    readouts = possible_readouts(model.grid.rows)
    found = clip_features(model, manifest, readouts, **CPU)
    waveform = load_audio(manifest.path(0), expect_rate=None)
    chunks = cut(np.array([len(waveform)]), model.grid)
    assert len(chunks.clips) > 1
    parts = {
        int(first): model.hidden_states(torch.from_numpy(waveform[start : start + length])[None]).layers[1]
        for first, start, length in zip(chunks.first_tokens, chunks.starts, chunks.num_samples, strict=True)
    }
    whole = torch.cat([parts[first] for first in sorted(parts)], dim=1)
    for name in readouts:
        expected = read_out(name, whole, None, model.grid.rows)[0].detach()
        np.testing.assert_allclose(found[name][0, 1], expected, rtol=1e-5, atol=1e-5)


def test_a_bad_clip_stops_clip_features_with_its_line(corpus, tmp_path: Path) -> None:
    lines = (corpus / "valid.tsv").read_text().splitlines()
    (tmp_path / "a.tsv").write_text("\n".join([str(corpus), lines[1], "gone.wav\t16000"]))
    with pytest.raises(AudioError, match=r"a\.tsv:3: .*gone\.wav: there is no such file"):
        clip_features(tiny_autoencoder(), read_manifest(tmp_path / "a.tsv"), ["mean"], **CPU)
    (tmp_path / "a.tsv").write_text("\n".join([str(corpus), lines[1], "short.wav\t2799"]))
    with pytest.raises(AudioError, match=r"a\.tsv:3: .*0\.175 s of it give no token .* at least 0\.175 s"):
        clip_features(tiny_autoencoder(), read_manifest(tmp_path / "a.tsv"), ["mean"], **CPU)


def test_features_that_are_not_finite_are_refused(corpus) -> None:
    model = tiny_autoencoder(**FRAME)
    torch.nn.init.constant_(model.encoder.layers[1].fc2.bias, math.inf)
    with pytest.raises(ConfigError, match="not finite in this precision"):
        clip_features(model, read_manifest(corpus / "valid.tsv"), ["mean"], **CPU)


@pytest.mark.parametrize(
    ("name", "message"), [("bands", "readout: 'bands' needs tokens of several bands"), ("max", "readout: 'max' is unk")]
)
def test_readouts_that_the_model_does_not_have_are_refused(corpus, name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        clip_features(tiny_autoencoder(**FRAME), read_manifest(corpus / "valid.tsv"), ["mean", name], **CPU)


# --- loading


@pytest.mark.parametrize("num_workers", [0, 1, 3])
def test_loading_keeps_the_order_and_stays_few_batches_ahead(num_workers: int) -> None:
    begun = []

    def load(number: int) -> int:
        begun.append(number)
        return -number

    batches = [range(first, first + 2) for first in range(0, 40, 2)]
    for batch, loaded in zip(batches, load_ahead(load, batches, num_workers), strict=True):
        assert loaded == [-number for number in batch]
        assert max(begun) < batch.stop + 2 * BATCHES_AHEAD
    assert sorted(begun) == list(range(40))


def test_an_error_of_a_worker_reaches_the_reader() -> None:
    def load(number: int) -> int:
        raise RuntimeError(f"number {number}")

    with pytest.raises(RuntimeError, match="number 0"):
        list(load_ahead(load, [[0, 1]], 2))


def test_files_are_a_manifest_of_their_headers(tmp_path: Path) -> None:
    sf.write(tmp_path / "a.wav", np.zeros((441, 2)), 44_100)
    files = FileList([str(tmp_path / "a.wav")])
    assert (files.num_samples.tolist(), files.sample_rates.tolist()) == ([441], [44_100])
    assert files.num_samples_at_16k.tolist() == [160]
    assert (len(files), files.path(0), files.where(0)) == (1, str(tmp_path / "a.wav"), "file 1 of 1")


# --- where features go


@given(st.text(st.sampled_from("ab./:7") | st.characters(exclude_characters="\0"), max_size=30))
def test_a_mirrored_path_never_leads_outside(text: str) -> None:
    path = mirrored_path(text)
    parts = path.split("/")
    assert not path.startswith("/")
    assert path.endswith(".npy")
    assert not {"", ".", ".."} & set(parts)


@given(st.lists(st.text("ab.", min_size=1, max_size=4).filter(lambda part: part.strip(".")), min_size=1, max_size=4))
def test_a_plain_path_is_kept_with_its_extension(parts: list[str]) -> None:
    assert mirrored_path("/".join(parts)) == "/".join(parts) + ".npy"


@pytest.mark.parametrize(
    ("path", "mirrored"),
    [
        ("a/b.wav", "a/b.wav.npy"),
        ("/data/b.flac", "data/b.flac.npy"),
        ("../../etc/b.wav", "etc/b.wav.npy"),
        ("a/./c/../b.wav", "a/b.wav.npy"),
        ("sets/speech.zip:123:4567", "sets/speech.zip/123_4567.npy"),
    ],
)
def test_paths_are_mirrored(path: str, mirrored: str) -> None:
    assert mirrored_path(path) == mirrored


# --- the journal


@given(
    num_done=st.integers(0, 9),
    bad=st.dictionaries(st.integers(0, 2**40), st.text()),
    is_complete=st.booleans(),
    settings=st.dictionaries(st.text(), st.text() | st.integers() | st.booleans() | st.floats(allow_nan=False)),
)
def test_a_journal_comes_back(tmp_path_factory, num_done, bad, is_complete, settings) -> None:
    path = tmp_path_factory.mktemp("journal") / "a.json"
    written = Journal(path, settings, 9)
    assert not written.is_resumed
    written.num_done, written.bad, written.is_complete = num_done, bad, is_complete
    written.save()
    found = Journal(path, settings, 9)
    assert found.is_resumed
    assert (found.num_done, found.bad, found.is_complete) == (num_done, bad, is_complete)


@given(
    st.recursive(
        st.none() | st.integers() | st.text(),
        lambda value: (
            st.lists(value)
            | st.dictionaries(st.sampled_from(["settings", "num_chunks", "num_done", "bad", "is_complete"]), value)
        ),
        max_leaves=8,
    )
)
def test_any_other_json_is_an_error_that_names_the_file(tmp_path_factory, content) -> None:
    path = tmp_path_factory.mktemp("journal") / "a.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ConfigError) as caught:
        Journal(path, {"layer": "last"}, 9)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("num_chunks", "num_done"), [(9, 10), (9, -1), (8, 3)])
def test_a_journal_of_other_chunks_is_refused(tmp_path: Path, num_chunks: int, num_done: int) -> None:
    journal = Journal(tmp_path / "a.json", {}, num_chunks)
    journal.num_done = num_done
    journal.save()
    with pytest.raises(ConfigError, match=f"{num_done} of {num_chunks} chunks are done; expected at most 9"):
        Journal(tmp_path / "a.json", {}, 9)
