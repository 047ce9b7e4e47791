"""Loading crops: each equals its slice of the whole file, in every format; and what is refused, by name."""

import os
import pickle
import re
import zipfile

import numpy as np
import pytest
import soundfile as sf
import soxr

from mae_ast_fairseq.data import archive
from mae_ast_fairseq.data.audio import load_audio, load_row
from mae_ast_fairseq.data.manifest import read_manifest
from mae_ast_fairseq.errors import AudioError


def _noise(num_samples, num_channels=1):
    """Noise that swells and fades, so that encoders of a variable rate vary it."""
    generator = np.random.Generator(np.random.Philox(7))
    swell = 0.1 * np.sin(np.linspace(0, 20, num_samples)) ** 2
    noise = generator.standard_normal((num_samples, num_channels)) * swell[:, None]
    return noise.astype(np.float32).squeeze()


def _write(path, waveform, rate=16000, **options):
    sf.write(path, waveform, rate, **options)
    return path


FORMATS = {
    "wav": ("a.wav", 16000, 1, {}, 0),
    "float": ("a.wav", 16000, 1, {"subtype": "FLOAT"}, 0),
    "24-bit": ("a.wav", 16000, 1, {"subtype": "PCM_24"}, 0),
    "flac": ("a.flac", 16000, 1, {}, 0),
    "flac-stereo": ("a.flac", 16000, 2, {}, 0),
    "aiff": ("a.aiff", 16000, 1, {}, 0),
    "vorbis": ("a.ogg", 16000, 1, {}, 0),
    "vorbis-44k": ("a.ogg", 44100, 2, {}, 1e-6),
    "opus": ("a.opus", 16000, 1, {"format": "OGG", "subtype": "OPUS"}, 3e-3),
    "mp3-vbr": ("a.mp3", 16000, 1, {"bitrate_mode": "VARIABLE", "compression_level": 0.5}, 1e-6),
    "mp3-44k": ("a.mp3", 44100, 2, {"bitrate_mode": "CONSTANT", "compression_level": 0.5}, 1e-6),
    "8k": ("a.wav", 8000, 1, {}, 1e-6),
    "11k": ("a.wav", 11025, 1, {}, 1e-6),
    "44k-stereo": ("a.flac", 44100, 2, {}, 1e-6),
    "odd-rate": ("a.wav", 16001, 1, {}, 3e-6),
}


