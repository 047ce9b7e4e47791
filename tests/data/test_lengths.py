"""Whole, cut and joined files of every format: how long each is, or what is wrong with it, wherever it is read."""

import io
import struct

import numpy as np
import pytest
import soundfile as sf

from mae_ast_fairseq.corpus.check import check_manifest, fix
from mae_ast_fairseq.corpus.pack import pack
from mae_ast_fairseq.corpus.scan import Fault, examine
from mae_ast_fairseq.data.audio import load_audio
from mae_ast_fairseq.data.manifest import read_manifest, write_manifest
from mae_ast_fairseq.data.streams import flac_end, flac_lengths
from mae_ast_fairseq.errors import AudioError
from mae_ast_fairseq.inference.loading import FileList

NUM_SAMPLES = 32_077
FORMATS = {
    "wav": {"format": "WAV"},
    "rifx": {"format": "WAV", "endian": "BIG"},
    "extensible": {"format": "WAVEX", "subtype": "PCM_24"},
    "rf64": {"format": "RF64"},
    "w64": {"format": "W64"},
    "aiff": {"format": "AIFF"},
    "aifc": {"format": "AIFF", "endian": "LITTLE"},
    "au": {"format": "AU"},
    "au-little": {"format": "AU", "endian": "LITTLE"},
    "caf": {"format": "CAF"},
    "sphere": {"format": "NIST"},
    "sphere-ulaw": {"format": "NIST", "subtype": "ULAW"},
    "flac": {"format": "FLAC"},
    "vorbis": {"format": "OGG"},
    "opus": {"format": "OGG", "subtype": "OPUS"},
    "mp3": {"format": "MP3"},
}
SEQUENTIAL = {
    "gsm": {"format": "WAV", "subtype": "GSM610"},
    "g721": {"format": "AU", "subtype": "G721_32"},
    "g723": {"format": "AU", "subtype": "G723_24"},
    "g721-wav": {"format": "WAV", "subtype": "G721_32"},
}
ADPCM = {
    "ima": {"format": "WAV", "subtype": "IMA_ADPCM"},
    "ms": {"format": "WAV", "subtype": "MS_ADPCM"},
    "nms": {"format": "WAV", "subtype": "NMS_ADPCM_32"},
    "alac": {"format": "CAF", "subtype": "ALAC_16"},
}


def noise(num_samples, seed=0):
    swell = np.sin(np.linspace(0, 20, num_samples)) ** 2
    return 0.1 * swell * np.random.default_rng(seed).standard_normal(num_samples)


def write(path, options, num_samples=NUM_SAMPLES, seed=0):
    sf.write(path, noise(num_samples, seed), 16000, **options)
    return path


