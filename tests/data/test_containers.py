"""Chunks before and behind the audio in any number: a cut inside the audio is always found, a whole file never is."""

import io
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mae_ast_fairseq.data.containers import read

AUDIO = b"\x80\x7f\x01\xfe" * 500

names = st.sampled_from([b"LIST", b"bext", b"id3 ", b"abcd", b"JUNK"])
chunks = st.lists(st.tuples(names, st.binary(max_size=40)), max_size=4)


def _chunk(name, body, order="<"):
    return name + struct.pack(f"{order}I", len(body)) + body + bytes(len(body) % 2)


def riff(before=(), behind=(), audio=AUDIO, size=None, magic=b"RIFF"):
    """Return the bytes of a file of chunks, and where its audio begins."""
    order = "<" if magic != b"FORM" and magic != b"RIFX" else ">"
    kind, name = (b"AIFF", b"SSND") if magic == b"FORM" else (b"WAVE", b"data")
    head = magic + struct.pack(f"{order}I", 0xFFFFFFFF) + kind
    head += _chunk(b"fmt ", struct.pack(f"{order}HHIIHH", 1, 1, 16000, 32000, 2, 16), order)
    head += b"".join(_chunk(*chunk, order) for chunk in before)
    head += name + struct.pack(f"{order}I", len(audio) if size is None else size)
    return head + audio + b"".join(_chunk(*chunk, order) for chunk in behind), len(head)


def w64(size=None):
    tail = bytes(12)
    head = b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\x00\x00" + bytes(8) + b"wave" + tail
    head += b"data" + tail + struct.pack("<Q", 24 + (len(AUDIO) if size is None else size))
    return head + AUDIO, len(head)


def au(size=None):
    return struct.pack(">4sIIIII", b".snd", 24, len(AUDIO) if size is None else size, 3, 16000, 1) + AUDIO, 24


def sphere(size=None):
    count = (len(AUDIO) if size is None else size) // 2
    text = b"NIST_1A\n   1024\nchannel_count -i 1\nsample_n_bytes -i 2\nsample_count -i %d\nend_head\n" % count
    return text.ljust(1024) + AUDIO, 1024


def caf(size=None):
    head = b"caff\0\1\0\0" + b"desc" + struct.pack(">q", 32) + bytes(32)
    head += b"data" + struct.pack(">q", len(AUDIO) if size is None else size)
    return head + AUDIO, len(head)


def rf64(size=None):
    sizes = struct.pack("<QQQI", 0, len(AUDIO) if size is None else size, 0, 0)
    return riff([(b"ds64", sizes)], size=0xFFFFFFFF, magic=b"RF64")


FORMATS = {"riff": riff, "w64": w64, "au": au, "sphere": sphere, "caf": caf, "rf64": rf64}


def _read(data, begin=0):
    return read(io.BytesIO(data), begin, len(data))


@given(before=chunks, behind=chunks, magic=st.sampled_from([b"RIFF", b"RIFX", b"FORM"]), shift=st.integers(0, 3))
def test_chunks_around_the_audio_are_no_fault(before, behind, magic, shift):
    data, begin = riff(before, behind, magic=magic)
    held = _read(bytes(shift) + data, shift)
    assert held[:4] == (begin + shift, len(AUDIO), len(AUDIO), 0)


@given(before=chunks, cut=st.integers(0, len(AUDIO) - 1), magic=st.sampled_from([b"RIFF", b"RIFX", b"FORM"]))
def test_a_cut_inside_the_audio_is_found(before, cut, magic):
    data, begin = riff(before, magic=magic)
    held = _read(data[: begin + cut])
    assert (held.stated, held.held, held.beyond) == (len(AUDIO), cut, 0)


@given(behind=chunks.filter(bool), cut=st.integers(1, 60))
def test_a_cut_behind_the_audio_leaves_it_whole(behind, cut):
    known = [(b"LIST", body) for _, body in behind]
    data, begin = riff(behind=known)
    held = _read(data[: max(begin + len(AUDIO), len(data) - cut)])
    assert (held.held, held.beyond) == (len(AUDIO), 0)


@pytest.mark.parametrize("name", FORMATS)
@given(part=st.integers(0, len(AUDIO) // 2 - 5))  # 8 bytes and more
def test_audio_beyond_the_stated_size_is_found(name, part):
    data, begin = FORMATS[name](size=2 * part + 2)
    assert _read(data)[:4] == (begin, 2 * part + 2, 2 * part + 2, len(AUDIO) - 2 * part - 2)


@pytest.mark.parametrize("name", FORMATS)
@given(cut=st.integers(0, len(AUDIO)))
def test_every_container_is_whole_or_cut(name, cut):
    data, begin = FORMATS[name]()
    held = _read(data[: begin + cut])
    assert held[:4] == (begin, len(AUDIO), cut, 0)


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000, 0x80000000, 0xFFFFFFFF - 36])
def test_a_size_that_a_pipes_writer_leaves_is_none(size):
    held = _read(riff(size=size)[0])
    assert (held.stated, held.held, held.beyond) == (None, len(AUDIO), 0)


@pytest.mark.parametrize("size", [0x7FFF0000, 0x80000002, 3_000_000_000])
def test_a_size_of_gigabytes_is_believed(size):
    held = _read(riff(size=size)[0])
    assert (held.stated, held.held) == (size, len(AUDIO))


@pytest.mark.parametrize("name", ["au", "caf"])
def test_a_size_that_is_stated_as_unknown_is_none(name):
    data, begin = FORMATS[name](size={"au": 0xFFFFFFFF, "caf": -1}[name])
    assert _read(data)[:4] == (begin, None, len(AUDIO), 0)


def test_a_size_of_nothing_is_told_with_what_follows():
    held = _read(riff(size=0)[0])
    assert (held.stated, held.beyond) == (0, len(AUDIO))


@pytest.mark.parametrize(
    "trailer", [b"TAG".ljust(128), b"ID3\4" + bytes(30), bytes(4096), bytes(1 << 20), b"\0", b"APETAGEX" + bytes(24)]
)
def test_tags_and_padding_are_no_audio(trailer):
    assert _read(riff()[0] + trailer).beyond == 0


@pytest.mark.parametrize("name", FORMATS)
def test_another_file_behind_is_audio(name):
    data, _ = FORMATS[name]()
    assert _read(2 * data).beyond == len(data)


@given(st.binary(max_size=200))
def test_of_any_bytes_no_more_is_held_than_is_there_or_stated(data):
    for magic in (b"", b"RIFF", b"RF64", b"FORM", b"caff", b".snd", b"NIST_1A\n", riff()[0][:36], w64()[0][:40]):
        held = _read(magic + data)
        if held is not None:
            assert 0 <= held.held <= len(magic + data)
            assert held.stated is None or held.held <= held.stated
            assert 0 <= held.beyond <= len(magic + data) - held.held


def test_a_riff_above_4_gib_with_a_wrapped_size_is_found(tmp_path):
    path = tmp_path / "big.wav"
    true_size = (1 << 32) + 1000
    with path.open("wb") as stream:
        stream.write(riff(audio=b"", size=true_size % (1 << 32))[0])
        stream.truncate(stream.tell() + true_size)  # of holes, which take no room
    with path.open("rb") as stream:
        held = read(stream, 0, path.stat().st_size)
    assert (held.stated, held.beyond) == (1000, 1 << 32)
