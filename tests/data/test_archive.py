"""Archives: where the stored bytes lie, the same as fairseq finds them, and what cannot be read in place."""

import os
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from fairseq.data.audio.audio_utils import parse_path, read_from_stored_zip

from mae_ast_fairseq.corpus.pack import pack
from mae_ast_fairseq.data.archive import Location, members, open_part, parse
from mae_ast_fairseq.data.audio import load_audio
from mae_ast_fairseq.errors import AudioError, ConfigError

NAMES = ["a.wav", "sub/b.flac", "sub/c.ogg"]


@pytest.fixture
def folder(tmp_path):
    """A folder with one file of each of NAMES."""
    draws = np.random.default_rng(5)
    for name in NAMES:
        path = tmp_path / "corpus" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        sf.write(path, 0.1 * draws.standard_normal(20_000), 16000)
    return tmp_path / "corpus"


def _zip(path, folder, **options):
    with zipfile.ZipFile(path, "w", **options) as file:
        for name in NAMES:
            file.write(folder / name, name)
    return path


@pytest.mark.parametrize(
    ("path", "location"),
    [
        ("/data/a.zip:70:3000", ("/data/a.zip", 70, 3000)),
        ("a b:c.ZIP:0:1", ("a b:c.ZIP", 0, 1)),
        ("a.zip:1:2.zip:3:4", ("a.zip:1:2.zip", 3, 4)),
        ("/data/a.zip", None),
        ("/data/a.zip:70", None),
        ("/data/a.zip:70:-1", None),
        ("/data/a.zip:70:3000:1.wav", None),
        ("/data/a.wav:70:3000", None),
        ("/data/a.zip:" + "1" * 5000 + ":1", None),
    ],
)
def test_only_an_archive_with_offset_and_length_is_one(path, location):
    assert parse(path) == location


def test_a_path_is_taken_apart_as_fairseq_does(folder):
    archive = folder.parent / "a.zip"
    (member, *_) = pack(archive, folder, NAMES)
    path = member.path_in(str(archive))
    assert parse(path) == (parse_path(path)[0], *parse_path(path)[1])


def test_packed_bytes_are_the_files_where_fairseq_reads_them(folder):
    archive = folder.parent / "a.zip"
    for member in pack(archive, folder, NAMES):
        stored = read_from_stored_zip(str(archive), member.offset, member.length)
        assert stored == (folder / member.name).read_bytes()


def test_the_directory_tells_what_packing_told(folder):
    archive = folder.parent / "a.zip"
    packed = pack(archive, folder, NAMES)
    assert members(archive, (".wav", ".flac", ".ogg")) == packed


def test_unpacking_gives_the_files_back(folder):
    pack(folder.parent / "a.zip", folder, NAMES)
    with zipfile.ZipFile(folder.parent / "a.zip") as file:
        assert file.testzip() is None
        assert [(name, file.read(name)) for name in file.namelist()] == [
            (name, (folder / name).read_bytes()) for name in NAMES
        ]


def test_a_local_header_longer_than_the_directorys_is_skipped(folder):
    archive = folder.parent / "a.zip"
    data = (folder / "a.wav").read_bytes()
    with zipfile.ZipFile(archive, "w") as file, file.open("a.wav", "w", force_zip64=True) as stream:
        stream.write(data)
    (member,) = members(archive, (".wav",))
    assert read_from_stored_zip(str(archive), member.offset, member.length) == data


def test_an_offset_past_4_gb_is_found_and_read(folder):
    archive = folder.parent / "a.zip"
    archive.touch()
    os.truncate(archive, 5 << 30)  # a hole, which takes no space
    with zipfile.ZipFile(archive, "a") as file:
        file.write(folder / "sub/b.flac", "b.flac")
    (member,) = members(archive, (".flac",))
    assert member.offset > 5 << 30
    np.testing.assert_array_equal(load_audio(member.path_in(str(archive))), load_audio(folder / "sub/b.flac"))


