"""Ogg and FLAC: whether a stream ends as it should, and whether another begins behind it."""

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import BinaryIO

_BLOCK_BYTES = 1 << 20
_PAGE_BYTES = 27 + 255 + 255 * 255  # the longest page of an Ogg file
_OGG = b"OggS\0"
# Expressions, which are searched for two times as fast as a text. Each is of no more than 8 bytes.
_OGG_FIRST, _FLAC_FIRST = re.compile(rb"OggS\0[\2\6]"), re.compile(rb"fLaC[\0\x80]\0\0\x22")
_OVERLAP_BYTES = 7
_FLAC_FRAME = re.compile(rb"\xff[\xf8\xf9](?=[\x10-\xfe][\x00-\xae])", re.DOTALL)
_FLAC_BLOCKS = range(1, 7)  # kinds of metadata behind the first
_FLAC_TAIL_BYTES = 1 << 16
_FLAC_NUMBERS = 18  # bytes before the 8 whose last 36 bits are the number of samples
MAX_FLAC_SAMPLES = (1 << 36) - 1


def flac_lengths(stream: BinaryIO, begin: int, end: int) -> list[int]:
    """Return the samples that each FLAC stream in bytes begin .. end states; the file is read once."""
    following = _places(stream, _flac_audio(stream, begin, end), end, _FLAC_FIRST)
    return [flac_samples(stream, place) for place in (begin, *following)]


def _flac_audio(stream: BinaryIO, begin: int, end: int) -> int:
    """Return where the first frame begins, behind the metadata, in which a picture may hold anything."""
    place, is_last = begin + 4, False
    while not is_last and place < end:
        stream.seek(place)
        mark, *size = stream.read(4).ljust(4, b"\0")
        if mark & 0x7F not in _FLAC_BLOCKS and place > begin + 4:
            break
        is_last = mark >= 0x80
        place += 4 + int.from_bytes(size, "big")
    return place


def flac_end(stream: BinaryIO, begin: int, end: int) -> int:
    """Return up to which sample the frames in a FLAC stream's last bytes go; 0 where none is found.

    A frame that seems to begin there may not be one: about one file in a hundred has such bytes by chance.
    """
    stream.seek(begin)
    info = stream.read(_FLAC_NUMBERS)
    block_samples, most_bytes = (int.from_bytes(info[place:stop], "big") for place, stop in ((8, 10), (15, 18)))
    tail = max(begin, end - max(_FLAC_TAIL_BYTES, 2 * most_bytes))
    stream.seek(tail)
    data = stream.read(end - tail)
    ends = (
        _flac_frame_end(data[found.start() : found.start() + 16].ljust(16, b"\0"), block_samples)
        for found in _FLAC_FRAME.finditer(data)
    )
    return max(ends, default=0)


def _flac_frame_end(header: bytes, block_samples: int) -> int:
    """Return up to which sample a frame goes, of blocks of so many where they are all alike; 0 for no frame's head."""
    size_code, num_ones = header[2] >> 4, 8 - (header[4] ^ 0xFF).bit_length()
    if num_ones in (1, 8):
        return 0
    behind = 4 + max(1, num_ones)
    number = header[4] & (0x7F >> num_ones)
    for byte in header[5:behind]:
        number = number << 6 | byte & 0x3F
    size_bytes = {6: 1, 7: 2}.get(size_code, 0)
    stop = behind + size_bytes + {12: 1, 13: 2, 14: 2}.get(header[2] & 15, 0)
    if _crc_8(header[:stop]) != header[stop]:
        return 0
    if size_bytes:
        num_samples = int.from_bytes(header[behind : behind + size_bytes], "big") + 1
    else:
        num_samples = 192 if size_code == 1 else 576 << size_code - 2 if size_code < 6 else 256 << size_code - 8
    return (number if header[1] & 1 else number * block_samples) + num_samples


def _crc_8(data: bytes) -> int:
    """Return the checksum of a FLAC frame's head."""
    value = 0
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = (value << 1) & 0xFF ^ (0x07 if value & 0x80 else 0)
    return value


def flac_samples(stream: BinaryIO, begin: int) -> int:
    """Return the samples that a FLAC stream states; 0 is of one whose writer did not know."""
    stream.seek(begin + _FLAC_NUMBERS)
    return int.from_bytes(stream.read(8), "big") & MAX_FLAC_SAMPLES


def flac_start(stream: BinaryIO, begin: int, num_samples: int) -> bytes:
    """Return the first bytes of a FLAC stream that states no samples, as if it stated so many."""
    stream.seek(begin)
    start = stream.read(_FLAC_NUMBERS + 8)
    numbers = int.from_bytes(start[_FLAC_NUMBERS:], "big") | num_samples
    return start[:_FLAC_NUMBERS] + numbers.to_bytes(8, "big")


def is_ogg_ended(stream: BinaryIO, begin: int, end: int) -> bool:
    """Say whether the last page is whole and says that it is the last."""
    tail = max(begin, end - 2 * _PAGE_BYTES)
    stream.seek(tail)
    data = stream.read(end - tail)
    place = data.rfind(_OGG)
    page = data[place : place + _PAGE_BYTES]
    if place < 0 or len(page) < 27:
        return False
    num_segments = page[26]
    sizes = page[27 : 27 + num_segments]
    is_whole = len(page) >= 27 + num_segments + sum(sizes) and len(sizes) == num_segments
    return is_whole and bool(page[5] & 4)


def ogg_lengths(stream: BinaryIO, begin: int, end: int) -> list[int]:
    """Return up to which sample, by its last page, each of the streams that follow one another goes.

    Streams that begin together, as sound and picture, count as one. The file is read once.
    """
    firsts = list(_places(stream, begin, end, _OGG_FIRST))
    ends = [place for last, place in pairwise(firsts) if _has_audio_between(stream, last, place)]
    return [_last_granule(stream, begin, place) for place in [*ends, end]]


def _has_audio_between(stream: BinaryIO, first: int, following: int) -> bool:
    """Say whether a first page has more pages of its own before the next first page."""
    stream.seek(first + 26)
    num_segments = stream.read(1)[0]
    return first + 27 + num_segments + sum(stream.read(num_segments)) < following


def _last_granule(stream: BinaryIO, begin: int, end: int) -> int:
    tail = max(begin, end - 2 * _PAGE_BYTES)
    stream.seek(tail)
    data = stream.read(end - tail)
    place = data.rfind(_OGG)
    return max(0, int.from_bytes(data[place + 6 : place + 14], "little", signed=True))


def _places(stream: BinaryIO, begin: int, end: int, start: re.Pattern[bytes]) -> Iterator[int]:
    """Yield where an expression holds, in order."""
    for block in range(begin, end, _BLOCK_BYTES):
        stream.seek(block)
        data = stream.read(min(_BLOCK_BYTES + _OVERLAP_BYTES, end - block))
        yield from (block + found.start() for found in start.finditer(data) if found.start() < _BLOCK_BYTES)
