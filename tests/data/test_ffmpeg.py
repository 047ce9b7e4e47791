"""Files that FFmpeg reads: how long they are, that a crop is the whole's, and what is said of those it cannot read."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from mae_ast_fairseq import extras
from mae_ast_fairseq.corpus.check import check_manifest
from mae_ast_fairseq.corpus.pack import pack
from mae_ast_fairseq.corpus.scan import Fault, examine, scan
from mae_ast_fairseq.data.audio import load_audio, open_audio
from mae_ast_fairseq.data.manifest import read_manifest, write_manifest
from mae_ast_fairseq.errors import AudioError
from tests.encoding import decode, encode, require_av, tone

RATE = 16_000
SECONDS = 30  # three segments
LOSSY = {
    "aac.m4a": ("ipod", "aac", {}),
    "aac-faststart.mp4": ("mp4", "aac", {"movflags": "faststart"}),
    "aac-fragments.mp4": ("mp4", "aac", {"movflags": "frag_keyframe+empty_moov", "frag_duration": "1000000"}),
    "aac.mkv": ("matroska", "aac", {}),
    "aac.aac": ("adts", "aac", {}),
    "aac.3gp": ("3gp", "aac", {}),
    "noisy.m4a": ("ipod", "aac", {"bit_rate": 16_000}),
    "opus.webm": ("webm", "libopus", {}),
    "opus-live.webm": ("webm", "libopus", {"live": "1"}),
    "mp3.mkv": ("matroska", "libmp3lame", {}),
    "mp3.caf": ("caf", "libmp3lame", {}),
    "wma.wma": ("asf", "wmav2", {"bit_rate": 48_000}),
    "ac3.mkv": ("matroska", "ac3", {}),
}
LOSSLESS = {
    "alac.m4a": ("ipod", "alac", {}),
    "flac.mkv": ("matroska", "flac", {}),
    "flac.mp4": ("mp4", "flac", {}),
    "pcm.mov": ("mov", "pcm_s16le", {}),
    "pcm.mkv": ("matroska", "pcm_s16le", {}),
    "wavpack.wv": ("wv", "wavpack", {}),
    "alac.caf": ("caf", "alac", {}),
}
RATES = {"ac3": 32_000, "libopus": 48_000}
STATELESS = ("mp3.mkv", "mp3.caf", *LOSSLESS)  # codecs whose decoders forget: as FFmpeg decodes, however long the file


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    """Files of LOSSY and LOSSLESS, in 16 bits, and of frames for telephones."""
    require_av()
    folder = tmp_path_factory.mktemp("media")
    for name, (container, codec, options) in {**LOSSY, **LOSSLESS}.items():
        rate = RATES.get(codec, RATE)
        encode(folder / name, container, codec, _exact(tone(SECONDS * rate + 77, rate)), rate, **options)
    telephone = tone(SECONDS * 8_000, 8_000)
    encode(folder / "amr.amr", "amr", "libopencore_amrnb", telephone, 8_000)
    sf.write(folder / "gsm", telephone[:, 0], 8_000, format="RAW", subtype="GSM610")
    (folder / "gsm").rename(folder / "gsm.gsm")
    return folder


def _exact(samples):
    """Round samples to what 16 bits hold."""
    return np.round(samples * 32768).astype(np.float32) / 32768


def _all(path):
    with open_audio(path) as file:
        return file.read(always_2d=True)


@pytest.mark.parametrize("name", [*LOSSY, *LOSSLESS, "amr.amr", "gsm.gsm"])
def test_a_file_is_as_long_as_ffmpeg_decodes_it_and_begins_alike(media, name):
    expected, held, whole = decode(media / name), examine(media / name), _all(media / name)
    assert held.num_samples == len(whole) == len(expected)
    first = slice(0, 12 * held.sample_rate)
    np.testing.assert_array_equal(whole[first], expected[first])
    if name in STATELESS:
        np.testing.assert_array_equal(whole, expected)


@pytest.mark.parametrize("name", [*LOSSY, *LOSSLESS, "amr.amr", "gsm.gsm"])
@pytest.mark.parametrize("is_expected", [True, False])
def test_a_crop_is_that_slice_of_the_whole(media, name, is_expected):
    whole = _all(media / name)
    with open_audio(media / name, len(whole) if is_expected else None) as file:
        rate = file.samplerate
        for start in (0, 1, 5 * rate, 12 * rate - 1, 12 * rate, 13 * rate + 7, 24 * rate - 9, len(whole) - 50):
            file.skip(start)
            np.testing.assert_array_equal(file.read(rate, always_2d=True), whole[start : start + rate])


@pytest.mark.parametrize("name", LOSSLESS)
def test_lossless_audio_is_what_was_written(media, name):
    np.testing.assert_array_equal(_all(media / name)[:, 0], _exact(tone(SECONDS * RATE + 77, RATE))[:, 0])


@pytest.mark.parametrize("name", ["aac.m4a", "opus.webm", "aac.aac", "amr.amr", "gsm.gsm", "flac.mkv"])
def test_a_file_in_an_archive_is_read_as_beside_it(media, tmp_path, name):
    packed = pack(tmp_path / "a.zip", media, ["aac.mkv", name])[1].path_in(str(tmp_path / "a.zip"))
    held = examine(media / name)
    assert examine(packed) == held
    for start in (0, 13 * RATE):
        crop = load_audio(media / name, start, 4_000, *held)
        np.testing.assert_array_equal(load_audio(packed, start, 4_000, *held), crop)


def test_a_manifest_of_such_files_is_written_and_checked(media, tmp_path):
    rows, rejected = scan(media)
    assert len(rows) == len(LOSSY) + len(LOSSLESS) + 2
    assert not rejected
    write_manifest(tmp_path / "a.tsv", media, rows)
    report = check_manifest(read_manifest(tmp_path / "a.tsv"))
    assert {finding.kind for finding in report.findings} == {"same audio"}


def test_channels_are_mixed_and_resampled_as_those_of_wav(tmp_path):
    samples = _exact(tone(3 * 44_100, 44_100, num_channels=2))
    encode(tmp_path / "a.m4a", "ipod", "alac", samples, 44_100)
    sf.write(tmp_path / "a.wav", samples, 44_100, subtype="PCM_16")
    for part in ((0, None), (9_000, 12_000)):
        expected = load_audio(tmp_path / "a.wav", *part, expect_rate=None)
        np.testing.assert_array_equal(load_audio(tmp_path / "a.m4a", *part, expect_rate=None), expected)


@pytest.mark.parametrize("codec", ["aac", "pcm_s16le"])
def test_a_gap_in_the_clock_is_no_audio(tmp_path, codec):
    """What a recorder lost: FFmpeg decodes what is there, and the clock of what follows is of no use for counting."""
    path = encode(tmp_path / "a.mkv", "matroska", codec, tone(SECONDS * RATE, RATE), RATE, gap=8_000)
    expected, held = decode(path), examine(path)
    assert held.num_samples == len(expected)
    np.testing.assert_array_equal(load_audio(path, 0, None, *held), expected[:, 0])
    np.testing.assert_array_equal(load_audio(path, 20 * RATE, 5_000, *held), expected[20 * RATE :, 0][:5_000])


def test_another_length_than_is_expected_is_named(media):
    with pytest.raises(AudioError, match="expected 480000, as the manifest says"):
        load_audio(media / "aac.m4a", 0, 100, expect_samples=480_000)


def test_without_pyav_its_extra_is_named(media, monkeypatch):
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    held = examine(media / "aac.m4a")
    assert held.kind == "needs PyAV"
    with pytest.raises(AudioError) as raised:
        load_audio(media / "aac.m4a")
    for found in (held.found, str(raised.value)):
        assert "pip install 'mae_ast_fairseq[av]'" in found


def _without_audio(folder: Path) -> Path:
    av = require_av()
    path = folder / "a.mp4"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("mpeg4", rate=25)
        stream.width = stream.height = 64
        for packet in [*stream.encode(av.VideoFrame(64, 64, "yuv420p")), *stream.encode(None)]:
            output.mux(packet)
    return path


def _encrypted(folder: Path) -> Path:
    key = "76a6c65c5ea762046bd749a2e632ccbb"
    options = {"encryption_scheme": "cenc-aes-ctr", "encryption_key": key, "encryption_kid": key}
    return encode(folder / "a.mp4", "mp4", "aac", tone(RATE, RATE), RATE, **options)


def _changing(folder: Path) -> Path:
    first, second = (
        encode(folder / f"{rate}.aac", "adts", "aac", tone(rate, rate), rate).read_bytes() for rate in (16_000, 32_000)
    )
    (folder / "a.aac").write_bytes(first + second)
    return folder / "a.aac"


def _damaged(folder: Path) -> Path:
    path = encode(folder / "a.mkv", "matroska", "flac", tone(2 * RATE, RATE), RATE)
    data = bytearray(path.read_bytes())
    data[20_000:24_000] = bytes(4_000)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (_without_audio, "it holds no audio stream"),
        (_encrypted, "it is encrypted"),
        (_changing, "it changes from 16000 Hz and 1 channels to 32000 Hz"),
        (_damaged, "Invalid data found"),
    ],
)
def test_what_cannot_be_read_is_named_in_one_line_and_ffmpeg_is_silent(tmp_path, capfd, make, found):
    path = make(tmp_path)
    with pytest.raises(AudioError, match=found) as raised:
        load_audio(path)
    assert "\n" not in str(raised.value)
    rows, rejected = scan(tmp_path, paths=[path.name])
    if make is not _changing:  # whose frames are counted without decoding them; `check` decodes all
        assert [row.reason.split(":")[0] for row in rejected] == ["unreadable"]
    else:
        write_manifest(tmp_path / "a.tsv", tmp_path, rows)
        (finding,) = check_manifest(read_manifest(tmp_path / "a.tsv")).findings
        assert finding.kind == "unreadable"
    assert capfd.readouterr().err.count("\n") <= 1  # of the progress bar


@pytest.mark.parametrize("name", ["aac.mkv", "aac.m4a", "aac-faststart.mp4", "opus.webm", "wma.wma"])
def test_a_cut_file_is_truncated(media, tmp_path, name):
    data = (media / name).read_bytes()
    (tmp_path / name).write_bytes(data[: len(data) // 2])
    assert examine(tmp_path / name).kind == "truncated"


@pytest.mark.parametrize("name", ["aac.mkv", "aac-faststart.mp4", "wma.wma"])
def test_two_joined_files_are_longer_than_stated(media, tmp_path, name):
    (tmp_path / name).write_bytes(2 * (media / name).read_bytes())
    assert examine(tmp_path / name).kind == "longer than stated"


@pytest.mark.parametrize("name", ["aac.aac", "amr.amr", "gsm.gsm"])
def test_cut_frames_are_as_long_as_those_that_are_whole_and_others_between_them_are_damage(media, tmp_path, name):
    data, whole = (media / name).read_bytes(), _all(media / name)
    (tmp_path / name).write_bytes(data[:10_001])
    held = examine(tmp_path / name)
    np.testing.assert_array_equal(_all(tmp_path / name), whole[: held.num_samples])
    (tmp_path / name).write_bytes(data[:10_001] + bytes(3_000) + data[10_001:])
    assert "no frame begins at byte" in examine(tmp_path / name).found


def test_pauses_of_a_telephone_are_decoded(tmp_path):
    speech = tone(16_000, 8_000)
    samples = np.concatenate([speech, 0 * speech, speech])
    av = require_av()
    path = tmp_path / "a.amr"
    with av.open(str(path), "w", format="amr") as output:
        stream = output.add_stream("libopencore_amrnb", rate=8_000, layout="mono", options={"dtx": "1"})
        frame = av.AudioFrame.from_ndarray(samples.T.copy(), format="fltp", layout="mono")
        frame.sample_rate = 8_000
        stream.codec_context.open()
        resampler = av.AudioResampler("s16", "mono", 8_000, frame_size=160)
        for part in [*resampler.resample(frame), None]:
            for packet in stream.encode(part):
                output.mux(packet)
    held = examine(path)
    assert held.num_samples - 48_000 in (0, 160)
    waveform = load_audio(path, 0, None, *held)
    assert np.abs(waveform[40_000:60_000]).max() < 0.01 < np.abs(waveform[:30_000]).max()


def test_of_several_streams_the_best_is_read(tmp_path):
    av = require_av()
    with av.open(str(tmp_path / "a.mkv"), "w") as output:
        streams = [output.add_stream("flac", rate=RATE, layout=layout) for layout in ("mono", "stereo")]
        for stream in streams:
            samples = np.full((1, RATE * stream.layout.nb_channels), 100 * stream.layout.nb_channels, dtype=np.int16)
            frame = av.AudioFrame.from_ndarray(samples, format="s16", layout=stream.layout)
            frame.sample_rate, frame.pts, frame.time_base = RATE, 0, Fraction(1, RATE)
            for packet in [*stream.encode(frame), *stream.encode(None)]:
                output.mux(packet)
    np.testing.assert_array_equal(load_audio(tmp_path / "a.mkv"), decode(tmp_path / "a.mkv")[:, 0])


def test_an_empty_file_is_empty(tmp_path):
    (tmp_path / "a.m4a").touch()
    assert examine(tmp_path / "a.m4a") == Fault("empty")