def test_the_later_of_two_files_of_one_name_counts(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("a.wav", b"old")
        with pytest.warns(UserWarning, match="Duplicate name"):
            file.writestr("a.wav", b"newer")
    (member,) = members(tmp_path / "a.zip", (".wav",))
    assert open_part(parse(member.path_in(str(tmp_path / "a.zip")))).read() == b"newer"


def test_hidden_files_folders_and_other_kinds_are_left_out(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        for name in ("b.WAV", "a.wav", "__MACOSX/._a.wav", ".hidden/c.wav", "notes.txt", "folder.wav/"):
            file.writestr(name, b"")
    assert [member.name for member in members(tmp_path / "a.zip", (".wav",))] == ["a.wav", "b.WAV"]


@pytest.mark.parametrize("flag", [0x800, 0])
def test_a_name_beyond_ascii_is_read_whether_or_not_it_is_marked_as_utf8(tmp_path, flag):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("é/ü.wav", b"")
    data = bytearray((tmp_path / "a.zip").read_bytes())
    begin = data.index(b"PK\1\2")
    data[6:8] = data[begin + 8 : begin + 10] = flag.to_bytes(2, "little")
    (tmp_path / "a.zip").write_bytes(data)
    assert [member.name for member in members(tmp_path / "a.zip", (".wav",))] == ["é/ü.wav"]


@pytest.mark.parametrize(
    ("method", "name"),
    [(zipfile.ZIP_DEFLATED, "deflate"), (zipfile.ZIP_BZIP2, "bzip2"), (zipfile.ZIP_LZMA, "lzma")],
)
def test_a_compressed_member_says_how(folder, method, name):
    archive = _zip(folder.parent / "a.zip", folder, compression=method)
    assert {member.fault for member in members(archive, (".wav", ".flac"))} == {f"compressed: {name}"}


def test_an_encrypted_member_says_so(folder):
    archive = _zip(folder.parent / "a.zip", folder)
    data = bytearray(archive.read_bytes())
    data[data.index(b"PK\1\2") + 8] |= 1
    archive.write_bytes(data)
    assert [member.fault for member in members(archive, (".wav", ".flac"))] == ["encrypted", ""]


def test_a_directory_that_points_elsewhere_says_so(folder):
    archive = _zip(folder.parent / "a.zip", folder)
    data = bytearray(archive.read_bytes())
    data[:2] = b"XX"  # the first member's local header
    archive.write_bytes(data)
    assert [bool(member.fault) for member in members(archive, (".wav", ".flac"))] == [True, False]


@pytest.mark.parametrize(
    ("offset", "length", "fault"),
    [
        (2**63 - 1 - 52, 10, "damaged: no file begins"),
        (2**63, 10, "damaged: no file begins"),
        (2**64 - 1, 10, "damaged: no file begins"),
        (0, 2**63, "damaged: by the archive's directory it ends behind"),
        (0, 2**64 - 1, "damaged: by the archive's directory it ends behind"),
    ],
)
def test_places_beyond_all_files_are_faults_of_that_member_alone(tmp_path, offset, length, fault):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("good.wav", b"x" * 99)
        file.writestr("bad.wav", b"y" * 99)
        file.infolist()[1].header_offset, file.infolist()[1].file_size = offset, length
    bad, good = members(tmp_path / "a.zip", (".wav",))
    assert bad.fault.startswith(fault)
    assert (good.name, good.length, good.fault) == ("good.wav", 99, "")


@pytest.mark.parametrize("share", [0, 0.5])
def test_what_is_no_archive_is_named(folder, share):
    archive = _zip(folder.parent / "a.zip", folder)
    archive.write_bytes(archive.read_bytes()[: int(archive.stat().st_size * share)])
    with pytest.raises(ConfigError, match=re.escape(f"{archive}: cannot be read as a zip archive")):
        members(archive, (".wav",))


def test_a_part_reads_and_seeks_like_a_file_of_its_own(tmp_path):
    (tmp_path / "a.zip").write_bytes(bytes(range(200)))
    with open_part(Location(str(tmp_path / "a.zip"), 50, 100)) as part:
        assert part.read() == bytes(range(50, 150))
        assert [part.seek(-3, os.SEEK_END), part.read(9)] == [97, bytes(range(147, 150))]
        assert [part.seek(10), part.seek(5, os.SEEK_CUR), part.read(2)] == [10, 15, bytes([65, 66])]
        assert [part.seek(500), part.read(1)] == [500, b""]


def test_a_part_of_an_archive_that_became_shorter_is_named(tmp_path):
    location = Location(str(tmp_path / "a.zip"), 50, 100)
    (tmp_path / "a.zip").write_bytes(bytes(149))
    with pytest.raises(AudioError, match=re.escape(f"{location}: the archive ends after 149 bytes; expected at least")):
        open_part(location)


def test_no_descriptor_stays_open(tmp_path):
    (tmp_path / "a.zip").write_bytes(bytes(100))
    before = sorted(Path("/proc/self/fd").iterdir())
    open_part(Location(str(tmp_path / "a.zip"), 0, 100)).close()
    with pytest.raises(AudioError):
        open_part(Location(str(tmp_path / "a.zip"), 0, 101))
    assert sorted(Path("/proc/self/fd").iterdir()) == before


def test_a_member_without_a_name_is_no_audio(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive, monkeypatch.context() as patch:
        patch.setattr(zipfile.ZipInfo, "is_dir", lambda info: False)  # which fails on it
        archive.writestr(zipfile.ZipInfo(""), b"nameless")
        archive.writestr("folder/", b"")
    assert members(tmp_path / "a.zip", [""]) == []
