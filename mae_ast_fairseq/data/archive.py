"""Audio inside uncompressed zip archives, by fairseq's `archive.zip:offset:length`.

Millions of small files are slow on network disks, one archive is not. The offset is that of the stored bytes,
behind the member's local header, so that reading a clip needs no look at the archive's directory.
"""

import io
import os
import re
import struct
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from mae_ast_fairseq.errors import AudioError, ConfigError
from mae_ast_fairseq.files import open_regular

REPACK = "pack it anew without compression: `zip -0 -r ARCHIVE.zip .` in the folder, or `mae-ast manifest --zip`"

_LOCATION = re.compile(r"(.+\.zip):([0-9]{1,18}):([0-9]{1,18})", re.DOTALL | re.IGNORECASE)
_LOCAL_HEADER = struct.Struct("<4s22xHH")  # ends with the lengths of the name and of the extra field after it
_LOCAL_SIGNATURE = b"PK\3\4"
_METHODS = {8: "deflate", 9: "deflate64", 12: "bzip2", 14: "lzma", 93: "zstandard", 95: "xz"}
_BUFFER_BYTES = 1 << 16  # decoders of MP3 read a few bytes at a time
_ENCRYPTED, _IS_UTF8 = 1, 1 << 11  # bits of a member's flags


class Location(NamedTuple):
    """Where bytes lie: fairseq's `archive:offset:length`."""

    archive: str
    offset: int
    length: int

    def __str__(self) -> str:
        return f"{self.archive}:{self.offset}:{self.length}"


class Member(NamedTuple):
    """A file in an archive; `fault` says why it cannot be read in place, and is empty where it can."""

    name: str
    offset: int = 0
    length: int = 0
    fault: str = ""

    def path_in(self, archive: str) -> str:
        """Return what a manifest calls it, as `parse` reads it."""
        return str(Location(archive, self.offset, self.length))


def parse(path: str | Path) -> Location | None:
    """Take `archive.zip:offset:length` apart; None for any other path."""
    match = _LOCATION.fullmatch(os.fspath(path))
    return match and Location(match[1], int(match[2]), int(match[3]))


class _Part(io.FileIO):
    """A part of a file as a file. Reads, unlike a memory map, survive a file that becomes shorter."""

    def __init__(self, location: Location):
        with open_regular(location.archive) as file:
            super().__init__(os.dup(file.fileno()))
        self.begin, self._end = location.offset, location.offset + location.length
        super().seek(self.begin)

    def tell(self) -> int:
        return super().tell() - self.begin

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: self.begin, os.SEEK_CUR: super().tell(), os.SEEK_END: self._end}[whence]
        return super().seek(max(self.begin, base + offset)) - self.begin

    def readinto(self, buffer: Any) -> int:
        num_left = max(0, self._end - super().tell())
        try:
            return super().readinto(memoryview(buffer)[:num_left]) or 0
        except OSError:  # libsndfile cannot pass it on, and reports that the audio ends early
            return 0

    read, readall = io.RawIOBase.read, io.RawIOBase.readall  # type: ignore[assignment]  # which go by readinto


def open_part(location: Location) -> BinaryIO:
    """Open the bytes of a location as a file, of which no more is read than is asked for.

    Raises OSError where the archive cannot be opened, and AudioError where it ends before the location does.
    """
    part = _Part(location)
    num_bytes = os.fstat(part.fileno()).st_size
    end = location.offset + location.length
    if num_bytes < end:
        part.close()
        raise AudioError(
            f"{location}: the archive ends after {num_bytes} bytes; expected at least {end}; it was changed since "
            "the manifest was written: fetch it again, or rewrite the manifest with `mae-ast manifest`"
        )
    return io.BufferedReader(part, _BUFFER_BYTES)


def members(archive: str | Path, extensions: Sequence[str] = ("",)) -> list[Member]:
    """List an archive's files, or those with the given extensions, sorted by name.

    Hidden ones are left out, and of two files of one name the earlier, which the later replaces.
    Raises ConfigError for what is no zip archive.
    """
    suffixes = tuple(extensions)
    try:
        with open_regular(archive) as stream, zipfile.ZipFile(stream) as file:
            infos = {_name(info): info for info in file.infolist()}
            return [
                _locate(stream, name, info)
                for name, info in sorted(infos.items())
                if name and not name.endswith("/") and name.lower().endswith(suffixes)  # ZipInfo.is_dir() wants a name
                if not any(part.startswith(".") for part in name.split("/"))
            ]
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise ConfigError(f"{archive}: cannot be read as a zip archive ({error}); expected one; {REPACK}") from None


def _name(info: zipfile.ZipInfo) -> str:
    """Undo zipfile's guess of code page 437: `zip` stores the system's bytes, UTF-8 today, and does not say so."""
    if not info.flag_bits & _IS_UTF8:
        with suppress(UnicodeError):
            return info.filename.encode("cp437").decode()
    return info.filename


def _locate(stream: BinaryIO, name: str, info: zipfile.ZipInfo) -> Member:
    if info.flag_bits & _ENCRYPTED:
        return Member(name, fault="encrypted")
    if info.compress_type != zipfile.ZIP_STORED:
        method = _METHODS.get(info.compress_type, f"method {info.compress_type}")
        return Member(name, fault=f"compressed: {method}")
    header, num_bytes = b"", os.fstat(stream.fileno()).st_size
    if info.header_offset < num_bytes:
        header = os.pread(stream.fileno(), _LOCAL_HEADER.size, info.header_offset)
    if len(header) < _LOCAL_HEADER.size or not header.startswith(_LOCAL_SIGNATURE):
        return Member(name, fault="damaged: no file begins where the archive's directory says")
    # The directory repeats name and extra field, but the local ones may be longer.
    _, name_length, extra_length = _LOCAL_HEADER.unpack(header)
    offset = info.header_offset + _LOCAL_HEADER.size + name_length + extra_length
    if offset + info.file_size > num_bytes:
        return Member(name, fault="damaged: by the archive's directory it ends behind the archive")
    return Member(name, offset, info.file_size)
