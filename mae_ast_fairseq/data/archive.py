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
from typing import BinaryIO, NamedTuple

from mae_ast_fairseq.errors import AudioError, ConfigError

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


class _Part(io.RawIOBase):
    """A part of a file as a file. Positioned reads, unlike a memory map, survive a file that becomes shorter."""

    def __init__(self, descriptor: int, offset: int, length: int):
        self._descriptor = descriptor  # ours to close
        self._offset = offset
        self._length = length
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._length}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer) -> int:  # type: ignore[no-untyped-def]
        wanted = min(len(buffer), self._length - self._position)
        if wanted <= 0:
            return 0
        try:
            num_bytes = os.preadv(self._descriptor, [memoryview(buffer)[:wanted]], self._offset + self._position)
        except OSError:  # libsndfile cannot pass it on, and reports that the audio ends early
            return 0
        self._position += num_bytes
        return num_bytes

    def close(self) -> None:
        if not self.closed:
            os.close(self._descriptor)
        super().close()


def open_part(location: Location) -> BinaryIO:
    """Open the bytes of a location as a file, of which no more is read than is asked for.

    Raises OSError where the archive cannot be opened, and AudioError where it ends before the location does.
    """
    descriptor = os.open(location.archive, os.O_RDONLY | os.O_CLOEXEC)
    num_bytes = os.fstat(descriptor).st_size
    end = location.offset + location.length
    if num_bytes < end:
        os.close(descriptor)
        raise AudioError(
            f"{location}: the archive ends after {num_bytes} bytes; expected at least {end}; it was changed since "
            "the manifest was written: fetch it again, or rewrite the manifest with `mae-ast manifest`"
        )
    return io.BufferedReader(_Part(descriptor, location.offset, location.length), _BUFFER_BYTES)


def members(archive: str | Path, extensions: Sequence[str]) -> list[Member]:
    """List an archive's files with the given extensions, sorted by name.

    Hidden ones are left out, and of two files of one name the earlier, which the later replaces.
    Raises ConfigError for what is no zip archive.
    """
    suffixes = tuple(extensions)
    try:
        with zipfile.ZipFile(archive) as file, Path(archive).open("rb") as stream:
            infos = {_name(info): info for info in file.infolist()}
            return [
                _locate(stream, name, info)
                for name, info in sorted(infos.items())
                if name.lower().endswith(suffixes) and not any(part.startswith(".") for part in name.split("/"))
            ]
    except (zipfile.BadZipFile, OSError, NotImplementedError) as error:
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
    header = os.pread(stream.fileno(), _LOCAL_HEADER.size, info.header_offset)
    if len(header) < _LOCAL_HEADER.size or not header.startswith(_LOCAL_SIGNATURE):
        return Member(name, fault="damaged: no file begins where the archive's directory says")
    # The directory repeats name and extra field, but the local ones may be longer.
    _, name_length, extra_length = _LOCAL_HEADER.unpack(header)
    offset = info.header_offset + _LOCAL_HEADER.size + name_length + extra_length
    return Member(name, offset, info.file_size)
