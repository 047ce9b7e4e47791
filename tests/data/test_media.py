"""Which files are FFmpeg's, by their first bytes, and where raw frames lie; without FFmpeg."""

import io
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mae_ast_fairseq.data.archive import members, open_part, parse
from mae_ast_fairseq.data.media import Media, find_damage, find_frames, recognise

ADTS = b"\xff\xf1\x60\x40\x02\x1f\xfc" + bytes(9)  # a frame of 16 bytes
GSM = b"\xd1" + bytes(32)
AMR = b"\x3c" + bytes(31)  # 12.2 kbit/s


def _recognised(data):
    media = recognise(io.BytesIO(data), 0, len(data))
    return media and media.demuxer


@pytest.mark.parametrize(
    ("data", "demuxer"),
    [
        (b"\x1a\x45\xdf\xa3" + bytes(60), "matroska"),
        (b"\0\0\0\x20ftypM4A " + bytes(60), "mov"),
        (bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c") + bytes(60), "asf"),
        (b"#!AMR\n" + 9 * AMR, "amr"),
        (9 * ADTS, "aac"),
        (ADTS, "aac"),
        (9 * GSM, "gsm"),
        (b"caff\0\1\0\0desc" + bytes(16) + b"aac " + bytes(40), "caf"),
        (b"caff\0\1\0\0desc" + bytes(16) + b"lpcm" + bytes(40), None),
        (b"RIFF\0\0\0\0WAVEfmt " + bytes(60), None),
        (b"fLaC" + bytes(60), None),
        (b"\xff\xfb\x90\x64" + bytes(500), None),  # MP3
        (ADTS + bytes(500), None),
        (GSM + bytes(500), None),
        (b"", None),
    ],
)
def test_a_file_is_known_by_its_first_bytes(data, demuxer):
    assert _recognised(data) == demuxer


@given(st.binary(max_size=300))
def test_any_bytes_are_something_or_nothing(data):
    media = recognise(io.BytesIO(data), 0, len(data))
    assert media is None or find_damage(io.BytesIO(data), media) is None or media.demuxer in ("mov", "matroska", "asf")


@given(
    sizes=st.lists(st.sampled_from([(0x3C, 32), (0x04, 13), (0x44, 6), (0x7C, 1)]), min_size=6), cut=st.integers(0, 5)
)
def test_frames_of_amr_are_where_they_were_put(tmp_path_factory, sizes, cut):
    data, places = b"#!AMR\n", [6]
    for toc, size in sizes:
        data += bytes([toc]) + bytes(size - 1)
        places.append(len(data))
    path = tmp_path_factory.mktemp("amr") / "a.amr"
    path.write_bytes(data[: len(data) - cut])
    num_left = len(data) - cut
    with path.open("rb") as stream:
        found = find_frames(stream, Media("amr", 0, num_left))
    assert list(found.places) == [place for place in places if place <= num_left]
    assert found.codec.startswith("libopencore") == any(size <= 6 for _, size in sizes[: len(found.places) - 1])


def _box(name, size):
    return (8 + size).to_bytes(4, "big") + name + bytes(size)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (_box(b"ftyp", 8) + _box(b"mdat", 90) + _box(b"moov", 9), None),
        ((_box(b"ftyp", 8) + _box(b"mdat", 90))[:-1], "truncated"),
        (_box(b"ftyp", 8) + b"\0\0\0\1mdat" + (40).to_bytes(8, "big") + bytes(24), None),
        (_box(b"ftyp", 8) + b"\0\0\0\1mdat" + (1 << 40).to_bytes(8, "big") + bytes(24), "truncated"),
        (_box(b"ftyp", 8) + b"\0\0\0\0mdat" + bytes(50), None),  # up to the file's end
        (2 * (_box(b"ftyp", 8) + _box(b"mdat", 90)), "longer than stated"),
        (_box(b"ftyp", 8) + _box(b"mdat", 90) + b"any rest of other kinds", None),
    ],
)
def test_the_parts_of_an_mp4_tell_whether_it_is_whole(data, kind):
    damage = find_damage(io.BytesIO(data), Media("mov", 0, len(data)))
    assert (damage and damage[0]) == kind


@pytest.mark.parametrize(
    ("size", "kind"), [(b"\x90", None), (b"\x91", "truncated"), (b"\x01" + 7 * b"\xff", None), (b"\x40\x10", None)]
)
def test_the_parts_of_a_matroska_tell_whether_it_is_whole(size, kind):
    data = b"\x1a\x45\xdf\xa3\x84abcd" + b"\x18\x53\x80\x67" + size + bytes(16)
    damage = find_damage(io.BytesIO(data), Media("matroska", 0, len(data)))
    assert (damage and damage[0]) == kind


def test_members_of_one_archive_that_are_as_long_have_frames_of_their_own(tmp_path):
    parts = {"a.amr": b"#!AMR\n" + 130 * AMR, "b.amr": b"#!AMR\n" + 320 * (b"\x04" + bytes(12))}
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    counts = []
    for member in members(tmp_path / "a.zip", [".amr"]):
        with open_part(parse(member.path_in(str(tmp_path / "a.zip")))) as stream:
            media = recognise(stream, 0, 4_166)
            counts.append(len(find_frames(stream, media).places) - 1)
    assert counts == [130, 320]