@pytest.mark.parametrize("name", FORMATS)
def test_a_crop_equals_the_slice_of_the_whole(tmp_path, name):
    filename, rate, num_channels, options, tolerance = FORMATS[name]
    num_samples = 20 * rate + 77
    path = _write(tmp_path / filename, _noise(num_samples, num_channels), rate, **options)
    whole = load_audio(path, expect_rate=rate, expect_samples=num_samples)
    assert len(whole) == -(-num_samples * 16000 // rate)
    generator = np.random.Generator(np.random.Philox(1))
    starts = [0, 1, 159, 160_000, len(whole) - 12_000, len(whole) - 1, *generator.integers(0, len(whole), 10)]
    for start in map(int, starts):
        crop = load_audio(path, start, 9_001, expect_rate=rate)
        assert crop.dtype == np.float32
        assert len(crop) == min(9_001, len(whole) - start)
        np.testing.assert_allclose(crop, whole[start : start + 9_001], rtol=0, atol=tolerance)


@pytest.mark.parametrize("rate", [1, 999, 768_001])
def test_a_rate_of_no_audio_is_refused(tmp_path, rate):
    path = _write(tmp_path / "a.wav", _noise(500), rate)
    for expect_rate in (None, rate):
        with pytest.raises(AudioError, match=f"{rate} Hz"):
            load_audio(path, expect_rate=expect_rate)


def test_a_16_khz_mono_file_is_what_soundfile_reads(tmp_path):
    path = _write(tmp_path / "a.flac", _noise(5000))
    np.testing.assert_array_equal(load_audio(path), sf.read(path, dtype="float32")[0])


def test_channels_are_averaged(tmp_path):
    waveform = _noise(5000, 3)
    path = _write(tmp_path / "a.wav", waveform, subtype="FLOAT")
    np.testing.assert_allclose(load_audio(path), waveform.mean(axis=1), atol=1e-7)


def test_another_rate_is_what_soxr_makes_of_the_whole(tmp_path):
    waveform = _noise(44100)
    path = _write(tmp_path / "a.wav", waveform, 44100, subtype="FLOAT")
    expected = soxr.resample(waveform, 44100, 16000)
    np.testing.assert_allclose(load_audio(path, expect_rate=44100), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("rate", "num_samples", "at_16k"), [(48000, 48001, 16001), (48000, 48003, 16001), (8000, 7, 14)]
)
def test_the_length_at_16_khz_is_the_ceiling(tmp_path, rate, num_samples, at_16k):
    path = _write(tmp_path / "a.wav", _noise(num_samples), rate)
    assert len(load_audio(path, expect_rate=rate)) == at_16k


def test_a_resampled_tone_is_the_tone_at_16_khz(tmp_path):
    tone = np.sin(2 * np.pi * 440 * np.arange(44100) / 44100)
    path = _write(tmp_path / "a.wav", tone, 44100, subtype="FLOAT")
    crop = load_audio(path, start=4000, num_samples=8000, expect_rate=44100)
    np.testing.assert_allclose(crop, np.sin(2 * np.pi * 440 * np.arange(4000, 12000) / 16000), atol=1e-4)


def _in_zip(path, compression=zipfile.ZIP_STORED):
    """Return what a manifest calls a file, between two others in an archive beside it."""
    archive = path.with_name("a.zip")
    with zipfile.ZipFile(archive, "w", compression) as file:
        file.writestr("before", bytes(1000))
        file.write(path, path.name)
        file.writestr("behind", bytes(1000))
        offset = file.getinfo(path.name).header_offset + 30 + len(path.name)
        return f"{archive}:{offset}:{file.getinfo(path.name).compress_size}"


@pytest.mark.parametrize("name", FORMATS)
def test_a_clip_in_an_archive_equals_the_clip_in_its_file(tmp_path, name):
    filename, rate, num_channels, options, _ = FORMATS[name]
    path = _write(tmp_path / filename, _noise(5 * rate + 77, num_channels), rate, **options)
    zipped = _in_zip(path)
    for start, num_samples in [(0, None), (1, 9_001), (30_000, 20_000), (79_000, None)]:
        expected = load_audio(path, start, num_samples, expect_rate=rate)
        np.testing.assert_array_equal(load_audio(zipped, start, num_samples, expect_rate=rate), expected)


def test_a_crop_reads_only_its_part_of_the_archive(tmp_path, monkeypatch):
    zipped = _in_zip(_write(tmp_path / "a.wav", _noise(1_000_000)))
    num_read = []

    class CountingPart(archive._Part):
        def readinto(self, buffer):
            num_read.append(super().readinto(buffer))
            return num_read[-1]

    monkeypatch.setattr(archive, "_Part", CountingPart)
    load_audio(zipped, start=500_000, num_samples=16_000)
    assert 32_000 < sum(num_read) < 400_000


def test_a_row_is_loaded_as_what_its_manifest_states(tmp_path):
    waveform = _noise(8000)
    _write(tmp_path / "a.wav", waveform, 8000, subtype="FLOAT")
    (tmp_path / "train.tsv").write_text(f"{tmp_path}\na.wav\t8000\t8000\na.wav\t8000\na.wav\t8001\t8000\n")
    manifest = read_manifest(tmp_path / "train.tsv")
    whole = load_audio(tmp_path / "a.wav", expect_rate=8000)
    np.testing.assert_array_equal(load_row(manifest, 0), whole)
    np.testing.assert_allclose(load_row(manifest, 0, 100, 50), whole[100:150], atol=1e-6)
    for row, stated in ((1, "expected 16000 Hz"), (2, "expected 8001")):
        with pytest.raises(AudioError, match=stated):
            load_row(manifest, row)


def test_real_recordings_have_the_promised_length(recordings):
    for path in sorted(recordings.glob("*/*"))[::100]:
        info = sf.info(path)
        waveform = load_audio(path, expect_samples=info.frames, expect_rate=info.samplerate)
        assert len(waveform) == -(-info.frames * 16000 // info.samplerate)


def _refused(path, **arguments):
    with pytest.raises(AudioError, match=re.escape(str(path)) + ": .+; expected .+; .+") as caught:
        load_audio(path, **arguments)
    return str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    assert "no such file" in _refused(tmp_path / "none.wav")


def test_a_folder_is_named(tmp_path):
    assert "this is a folder" in _refused(tmp_path)


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.mp3", "a.raw"])
def test_what_is_not_audio_is_named(tmp_path, name):
    (tmp_path / name).write_text("not audio " * 20)
    assert "cannot be decoded" in _refused(tmp_path / name)


def test_another_rate_than_expected_is_named(tmp_path):
    path = _write(tmp_path / "a.wav", _noise(800), 8000)
    assert "its sample rate is 8000 Hz; expected 16000 Hz" in _refused(path)


def test_another_length_than_expected_is_named(tmp_path):
    path = _write(tmp_path / "a.wav", _noise(800))
    assert "it has 800 samples; expected 801" in _refused(path, expect_samples=801)


def test_an_empty_file_is_named(tmp_path):
    assert "holds no samples" in _refused(_write(tmp_path / "a.wav", np.zeros(0)))


@pytest.mark.parametrize("start", [-1, 800, 900])
def test_a_start_outside_the_file_is_named(tmp_path, start):
    path = _write(tmp_path / "a.wav", _noise(800))
    assert f"starts at sample {start} of 800" in _refused(path, start=start)


@pytest.mark.parametrize(("name", "found"), [("a.flac", "cannot be decoded"), ("a.mp3", "of its 32000 samples")])
def test_a_truncated_file_is_named(tmp_path, name, found):
    path = _write(tmp_path / name, _noise(32000))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert found in _refused(path, expect_samples=32000)


def test_a_truncated_wav_is_told_by_the_manifests_length(tmp_path):
    path = _write(tmp_path / "a.wav", _noise(32000))
    path.write_bytes(path.read_bytes()[:32000])
    assert "expected 32000" in _refused(path, expect_samples=32000)


def test_a_flac_that_states_no_length_is_read_whole(tmp_path):
    path = _write(tmp_path / "a.flac", _noise(32000))
    stated = load_audio(path)
    data = bytearray(path.read_bytes())
    data[21] &= 0xF0  # the 36 bits of STREAMINFO's number of samples
    data[22:26] = bytes(4)
    path.write_bytes(data)
    assert np.array_equal(load_audio(path), stated)
    assert np.array_equal(load_audio(path, 20_000, 500, expect_samples=32_000), stated[20_000:20_500])
    path.write_bytes(data[: len(data) * 2 // 3])
    assert "cannot be decoded" in _refused(path, expect_samples=32_000)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_sample_that_is_not_finite_is_refused(tmp_path, bad):
    waveform = _noise(800)
    waveform[17] = bad
    assert "1 of 800 samples are NaN or infinite" in _refused(_write(tmp_path / "a.wav", waveform, subtype="FLOAT"))


def test_a_finite_but_huge_sample_is_refused(tmp_path):
    waveform = np.zeros(800, dtype=np.float32)
    waveform[7:9] = 3e38, -3e38
    assert "samples reach 3e+38; expected at most 4294967296" in _refused(
        _write(tmp_path / "a.wav", waveform, subtype="FLOAT")
    )


def test_a_missing_archive_is_named(tmp_path):
    assert "no such file" in _refused(f"{tmp_path}/none.zip:0:10")


def test_a_compressed_archive_is_named_with_how_to_repack(tmp_path):
    zipped = _in_zip(_write(tmp_path / "a.wav", _noise(8000)), zipfile.ZIP_DEFLATED)
    message = _refused(zipped)
    assert "cannot be decoded" in message
    assert "`zip -0" in message


def test_an_archive_that_became_shorter_is_named(tmp_path):
    zipped = _in_zip(_write(tmp_path / "a.wav", _noise(8000)))
    os.truncate(tmp_path / "a.zip", 10_000)
    assert "the archive ends after 10000 bytes" in _refused(zipped)


@pytest.mark.parametrize("filename", ["a.wav", "a.flac", "a.ogg", "a.mp3"])
def test_an_archive_with_other_bytes_at_the_offset_is_named(tmp_path, filename):
    zipped = _in_zip(_write(tmp_path / filename, _noise(32000)))
    data = (tmp_path / "a.zip").read_bytes()
    (tmp_path / "a.zip").write_bytes(data[777:] + data[:777])
    assert "a.zip" in _refused(zipped, expect_samples=32000)


def test_an_archive_with_another_clip_at_the_offset_is_named(tmp_path):
    first, second = (_in_zip(_write(tmp_path / "a.wav", _noise(count))) for count in (32000, 31000))
    assert first.split(":")[1] == second.split(":")[1]
    assert "it has 31000 samples; expected 32000" in _refused(
        first.replace(first.split(":")[2], second.split(":")[2]), expect_samples=32000
    )


@pytest.mark.parametrize(("filename", "found"), [("a.wav", "samples; expected 32000"), ("a.flac", "cannot be decoded")])
def test_a_length_that_is_too_short_is_named(tmp_path, filename, found):
    archive, offset, length = _in_zip(_write(tmp_path / filename, _noise(32000))).rsplit(":", 2)
    assert found in _refused(f"{archive}:{offset}:{int(length) // 2}", expect_samples=32000)


def test_the_error_crosses_processes(tmp_path):
    (tmp_path / "a.wav").write_text("not audio")
    with pytest.raises(AudioError) as caught:
        load_audio(tmp_path / "a.wav")
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