def said(path, rate=16000):
    """Return the number of samples that all readers agree on, or the kind of fault that all agree on."""
    held, opened = examine(path), FileList([str(path)])
    (path.parent / "one.tsv").write_text(f"{path.parent}\n{path.name}\t{NUM_SAMPLES}\t{rate}\n")
    report = check_manifest(read_manifest(path.parent / "one.tsv"))
    packed = pack(path.with_suffix(".zip"), path.parent, [path.name])[0].path_in(str(path.with_suffix(".zip")))
    assert examine(packed) == held
    if isinstance(held, Fault):
        assert held.kind in str(opened.errors[0])
        assert held.kind in {finding.kind for finding in report.findings}
        for place in (path, packed):
            with pytest.raises(AudioError, match=held.kind):
                load_audio(place, expect_rate=None)
        return held.kind
    assert report.num_samples[0] == opened.num_samples[0] == held.num_samples
    whole = load_audio(path, 0, None, *held)
    assert len(whole) == -(-held.num_samples * 16000 // held.sample_rate)
    np.testing.assert_array_equal(load_audio(packed, expect_rate=None), whole)
    for start in (1, 7_000, len(whole) - 900):
        for expect in (held.num_samples, None):
            crop = load_audio(path, start, 800, expect, held.sample_rate)
            np.testing.assert_allclose(
                crop, whole[start : start + 800], rtol=0, atol=3e-3 if "opus" in path.name else 1e-6
            )
    return held.num_samples


@pytest.mark.parametrize("name", FORMATS)
def test_a_whole_file_is_as_long_as_was_written(tmp_path, name):
    assert said(write(tmp_path / f"{name}.wav", FORMATS[name])) == NUM_SAMPLES


@pytest.mark.parametrize(
    "options",
    [
        {"format": "AIFF", "subtype": "DWVW_16"},
        {"format": "PAF", "subtype": "PCM_24"},
        {"format": "VOC"},
        {"format": "IRCAM"},
        {"format": "HTK"},
    ],
    ids=lambda options: options["format"],
)
def test_what_only_libsndfile_knows_is_as_long_as_was_written(tmp_path, options):
    num_samples = 32_000  # of whole blocks
    path = write(tmp_path / "a.wav", options, num_samples)
    assert said(path) == num_samples


def test_a_damaged_mp3_is_damaged_though_libsndfile_says_that_it_does_not_exist(tmp_path):
    (tmp_path / "a.mp3").write_bytes(b"\xff\xfb\x00\x00" + np.random.default_rng(0).bytes(5_000))
    assert "it is damaged" in examine(tmp_path / "a.mp3").found
    with pytest.raises(AudioError, match=r"cannot be decoded \(it is damaged\)"):
        load_audio(tmp_path / "a.mp3")


def test_sds_whose_cut_is_not_seen_is_refused(tmp_path):
    assert said(write(tmp_path / "a.wav", {"format": "SDS"})) == "unreadable"


def test_a_cut_file_of_which_no_sample_can_be_sought_is_truncated(tmp_path):
    path = write(tmp_path / "a.aiff", {"format": "AIFF", "subtype": "DWVW_16"})
    path.write_bytes(path.read_bytes()[:20_000])
    assert said(path) == "truncated"


TEXT = "<html>not found</html>"


@pytest.mark.parametrize(
    "data",
    [
        TEXT.encode() * 100,
        TEXT.encode("utf-16") * 100,
        bytes(5_000),
        b"ID3\4\0\0\0\0\0\x05hello" + TEXT.encode() * 100,
        b"ID3\4\0\0\0\0\x7f\x7fhello",
        b"\xff\xfb\x90\x00" + np.random.default_rng(0).bytes(50_000),
        np.random.default_rng(1).bytes(50_000),
    ],
    ids=["text", "utf-16", "zeros", "tag-and-text", "cut-tag", "one-head", "noise"],
)
def test_what_is_no_audio_is_unreadable_and_nothing_is_said_on_stderr(tmp_path, data, capfd):
    path = tmp_path / "a.mp3"
    path.write_bytes(data)
    assert examine(path).kind == "unreadable"
    with pytest.raises(AudioError, match="recognised"):
        load_audio(path)
    assert "does not exist" not in examine(path).found
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("name", SEQUENTIAL | ADPCM)
def test_a_file_of_blocks_is_as_long_as_its_last_block(tmp_path, name):
    path = write(tmp_path / "a.wav", (SEQUENTIAL | ADPCM)[name])
    assert said(path) == len(_decoded(path))


def _decoded(path):
    with sf.SoundFile(path) as file:
        buffer = np.empty(NUM_SAMPLES + 10_000, dtype=np.float32)
        return buffer[: len(file.read(out=buffer))]


@pytest.mark.parametrize("name", FORMATS | SEQUENTIAL)
@pytest.mark.parametrize("share", [0.4, 0.98])
def test_a_cut_file_is_truncated(tmp_path, name, share):
    path = write(tmp_path / "a.wav", (FORMATS | SEQUENTIAL)[name])
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    assert said(path) == "truncated"


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("other", [NUM_SAMPLES, 20_000])
def test_files_joined_by_cat_are_longer_than_stated(tmp_path, name, other):
    path = write(tmp_path / "a.wav", FORMATS[name])
    following = write(tmp_path / "b.wav", FORMATS[name], other, seed=0 if other == NUM_SAMPLES else 1)
    path.write_bytes(path.read_bytes() + following.read_bytes())
    assert said(path) == "longer than stated"


@pytest.mark.parametrize(("name", "held"), [("flac", 52_077), ("mp3", ""), ("vorbis", 52_077)])
def test_both_lengths_of_joined_files_are_told(tmp_path, name, held):
    path = write(tmp_path / "a.wav", FORMATS[name])
    following = write(tmp_path / "b.wav", FORMATS[name], 20_000)
    path.write_bytes(path.read_bytes() + following.read_bytes())
    assert f"{NUM_SAMPLES} samples, {held}" in examine(path).found


# --- MPEG audio whose header states no length


def frames_of_mp3(path, num_samples=NUM_SAMPLES, rate=16000, seed=0, **options):
    """Return an MP3 stream without the frame that describes it."""
    sf.write(path, noise(num_samples, seed), rate, format="MP3", **options)
    data = path.read_bytes()
    assert b"Info" in data[:60] or b"Xing" in data[:60]
    second = data.find(data[:2], 40)
    return data[second:]


MP3_RATES = [8000, 11025, 16000, 24000, 32000, 44100, 48000]
VARIABLE = {"bitrate_mode": "VARIABLE", "compression_level": 0.4}
CONSTANT = {"bitrate_mode": "CONSTANT", "compression_level": 0.4}


def frame_samples(rate):
    return 1152 if rate >= 32000 else 576


@pytest.mark.parametrize("rate", MP3_RATES)
@pytest.mark.parametrize("options", [VARIABLE, CONSTANT], ids=["vbr", "cbr"])
def test_mp3_without_a_stated_length_is_all_its_frames(tmp_path, rate, options):
    data = frames_of_mp3(tmp_path / "a.mp3", rate=rate, **options)
    described = load_audio(tmp_path / "a.mp3", expect_rate=None)
    (tmp_path / "a.mp3").write_bytes(b"ID3\4\0\0\0\0\0\x05hello" + data + b"TAG".ljust(128))
    held = said(tmp_path / "a.mp3", rate)
    assert held % frame_samples(rate) == 0
    assert NUM_SAMPLES <= held < NUM_SAMPLES + 4 * frame_samples(rate)
    delay = 576 + 529  # LAME's and the decoder's
    if rate == 16000:
        whole = load_audio(tmp_path / "a.mp3")
        np.testing.assert_allclose(whole[delay : delay + len(described)], described[: len(whole) - delay], atol=1e-5)


def test_mp3_from_the_middle_of_a_stream_is_its_whole_frames(tmp_path):
    data = frames_of_mp3(tmp_path / "a.mp3", **CONSTANT)
    (tmp_path / "a.mp3").write_bytes(data)
    whole = said(tmp_path / "a.mp3")
    (tmp_path / "a.mp3").write_bytes(data[1001:])
    part = said(tmp_path / "a.mp3")
    size = len(data) / (whole / 576)
    assert part == whole - 576 * -(-1001 // size)


def stating(data, num_frames, num_bytes=None):
    """Change what an MP3 stream's first frame says of how many frames, and of how many bytes, there are."""
    place = max(data.find(b"Info"), data.find(b"Xing")) + 8
    num_bytes = int.from_bytes(data[place + 4 : place + 8], "big") if num_bytes is None else num_bytes
    return data[:place] + struct.pack(">II", num_frames, num_bytes) + data[place + 8 :]


def stated_frames(data):
    place = max(data.find(b"Info"), data.find(b"Xing")) + 8
    return int.from_bytes(data[place : place + 4], "big")


@pytest.mark.parametrize("wrong", [0, 20, -1, 1, 10, 0xFFFFFFFF])
@pytest.mark.parametrize("options", [VARIABLE, CONSTANT], ids=["vbr", "cbr"])
def test_mp3_that_counts_its_frames_wrong_is_read_whole(tmp_path, wrong, options, capfd):
    path = tmp_path / "a.mp3"
    sf.write(path, noise(NUM_SAMPLES), 16000, format="MP3", **options)
    right, data = load_audio(path), path.read_bytes()
    num_frames = stated_frames(data)
    path.write_bytes(stating(data, wrong if wrong in (0, 20, 0xFFFFFFFF) else num_frames + wrong))
    assert said(path) == NUM_SAMPLES
    capfd.readouterr()  # a decoder that begins in the middle says what it lacks
    assert examine(path).num_samples == NUM_SAMPLES
    np.testing.assert_array_equal(load_audio(path, expect_samples=NUM_SAMPLES), right)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("num_bytes", [0, 1000, 1 << 20])
def test_mp3_that_states_wrong_bytes_alone_is_read_whole(tmp_path, num_bytes, capfd):
    path = tmp_path / "a.mp3"
    sf.write(path, noise(NUM_SAMPLES), 16000, format="MP3")
    right, data = load_audio(path), path.read_bytes()
    path.write_bytes(stating(data, stated_frames(data), num_bytes))
    assert said(path) == NUM_SAMPLES
    np.testing.assert_array_equal(load_audio(path), right)
    assert capfd.readouterr().err == ""


def test_no_more_samples_are_believed_than_the_bytes_can_hold(tmp_path):
    path = tmp_path / "a.mp3"
    sf.write(path, noise(NUM_SAMPLES), 16000, format="MP3")
    path.write_bytes(stating(path.read_bytes(), 0xFFFFFFFF))
    with pytest.raises(AudioError, match=f"has {NUM_SAMPLES} samples"):
        load_audio(path, expect_samples=0xFFFFFFFF * 576 - 1681)


@pytest.mark.parametrize("num_bytes", [1, 400])
def test_mp3_that_is_damaged_in_the_middle_is_unreadable(tmp_path, num_bytes):
    path = tmp_path / "a.mp3"
    sf.write(path, noise(NUM_SAMPLES), 16000, format="MP3", **CONSTANT)
    data = path.read_bytes()
    middle = data.find(data[:3], len(data) // 2)
    path.write_bytes(data[:middle] + bytes(num_bytes) + data[middle + num_bytes :])
    assert said(path) == "unreadable"


def in_wav(data):
    """Put an MP3 stream at 16 kHz into a WAV file."""
    form = struct.pack("<4sIHHIIHHHHIHHH", b"fmt ", 30, 0x55, 1, 16000, 8000, 1, 0, 12, 1, 2, 576, 1, 1393)
    body = b"WAVE" + form + b"data" + struct.pack("<I", len(data)) + data + bytes(len(data) % 2)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def test_mp3_inside_wav_is_as_long_as_by_itself(tmp_path):
    data = frames_of_mp3(tmp_path / "a.mp3", **VARIABLE)
    described = (tmp_path / "a.mp3").read_bytes()
    (tmp_path / "a.wav").write_bytes(in_wav(described))
    assert said(tmp_path / "a.wav") == NUM_SAMPLES
    (tmp_path / "a.mp3").write_bytes(data)
    (tmp_path / "a.wav").write_bytes(in_wav(data))
    assert said(tmp_path / "a.wav") == said(tmp_path / "a.mp3") > NUM_SAMPLES


@pytest.mark.parametrize("layer", [1, 2])
def test_layers_1_and_2_are_all_their_frames(tmp_path, layer):
    # Silent frames of 64 and 32 kbit/s at 32 kHz: a header, and no bits for any band.
    header, size, samples = {1: (b"\xff\xff\x28\xc0", 96, 384), 2: (b"\xff\xfd\x18\xc0", 144, 1152)}[layer]
    (tmp_path / "a.mp2").write_bytes(header.ljust(size, b"\0") * 50)
    assert said(tmp_path / "a.mp2", 32000) == 50 * samples


# --- the files beside the clone, which real tools wrote


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("reference_plain.wav", 48_000),
        ("mp3_vbr_no_xing.mp3", 49_536),
        ("mp3_cbr_no_xing_with_id3.mp3", 49_536),
        ("gsm610_8k.wav", 24_320),
        ("mp3_two_files_joined.mp3", "longer than stated: it states 48000 samples, 97967 are there"),
        ("cut_rf64.wav", "truncated"),
        ("cut_vorbis.ogg", "truncated"),
        ("wav_data_size_0.wav", "longer than stated: it states 0 bytes of audio, 96000 more follow"),
        ("flac_total_samples_0.flac", 48_000),
    ],
)
def test_files_of_real_tools(cases, name, expected):
    held = examine(cases / name)
    if isinstance(expected, str):
        assert str(held).startswith(expected)
        with pytest.raises(AudioError):
            load_audio(cases / name, expect_rate=None)
    else:
        assert held.num_samples == expected
        assert len(load_audio(cases / name, 0, None, *held)) == expected * 16000 // held.sample_rate


def test_an_old_manifests_wrong_length_is_told(cases):
    with pytest.raises(AudioError, match="49536 samples; expected 28491"):
        load_audio(cases / "mp3_vbr_no_xing.mp3", expect_samples=28_491)


def test_decoders_say_nothing_on_stderr(cases, capfd):
    for name in ("mp3_two_files_joined.mp3", "mp3_vbr_no_xing.mp3", "cut_vorbis.ogg"):
        examine(cases / name)
    assert capfd.readouterr().err == ""


def flac_stating(data, num_samples):
    numbers = int.from_bytes(data[18:26], "big") >> 36 << 36 | num_samples
    return data[:18] + numbers.to_bytes(8, "big") + data[26:]


@pytest.mark.parametrize("num_less", [1, 4096, 12_077, NUM_SAMPLES - 1])
def test_flac_that_states_fewer_samples_than_it_holds_is_not_cropped(tmp_path, num_less):
    path = write(tmp_path / "a.flac", FORMATS["flac"])
    path.write_bytes(flac_stating(path.read_bytes(), NUM_SAMPLES - num_less))
    assert said(path) == "longer than stated"
    assert f"{NUM_SAMPLES - num_less} samples, {NUM_SAMPLES} are there" in examine(path).found


@pytest.mark.parametrize("num_samples", [1, 4095, 4096, 4097, 3 * 4096, 600_000])
def test_the_last_frames_of_flac_go_to_its_end(tmp_path, num_samples):
    path = write(tmp_path / "a.flac", FORMATS["flac"], num_samples)
    with path.open("rb") as stream:
        assert flac_end(stream, 0, path.stat().st_size) == num_samples


def test_joined_flac_of_no_stated_length_is_told_by_its_streams(tmp_path):
    path = write(tmp_path / "a.flac", FORMATS["flac"])
    path.write_bytes(2 * flac_stating(path.read_bytes(), 0))
    assert said(path) == "longer than stated"
    assert "2 streams" in examine(path).found


def test_flac_in_the_metadata_of_flac_is_no_second_stream(tmp_path):
    path = write(tmp_path / "a.flac", FORMATS["flac"])
    data = path.read_bytes()
    inner = b"test" + data[:42]
    path.write_bytes(data[:42] + b"\2" + len(inner).to_bytes(3, "big") + inner + data[42:])
    assert said(path) == NUM_SAMPLES


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_behind_tags_of_mp3_is_whole(tmp_path, name):
    path = write(tmp_path / f"{name}.wav", FORMATS[name])
    path.write_bytes(b"ID3\4\0\0\0\0\0\x05hello" + path.read_bytes())
    assert said(path) == NUM_SAMPLES


def test_a_file_of_no_bytes_is_empty_in_an_archive_too(tmp_path):
    (tmp_path / "a.wav").touch()
    packed = pack(tmp_path / "a.zip", tmp_path, ["a.wav"])[0].path_in(str(tmp_path / "a.zip"))
    assert examine(tmp_path / "a.wav") == examine(packed) == Fault("empty")


def ogg_pages(data):
    starts = [place for place in range(len(data)) if data.startswith(b"OggS\0", place)]
    return [data[start:stop] for start, stop in zip(starts, [*starts[1:], len(data)], strict=True)]


@pytest.mark.parametrize("name", ["vorbis", "opus"])
@pytest.mark.parametrize("damage", ["lost", "changed", "head", "number", "last"])
def test_ogg_that_is_damaged_in_the_middle_is_unreadable(tmp_path, name, damage):
    path = write(tmp_path / "a.ogg", FORMATS[name], 10 * NUM_SAMPLES)
    pages = ogg_pages(path.read_bytes())
    middle = -1 if damage == "last" else len(pages) // 2
    page = bytearray(pages[middle])
    page[{"head": 26, "number": 18}.get(damage, 200)] ^= 1
    pages[middle] = b"" if damage == "lost" else bytes(page)
    path.write_bytes(b"".join(pages))
    assert said(path) == "unreadable"


@pytest.mark.parametrize("name", ["vorbis", "opus"])
def test_ogg_from_the_middle_of_a_broadcast_is_what_is_left(tmp_path, name):
    path = write(tmp_path / f"{name}.ogg", FORMATS[name], 10 * NUM_SAMPLES)
    whole, pages = load_audio(path), ogg_pages(path.read_bytes())
    path.write_bytes(b"".join(pages[:2] + pages[4:]))
    assert 8 * NUM_SAMPLES < said(path) < 10 * NUM_SAMPLES
    np.testing.assert_allclose(load_audio(path)[-NUM_SAMPLES:], whole[-NUM_SAMPLES:], rtol=0, atol=3e-3)


def test_joined_opus_is_counted_at_its_own_rate(tmp_path):
    path = write(tmp_path / "a.opus", FORMATS["opus"])
    path.write_bytes(2 * path.read_bytes())
    assert f"{NUM_SAMPLES} samples, {2 * NUM_SAMPLES} are there" in examine(path).found


@pytest.mark.parametrize("mark", [b"\0", b"\x80"])
def test_flac_that_begins_with_and_without_tags_is_found_behind_another(mark):
    stream = b"fLaC" + mark + b"\0\0\x22" + bytes(10) + (NUM_SAMPLES).to_bytes(8, "big") + bytes(1 << 20)
    data = 2 * stream
    assert flac_lengths(io.BytesIO(data), 0, len(data)) == [NUM_SAMPLES, NUM_SAMPLES]


@pytest.mark.parametrize("shift", [-9, -4, 0, 3])
def test_a_second_stream_is_found_wherever_it_begins(shift):
    first = b"fLaC\0\0\0\x22" + bytes((1 << 20) + shift - 8)
    data = first + b"fLaC\0\0\0\x22" + bytes(100)
    assert len(flac_lengths(io.BytesIO(data), 0, len(data))) == 2


def test_a_fixed_manifest_has_the_true_lengths_of_good_files_and_no_others(cases, tmp_path):
    names = ["mp3_vbr_no_xing.mp3", "gsm610_8k.wav", "mp3_two_files_joined.mp3", "reference_plain.wav"]
    stated = [(28_491, 16_000), (24_320, 8_000), (48_000, 16_000), (48_000, 16_000)]
    rows = [(name, *both) for name, both in zip(names, stated, strict=True)]
    write_manifest(tmp_path / "old.tsv", cases, rows)
    manifest = read_manifest(tmp_path / "old.tsv")
    rows = list(fix(manifest, check_manifest(manifest)).rows)
    assert rows == [(names[0], 49_536, 16_000), (names[1], 24_320, 8_000), (names[3], 48_000, 16_000)]
