"""What is found below a folder, what a probe accepts, and what a scan rejects."""

import os
import re

import numpy as np
import pytest
import soundfile as sf

from mae_ast_fairseq.corpus.scan import find_audio, probe, scan, write_rejected
from mae_ast_fairseq.data.audio import load_audio
from mae_ast_fairseq.data.manifest import ManifestRow
from mae_ast_fairseq.errors import AudioError, ConfigError


def _touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def write_noise(path, num_samples=16000, rate=16000, **options):
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
    path = write_noise(tmp_path / name, 3 * rate + 77, rate, **options)
    assert probe(path) == (3 * rate + 77, rate)
    waveform = load_audio(path, expect_samples=3 * rate + 77, expect_rate=rate)
    assert len(waveform) == -(-(3 * rate + 77) * 16000 // rate)


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.mp3", "a.aiff"])
@pytest.mark.parametrize("share", [0.5, 0.95])
def test_a_truncated_file_is_refused(tmp_path, name, share):
    path = write_noise(tmp_path / name, 32000)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(AudioError, match=re.escape(f"{path}: truncated")):
        probe(path)


def test_a_wav_from_a_pipe_states_no_size_and_is_accepted(tmp_path):
    path = write_noise(tmp_path / "a.wav", 32000)
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
    write_noise(folder / "good.wav", 16000)
    write_noise(folder / "sub" / "slow.flac", 8000, 8000)
    write_noise(folder / "short.wav", 879)
    write_noise(folder / "empty.wav", 0)
    write_noise(folder / "tab\there.wav")
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
    write_noise(tmp_path / "a.wav", 879)
    write_noise(tmp_path / "b.wav", 880)
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
