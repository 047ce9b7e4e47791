"""What is found below a folder, what a probe accepts, and how files are divided."""

import os
import re

import numpy as np
import pytest
import soundfile as sf

from mae_ast_fairseq.corpus.scan import find_audio, probe, scan, split_side, write_rejected, write_splits
from mae_ast_fairseq.data.audio import load_audio
from mae_ast_fairseq.data.manifest import ManifestRow, read_manifest
from mae_ast_fairseq.errors import AudioError, ConfigError


def _touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def _audio(path, num_samples=16000, rate=16000, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = 0.1 * np.random.Generator(np.random.Philox(3)).standard_normal(num_samples)
    sf.write(path, noise, rate, **options)
    return path


def test_audio_is_found_sorted_and_hidden_files_are_not(tmp_path):
    _touch(
        tmp_path,
        "b.wav",
        "a/z.FLAC",
        "a/y.Opus",
        "a-c/x.mp3",
        "notes.txt",
        ".hidden/a.wav",
        "a/.b.wav",
        "wav",
    )
    assert find_audio(tmp_path) == ["a-c/x.mp3", "a/y.Opus", "a/z.FLAC", "b.wav"]


def test_only_the_given_extensions_are_found(tmp_path):
    _touch(tmp_path, "a.wav", "b.flac")
    assert find_audio(tmp_path, (".flac",)) == ["b.flac"]


def test_links_are_followed_once(tmp_path):
    _touch(tmp_path, "corpus/real/a.wav", "elsewhere/b.wav")
    (tmp_path / "corpus" / "loop").symlink_to(tmp_path / "corpus")
    (tmp_path / "corpus" / "alias").symlink_to(tmp_path / "corpus" / "real")
    (tmp_path / "corpus" / "other").symlink_to(tmp_path / "elsewhere")
    assert find_audio(tmp_path / "corpus") == ["other/b.wav", "real/a.wav"]


@pytest.mark.parametrize(("name", "found"), [("none", "nothing is there"), ("a.wav", "a file is there")])
def test_a_folder_that_is_none_is_named(tmp_path, name, found):
    _touch(tmp_path, "a.wav")
    with pytest.raises(ConfigError, match=re.escape(f"{tmp_path / name}: {found}")):
        find_audio(tmp_path / name)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list every folder")
def test_a_folder_that_may_not_be_listed_is_named(tmp_path):
    (tmp_path / "locked").mkdir(mode=0)
    with pytest.raises(ConfigError, match="locked: cannot be listed"):
        find_audio(tmp_path)


@pytest.mark.parametrize(
    ("name", "rate", "options"),
    [
        ("a.wav", 16000, {}),
        ("a.wav", 44100, {"subtype": "PCM_24"}),
        ("a.flac", 8000, {}),
        ("a.ogg", 44100, {}),
        ("a.opus", 48000, {"format": "OGG", "subtype": "OPUS"}),
        ("a.mp3", 44100, {"bitrate_mode": "VARIABLE", "compression_level": 0.5}),
        ("a.mp3", 16000, {"bitrate_mode": "CONSTANT", "compression_level": 0.5}),
        ("a.aiff", 16000, {}),
    ],
)
def test_a_probe_finds_what_loading_finds(tmp_path, name, rate, options):
    path = _audio(tmp_path / name, 3 * rate + 77, rate, **options)
    assert probe(path) == (3 * rate + 77, rate)
    waveform = load_audio(path, expect_samples=3 * rate + 77, expect_rate=rate)
    assert len(waveform) == -(-(3 * rate + 77) * 16000 // rate)


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.mp3", "a.aiff"])
@pytest.mark.parametrize("share", [0.5, 0.95])
def test_a_truncated_file_is_refused(tmp_path, name, share):
    path = _audio(tmp_path / name, 32000)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(AudioError, match=re.escape(f"{path}: truncated")):
        probe(path)


def test_a_wav_from_a_pipe_states_no_size_and_is_accepted(tmp_path):
    path = _audio(tmp_path / "a.wav", 32000)
    data = bytearray(path.read_bytes())
    data[4:8] = data[40:44] = b"\xff" * 4
    path.write_bytes(data)
    assert probe(path).num_samples == 32000


@pytest.mark.parametrize(
    ("data", "reason"), [(b"", "empty"), (b"RIFF", "unreadable: "), (b"hello" * 100, "unreadable: ")]
)
def test_what_is_not_audio_is_refused(tmp_path, data, reason):
    (tmp_path / "a.wav").write_bytes(data)
    with pytest.raises(AudioError, match=re.escape(f"{tmp_path / 'a.wav'}: {reason}")):
        probe(tmp_path / "a.wav")


def _mixed(folder):
    _audio(folder / "good.wav", 16000)
    _audio(folder / "sub" / "slow.flac", 8000, 8000)
    _audio(folder / "short.wav", 879)
    _audio(folder / "empty.wav", 0)
    _audio(folder / "tab\there.wav")
    (folder / "gone.wav").symlink_to(folder / "nowhere.wav")
    (folder / "text.wav").write_text("hello" * 100)


def test_a_scan_separates_what_can_be_trained_on(tmp_path):
    _mixed(tmp_path)
    accepted, rejected = scan(tmp_path)
    assert accepted == [ManifestRow("good.wav", 16000, 16000), ManifestRow("sub/slow.flac", 8000, 8000)]
    assert {name: reason.split(":")[0] for name, reason in rejected} == {
        "empty.wav": "empty",
        "gone.wav": "unreadable",
        "short.wav": "too short",
        "tab\there.wav": "name",
        "text.wav": "unreadable",
    }


def test_the_shortest_file_accepted_is_55_ms(tmp_path):
    _audio(tmp_path / "a.wav", 879)
    _audio(tmp_path / "b.wav", 880)
    accepted, rejected = scan(tmp_path)
    assert ([row.relative_path for row in accepted], [row.relative_path for row in rejected]) == (
        ["b.wav"],
        ["a.wav"],
    )


def test_processes_find_what_one_finds(recordings):
    assert scan(recordings / "prompts_en", num_workers=2) == scan(recordings / "prompts_en")


def test_rejected_files_stay_one_line_each(tmp_path):
    _mixed(tmp_path)
    write_rejected(tmp_path / "rejected.tsv", scan(tmp_path)[1])
    lines = (tmp_path / "rejected.tsv").read_text().splitlines()
    assert [line.split("\t")[0] for line in lines] == [
        "empty.wav",
        "gone.wav",
        "short.wav",
        r"'tab\there.wav'",
        "text.wav",
    ]


def test_sides_have_their_golden_values():
    names = [f"folder/{i}.flac" for i in range(40)]
    assert [i for i, name in enumerate(names) if split_side(name, 0.2, 1337) == "valid"] == [
        10,
        15,
        21,
        23,
        24,
        27,
        37,
        38,
    ]


def test_sides_have_the_fraction_asked_for():
    sides = [split_side(f"{i}.wav", 0.05, 1337) for i in range(20_000)]
    assert abs(sides.count("valid") - 1000) < 4 * (20_000 * 0.05 * 0.95) ** 0.5


def test_sides_depend_on_the_seed():
    valid = [{i for i in range(1000) if split_side(f"{i}.wav", 0.5, seed) == "valid"} for seed in (1, 2)]
    assert 150 < len(valid[0] & valid[1]) < 350


def test_a_larger_fraction_holds_the_smaller():
    names = [f"{i}.wav" for i in range(1000)]
    small, large = ({n for n in names if split_side(n, fraction, 5) == "valid"} for fraction in (0.1, 0.3))
    assert small < large


def test_no_file_is_valid_at_fraction_0():
    assert {split_side(f"{i}.wav", 0.0, 1337) for i in range(1000)} == {"train"}


def test_splits_are_written_with_labels_in_line(tmp_path):
    for name in ("dog_0.wav", "cat_0.wav", "dog_1.wav", "noise.wav"):
        _audio(tmp_path / "corpus" / name)
    out = tmp_path / "out"

    def place(name):
        label, _, take = name.removesuffix(".wav").partition("_")
        return ("train" if take == "0" else "valid", label) if take else None

    assert write_splits(tmp_path / "corpus", out, place) == {"train": 2, "valid": 1}
    manifest = read_manifest(out / "train.tsv")
    assert [manifest.relative_path(row) for row in range(2)] == ["cat_0.wav", "dog_0.wav"]
    assert (out / "train.lbl").read_text() == "cat\ndog\n"
    assert (out / "valid.lbl").read_text() == "dog\n"
    assert (out / "labels.txt").read_text() == "cat\ndog\n"


def test_a_corpus_that_is_another_is_an_error(tmp_path):
    _audio(tmp_path / "a.wav")
    with pytest.raises(AudioError, match="none of 1 audio files"):
        write_splits(tmp_path, tmp_path / "out", lambda name: None)
